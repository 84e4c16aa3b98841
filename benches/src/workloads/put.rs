//! Taking an image in that the store does not have.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache;
use crate::corpus::{Image, TAG};
use crate::daemon::{Daemon, Usage};
use crate::limits;
use crate::measure::{Contestant, Doing, Result, Series, in_turns};
use crate::table::{Row, Section, Target};

use super::{Bench, GB};

/// What the issue asks of a put of this image.
pub(crate) struct Wanted {
    /// Times as fast as `oras cp` and a sync.
    pub(crate) of_oras: f64,
    /// Of the smaller of the disk and three quarters of SHA-256 on both cores.
    pub(crate) of_limit: Option<f64>,
}

/// The part of SHA-256 on both cores that a put may be held against: the cores copy and write too.
const HASHING_SHARE: f64 = 0.75;

/// Puts an image beside the peers and beside the limits.
pub(crate) fn measure(bench: &Bench<'_>, image: &Image, wanted: &Wanted) -> Result<Section> {
    let daemon = Daemon::start(bench.programs, bench.dir)?;
    let source = format!("oci:{}", image.layout.display());
    let sizes = vec![image.layer_size; image.layers.len()];
    let (used, written) = (Cell::new(Usage::default()), Cell::new((0.0, 0.0)));
    let ready = &|| {
        cache::warm(&image.files())?;
        cache::settle();
        Ok(())
    };
    let ours = || {
        ready()?;
        let before = daemon.usage()?;
        let (_, time) = daemon.bond(&["put", &source])?;
        used.set(daemon.usage()?.since(before));
        daemon.forget(&image.root)?;
        Ok(time)
    };
    let disk = |n_streams| {
        ready()?;
        let (time, sync) = limits::write(bench.memory, bench.dir, &sizes, n_streams)?;
        written.set((time.as_secs_f64(), sync.as_secs_f64()));
        Ok(time + sync)
    };
    let mut contestants = vec![Contestant::new("bond put", ours)];
    for peer in Peer::ALL {
        contestants.push(Contestant::new(peer.name(), move || {
            ready()?;
            peer.copy(bench, image)
        }));
    }
    contestants.push(Contestant::new("disk, one direct stream", || disk(1)));
    contestants.push(Contestant::new("disk, two direct streams", || disk(2)));
    contestants.push(Contestant::new("SHA-256 on one core", || bench.memory.hash(1)));
    contestants.push(Contestant::new("SHA-256 on two cores", || bench.memory.hash(2)));
    contestants.push(Contestant::new("SHA-256 on two cores, no memory read", || {
        bench.memory.hash_in_cache(2)
    }));
    contestants.push(Contestant::new("reading the source", || {
        cache::warm(&image.files())?;
        limits::read_through(&image.files(), 2)
    }));
    let series = in_turns(bench.n_rounds, contestants);
    Ok(section(bench, image, wanted, &series, used.get(), written.get()))
}

fn section(
    bench: &Bench<'_>,
    image: &Image,
    wanted: &Wanted,
    series: &[Series],
    used: Usage,
    (writing, syncing): (f64, f64),
) -> Section {
    let [ours, peers @ .., disk_1, disk_2, sha_1, sha_2, cached, reading] = series else {
        return Section::new(format!("put new, {}: nothing was measured", image.name));
    };
    let amount = image.size() as f64 / GB;
    let hashed = bench.memory.len() / GB;
    let speed = ours.speeds(amount);
    let mut section = Section::new(format!("7.1 put, {}, new to the store", image.name));
    for (i, peer) in peers.iter().enumerate() {
        let target = if i == 0 { Target::AtLeast(wanted.of_oras) } else { Target::None };
        section.row(Row::new(&peer.name, "GB/s", &speed, &peer.speeds(amount), target));
    }
    let smaller = disk_2.speeds(amount).and_then(|disk| {
        let hashing = sha_2.speeds(hashed)?;
        Ok(disk.iter().zip(hashing).map(|(disk, sha)| disk.min(sha * HASHING_SHARE)).collect())
    });
    if let Some(of_limit) = wanted.of_limit {
        let beside = "the smaller of disk (two streams) and 0.75 × SHA-256";
        section.row(Row::new(beside, "GB/s", &speed, &smaller, Target::AtLeast(of_limit)));
    }
    for disk in [disk_1, disk_2] {
        section.row(Row::new(&disk.name, "GB/s", &speed, &disk.speeds(amount), Target::None));
    }
    for sha in [sha_1, sha_2, cached] {
        section.row(Row::new(&sha.name, "GB/s", &speed, &sha.speeds(hashed), Target::None));
    }
    section.explain(used.text(ours.median()));
    section.explain(format!(
        "each by itself: reading the source {:.2} s, hashing {:.2} s on one core and {:.2} s on two, \
         writing {writing:.2} s, syncing {syncing:.2} s",
        reading.median(),
        sha_1.median() * amount / hashed,
        sha_2.median() * amount / hashed,
    ));
    section
}

/// Other people's programs that copy an image from layout to layout.
#[derive(Clone, Copy)]
enum Peer {
    Oras,
    Regctl,
    Skopeo,
    Cp,
}

impl Peer {
    const ALL: [Peer; 4] = [Peer::Oras, Peer::Regctl, Peer::Skopeo, Peer::Cp];

    fn name(self) -> &'static str {
        match self {
            Peer::Oras => "oras cp, layout to layout, sync -f",
            Peer::Regctl => "regctl image copy, layout to layout, sync -f",
            Peer::Skopeo => "skopeo copy oci: oci:, sync -f",
            Peer::Cp => "cp -r, sync -f",
        }
    }

    /// Copies the image until the copy is durable, and removes the copy.
    fn copy(self, bench: &Bench<'_>, image: &Image) -> Result<Duration> {
        let target: PathBuf = bench.dir.join("copy");
        let (from, to) = (image.layout.to_string_lossy(), target.to_string_lossy());
        let (program, arguments): (_, Vec<String>) = match self {
            Peer::Oras => (
                "oras",
                vec![
                    "cp".into(),
                    "--no-tty".into(),
                    "--from-oci-layout".into(),
                    format!("{from}:{TAG}"),
                    "--to-oci-layout".into(),
                    format!("{to}:{TAG}"),
                ],
            ),
            Peer::Regctl => (
                "regctl",
                vec![
                    "image".into(),
                    "copy".into(),
                    format!("ocidir://{from}:{TAG}"),
                    format!("ocidir://{to}:{TAG}"),
                ],
            ),
            Peer::Skopeo => (
                "skopeo",
                vec![
                    "--insecure-policy".into(),
                    "copy".into(),
                    format!("oci:{from}:{TAG}"),
                    format!("oci:{to}:{TAG}"),
                ],
            ),
            Peer::Cp => ("cp", vec!["-r".into(), from.into_owned(), to.into_owned()]),
        };
        let time = bench.programs.time_durable(program, &arguments, &target);
        if target.exists() {
            fs::remove_dir_all(&target).doing("removing a copy")?;
        }
        time
    }
}
