//! Under a service manager: a socket that was handed over, the notice of readiness, the watchdog.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Daemon, Home, run};
use wire::Code;

/// `bonded` with this descriptor as the first one that a service manager hands over.
fn activated(home: &Home, descriptor: OwnedFd) -> Command {
    let bonded = home.bonded();
    let mut shell = Command::new("sh");
    // The shell puts it where it belongs and becomes the daemon, so that the process id is right.
    shell.arg("-c").arg("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"");
    shell.arg("sh").arg(bonded.get_program()).args(bonded.get_args());
    shell.stdin(Stdio::from(descriptor));
    shell
}

#[test]
fn a_socket_that_was_handed_over_is_used_and_left_in_place() {
    let home = Home::new("");
    let listener = UnixListener::bind(home.socket()).unwrap();
    let command = activated(&home, listener.try_clone().unwrap().into());

    let mut daemon = home.start_as(command);

    daemon.bond(&["ls"]).ok();
    daemon.stop();
    assert!(daemon.home().socket().exists(), "the socket is the service manager's");
    // Whoever comes while it is away waits, and is served by the next one.
    let waiting = std::thread::spawn({
        let mut bond = daemon.command(&["ls"]);
        move || run(&mut bond)
    });
    let command = activated(daemon.home(), listener.into());
    daemon.start_again_as(command);
    waiting.join().unwrap().ok();
    daemon.stop();
}

#[test]
fn what_is_no_listening_path_socket_is_not_taken() {
    use std::os::linux::net::SocketAddrExt as _;
    let home = Home::new("");
    let name = format!("bonded-test-{}", std::process::id());
    let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let rows: [OwnedFd; 3] = [
        std::fs::File::open("/dev/null").unwrap().into(),
        UnixDatagram::bind(home.folder().join("datagrams")).unwrap().into(),
        UnixListener::bind_addr(&abstract_name).unwrap().into(),
    ];
    for descriptor in rows {
        // `run` would close standard input, which is the descriptor here.
        let input = Stdio::from(descriptor.try_clone().unwrap());
        let refused = tests::programs::run_with(&mut activated(&home, descriptor), input);
        refused.fails(Code::LocalIo).says(&["LISTEN_FDS"]);
    }
}

#[test]
fn the_service_manager_is_told_of_beginning_life_and_end() {
    let home = Home::new("");
    let manager = home.folder().join("notify");
    let manager = UnixDatagram::bind(&manager).map(|socket| (socket, manager)).unwrap();
    manager.0.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = home.bonded();
    command.env("NOTIFY_SOCKET", &manager.1).env("WATCHDOG_USEC", "200000");

    let mut daemon = home.start_as(command);

    let told = || {
        let mut buffer = [0; 1024];
        let n = manager.0.recv(&mut buffer).expect("it tells something");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert!(told().contains("READY=1"));
    for _ in 0..5 {
        let begun = std::time::Instant::now();
        assert!(told().contains("WATCHDOG=1"));
        assert!(begun.elapsed() < Duration::from_millis(2_000), "the watchdog would have bitten");
    }
    daemon.stop();
    tests::wait_until("it says that it stops", || told().contains("STOPPING=1"));
}

#[test]
fn without_watchdog_there_is_no_sign_of_life_and_a_dead_manager_does_no_harm() {
    let home = Home::new("");
    let mut command = home.bonded();
    command.env("NOTIFY_SOCKET", home.folder().join("nobody"));
    let mut daemon = home.start_as(command);
    daemon.bond(&["ls"]).ok();
    daemon.stop();
}

/// Sockets of a process that are none of this machine's own kind.
fn sockets_of_networks(daemon: &Daemon) -> Vec<String> {
    let process = format!("/proc/{}", daemon.pid());
    let local = std::fs::read_to_string(format!("{process}/net/unix")).unwrap();
    let inodes = local.lines().skip(1).filter_map(|line| line.split_whitespace().nth(6));
    let local: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let links = links.map(|link| link.to_string_lossy().into_owned());
    links.filter(|link| link.starts_with("socket:") && !local.contains(link)).collect()
}

#[test]
fn the_daemon_reaches_out_to_nobody() {
    let unit = include_str!("../../../systemd/bonded.service");
    for line in ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any"] {
        assert!(unit.lines().any(|said| said == line), "{line}");
    }
    let work = |daemon: &Daemon| {
        let file = daemon.folder().join("tool");
        std::fs::write(&file, "a tool").unwrap();
        daemon.bond(&["put", &tests::file(&file), "--name", "tools:1"]).ok();
        daemon.bond(&["get", "tools:1", &tests::file(&daemon.folder().join("got"))]).ok();
        daemon.bond(&["gc"]).ok();
        sockets_of_networks(daemon)
    };
    assert_eq!(work(&Daemon::start()), [""; 0]);
    // What it is told to listen on is seen, so more would be seen as well.
    assert_eq!(work(&tests::v2::daemon("")).len(), 1);
}
