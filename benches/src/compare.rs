//! Placeholder while the comparison is written.
fn main() {}
