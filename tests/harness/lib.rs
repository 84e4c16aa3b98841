//! What the cases share: the real programs, started and stopped; artifacts, made up or made by
//! other people's tools; requests that no good client would send.
//!
//! The harness builds nothing and knows nothing of the insides of client and daemon: what it
//! shares with them is the wire's list of codes, and the store's digests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says where it stopped, and its files are no store's"
)]

pub mod archive;
pub mod daemon;
pub mod engine;
pub mod layout;
pub mod peers;
pub mod programs;
pub mod raw;
pub mod samples;
pub mod schema;
pub mod tls;
pub mod tree;
pub mod v2;

use std::path::Path;

pub use daemon::{Daemon, Home};
pub use layout::Layout;
pub use programs::{Run, run};

/// A folder that is gone with its test.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bonded-").tempdir().expect("a temporary folder")
}

/// `oci:DIR`, as it is typed.
pub fn oci(folder: &Path) -> String {
    format!("oci:{}", folder.display())
}

/// `oci-archive:FILE`, as it is typed.
pub fn archive(file: &Path) -> String {
    format!("oci-archive:{}", file.display())
}

/// `file:PATH`, as it is typed.
pub fn file(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// Whether the long runs are wanted.
pub fn is_long() -> bool {
    std::env::var_os("BONDED_LONG").is_some_and(|value| value == "1")
}

/// Goes past the test runner, which keeps what passing tests print.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Waits until something is so; a minute is longer than anything here takes.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_at_most(std::time::Duration::from_secs(60), what, is_so);
}

/// Waits until something is so, for so long at most.
#[track_caller]
pub fn wait_at_most(longest: std::time::Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < longest, "still not so after {longest:?}: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
