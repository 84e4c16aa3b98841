//! On what something was measured.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// Processor, kernel, filesystem and load, in one line.
pub fn machine(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let filesystem = filesystem(dir).unwrap_or_else(|| "an unknown filesystem".to_owned());
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{n_cores} cores of {model}, Linux {}, {filesystem}, load {load}", kernel.trim())
}

/// What it is called, and whether an ext4 does without its journal: a sync costs something else there.
fn filesystem(dir: &Path) -> Option<String> {
    let device = fs::metadata(dir).ok()?.dev();
    let device = format!("{}:{}", major(device), minor(device));
    // Field 3 of a mount is its device; the kind of filesystem follows the lone dash (proc(5)).
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    let kind = mount.split_once(" - ")?.1.split(' ').next()?;
    let disk = fs::read_link(format!("/sys/dev/block/{device}")).ok();
    let disk = disk.as_deref().and_then(Path::file_name);
    let has_journal = disk.is_some_and(|disk| {
        let begin = format!("{}-", disk.to_string_lossy());
        let journals = fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
        journals
            .map(|entry| entry.file_name())
            .any(|name| name.to_string_lossy().starts_with(&begin))
    });
    Some(match kind {
        "ext4" if !has_journal => "ext4 without a journal".to_owned(),
        kind => kind.to_owned(),
    })
}
