//! Power cuts of real filesystems, and extents that are shared instead of copied. Long runs only,
//! as root: every case mounts filesystems of its own.

mod disk;
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use tests::layout::{blob_file, digest, noise, types};
use tests::peers::{need_root, peer, skip};
use tests::{Daemon, Home, Layout, file, oci, say, scratch, tree};
use wire::Code;

use disk::{Disk, PROGRAMS};
use load::{Fate, Ledger, push, work};

/// Each filesystem by name, with how it is made.
const KINDS: [(&str, &str, &[&str]); 2] =
    [("ext4", "mkfs.ext4", &["-F"]), ("xfs", "mkfs.xfs", &["-f", "-m", "reflink=1"])];

/// Clients at the same time.
const N_CLIENTS: usize = 4;

/// Blobs that nothing needs are not held for long.
const SHORT_LEASES: &str = "[timeouts]\nlease = \"200ms\"\n";

/// Cuts of each filesystem.
const N_ROUNDS: usize = 15;
/// And in the middle of pushes.
const N_PUSHING_ROUNDS: usize = 8;

/// Whether a case is wanted and can be; what is lacking is told.
fn can_run(test: &str) -> bool {
    if !tests::is_long() {
        skip(test, "BONDED_LONG=1 (make test-long)");
        return false;
    }
    let missing = PROGRAMS.iter().find(|program| peer(program).is_none());
    if let Some(missing) = missing {
        skip(test, missing);
    }
    missing.is_none() && need_root(test)
}

/// A fresh filesystem, or a skip that is told.
fn some_disk(test: &str, mkfs: &str, options: &[&str]) -> Option<Disk> {
    let disk = Disk::new(mkfs, options);
    if disk.is_none() {
        skip(test, &format!("to mount what {mkfs} made"));
    }
    disk
}

/// A moment of a round: somewhere in its first second and a half, another one every time.
fn moment(round: usize) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let nanoseconds = u64::from(now.subsec_nanos());
    Duration::from_millis(40 + 389 * round as u64 % 1_300) + Duration::from_nanos(nanoseconds / 8)
}

/// Clients at work until the power is cut and the daemon killed; then the power is back, and no
/// daemon runs.
fn cut_in_the_middle(
    daemon: &mut Daemon,
    disk: &Disk,
    (round, way): (usize, Way),
    client: &(impl Fn(&Daemon, usize, &Path, &AtomicBool) + Sync),
) {
    let over = AtomicBool::new(false);
    let elsewhere = scratch();
    std::thread::scope(|scope| {
        for thread in 0..N_CLIENTS {
            let (daemon, over) = (&*daemon, &over);
            // Half of them put what lies, unwritten as yet, on the same filesystem.
            let sources = [elsewhere.path().to_owned(), disk.at().join("sources")];
            let sources = sources[thread % 2].clone();
            scope.spawn(move || client(daemon, thread, &sources, over));
        }
        let (begun, moment) = (Instant::now(), moment(round));
        for n in 0.. {
            way.tell(daemon.home(), n);
            let left = moment.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(37)));
        }
        over.store(true, Ordering::SeqCst);
        disk.cut();
        // The daemon may answer on; what it says now must be as true as before.
        std::thread::sleep(Duration::from_millis(100));
        daemon.signal(Signal::SIGKILL);
    });
    daemon.wait();
    disk.restore();
    let _ = std::fs::remove_dir_all(disk.at().join("sources"));
}

/// Which way to safety the daemon takes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One sync of the whole filesystem for all.
    Together,
    /// Each file and folder by itself, as it does when memory is full of unwritten data.
    ByItself,
    /// Now this, now that.
    Both,
}

impl Way {
    /// Tells the daemon how much in memory is unwritten.
    fn tell(self, home: &Home, n: u64) {
        let is_crowded = match self {
            Way::Together => false,
            Way::ByItself => true,
            Way::Both => n.is_multiple_of(2),
        };
        let kibibytes = if is_crowded { 1 << 20 } else { 0 };
        std::fs::write(home.folder().join("meminfo"), format!("Dirty: {kibibytes} kB\n")).unwrap();
    }
}

/// The daemon as it is started, in a mount namespace of its own where [`Way::tell`] is believed.
fn bonded(home: &Home) -> Command {
    Way::Together.tell(home, 0);
    let script = r#"mount --bind "$0" /proc/meminfo && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(home.folder().join("meminfo"));
    let daemon = home.bonded();
    command.arg(daemon.get_program()).args(daemon.get_args());
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The artifacts that are there, with their names.
#[track_caller]
fn listed(daemon: &Daemon) -> BTreeMap<String, BTreeSet<String>> {
    let listed = daemon.bond(&["ls", "--format", "json"]).ok().json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let artifacts = listed["artifacts"].as_array().unwrap().iter();
    artifacts
        .map(|one| (text(&one["digest"]), one["names"].as_array().unwrap().iter().map(text)))
        .map(|(digest, names)| (digest, names.collect()))
        .collect()
}

/// What was acknowledged and does not verify, or has lost a name.
#[track_caller]
fn lost(daemon: &Daemon, ledger: &Ledger) -> Vec<String> {
    let listed = listed(daemon);
    let is_lost = |digest: &String| {
        let is_named = listed.get(digest).is_some_and(|has| has.is_superset(&ledger.names[digest]));
        !is_named || daemon.bond(&["verify", digest]).code != Some(0)
    };
    ledger.with(Fate::Held).into_iter().filter(is_lost).collect()
}

/// The names directly in a folder of the store, folders too.
fn entries(daemon: &Daemon, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.store().join(folder)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Nothing is in the store but what its layouts hold, gc having run. What a cut left of a listing is
/// held by a lease, which these daemons make short.
#[track_caller]
fn has_no_leftovers(daemon: &Daemon) {
    let base = |name: &String| name.rsplit('/').next().unwrap().to_owned();
    tests::wait_until("the store has the blobs that layouts hold, and no others", || {
        daemon.bond(&["gc"]).ok();
        let unheld = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
        assert_eq!(unheld["n_blobs"], 0);
        let blobs = tree::names(&daemon.store().join("blobs"));
        let layouts = tree::names(&daemon.store().join("artifacts"));
        let held = layouts.iter().filter(|name| name.contains("/blobs/")).map(base);
        blobs.iter().map(base).collect::<BTreeSet<_>>() == held.collect()
    });
    for folder in ["staging", "quarantine"] {
        assert_eq!(entries(daemon, folder), [""; 0], "{folder}");
    }
}

/// Every plain write that was synced is there after a cut, and none that was not: the cut is one.
#[track_caller]
fn the_cut_is_one(disk: &Disk) {
    let [synced, unsynced] = ["synced", "unsynced"].map(|name| disk.at().join(name));
    for n in 0..3 {
        let bytes = noise(&format!("plain {n}"), 3 << 20);
        std::fs::write(&synced, &bytes).unwrap();
        disk.sync();
        std::fs::write(&unsynced, &bytes).unwrap();
        assert!(std::fs::read(&unsynced).unwrap() == bytes);
        disk.cut();
        assert!(std::fs::write(disk.at().join("after"), "").is_err(), "written after the cut");
        disk.restore();
        assert!(std::fs::read(&synced).unwrap() == bytes, "what was synced is gone");
        // Its name may be there, should a timer of the filesystem have gone off; never its bytes.
        let is_there = std::fs::read(&unsynced).is_ok_and(|has| has == bytes);
        assert!(!is_there, "what was not synced is there");
    }
    std::fs::remove_file(synced).unwrap();
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    const TEST: &str = "a_power_cut_loses_nothing_that_was_acknowledged";
    if !can_run(TEST) {
        return;
    }
    let mut cuts = Vec::new();
    let (mut n_acknowledged, mut n_cut_off, mut n_there) = (0, 0, 0);
    for (kind, mkfs, options) in KINDS {
        let Some(disk) = some_disk(TEST, mkfs, options) else { continue };
        the_cut_is_one(&disk);
        let home = Home::new(SHORT_LEASES).store_at(&disk.at().join("store"));
        let command = bonded(&home);
        let mut daemon = home.start_as(command);
        let ledger = Mutex::new(Ledger::default());
        let mut n_cuts = 0;
        for round in 0..N_ROUNDS {
            let way = [Way::Together, Way::ByItself, Way::Both][round % 3];
            cut_in_the_middle(
                &mut daemon,
                &disk,
                (round, way),
                &|daemon, thread, sources, over| {
                    work(daemon, (round, thread), sources, &ledger, over);
                },
            );

            n_cuts += 1;
            if round % 4 == 3 {
                // Once more, before anything that the start tidied up is written out.
                daemon.start_again();
                disk.cut();
                daemon.kill();
                disk.restore();
                n_cuts += 1;
            }
            daemon.start_again_as(bonded(daemon.home()));
            let mut ledger = ledger.lock().unwrap();
            let what = format!("{kind}, round {round}");
            assert_eq!(entries(&daemon, "staging"), [""; 0], "{what}");
            assert_eq!(lost(&daemon, &ledger), [""; 0], "{what}: acknowledged and lost");
            daemon.bond(&["verify", "--all"]).ok();
            let there = listed(&daemon);
            for ended in ledger.with(Fate::Ended) {
                assert!(!there.contains_key(&ended), "{what}: {ended} was retired and is there");
                ledger.forget(&ended);
            }

            // What was cut off is done again as if nothing had been.
            for ending in ledger.with(Fate::Ending) {
                let retired = daemon.bond(&["retire", &ending]);
                let is_there = there.contains_key(&ending);
                assert_eq!(retired.code == Some(0), is_there, "{what}: {}", retired.told());
                assert!(is_there || retired.code() == Some(Code::NotFound), "{}", retired.told());
                ledger.forget(&ending);
            }
            for work in std::mem::take(&mut ledger.cut_off) {
                n_cut_off += 1;
                n_there += usize::from(there.values().any(|names| names.contains(&work.name())));
                let put = work.put(&daemon, daemon.folder()).unwrap().ok();
                ledger.has_put(&work, &put);
            }
            assert_eq!(listed(&daemon), ledger.names, "{what}: exactly what was put is there");
            daemon.bond(&["verify", "--all"]).ok();
            has_no_leftovers(&daemon);

            // Some stay for the rounds to come, the rest makes room.
            for old in ledger.with(Fate::Held).split_off(6.min(ledger.fates.len())) {
                daemon.bond(&["retire", &old]).ok();
                ledger.forget(&old);
            }
            has_no_leftovers(&daemon);
        }
        daemon.stop();
        n_acknowledged += ledger.into_inner().unwrap().n_acknowledged;
        cuts.push(format!("{n_cuts} on {kind}"));
    }
    say(&format!(
        "measured: power cuts: {}, acknowledged {n_acknowledged} and none lost, cut off {n_cut_off} \
         of which {n_there} were there whole and the others absent",
        cuts.join(", ")
    ));
}

#[test]
fn a_power_cut_loses_nothing_that_was_pushed() {
    const TEST: &str = "a_power_cut_loses_nothing_that_was_pushed";
    if !can_run(TEST) {
        return;
    }
    let mut told = Vec::new();
    for (kind, mkfs, options) in KINDS {
        let (mut n_cuts, mut n_pushed) = (0, 0);
        for round in 0..N_PUSHING_ROUNDS {
            // Nothing makes room here.
            let Some(disk) = some_disk(TEST, mkfs, options) else { continue };
            let home = Home::new("").store_at(&disk.at().join("store"));
            let command = bonded(&home);
            let mut daemon = home.start_as(command);
            let pushed = Mutex::new(Vec::new());
            let way = (round, Way::Together);
            cut_in_the_middle(&mut daemon, &disk, way, &|daemon, thread, _, over| {
                push(daemon, (round, thread), true, &pushed, over);
            });
            daemon.start_again_as(bonded(daemon.home()));
            let pushed = pushed.into_inner().unwrap();
            let lost: Vec<_> = pushed.iter().filter(|one| !one.is_there(&daemon)).collect();
            assert!(lost.is_empty(), "{kind}, round {round}: acknowledged and lost: {lost:?}");
            daemon.stop();
            (n_cuts, n_pushed) = (n_cuts + 1, n_pushed + pushed.len());
        }
        told.push(format!("{n_cuts} on {kind} with {n_pushed} acknowledged"));
    }
    say(&format!("measured: power cuts of pushes: {}, none lost", told.join(", ")));
}

#[test]
fn a_daemon_whose_syncs_do_nothing_is_found_out() {
    const TEST: &str = "a_daemon_whose_syncs_do_nothing_is_found_out";
    if !can_run(TEST) {
        return;
    }
    let Some(cc) = peer("cc") else { return skip(TEST, "cc") };
    let folder = scratch();
    for (kind, mkfs, options) in KINDS {
        // Who pushes needs no sync of everything; who puts does without the others unless the disk is busy.
        for (pushes, way, calls) in [
            (false, Way::Together, &["syncfs"][..]),
            (false, Way::ByItself, &["fsync", "fdatasync"]),
            (true, Way::Together, &["fsync", "fdatasync"]),
        ] {
            let Some(disk) = some_disk(TEST, mkfs, options) else { continue };
            let (source, library) = (folder.path().join("none.c"), folder.path().join("none.so"));
            let code = calls.iter().map(|call| format!("int {call}(int f) {{ return 0 * f; }}\n"));
            std::fs::write(&source, code.collect::<String>()).unwrap();
            let shared = ["-shared", "-fPIC", "-o"];
            tests::run(Command::new(&cc).args(shared).arg(&library).arg(&source)).ok();
            // The store itself is made by an honest daemon.
            let mut daemon = Home::new("").store_at(&disk.at().join("store")).start();
            daemon.stop();
            disk.sync();
            let mut command = bonded(daemon.home());
            command.env("LD_PRELOAD", &library);
            daemon.start_again_as(command);
            let ledger = Mutex::new(Ledger::default());
            let pushed = Mutex::new(Vec::new());
            cut_in_the_middle(&mut daemon, &disk, (1, way), &|daemon, thread, sources, over| {
                match pushes {
                    // Of manifests, some may sync everything, which would save what is to be lost.
                    true => push(daemon, (1, thread), false, &pushed, over),
                    false => work(daemon, (1, thread), sources, &ledger, over),
                }
            });
            daemon.start_again();
            let (ledger, pushed) = (ledger.into_inner().unwrap(), pushed.into_inner().unwrap());
            let n_pushed = pushed.len();
            let n_gone = pushed.iter().filter(|blob| !blob.is_there(&daemon)).count();
            let (lost, held) = (lost(&daemon, &ledger).len(), ledger.with(Fate::Held).len());
            let what = format!("without {} on {kind}", calls.join(" and "));
            assert_eq!(n_gone > 0, pushes, "{what}: {n_gone} of {n_pushed} blobs were lost");
            assert_eq!(lost > 0, !pushes, "{what}: {lost} of {held} artifacts were lost");
            say(&format!(
                "measured: a cut {what} loses {lost} of {held} artifacts and {n_gone} of {n_pushed} \
                 blobs that were acknowledged"
            ));
        }
    }
}

/// Writes an image with one layer of these bytes as a layout; returns its digest.
fn write_image(folder: &Path, bytes: &[u8]) -> (String, String) {
    let mut layout = Layout::default();
    let (config, layer) = (layout.config("shared extents"), layout.blob(types::LAYER, bytes));
    let root = layout.manifest(&config, &[layer.clone()]);
    layout.list(&root);
    layout.write(folder);
    (digest(&root).to_string(), blob_file(&digest(&layer)))
}

#[test]
fn where_extents_are_shared_a_put_takes_no_room() {
    const TEST: &str = "where_extents_are_shared_a_put_takes_no_room";
    /// Not a whole number of blocks.
    const SIZE: usize = (64 << 20) + 12_345;
    /// The index, folders, and what the filesystem needs for itself.
    const LITTLE: u64 = 4 << 20;
    if !can_run(TEST) {
        return;
    }
    for is_shared in [true, false] {
        let reflink = format!("reflink={}", u8::from(is_shared));
        let Some(disk) = some_disk(TEST, "mkfs.xfs", &["-f", "-m", &reflink]) else { return };
        let daemon = Home::new("").store_at(&disk.at().join("store")).start();
        let got = scratch();

        let folder = disk.at().join("layout");
        let layer = noise("a layer to share", SIZE);
        let (image, layer_file) = write_image(&folder, &layer);
        let tool = disk.at().join("tool");
        let tool_bytes = noise("a file to share", SIZE);
        std::fs::write(&tool, &tool_bytes).unwrap();

        let mut took = Vec::new();
        let mut put = |source: &str| {
            let before = disk.free();
            let reference = daemon.bond(&["put", source]).ok().digest().to_string();
            let room = before.saturating_sub(disk.free());
            assert_eq!(room < LITTLE, is_shared, "{reflink}: {source} took {room} bytes");
            assert!(is_shared || room >= SIZE as u64, "{reflink}: {source} took {room} bytes");
            took.push(format!("{} KiB", room >> 10));
            reference
        };
        assert_eq!(put(&oci(&folder)), image);
        let tool_image = put(&file(&tool));

        // The bringer writes to its files, in place and whole; the store has the old bytes.
        for source in [&folder.join(&layer_file), &tool] {
            let source = std::fs::File::options().write(true).open(source).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&source, &vec![b'x'; SIZE], 0).unwrap();
            source.sync_all().unwrap();
        }
        for reference in [&image, &tool_image] {
            daemon.bond(&["verify", reference]).ok();
        }
        daemon.bond(&["get", &image, &oci(&got.path().join("layout"))]).ok();
        assert!(std::fs::read(got.path().join("layout").join(&layer_file)).unwrap() == layer);
        let got_tool = daemon.bond(&["get", &tool_image, "--stdout"]).ok().out;
        assert!(got_tool == tool_bytes, "the file is not what was put");
        say(&format!(
            "measured: XFS, {reflink}: putting {} MiB from the same filesystem took {} for a \
             layout and a file",
            SIZE >> 20,
            took.join(" and ")
        ));
    }
}
