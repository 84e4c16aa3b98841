//! Proving what the store has: `bond verify` and `bond resolve`, in memory and from the disk.

use std::cell::Cell;

use crate::cache;
use crate::corpus::Image;
use crate::daemon::{Daemon, Usage};
use crate::limits;
use crate::measure::{Contestant, Failed, Result, in_turns};
use crate::table::{Row, Section, Target};

use super::{Bench, GB};

/// Of what the limit does.
const LEAST: f64 = 0.9;

/// Checks an image that the store has.
pub(crate) fn measure(bench: &Bench<'_>, image: &Image) -> Result<Section> {
    let daemon = Daemon::start(bench.programs, bench.dir)?;
    daemon.bond(&["put", &format!("oci:{}", image.layout.display())])?;
    let files: Vec<_> = image.layers.iter().map(|layer| daemon.blob(layer)).collect();
    let root = image.root.to_string();
    let n_cores = image.layers.len().min(2);
    let used = Cell::new(Usage::default());
    let warm = || {
        cache::warm(&files)?;
        cache::settle();
        Ok::<(), Failed>(())
    };
    let cold = || {
        cache::settle();
        cache::drop(&files)
    };
    let ours = |verb: &str| {
        let before = daemon.usage()?;
        let (_, time) = daemon.bond(&[verb, &root])?;
        used.set(daemon.usage()?.since(before));
        Ok(time)
    };
    let series = in_turns(
        bench.n_rounds,
        vec![
            Contestant::new("verify, warm", || warm().and_then(|()| ours("verify"))),
            Contestant::new("resolve, warm", || warm().and_then(|()| ours("resolve"))),
            Contestant::new("verify, cold", || cold().and_then(|()| ours("verify"))),
            Contestant::new("resolve, cold", || cold().and_then(|()| ours("resolve"))),
            Contestant::new("SHA-256", || bench.memory.hash(n_cores)),
            Contestant::new("SHA-256, no memory read", || bench.memory.hash_in_cache(n_cores)),
            Contestant::new("disk, two direct streams", || {
                cold().and_then(|()| limits::read_direct(&files, 2))
            }),
            Contestant::new("disk, read in order", || {
                cold().and_then(|()| limits::read_through(&files, n_cores))
            }),
        ],
    );
    let mut section = Section::new(format!("7.3 verify and resolve, {}", image.name));
    let [verify, resolve, verify_cold, resolve_cold, sha, cached, direct, in_order] = &series[..]
    else {
        return Ok(section);
    };
    let (amount, hashed) = (image.size() as f64 / GB, bench.memory.len() / GB);
    let on = if n_cores == 1 { "on one core" } else { "on two cores" };
    for ours in [verify, resolve] {
        let speed = ours.speeds(amount);
        let beside = format!("{}: SHA-256 {on}", ours.name);
        let target = Target::AtLeast(LEAST);
        section.row(Row::new(beside, "GB/s", &speed, &sha.speeds(hashed), target));
        let beside = format!("{}: SHA-256 {on}, no memory read", ours.name);
        section.row(Row::new(beside, "GB/s", &speed, &cached.speeds(hashed), Target::None));
    }
    for ours in [verify_cold, resolve_cold] {
        let speed = ours.speeds(amount);
        // What is read faster than it can be hashed is not what holds us up.
        let least = direct.speeds(amount).and_then(|disk| {
            let sha = sha.speeds(hashed)?;
            Ok(disk.iter().zip(sha).map(|(disk, sha)| disk.min(sha)).collect())
        });
        let beside = format!("{}: the smaller of disk and SHA-256 {on}", ours.name);
        section.row(Row::new(beside, "GB/s", &speed, &least, Target::AtLeast(LEAST)));
        for disk in [direct, in_order] {
            let beside = format!("{}: {}", ours.name, disk.name);
            section.row(Row::new(beside, "GB/s", &speed, &disk.speeds(amount), Target::None));
        }
    }
    section.explain(format!("last run: {}", used.get().text(resolve_cold.median())));
    section.explain(format!(
        "each by itself: hashing {:.2} s, reading from disk {:.2} s direct and {:.2} s in order",
        sha.median() * amount / hashed,
        direct.median(),
        in_order.median(),
    ));
    Ok(section)
}
