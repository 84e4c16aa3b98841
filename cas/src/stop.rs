//! A word from the one who waits to a job that is long: nobody waits any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a job that reads many bytes to end early. Clones are the same word.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// What a read fails with after the word was given; it crosses `io::Error`, because readers do.
#[derive(Debug, thiserror::Error)]
#[error("nobody waits for this any more")]
struct Stopped;

impl Stop {
    /// Gives the word.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was given.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be asked before each read.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_stopped() { Err(io::Error::other(Stopped)) } else { Ok(()) }
    }
}

/// Whether a read ended for this reason.
pub(crate) fn is_stop(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}
