//! The file with the server's signing key: one line, `ed25519 VERSION SEED`.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use ravel_core::{
    id::KeyId,
    signing::{SigningKey, decode_base64, encode_base64},
};
use ravel_homeserver::random::{Random, random_text};

/// Characters of the version of a new key.
const VERSION_CHARS: usize = 6;

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SigningKeyError {
    #[error("the signing key {} can't be read: {source}", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: is not a signing key: {why}", .path.display())]
    Malformed { path: PathBuf, why: Malformation },
}

/// What is wrong with a file that should have a signing key. The file's content is not told: it may be a key after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Malformation {
    #[error("expected one line, `ed25519 VERSION SEED`")]
    Form,
    #[error("the algorithm is not ed25519")]
    Algorithm,
    #[error("the version may have only letters, digits and underscores")]
    Version,
    #[error("the seed is not the base64 of 32 bytes")]
    Seed,
}

/// Reads the file of a signing key.
///
/// # Errors
///
/// [`SigningKeyError`]
pub fn read(path: &Path) -> Result<SigningKey, SigningKeyError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SigningKeyError::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|why| SigningKeyError::Malformed { path: path.to_owned(), why })
}

fn parse(text: &str) -> Result<SigningKey, Malformation> {
    let mut lines = text.lines();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(Malformation::Form) };
    let mut words = line.split_ascii_whitespace();
    let (Some(algorithm), Some(version), Some(seed), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformation::Form);
    };
    if algorithm != "ed25519" {
        return Err(Malformation::Algorithm);
    }
    // Source: appendices, "Cryptographic key representation": the grammar of key identifiers.
    if !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Malformation::Version);
    }
    let key_id = KeyId::parse(&format!("ed25519:{version}")).map_err(|_| Malformation::Version)?;
    let seed = decode_base64(seed).and_then(|seed| <[u8; 32]>::try_from(seed).ok()).ok_or(Malformation::Seed)?;
    Ok(SigningKey::from_seed(key_id, &seed))
}

/// Returns the line of a new key.
pub(super) fn new_line(random: &dyn Random) -> String {
    let mut seed = [0; 32];
    random.fill(&mut seed);
    format!("ed25519 a_{} {}\n", random_text(random, VERSION_CHARS), encode_base64(&seed))
}

/// Writes a file that only its owner can read, and that was not there before. It is on the disk when this returns.
pub(super) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use ravel_homeserver::random::OsRandom;

    use super::*;

    #[test]
    fn what_was_made_is_read() {
        let line = new_line(&OsRandom);
        let key = parse(&line).unwrap();
        assert!(line.starts_with(&key.key_id().as_str().replace(':', " ")), "{line}");
        assert_ne!(parse(&new_line(&OsRandom)).unwrap().verify_key(), key.verify_key());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let seed = encode_base64(&[1; 32]);
        let check = |text: String, expected| assert_eq!(parse(&text).map(|_| ()), expected, "{text}");
        check(format!("ed25519 1 {seed}"), Ok(()));
        check(format!("ed25519 1 {seed}=\n"), Ok(()));
        check(String::new(), Err(Malformation::Form));
        check(format!("ed25519 {seed}\n"), Err(Malformation::Form));
        check(format!("ed25519 1 {seed}\ned25519 2 {seed}\n"), Err(Malformation::Form));
        check(format!("rsa 1 {seed}\n"), Err(Malformation::Algorithm));
        check(format!("ed25519 a:b {seed}\n"), Err(Malformation::Version));
        check(format!("ed25519 1 {}\n", &seed[1..]), Err(Malformation::Seed));
    }
}
