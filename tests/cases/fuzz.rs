//! Hostile input to the request path, made up by the thousand: what names, numbers, documents and
//! whole requests may never do.
//!
//! Each target has a generator, which knows what hurts, and a property, which knows what must hold
//! and which inputs must be taken. The ordinary run is the same every time; `BONDED_LONG=1` tries
//! a hundred times as many from another seed, but for five minutes at most, and `PROPTEST_RNG_SEED` and
//! `PROPTEST_CASES` choose. A failure is shrunk and tells how to repeat it. What was found once becomes a
//! row of a table.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use tests::{is_long, say};

mod documents;
mod names;
mod numbers;
mod pushes;
mod queries;
mod requests;
mod shapes;

/// The seed of the ordinary run.
const SEED: u64 = 1;
/// So many times more are tried when there is time.
const LONGER: u32 = 100;
/// No target takes longer: what is refused only after a timeout would take hours by the hundred thousand.
const LONGEST: Duration = Duration::from_secs(300);
/// A failure is made smaller by so many steps at most: requests cost a connection each.
const MOST_STEPS: u32 = 2_000;

/// What a property says of one input: whether it was taken, or what is wrong.
type Held = Result<bool, TestCaseError>;

/// Bytes that show as text where they can.
#[derive(Clone, PartialEq, Eq)]
struct Raw(Vec<u8>);

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Tries `n` inputs in the ordinary run. A target where everything is taken, or nothing, does not
/// try what it says, and fails.
#[track_caller]
fn fuzz<S: Strategy>(what: &str, n: u32, inputs: S, holds: impl Fn(S::Value) -> Held) {
    // The environment has been looked at here.
    let mut config = Config { failure_persistence: None, ..Config::default() };
    config.max_shrink_iters = MOST_STEPS;
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = if is_long() { n * LONGER } else { n };
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random if is_long() => {
            SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
        }
        RngSeed::Random => SEED,
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let cases = config.cases;
    let (n_tried, n_taken) = (Cell::new(0_u32), Cell::new(0_u32));
    let begun = Instant::now();
    let run = TestRunner::new(config).run(&inputs, |input| {
        if begun.elapsed() > LONGEST {
            return Ok(());
        }
        let is_taken = holds(input)?;
        n_tried.set(n_tried.get() + 1);
        n_taken.set(n_taken.get() + u32::from(is_taken));
        Ok(())
    });
    let (n_tried, n_taken) = (n_tried.get(), n_taken.get());
    match run {
        Ok(()) => {}
        Err(TestError::Abort(reason)) => panic!("{what}: {reason}"),
        Err(TestError::Fail(reason, input)) => panic!(
            "{what}: {reason}\n  the smallest input found: {input:?}\n  \
             PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} repeats it"
        ),
    }
    assert!(0 < n_taken && n_taken < n_tried, "{what}: {n_taken} of {n_tried} were taken");
    say(&format!(
        "measured: {n_tried} of {cases} hostile {what}, {n_taken} of them good (seed {seed})"
    ));
}
