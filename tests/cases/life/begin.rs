//! Starting: one store has one daemon, the socket is as it was asked for, the configuration is
//! read strictly.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;

use tests::{Daemon, Home, run, scratch};
use wire::Code;

#[test]
fn one_store_has_one_daemon_and_a_second_one_says_who_that_is() {
    let mut first = Daemon::start();
    let second = Home::new("").store_at(first.store());

    let refused = run(&mut second.bonded()).fails(Code::Locked);
    let pid = first.pid().to_string();
    let refused = refused.says(&["pid", &pid]);
    assert!(refused.err.contains("hint:"), "{}", refused.told());

    // Another store by the same socket: the socket is the first one's.
    let other = scratch();
    let mut same_socket = Home::new("").store_at(&other.path().join("store")).bonded();
    same_socket.arg("--socket").arg(first.home().socket());
    let refused = run(&mut same_socket);
    assert!(refused.code.is_some_and(|code| code != 0), "{}", refused.told());
    first.bond(&["ls"]).ok();

    // With the first one gone, however it went, the store is free.
    first.kill();
    let mut second = second.start();
    second.stop();
}

#[test]
fn the_socket_has_its_mode_and_group_and_takes_the_place_of_a_dead_one() {
    let is_root = nix::unistd::Uid::effective().is_root();
    let group = if is_root { 12_345 } else { nix::unistd::Gid::effective().as_raw() };
    for mode in [0o600, 0o660, 0o666] {
        let home = Home::new(&format!("[socket]\nmode = \"{mode:04o}\"\ngroup = {group}\n"));
        // What a daemon that was killed leaves behind.
        drop(UnixListener::bind(home.socket()).unwrap());

        let mut daemon = home.start();

        let socket = std::fs::symlink_metadata(daemon.home().socket()).unwrap();
        assert!(socket.file_type().is_socket());
        assert_eq!((socket.mode() & 0o7777, socket.gid()), (mode, group));
        daemon.stop();
        assert!(!daemon.home().socket().exists(), "it takes its socket with it");
    }
    // Something else at its place is left alone.
    let home = Home::new("");
    std::fs::write(home.socket(), "precious").unwrap();
    let refused = run(&mut home.bonded());
    assert!(refused.code.is_some_and(|code| code != 0), "{}", refused.told());
    assert_eq!(std::fs::read(home.socket()).unwrap(), b"precious");
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let home = Home::new("");
    let good = "[limits]\ndepth = 4\n[timeouts]\nstall = \"5s\"\n";
    home.configure(good);
    run(home.bonded().arg("--check-config")).ok();
    let rows = [
        ("[limits]\n\ndephts = 4\n", 3, "dephts"),
        ("[limits]\ndepth = 0\n", 2, "limits.depth"),
        ("[limits]\ndepth = \"deep\"\n", 2, "limits.depth"),
        ("[limits]\nmanifest_size = \"4 MB\"\n", 2, "manifest_size"),
        ("\n\n[socket]\nmode = \"rw-rw----\"\n", 4, "socket.mode"),
        ("[socket]\ngroup = \"no such group\"\n", 2, "socket.group"),
        ("[store]\nquota = -1\n", 2, "store.quota"),
        ("[timeouts]\nstall = \"5 parsecs\"\n", 2, "timeouts.stall"),
        ("[log]\nformat = \"xml\"\n", 2, "log.format"),
        ("[nonsense]\n", 1, "nonsense"),
        ("[limits\n", 1, ""),
        ("[[policy]]\nuid = 1\nworkspaces = [\"a\"]\nmay = [\"fly\"]\n", 4, "policy"),
        ("[[policy]]\nworkspaces = [\"a\"]\nmay = [\"read\"]\n", 1, "policy"),
    ];
    for (config, line, key) in rows {
        home.configure(config);
        let place = format!("{}:{line}:", home.config().display());
        for check in [true, false] {
            let mut bonded = home.bonded();
            if check {
                bonded.arg("--check-config");
            }
            run(&mut bonded).fails(Code::Config).says(&[place.as_str(), key]);
        }
    }
    assert!(!home.store().exists(), "nothing was begun");
    std::fs::remove_file(home.config()).unwrap();
    run(&mut home.bonded()).fails(Code::Config).says(&[home.config().display().to_string()]);
}

#[test]
fn what_it_prints_as_its_configuration_it_also_reads() {
    let home = Home::new("");
    let printed = run(home.bonded().arg("--print-config")).ok();
    let text = printed.text();
    // Names of users and groups of the example need not be known here.
    home.configure(text);
    run(home.bonded().arg("--check-config")).ok();
    for key in ["quota", "manifest_size", "connections_per_uid", "draft_idle", "mode"] {
        assert!(text.contains(&format!("\n{key} = ")), "{key} does not stand there:\n{text}");
    }
}

#[test]
fn two_words_are_enough_to_run() {
    let folder = scratch();
    let (store, socket) = (folder.path().join("deep/er/store"), folder.path().join("socket"));
    std::fs::create_dir_all(store.parent().unwrap()).unwrap();
    let mut bonded = std::process::Command::new(tests::programs::own("bonded"));
    bonded.arg("--store").arg(&store).arg("--socket").arg(&socket);
    bonded.stdin(std::process::Stdio::null());
    let mut child = bonded.stderr(std::process::Stdio::null()).spawn().unwrap();
    tests::wait_until("it answers", || {
        tests::raw::Connection::open(&socket).is_ok_and(|mut c| c.get("/v1/health").status == 200)
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}
