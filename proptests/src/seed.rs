//! Running a property on many random cases, each of a seed of its own that is printed when the property fails.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    thread,
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

/// The seed of a case. With it in the environment, every property runs on this one case.
pub const SEED_VARIABLE: &str = "RAVEL_SEED";

/// A factor for the number of cases, for long runs.
pub const CASES_VARIABLE: &str = "RAVEL_CASES";

/// Numbers that look random, made of a seed; for orders and sizes that need no shrinking.
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `count`, or 0 if that is 0.
    pub fn below(&mut self, count: usize) -> usize {
        // The finalizer of splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or(0).checked_rem(count).unwrap_or(0)
    }
}

/// Runs `property` on so many values of `strategy`. A property fails by panicking.
///
/// Seeds differ from run to run, unless [`SEED_VARIABLE`] names one.
///
/// # Panics
///
/// When a case fails: with the seed, the smallest value found that fails, and the command that runs it again.
pub fn check<S: Strategy>(cases: u64, strategy: &S, property: impl Fn(S::Value)) {
    if let Some(seed) = number_of(SEED_VARIABLE) {
        return check_case(seed, strategy, &property);
    }
    let first_seed = RandomState::new().hash_one(());
    for case in 0..cases * number_of(CASES_VARIABLE).unwrap_or(1) {
        check_case(first_seed.wrapping_add(case), strategy, &property);
    }
}

fn check_case<S: Strategy>(seed: u64, strategy: &S, property: &impl Fn(S::Value)) {
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
    let result = TestRunner::new_with_rng(config, rng).run(strategy, |value| {
        property(value);
        Ok(())
    });
    if let Err(TestError::Fail(reason, value)) = &result {
        let test = thread::current().name().unwrap_or("").to_owned();
        panic!(
            "{reason}\nsmallest case found: {value:?}\n\
             run it again: {SEED_VARIABLE}={seed} cargo test -p ravel-proptests {test}"
        );
    }
    result.unwrap();
}

fn number_of(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value:?}")))
}
