//! Ending: in peace, by force, and with requests in flight; and clients that end in the middle.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cas::digest::Digest;
use nix::sys::signal::Signal;
use tests::layout::{digest, noise, types};
use tests::raw::{Connection, head};
use tests::{Daemon, Layout, file, oci, tree};
use wire::Code;

/// Everything in the store is whole, and what was acknowledged is there.
#[track_caller]
fn is_whole(daemon: &Daemon, acknowledged: &[String]) {
    daemon.bond(&["verify", "--all"]).ok();
    let listed = daemon.bond(&["ls", "--format", "json"]).ok().text().to_owned();
    for reference in acknowledged {
        assert!(listed.contains(reference), "{reference} was acknowledged and is gone");
    }
    assert!(tree::names(&daemon.store().join("staging")).is_empty(), "staging is not empty");
}

#[test]
fn a_daemon_killed_in_the_middle_of_puts_keeps_what_it_acknowledged() {
    let mut daemon = Daemon::start();
    let n_rounds = if tests::is_long() { 100 } else { 8 };
    let acknowledged = Mutex::new(Vec::new());
    let mut n_cut = 0;
    for round in 0..n_rounds {
        let over = AtomicBool::new(false);
        let cut: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let (daemon, over, acknowledged) = (&daemon, &over, &acknowledged);
                    scope.spawn(move || {
                        for n in 0.. {
                            let seed = format!("{round}-{thread}-{n}");
                            let mut layout = Layout::default();
                            let root = layout.image(&seed);
                            layout.list(&root);
                            let folder = daemon.folder().join(seed);
                            layout.write(&folder);
                            let put = daemon.bond(&["put", &oci(&folder)]);
                            if put.code != Some(0) {
                                let code = put.code();
                                assert!(over.load(Ordering::SeqCst), "{}", put.told());
                                assert_eq!(code, Some(Code::Unreachable), "{}", put.told());
                                return oci(&folder);
                            }
                            assert_eq!(put.digest(), digest(&root));
                            acknowledged.lock().unwrap().push(digest(&root).to_string());
                            std::fs::remove_dir_all(&folder).unwrap();
                        }
                        String::new()
                    })
                })
                .collect();
            // A moment that is another one in each round.
            std::thread::sleep(Duration::from_millis(20 + 37 * round % 300));
            over.store(true, Ordering::SeqCst);
            daemon.signal(Signal::SIGKILL);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        daemon.wait();
        daemon.start_again();
        is_whole(&daemon, &acknowledged.lock().unwrap());
        // What was cut off is put again as if nothing had been.
        for source in cut {
            let reference = daemon.bond(&["put", &source]).ok().digest().to_string();
            acknowledged.lock().unwrap().push(reference);
            n_cut += 1;
        }
        is_whole(&daemon, &acknowledged.lock().unwrap());
    }
    let n = acknowledged.into_inner().unwrap().len();
    tests::say(&format!("{n_rounds} kills: {n} acknowledged artifacts whole, {n_cut} cut off"));
}

#[test]
fn a_client_killed_in_the_middle_leaves_nothing() {
    let config = "[timeouts]\ndraft_abandoned = \"300ms\"\n[log]\nlevel = \"debug\"\n";
    let daemon = Daemon::with(config);
    let gone = |what: &str| {
        tests::wait_at_most(Duration::from_secs(20), what, || {
            tree::store(daemon.store()).is_empty()
        });
    };
    // A stream, half of it sent.
    let mut bond = daemon.command(&["put", "-"]);
    let mut child = bond
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(&noise("half", 5 << 20)).unwrap();
    tests::wait_until("the daemon has some of it", || {
        !tree::names(&daemon.store().join("staging")).is_empty()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    gone("a stream that was cut leaves nothing");

    // A large file by its descriptor, and a layout of several. The daemon has all that it needs
    // for the file: it may end the put although nobody waits for the answer, or let it go.
    let large = daemon.folder().join("large");
    std::fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let mut layout = Layout::default();
    let config = layout.config("large");
    let layer = layout.blob(types::LAYER, "small");
    let zeros = serde_json::json!({
        "mediaType": types::LAYER, "size": 1 << 30,
        "digest": "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14",
    });
    let root = layout.manifest(&config, &[layer, zeros.clone()]);
    layout.list(&root);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    std::fs::rename(&large, folder.join(tests::layout::blob_file(&digest(&zeros)))).unwrap();
    let large = folder.join(tests::layout::blob_file(&digest(&zeros)));
    for source in [file(&large), oci(&folder)] {
        let mut bond = daemon.command(&["put", "--quiet", &source]);
        let mut child = bond.stderr(std::process::Stdio::null()).spawn().unwrap();
        tests::wait_until("the daemon is at it", || {
            !tree::names(&daemon.store().join("staging")).is_empty()
        });
        std::thread::sleep(Duration::from_millis(50));
        child.kill().unwrap();
        child.wait().unwrap();
        tests::wait_until("the daemon let go of it", || {
            tree::names(&daemon.store().join("staging")).is_empty()
        });
        let listed = daemon.bond(&["ls", "--format", "json"]).ok().json()["artifacts"].clone();
        match listed.as_array().unwrap().as_slice() {
            [] => {}
            [whole] if source.starts_with("file:") => {
                let reference = whole["digest"].as_str().unwrap();
                daemon.bond(&["verify", reference]).ok();
                daemon.bond(&["retire", reference]).ok();
                daemon.bond(&["gc"]).ok();
            }
            _ => panic!("{source} is there: {listed}"),
        }
        gone(&source);
        let unheld = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
        assert_eq!(unheld["n_blobs"], 0);
    }
}

/// Begins to put a file of these bytes and sends the first half.
fn half_a_put(daemon: &Daemon, title: &str, bytes: &[u8]) -> Connection {
    let mut connection = daemon.connect();
    let path = format!("/v1/workspaces/default/files?title={title}&size={}", bytes.len());
    connection.send(head("POST", &path, bytes.len() as u64)).unwrap();
    connection.send(&bytes[..bytes.len() / 2]).unwrap();
    tests::wait_until("the daemon has some of it", || {
        !tree::names(&daemon.store().join("staging")).is_empty()
    });
    connection
}

#[test]
fn told_to_stop_it_ends_what_is_in_flight() {
    let mut daemon = Daemon::start();
    let bytes = noise("in flight", 16 << 20);
    let mut idle = daemon.connect();
    assert_eq!(idle.get("/v1/health").json()["status"], "ok");
    let mut putting = half_a_put(&daemon, "in-flight", &bytes);

    daemon.signal(Signal::SIGTERM);

    // Nobody new comes in, idle connections are let go, and the put comes to its end.
    tests::wait_until("the socket is gone", || !daemon.home().socket().exists());
    daemon.bond(&["ls"]).fails(Code::Unreachable);
    assert!(idle.is_closed());
    std::thread::sleep(Duration::from_millis(300));
    putting.send(&bytes[bytes.len() / 2..]).unwrap();
    let answer = putting.answer();
    assert_eq!(answer.status, 201, "{answer:?}");
    let status = daemon.wait();
    assert!(status.success(), "{status}");
    daemon.start_again();
    is_whole(&daemon, &[answer.json()["digest"].as_str().unwrap().to_owned()]);
}

#[test]
fn told_to_stop_it_does_not_wait_for_ever() {
    let mut daemon = Daemon::with("[timeouts]\ndrain = \"1s\"\n");
    let _putting = half_a_put(&daemon, "never", &noise("never", 16 << 20));
    let draft = daemon.connect().draft("default");
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    daemon.start_again();
    is_whole(&daemon, &[]);
    assert!(tree::store(daemon.store()).is_empty(), "nothing of the put is left");
    assert_eq!(daemon.connect().get(&format!("/v1/drafts/{draft}")).code(), "not_found");
}

#[test]
fn a_put_is_there_after_any_end_once_it_was_acknowledged() {
    let mut daemon = Daemon::start();
    let mut acknowledged = Vec::new();
    for (n, end) in [Daemon::kill as fn(&mut Daemon), Daemon::stop, Daemon::kill].iter().enumerate()
    {
        let path = daemon.folder().join(format!("tool-{n}"));
        let bytes = noise("ends", 10_000 * (n + 1));
        std::fs::write(&path, &bytes).unwrap();
        let words = ["put", &file(&path), "--name", &format!("tool:{n}")];
        acknowledged.push(daemon.bond(&words).ok().digest().to_string());
        end(&mut daemon);
        daemon.start_again();
        is_whole(&daemon, &acknowledged);
        for (n, reference) in acknowledged.iter().enumerate() {
            let path = daemon.bond(&["resolve", &format!("tool:{n}")]).ok();
            assert!(path.text().contains(&reference["sha256:".len()..]));
        }
        let of_file = Digest::of(&bytes).to_string();
        assert!(daemon.bond(&["get", &of_file, "--stdout"]).ok().out == bytes);
    }
}
