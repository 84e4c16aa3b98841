//! The simulated disk against its own law. Each promise has a protocol that breaks it, and the
//! loss that must then be found.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;
use crate::disk::{read_exact_at, write_all_at};

const SEEDS: std::ops::Range<u64> = 0..400;

fn path(text: &str) -> RelPath {
    text.split('/').fold(RelPath::root(), |path, part| path.join(part))
}

/// A disk with durable folders `a` and `b`.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    for name in ["a", "b"] {
        disk.make_dir(&path(name), 0o755).unwrap();
    }
    disk.sync_all().unwrap();
    disk
}

fn write(disk: &SimDisk, at: &str, bytes: &[u8]) -> Box<dyn File> {
    let file = disk.create(&path(at), Create::Buffered).unwrap();
    write_all_at(file.as_ref(), bytes, 0).unwrap();
    file
}

fn read(disk: &SimDisk, at: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(&path(at))?;
    let mut bytes = vec![0; file.stat()?.size as usize];
    read_exact_at(file.as_ref(), &mut bytes, 0)?;
    Ok(bytes)
}

/// What the crashes of one disk leave, as text, each once.
fn outcomes(disk: &SimDisk, look: impl Fn(&SimDisk) -> String) -> BTreeSet<String> {
    SEEDS.map(|seed| look(&disk.crash(seed))).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn bytes_and_names_are_durable_only_when_each_was_synced() {
    let bytes = [7_u8; 1300];
    let cases = [
        (false, false, set(&["absent", "empty", "torn", "whole", "zeros"])),
        (true, false, set(&["absent", "whole"])),
        (false, true, set(&["empty", "torn", "whole", "zeros"])),
        (true, true, set(&["whole"])),
    ];
    for (sync_bytes, sync_name, expected) in cases {
        let disk = disk();
        let file = write(&disk, "a/x", &bytes);
        if sync_bytes {
            file.sync().unwrap();
        }
        if sync_name {
            disk.sync_dir(&path("a")).unwrap();
        }
        let left = outcomes(&disk, |disk| {
            match read(disk, "a/x") {
                Err(_) => "absent",
                Ok(left) if left == bytes => "whole",
                Ok(left) if left.is_empty() => "empty",
                Ok(left) if left == [0; 1300] => "zeros",
                Ok(left) => {
                    let sectors = left.chunks(512).all(|s| s.iter().all(|b| *b == s[0]));
                    if sectors { "torn" } else { "torn inside a sector" }
                }
            }
            .to_owned()
        });
        assert_eq!(left, expected, "bytes synced: {sync_bytes}, name synced: {sync_name}");
        disk.sync_all().unwrap();
        assert_eq!(read(&disk.crash(0), "a/x").unwrap(), bytes);
    }
}

/// Which of these names are there.
fn names(disk: &SimDisk, among: &[&str]) -> String {
    let there = among.iter().filter(|name| disk.stat(&path(name)).is_ok());
    there.copied().collect::<Vec<_>>().join(" ")
}

#[test]
fn name_changes_are_lost_in_any_order_but_a_rename_never_by_half() {
    type Act = fn(&SimDisk);
    let cases: [(&str, Act, &[&str]); 8] = [
        (
            "two names of one folder",
            |d| drop((write(d, "a/1", b""), write(d, "a/2", b""))),
            &["", "a/1", "a/1 a/2", "a/2", "synced: a/1 a/2"],
        ),
        (
            "a rename, the source synced",
            |d| {
                drop(write(d, "a/1", b""));
                d.sync_all().unwrap();
                d.rename(&path("a/1"), &path("b/1")).unwrap();
            },
            &["a/1", "b/1", "synced: b/1"],
        ),
        (
            "a rename of a new name",
            |d| {
                drop(write(d, "b/1", b""));
                d.rename(&path("b/1"), &path("a/1")).unwrap();
            },
            &["", "a/1", "b/1", "synced: a/1"],
        ),
        (
            "one name, there and away again",
            |d| {
                drop(write(d, "a/1", b""));
                d.unlink(&path("a/1")).unwrap();
            },
            &["", "a/1", "synced: "],
        ),
        (
            "an end",
            |d| {
                drop(write(d, "a/1", b""));
                d.sync_all().unwrap();
                d.unlink(&path("a/1")).unwrap();
            },
            &["", "a/1", "synced: "],
        ),
        (
            "a folder and what is in it",
            |d| {
                d.make_dir(&path("a/d"), 0o755).unwrap();
                drop(write(d, "a/d/1", b""));
            },
            &["", "a/d", "a/d a/d/1", "synced: a/d", "synced: a/d a/d/1"],
        ),
        (
            "a name in a folder that has no durable name",
            |d| {
                d.make_dir(&path("a/d"), 0o755).unwrap();
                drop(write(d, "a/d/1", b""));
                d.sync_dir(&path("a/d")).unwrap();
            },
            &["", "a/d a/d/1", "synced: a/d a/d/1"],
        ),
        (
            "names of another folder",
            |d| drop(write(d, "b/1", b"")),
            &["", "b/1", "synced: ", "synced: b/1"],
        ),
    ];
    for (what, act, expected) in cases {
        let disk = disk();
        act(&disk);
        let among = ["a/1", "a/2", "b/1", "a/d", "a/d/1"];
        let mut left = outcomes(&disk, |disk| names(disk, &among));
        disk.sync_dir(&path("a")).unwrap();
        left.extend(outcomes(&disk, |disk| format!("synced: {}", names(disk, &among))));
        assert_eq!(left, set(expected), "{what}");
        assert!(
            SEEDS
                .map(|seed| disk.crash(seed))
                .all(|left| { left.files().values().all(|file| file.n_links == 1) })
        );
    }
}

#[test]
fn errors_are_those_of_the_seam() {
    let disk = disk().with_link_limit(2);
    for file in ["a/f", "a/g"] {
        drop(write(&disk, file, b"x"));
    }
    for folder in ["a/full", "a/void"] {
        disk.make_dir(&path(folder), 0o755).unwrap();
    }
    drop(write(&disk, "a/full/f", b"x"));
    disk.plant_symlink(&path("a/sym"), "f").unwrap();
    disk.plant_special(&path("a/fifo")).unwrap();
    disk.link(&path("a/f"), &path("a/f2")).unwrap();

    let open = |at: &str| disk.open(&path(at)).err();
    let link = |from: &str, to: &str| disk.link(&path(from), &path(to)).err();
    let rename = |from: &str, to: &str| disk.rename(&path(from), &path(to)).err();
    let rename_new = |from: &str, to: &str| disk.rename_new(&path(from), &path(to)).err();
    let cases = [
        (open("a/none"), ErrorKind::NotFound),
        (open("none/f"), ErrorKind::NotFound),
        (open("a/f/f"), ErrorKind::NotADirectory),
        (open("a"), ErrorKind::InvalidInput),
        (open("a/sym"), ErrorKind::InvalidInput),
        (open("a/sym/f"), ErrorKind::InvalidInput),
        (open("a/fifo"), ErrorKind::InvalidInput),
        (disk.create(&path("a/f"), Create::Direct).err(), ErrorKind::AlreadyExists),
        (disk.create(&path("a/sym"), Create::Direct).err(), ErrorKind::AlreadyExists),
        (disk.create(&path("a/f/f"), Create::Direct).err(), ErrorKind::NotADirectory),
        (disk.make_dir(&path("a/full"), 0o755).err(), ErrorKind::AlreadyExists),
        (link("a/none", "a/l"), ErrorKind::NotFound),
        (link("a/f", "a/g"), ErrorKind::AlreadyExists),
        (link("a/f", "a/l"), ErrorKind::TooManyLinks),
        (link("a/full", "a/l"), ErrorKind::PermissionDenied),
        (rename("a/none", "a/l"), ErrorKind::NotFound),
        (rename("a/f", "none/l"), ErrorKind::NotFound),
        (rename("a/void", "a/full"), ErrorKind::DirectoryNotEmpty),
        (rename("a/void", "a/f"), ErrorKind::NotADirectory),
        (rename("a/f", "a/void"), ErrorKind::IsADirectory),
        (rename("a", "a/void/a"), ErrorKind::InvalidInput),
        (rename_new("a/f", "a/f2"), ErrorKind::AlreadyExists),
        (rename_new("a/void", "a/full"), ErrorKind::AlreadyExists),
        (disk.unlink(&path("a/none")).err(), ErrorKind::NotFound),
        (disk.unlink(&path("a/void")).err(), ErrorKind::IsADirectory),
        (disk.remove_dir(&path("a/full")).err(), ErrorKind::DirectoryNotEmpty),
        (disk.remove_dir(&path("a/f")).err(), ErrorKind::NotADirectory),
        (disk.sync_dir(&path("a/f")).err(), ErrorKind::NotADirectory),
    ];
    let before = disk.describe();
    for (number, (error, expected)) in cases.into_iter().enumerate() {
        assert_eq!(error.map(|e| e.kind()), Some(expected), "case {number}");
    }
    // Two names of one file: nothing happens, and both stay.
    disk.rename(&path("a/f"), &path("a/f2")).unwrap();
    assert_eq!(disk.describe(), before);

    let (held, _) = (disk.lock(&path("lock"), "pid 7").unwrap(), ());
    let error = disk.lock(&path("lock"), "pid 8").err().unwrap();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::ResourceBusy, "pid 7".to_owned()));
    drop(held);
    assert!(disk.lock(&path("lock"), "pid 8").is_ok());
}

#[test]
fn links_are_counted_and_an_open_file_outlives_its_names() {
    let disk = disk().with_capacity(10 << 12);
    let file = write(&disk, "a/1", &[5; 5000]);
    disk.link(&path("a/1"), &path("b/1")).unwrap();
    drop(write(&disk, "a/2", b""));
    let free = disk.space().unwrap().free;
    assert_eq!(file.stat().unwrap().n_links, 2);
    disk.rename(&path("a/2"), &path("a/1")).unwrap();
    assert_eq!(disk.stat(&path("b/1")).unwrap().n_links, 1);
    disk.unlink(&path("b/1")).unwrap();
    let mut bytes = [0; 5000];
    read_exact_at(file.as_ref(), &mut bytes, 0).unwrap();
    assert_eq!((bytes, file.stat().unwrap().n_links), ([5; 5000], 0));
    assert_eq!(disk.space().unwrap().free, free);
    drop(file);
    assert_eq!(disk.space().unwrap().free, free + 8192);
}

#[test]
fn a_failed_sync_loses_the_bytes_for_good() {
    for whole_disk in [false, true] {
        let disk = disk();
        let file = write(&disk, "a/x", b"bytes");
        disk.sync_dir(&path("a")).unwrap();
        disk.fail(disk.calls(), Fault::Io, Times::Once);
        let failed = if whole_disk { disk.sync_all() } else { file.sync() };
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
        assert!(disk.failed());
        assert_eq!(read(&disk, "a/x").unwrap(), b"bytes");
        // Who wrote hears of it once; after that a sync succeeds and helps nobody.
        assert_eq!(file.sync().is_err(), whole_disk);
        disk.open(&path("a/x")).unwrap().sync().unwrap();
        let left: BTreeSet<_> = SEEDS.map(|seed| read(&disk.crash(seed), "a/x").unwrap()).collect();
        assert_eq!(left, BTreeSet::from([vec![0; 5]]), "whole disk: {whole_disk}");
        // The sync of the whole disk that comes next has not been told yet, unless it was the one.
        assert_eq!(disk.sync_all().is_err(), !whole_disk);
        assert!(disk.sync_all().is_ok());
    }
}

#[test]
fn room_and_short_calls() {
    let disk = disk().with_capacity(6 << 12).with_short_calls(3);
    let file = disk.create(&path("a/x"), Create::Direct).unwrap();
    let bytes: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
    let error = write_all_at(file.as_ref(), &bytes, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(file.stat().unwrap().size, 3 << 12);
    assert_eq!(disk.make_dir(&path("c"), 0o755).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(read(&disk, "a/x").unwrap(), bytes[..3 << 12]);
    assert!(disk.calls() > 10, "nothing was short");
    disk.unlink(&path("a/x")).unwrap();
    drop(file);
    disk.create(&path("a/y"), Create::Buffered).unwrap().allocate(3 << 12).unwrap();
    assert_eq!(disk.space().unwrap().free, 0);
}

#[test]
fn nothing_changes_after_the_power_went() {
    let disk = disk();
    disk.stop_after(disk.calls() + 1);
    let file = disk.create(&path("a/x"), Create::Buffered).unwrap();
    let before = disk.describe();
    let failures = [
        file.write_at(b"x", 0).err(),
        file.sync().err(),
        disk.make_dir(&path("a/d"), 0o755).err(),
        disk.rename(&path("a/x"), &path("a/y")).err(),
        disk.sync_all().err(),
        disk.stat(&path("a")).err(),
    ];
    assert!(failures.iter().all(|e| e.as_ref().is_some_and(is_power_cut)), "{failures:?}");
    assert_eq!(disk.describe(), before);
    assert!(disk.fork().sync_all().is_ok());
    assert!(!is_power_cut(&Errno::EIO.into()));
}

/// Replaces `a/x` and then says so, with or without each of the syncs that this takes.
fn replace(disk: &SimDisk, sync_bytes: bool, sync_name: bool) -> io::Result<()> {
    let file = disk.create(&path("b/new"), Create::Buffered)?;
    write_all_at(file.as_ref(), &[2; 1500], 0)?;
    if sync_bytes {
        file.sync()?;
    }
    disk.rename(&path("b/new"), &path("a/x"))?;
    if sync_name {
        disk.sync_dir(&path("a"))?;
    }
    Ok(())
}

#[test]
fn a_sweep_finds_what_a_broken_protocol_loses() {
    for (sync_bytes, sync_name) in [(true, true), (false, true), (true, false)] {
        let prepared = disk();
        drop(write(&prepared, "a/x", &[1; 1500]));
        prepared.sync_all().unwrap();
        let (mut n_states, mut n_losses) = (0, 0);
        for n in 0.. {
            let disk = prepared.fork();
            disk.stop_after(n);
            let acknowledged = replace(&disk, sync_bytes, sync_name).is_ok();
            for seed in 0..40 {
                let left = read(&disk.crash(seed), "a/x").unwrap();
                let legal = left == [2; 1500] || !acknowledged && left == [1; 1500];
                n_states += 1;
                n_losses += usize::from(!legal);
            }
            if acknowledged {
                break;
            }
        }
        assert!(n_states > 100);
        assert_eq!(n_losses == 0, sync_bytes && sync_name, "{n_losses} of {n_states}");
    }
}

#[test]
fn what_is_done_by_hand_is_durable_and_seen() {
    let disk = disk();
    drop(write(&disk, "a/x", b"bytes"));
    disk.link(&path("a/x"), &path("b/x")).unwrap();
    disk.sync_all().unwrap();
    disk.corrupt(&path("a/x"), 1).unwrap();
    assert_eq!(read(&disk.crash(0), "b/x").unwrap(), b"b\x86tes");
    disk.plant(&path("a/x"), b"other").unwrap();
    disk.truncate(&path("b/x"), 2).unwrap();
    let left = disk.crash(0).files();
    assert_eq!((left["a/x"].bytes.as_slice(), left["a/x"].n_links), (&b"other"[..], 1));
    assert_eq!(left["b/x"].bytes.as_slice(), b"b\x86");
    disk.erase(&path("b/x")).unwrap();
    assert_eq!(disk.crash(1).files().len(), 1);
    assert_eq!(disk.files(), disk.fork().files());
}
