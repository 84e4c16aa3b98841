//! How things are measured beside each other: in turns, in rounds, in one run on one machine.
//!
//! Two figures are only ever compared when they were taken in the same round. It knows nothing of
//! what is measured.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Why something could not be measured, for people.
#[derive(Clone, Debug)]
pub struct Failed(pub String);

/// What was measured, or why it was not.
pub type Result<T> = std::result::Result<T, Failed>;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// The same, with what was being done.
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failed(format!("{what}: {error}")))
    }
}

/// One of those that are measured in turns. A run prepares, does the work, tidies up, and answers
/// with the time of the work alone.
pub struct Contestant<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Contestant<'a> {
    /// One of this name.
    pub fn new(
        name: impl Into<String>,
        run: impl FnMut() -> Result<Duration> + 'a,
    ) -> Contestant<'a> {
        Contestant { name: name.into(), run: Box::new(run) }
    }
}

/// What one contestant made of all rounds.
#[derive(Clone, Debug)]
pub struct Series {
    /// Who it is.
    pub name: String,
    /// The time of each round; or why there is none.
    pub times: Result<Vec<f64>>,
}

impl Series {
    /// `amount` divided by the time, for each round.
    pub fn speeds(&self, amount: f64) -> Result<Vec<f64>> {
        Ok(self.times.clone()?.iter().map(|seconds| amount / seconds).collect())
    }

    /// The median time in seconds; not a number when there is none.
    pub fn median(&self) -> f64 {
        self.times.as_ref().map_or(f64::NAN, |times| median(times))
    }
}

/// Runs all contestants once a round. Who begins changes from round to round, so that nobody
/// always runs after the same other one. Who fails once is not asked again.
pub fn in_turns(n_rounds: usize, mut contestants: Vec<Contestant<'_>>) -> Vec<Series> {
    let mut series: Vec<Series> = contestants
        .iter()
        .map(|contestant| Series { name: contestant.name.clone(), times: Ok(Vec::new()) })
        .collect();
    let n = contestants.len();
    let is_watched = std::io::stderr().is_terminal();
    for round in 0..n_rounds {
        for turn in 0..n {
            let i = (turn + round) % n;
            let Ok(times) = &mut series[i].times else { continue };
            match (contestants[i].run)() {
                Ok(time) => times.push(time.as_secs_f64()),
                Err(failed) => series[i].times = Err(failed),
            }
            if is_watched {
                eprint!("\r  round {} of {n_rounds}: {:<60}", round + 1, series[i].name);
            }
        }
    }
    if is_watched {
        eprint!("\r{:80}\r", "");
    }
    series
}

/// How long something takes.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let made = work()?;
    Ok((made, begun.elapsed()))
}

/// The middle one, or the lower of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
