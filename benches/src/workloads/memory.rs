//! What a very large layer costs: memory of the daemon, and room on the disk.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cache;
use crate::corpus::Image;
use crate::daemon::Daemon;
use crate::measure::{Doing, Failed, Result};
use crate::table::{Row, Section};

use super::{Bench, GB};

const MIB: f64 = (1 << 20) as f64;
/// What the daemon may have resident, in MiB.
const MOST_MEMORY: f64 = 64.0;
/// Copies of the image on the store's disk at any time of a put; the rest of it is names.
const MOST_COPIES: f64 = 1.01;
/// How often the disk is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// Puts and gets an image with one very large layer.
pub(crate) fn measure(bench: &Bench<'_>, image: &Image) -> Result<Section> {
    let daemon = Daemon::start(bench.programs, bench.dir)?;
    let (is_over, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                peak.fetch_max(cache::disk_usage(&daemon.store()), Ordering::Relaxed);
                std::thread::sleep(EVERY);
            }
        });
        let put = daemon.bond(&["put", &format!("oci:{}", image.layout.display())]);
        is_over.store(true, Ordering::Relaxed);
        put
    })?;
    let after_put = daemon.peak_memory()? as f64 / MIB;
    let copy = bench.dir.join("copy");
    let target = format!("oci:{}", copy.display());
    let got = daemon.bond(&["get", &image.root.to_string(), &target]);
    if copy.exists() {
        fs::remove_dir_all(&copy).doing("removing a copy")?;
    }
    let after_get = got.and_then(|_| Ok(daemon.peak_memory()? as f64 / MIB));

    let title = format!("7.5 memory and disk, one layer of {:.0} GB", image.size() as f64 / GB);
    let mut section = Section::new(title);
    let one = |value: f64| Ok::<_, Failed>(vec![value]);
    let beside = "resident memory of bonded, most during put";
    section.row(Row::bound(beside, "MiB", &one(after_put), MOST_MEMORY));
    let beside = "resident memory of bonded, most during put and get";
    section.row(Row::bound(beside, "MiB", &after_get.and_then(one), MOST_MEMORY));
    let copies = peak.load(Ordering::Relaxed) as f64 / image.size() as f64;
    section.row(Row::bound(
        "disk in use by the store, most during put",
        "copy",
        &one(copies),
        MOST_COPIES,
    ));
    Ok(section)
}
