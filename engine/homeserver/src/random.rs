//! Randomness.

/// Where a server gets its randomness from.
pub trait Random: Send + Sync + 'static {
    /// Fills bytes that nobody can guess.
    fn fill(&self, bytes: &mut [u8]);
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    #[allow(clippy::expect_used, reason = "without randomness there are no secrets: nothing can go on")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has randomness");
    }
}

/// Letters and digits, 62 of them.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Returns random letters and digits, each worth 5.95 bits.
pub fn random_text(random: &dyn Random, length: usize) -> String {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        random.fill(&mut bytes);
        // What is left over would favor the first letters.
        let letters = bytes.iter().filter(|byte| **byte < 248).filter_map(|byte| ALPHABET.get(usize::from(*byte % 62)));
        text.extend(letters.take(length - text.len()).map(|letter| char::from(*letter)));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// Counts through all bytes.
    struct Counting(AtomicU8);

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    #[test]
    fn each_letter_is_as_likely() {
        let text = random_text(&Counting(AtomicU8::new(0)), 248);
        for letter in ALPHABET {
            assert_eq!(text.bytes().filter(|byte| byte == letter).count(), 4);
        }
        assert_eq!(random_text(&OsRandom, 32).len(), 32);
    }
}
