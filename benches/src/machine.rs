//! On what something was measured.

use std::fs;
use std::path::Path;

/// Processor, kernel, filesystem and load, in one line.
pub fn machine(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let filesystem = nix::sys::statfs::statfs(dir)
        .map_or_else(|_| "unknown".to_owned(), |found| format!("{:?}", found.filesystem_type()));
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{n_cores} cores of {model}, Linux {}, filesystem {filesystem}, load {load}",
        kernel.trim()
    )
}
