//! Uploads that outlive the process: what somebody was told that has come is there for the next one,
//! wherever the first was stopped, and the blob that comes of it is the one that was brought.

use std::io::Read;
use std::sync::Arc;

use cas::digest::{Algorithm, Digest};
use cas::disk::Disk as _;
use cas::disk::sim::{Fault, SimDisk, Times};
use cas::{Error, Options, Repository, Source, Store, Upload, UploadId};

use super::world::{default_workspace, other_workspace};
use super::{fixture, open};

/// An upload's name, told apart by a number.
pub(crate) fn id(number: u64) -> UploadId {
    format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
}

fn here(store: &Store) -> Repository {
    store.repository(&default_workspace(), &"here".parse().unwrap())
}

fn begin(store: &Store, number: u64) -> Upload {
    here(store).upload(id(number), "uid 7", Algorithm::Sha256)
}

fn append(upload: &mut Upload, mut bytes: &[u8]) -> Result<u64, Error> {
    upload.append(Source::Stream(&mut bytes))
}

/// The only upload that is left.
fn left(store: &Store) -> Option<Upload> {
    let mut left = store.uploads().unwrap();
    assert!(left.len() < 2);
    left.pop()
}

/// Brings all of it in three parts; says how much was acknowledged, and whether it became a blob.
fn bring(store: &Store, bytes: &[u8]) -> (u64, bool) {
    let mut upload = begin(store, 1);
    let mut acknowledged = 0;
    for part in bytes.chunks(bytes.len() / 3) {
        match append(&mut upload, part) {
            Ok(offset) => acknowledged = offset,
            Err(_) => return (acknowledged, false),
        }
    }
    let committed = upload.commit(&Digest::of(bytes)).is_ok();
    (acknowledged, committed)
}

#[test]
fn what_was_acknowledged_of_an_upload_outlives_every_stop() {
    let bytes = fixture::bytes(11, 9_000);
    let digest = Digest::of(&bytes);
    let n_seeds = if std::env::var_os("BONDED_LONG").is_some() { 200 } else { 24 };
    let (mut n_states, mut n_ended) = (0, 0);
    for crowded in [false, true] {
        let fresh = SimDisk::new().with_crowd(crowded).with_short_calls(3);
        drop(open(&fresh).unwrap());
        fresh.sync_all().unwrap();
        for call in 0.. {
            let disk = fresh.fork();
            let store = open(&disk).unwrap();
            disk.stop_after(disk.calls() + call);
            let (acknowledged, committed) = bring(&store, &bytes);
            drop(store);
            // Killed, and with the power gone.
            let states = (0..n_seeds).map(|seed| disk.crash(seed)).chain([disk.fork()]);
            for (number, disk) in states.enumerate() {
                n_states += 1;
                let place = format!("call {call}, state {number}, crowded {crowded}");
                n_ended += usize::from(end_there(&disk.fork(), &bytes, &place));
                go_on(&disk, &bytes, acknowledged, committed, &place);
                let store = open(&disk).unwrap();
                let blob = here(&store).blob(&digest).expect(&place).bytes().expect(&place);
                assert!(blob == bytes, "{place}: other bytes");
                assert!(left(&store).is_none(), "{place}: something is left over");
                // And what was acknowledged after the stop is durable as well.
                let after = open(&disk.crash(0)).unwrap();
                assert!(here(&after).blob(&digest).is_ok(), "{place}: the blob was lost");
            }
            if committed {
                break;
            }
        }
    }
    tests::say(&format!(
        "measured: {n_states} stops of uploads in parts, {n_ended} ended there, nothing acknowledged lost"
    ));
    assert!(n_ended > 0);
}

/// Makes a blob of what came before another process was stopped, and of nothing that it wrote after that.
/// Says whether there was an upload to be ended.
fn end_there(disk: &SimDisk, bytes: &[u8], place: &str) -> bool {
    let store = open(disk).unwrap();
    let Some(mut upload) = left(&store).filter(|_| here(&store).blob(&Digest::of(bytes)).is_err())
    else {
        return false;
    };
    if upload.wake().is_err() {
        return false;
    }
    end(&mut upload, disk, bytes, place);
    true
}

/// Makes a blob of what came of all these bytes, and one that lasts.
fn end(upload: &mut Upload, disk: &SimDisk, bytes: &[u8], place: &str) {
    let came = &bytes[..usize::try_from(upload.offset()).unwrap()];
    let digest = Digest::of(came);
    upload.commit(&digest).unwrap_or_else(|error| panic!("{place}: {error}"));
    for seed in 0..8 {
        let after = open(&disk.crash(seed)).unwrap();
        let blob = here(&after).blob(&digest).and_then(|blob| blob.bytes());
        assert!(
            blob.is_ok_and(|blob| blob == came),
            "{place}, seed {seed}: the blob that ended there was lost"
        );
    }
}

/// Goes on where another process was stopped.
fn go_on(disk: &SimDisk, bytes: &[u8], acknowledged: u64, committed: bool, place: &str) {
    let store = open(disk).unwrap();
    let is_blob = here(&store).blob(&Digest::of(bytes)).is_ok();
    assert!(is_blob || !committed, "{place}: the blob was lost");
    let mut upload = match left(&store) {
        Some(upload) => upload,
        None if is_blob => return,
        None => {
            assert_eq!(acknowledged, 0, "{place}: the upload was lost");
            begin(&store, 2)
        }
    };
    assert_eq!(upload.owner(), "uid 7", "{place}");
    match upload.wake() {
        Ok(()) => {}
        Err(Error::NotFound { .. }) if acknowledged == 0 => {
            drop(upload);
            upload = begin(&store, 2);
        }
        Err(error) => panic!("{place}: {error}"),
    }
    assert!(upload.offset() >= acknowledged, "{place}: {} bytes are left", upload.offset());
    let rest = &bytes[usize::try_from(upload.offset()).unwrap()..];
    append(&mut upload, rest).unwrap_or_else(|error| panic!("{place}: {error}"));
    upload.commit(&Digest::of(bytes)).unwrap_or_else(|error| panic!("{place}: {error}"));
}

/// A call failed once, perhaps a sync: the bytes can still be read, and are not on the disk. Whoever asks
/// again, in this process or the next, is told the truth.
#[test]
fn what_a_failed_sync_lost_is_not_believed_when_it_is_asked_again() {
    let bytes = fixture::bytes(13, 9_000);
    let (first, last) = bytes.split_at(4_000);
    let digest = Digest::of(&bytes);
    let is_lost = |disk: &SimDisk| {
        let store = open(&disk.crash(0)).unwrap();
        here(&store).blob(&digest).and_then(|blob| blob.bytes()).map_or(true, |blob| blob != bytes)
    };
    let mut n_again = 0;
    for (is_crowded, pipeline_from) in [(false, u64::MAX), (false, 1), (true, u64::MAX), (true, 1)]
    {
        let open_so = |disk: &SimDisk| {
            let options =
                Options { index: None, pipeline_from, log: super::LOG, ..Options::default() };
            Store::open(Arc::new(disk.clone()), options).unwrap()
        };
        for n in 0.. {
            let disk = SimDisk::new().with_crowd(is_crowded);
            let store = open_so(&disk);
            let mut upload = begin(&store, 1);
            disk.fail(disk.calls() + n, Fault::Io, Times::Once);
            let appended = append(&mut upload, first)
                .and_then(|_| upload.append_last(Source::Stream(&mut &last[..])));
            let committed = appended.and_then(|_| upload.commit(&digest));
            if !disk.failed() {
                committed.unwrap();
                break;
            }
            let place = format!("call {n}, crowded {is_crowded}, pipeline from {pipeline_from}");
            let killed = disk.fork();
            for _ in 0..2 {
                if upload.commit(&digest).is_ok() {
                    n_again += 1;
                    assert!(!is_lost(&disk), "{place}: lost by the same process");
                    break;
                }
            }
            let store = open_so(&killed);
            let Some(mut upload) = left(&store).filter(|_| here(&store).blob(&digest).is_err())
            else {
                continue;
            };
            let Ok(rest) = upload.wake().map(|()| usize::try_from(upload.offset()).unwrap()) else {
                continue;
            };
            append(&mut upload, &bytes[rest..]).and_then(|_| upload.commit(&digest)).unwrap();
            n_again += 1;
            assert!(!is_lost(&killed), "{place}: lost by the next process");
        }
    }
    assert!(n_again > 10, "{n_again}");
}

/// Killed anywhere while bytes come; then a call fails once while the next process starts or wakes what is
/// left. Whoever makes a blob of it at last, that process or one more, makes one that lasts.
#[test]
fn what_a_failed_start_or_waking_lost_is_not_believed() {
    let bytes = fixture::bytes(14, 9_000);
    let mut n_good = 0;
    for call in 0.. {
        let disk = SimDisk::new();
        let store = open(&disk).unwrap();
        disk.stop_after(disk.calls() + call);
        let mut upload = begin(&store, 1);
        let is_acknowledged = append(&mut upload, &bytes[..4_000]).is_ok();
        let rest = Source::Stream(&mut &bytes[4_000..]);
        let all_came = is_acknowledged && upload.append_last(rest).is_ok();
        let killed = disk.fork();
        for n in 0.. {
            let disk = killed.fork();
            disk.fail(n, Fault::Io, Times::Once);
            let store = open(&disk).or_else(|_| open(&disk)).unwrap();
            let found = store.uploads().or_else(|_| store.uploads()).unwrap().pop();
            let Some(mut upload) = found else { break };
            let _ = upload.wake();
            upload.keep();
            let has_struck = disk.failed();
            drop(store);

            let disk = disk.fork();
            let store = open(&disk).unwrap();
            let woken = left(&store).and_then(|mut upload| upload.wake().is_ok().then_some(upload));
            let place = format!("killed at {call}, failed at {n}");
            match woken {
                None => assert!(!is_acknowledged, "{place}: it is gone"),
                Some(mut upload) => {
                    end(&mut upload, &disk, &bytes, &place);
                    n_good += 1;
                }
            }
            if !has_struck {
                break;
            }
        }
        if all_came {
            break;
        }
    }
    assert!(n_good > 100, "{n_good}");
}

#[test]
fn a_kept_upload_is_the_same_in_the_next_process_and_rot_ends_it() {
    let bytes = fixture::bytes(12, 5_000);
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let mut upload = begin(&store, 1);
    append(&mut upload, &bytes[..2_000]).unwrap();
    upload.keep();
    // Nothing came of this one yet, and it is of another workspace and by another algorithm.
    let elsewhere = store.repository(&other_workspace(), &"a/b".parse().unwrap());
    elsewhere.upload(id(2), "user release", Algorithm::Sha512).keep();
    drop(begin(&store, 3));
    drop((elsewhere, store));

    let store = open(&disk).unwrap();
    let mut uploads = store.uploads().unwrap();
    uploads.sort_by_key(|upload| upload.id().clone());
    let told: Vec<_> = uploads
        .iter()
        .map(|upload| {
            let (of, name) = (upload.repository().workspace(), upload.repository().name());
            (upload.id().clone(), format!("{of}/{name}"), upload.owner(), upload.algorithm())
        })
        .collect();
    let expected = [
        (id(1), "default/here".to_owned(), "uid 7", Algorithm::Sha256),
        (id(2), "other/a/b".to_owned(), "user release", Algorithm::Sha512),
    ];
    assert_eq!(told, expected);
    for (upload, offset) in uploads.iter_mut().zip([2_000, 0]) {
        assert!(upload.is_asleep() && !upload.is_empty());
        upload.wake().unwrap();
        assert_eq!(upload.offset(), offset);
    }
    append(&mut uploads[0], &bytes[2_000..]).unwrap();
    uploads[0].commit(&Digest::of(&bytes)).unwrap();
    uploads.pop().unwrap().keep();
    drop(uploads);
    assert_eq!(here(&store).blob(&Digest::of(&bytes)).unwrap().size(), 5_000);
    assert_eq!(store.uploads().unwrap().into_iter().map(|upload| upload.keep()).count(), 1);

    // Bytes that are not what was written down begin nothing.
    let mut upload = begin(&store, 4);
    append(&mut upload, &bytes[..4_096]).unwrap();
    upload.keep();
    let file = format!("uploads/{}.bytes", id(4));
    let file = file.split('/').fold(cas::disk::RelPath::root(), |path, part| path.join(part));
    disk.corrupt(&file, 100).unwrap();
    let mut uploads = store.uploads().unwrap();
    let rotten = uploads.iter_mut().find(|upload| *upload.id() == id(4)).unwrap();
    assert!(matches!(rotten.wake(), Err(Error::NotFound { .. })));
    drop(uploads);
    assert!(store.uploads().unwrap().is_empty());
    assert!(disk.files().keys().all(|path| !path.starts_with("uploads/")));
}

/// A body whose sender goes on while the process is killed.
struct Killed<'a> {
    bytes: &'a [u8],
    disk: &'a SimDisk,
    left: Option<SimDisk>,
}

impl Read for Killed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            self.left = Some(self.disk.fork());
        }
        self.bytes.read(buf)
    }
}

/// Of the first bytes of an upload nothing was told yet: the next process knows of it all the same, after a kill.
#[test]
fn an_upload_is_known_from_its_first_bytes_on() {
    let disk = SimDisk::new();
    let (store, bytes) = (open(&disk).unwrap(), fixture::bytes(13, 400_000));
    let mut killed = Killed { bytes: &bytes, disk: &disk, left: None };
    let mut upload = begin(&store, 1);
    upload.append(Source::Stream(&mut killed)).unwrap();
    upload.commit(&Digest::of(&bytes)).unwrap();
    assert!(left(&store).is_none());

    let store = open(&killed.left.unwrap()).unwrap();
    let mut upload = left(&store).unwrap();
    upload.wake().unwrap();
    assert_eq!((upload.offset(), upload.owner()), (0, "uid 7"));
    assert_eq!(append(&mut upload, &bytes).unwrap(), bytes.len() as u64);
    upload.commit(&Digest::of(&bytes)).unwrap();
    drop(upload);
    assert!(left(&store).is_none());
}

#[test]
fn what_nobody_knows_of_an_upload_is_removed() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let mut upload = begin(&store, 1);
    append(&mut upload, b"some bytes").unwrap();
    upload.keep();
    let good: Vec<String> =
        disk.files().into_keys().filter(|path| path.starts_with("uploads/")).collect();
    assert_eq!(good.len(), 2);
    let uploads = cas::disk::RelPath::new("uploads");
    let strangers = [
        format!("{}.bytes", id(2)),
        format!("{}.0", id(3)),
        format!("{}.2", id(1)),
        format!("{}.x", id(1)),
        "x.bytes".to_owned(),
        "stranger".to_owned(),
    ];
    for stranger in &strangers {
        disk.create(&uploads.join(stranger), cas::disk::Create::Buffered).unwrap();
    }
    let mut found = left(&store).unwrap();
    let there: Vec<String> =
        disk.files().into_keys().filter(|path| path.starts_with("uploads/")).collect();
    assert_eq!(there, good);
    found.wake().unwrap();
    assert_eq!(found.offset(), 10);
}
