//! Clients that leave while the daemon works for them: the work ends, and its place is free.

use std::fs::File;
use std::time::{Duration, Instant};

use tests::raw::head;
use tests::{Daemon, file, tree};
use wire::api::{ACCEPT_DESCRIPTORS, DESCRIPTORS};

/// Many at once, so that to work for all of them would take several times as long as for one. One
/// uid gets half the places, and these are all of them.
const N_LEAVING: usize = 24;
const SIZE: u64 = 1 << 30;

#[test]
fn who_leaves_in_the_middle_gives_its_place_back_soon() {
    let config = format!("[limits]\nhashing_jobs = {}\n", 2 * N_LEAVING);
    let daemon = Daemon::with(&config);
    let large = daemon.folder().join("large");
    File::create(&large).unwrap().set_len(SIZE).unwrap();
    let put = daemon.bond(&["put", &file(&large), "--format", "json"]).ok().json();
    let (artifact, blob) = (&put["digest"], &put["file_digest"]);
    let small = daemon.folder().join("small");
    std::fs::write(&small, "small").unwrap();
    let small = daemon.bond(&["put", &file(&small)]).ok().digest().to_string();

    let here = "/v1/workspaces/default";
    let [artifact, blob] = [artifact, blob].map(|digest| digest.as_str().unwrap());
    let check = head("POST", &format!("{here}/artifacts/{artifact}/check"), 0);
    let get = format!(
        "GET {here}/artifacts/{artifact}/blobs/{blob} HTTP/1.1\r\nhost: bonded\r\n\
         {ACCEPT_DESCRIPTORS}: 1\r\n\r\n"
    );
    // The store has these bytes: they are hashed before anything is written.
    let put = format!(
        "POST {here}/files?title=again&size={SIZE} HTTP/1.1\r\nhost: bonded\r\n{DESCRIPTORS}: 1\r\n\
         content-length: 0\r\n\r\n"
    );
    for (what, request, brings) in
        [("check", &check, false), ("get", &get, false), ("put", &put, true)]
    {
        // How long one takes to whom waits for it.
        let ask = || {
            let mut connection = daemon.connect();
            match brings {
                true => connection.send_with(request, &[File::open(&large).unwrap()]).unwrap(),
                false => connection.send(request).unwrap(),
            }
            connection
        };
        let begun = Instant::now();
        let answer = ask().answer();
        assert!([200, 201].contains(&answer.status), "{what}: {answer:?}");
        let whole = begun.elapsed();

        let leaving: Vec<_> = (0..N_LEAVING).map(|_| ask()).collect();
        std::thread::sleep(Duration::from_millis(100));
        let begun = Instant::now();
        drop(leaving);
        daemon.bond(&["verify", &small]).ok();
        let waited = begun.elapsed();
        assert!(waited < whole, "{what}: {waited:?} for a place, where one takes {whole:?}");
        tests::wait_at_most(Duration::from_secs(10), "nothing is left of it", || {
            tree::names(&daemon.store().join("staging")).is_empty()
        });
        tests::say(&format!(
            "measured: a place after {N_LEAVING} left a {what}: {waited:?} of {whole:?}"
        ));
    }
    daemon.bond(&["verify", "--all"]).ok();
}
