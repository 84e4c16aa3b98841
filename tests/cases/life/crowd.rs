//! Many large requests at once, ended or broken off: the daemon's memory stays small, and comes back.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use cas::digest::Digest;
use tests::Daemon;
use tests::layout::noise;
use tests::raw::head;

/// Between what it takes and what it takes when the allocator is left to itself
/// (docs/decisions/0006).
const MOST: u64 = 48 << 20;

/// Does the same from so many threads at once, so often each.
fn crowd(n_threads: usize, n_times: usize, act: impl Fn(usize, usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..n_threads {
            let act = &act;
            scope.spawn(move || (0..n_times).for_each(|time| act(thread, time)));
        }
    });
}

#[test]
fn a_crowd_of_large_requests_takes_a_little_memory() {
    let daemon = Daemon::start();
    let bytes = noise("crowd", 24 << 20);
    let files = "/v1/workspaces/default/files?title=x";
    let mut seen = Vec::new();
    let mut is_small = |what: &str| {
        let most = daemon.most_memory();
        seen.push(format!("{what} {} MiB", most >> 20));
        assert!(most < MOST, "{most} bytes were resident; {seen:?}");
    };

    crowd(8, 25, |_, _| {
        let mut connection = daemon.connect();
        connection.send(head("POST", files, 64 << 20)).unwrap();
        let _ = connection.send(&bytes[..8 << 20]);
    });
    is_small("200 broken uploads");

    let put = |thread: usize, time: usize, n: usize| {
        let path: PathBuf = daemon.folder().join(format!("{thread}-{time}"));
        let own = &bytes[thread * 1000 + time..][..n];
        std::fs::write(&path, own).unwrap();
        let answer = daemon.connect().hand("POST", files, &File::open(&path).unwrap());
        assert_eq!(answer.status, 201, "{answer:?}");
        std::fs::remove_file(&path).unwrap();
    };
    crowd(32, 8, |thread, time| put(thread, time, 1 << 20));
    is_small("256 files of 1 MiB");
    crowd(8, 4, |thread, time| put(thread, time, 20 << 20));
    is_small("32 files of 20 MiB");

    // They ask, and take their time to read: few have a place, the others wait for one.
    let path = daemon.folder().join("read");
    for n in [20_000, 60_000, 1 << 20, 20 << 20] {
        std::fs::write(&path, &bytes[..n]).unwrap();
        let artifact = daemon.bond(&["put", &tests::file(&path)]).ok().digest();
        let blob = Digest::of(&bytes[..n]);
        let get = format!("/v1/workspaces/default/artifacts/{artifact}/blobs/{blob}");
        crowd(32, 4, |_, _| {
            let mut connection = daemon.connect();
            connection.send(head("GET", &get, 0)).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            let answer = connection.answer();
            assert!(answer.is_whole && answer.body == bytes[..n], "{}", answer.status);
        });
        is_small(&format!("128 readers of {n} bytes"));
    }
    tests::say(&format!("measured: resident at most, a crowd: {}", seen.join(", ")));
}
