//! What Bonded is measured at: one file for each point of the target list.

pub(crate) mod again;
pub(crate) mod check;
pub(crate) mod memory;
pub(crate) mod put;
pub(crate) mod small;

use std::path::Path;

use crate::limits::Memory;
use crate::programs::Programs;

/// What every workload needs.
pub(crate) struct Bench<'a> {
    /// Programs to run.
    pub(crate) programs: &'a Programs,
    /// Random bytes in memory.
    pub(crate) memory: &'a Memory,
    /// Where everything is made.
    pub(crate) dir: &'a Path,
    /// How often everything is measured.
    pub(crate) n_rounds: usize,
}

/// Bytes in a gigabyte, as speeds count them.
pub(crate) const GB: f64 = 1e9;
