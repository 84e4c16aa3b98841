//! Every test of the whole, in one binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test that cannot go on says where it stopped, and its files are no store's"
)]

mod beside;
mod crash;
mod exec;
mod fuzz;
mod keeping;
mod life;
mod memory;
mod openapi;
mod power;
mod producers;
mod races;
mod refusals;
mod roundtrip;
mod tamper;
mod threats;
mod v2;
