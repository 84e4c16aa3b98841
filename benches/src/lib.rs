//! What the programs of this package share: how things are measured, started, filled and told.
//!
//! `compare` (`make bench`) has Bonded beside its peers in keeping artifacts, `load`
//! (`make bench-registry`) beside other registries. Nothing here knows what is measured.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement makes files and tasks of its own, none of them in a store"
)]

pub mod cache;
pub mod corpus;
pub mod daemon;
pub mod fresh;
pub mod machine;
pub mod measure;
pub mod programs;
pub mod registries;
pub mod registry;
pub mod table;
pub mod usage;
