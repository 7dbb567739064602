//! A cheap hash for dense numbers.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds hashers for maps by event or key number. The numbers are given out here, so nobody can choose them to collide.
pub(super) type IndexHashes = BuildHasherDefault<IndexHasher>;

/// Multiplication spreads a number over the high bits.
#[derive(Default)]
pub(super) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
