//! Other people's programs, and what else a machine may lack. What is missing is told by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::say;

/// A program on `PATH` or among the peers that `tests/peers.sh` installed.
pub fn peer(name: &str) -> Option<PathBuf> {
    static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let folders = FOLDERS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers.sh");
        let found = Command::new("sh").arg(script).arg("path").output();
        let found = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let found = found.unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(found.trim()).chain(std::env::split_paths(&path)).collect()
    });
    folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// The program, or a skip that is told by name. With `BONDED_PEERS=require` a missing peer fails
/// the test.
#[track_caller]
pub fn need(test: &str, name: &str) -> Option<PathBuf> {
    let found = peer(name);
    if found.is_none() {
        let required = std::env::var_os("BONDED_PEERS").is_some_and(|value| value == "require");
        assert!(!required, "{test} needs {name}, and BONDED_PEERS=require: tests/peers.sh install");
        skip(test, name);
    }
    found
}

/// Whether the test runs as root; if not, the skip is told by name.
pub fn need_root(test: &str) -> bool {
    let is_root = nix::unistd::Uid::effective().is_root();
    if !is_root {
        skip(test, "root");
    }
    is_root
}

/// Tells, once, that a test or a part of it did not run, and for want of what.
pub fn skip(test: &str, lacks: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("skipped: {test}: needs {lacks}");
    if TOLD.lock().expect("nobody panics with it").insert(line.clone()) {
        say(&line);
    }
}
