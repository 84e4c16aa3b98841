//! docker and buildx: the engine makes the connection, with the login that its client found, and has to
//! be in the network namespace of the command.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::layout::noise;
use tests::peers::{need, need_root, peer, skip};
use tests::{run, scratch, wait_at_most};

use super::{Bench, WORKSPACE};

/// How long an engine may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(60);

const SOCKET: &str = "socket";

/// An engine of one test: its files are the test's own, and it changes nothing of the machine's network.
struct Engine {
    child: Child,
    folder: tempfile::TempDir,
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join(SOCKET).display())
}

impl Engine {
    /// `None`, told by name, where there is no engine or the machine lets none run.
    #[track_caller]
    fn start(test: &str) -> Option<Engine> {
        let program = need(test, "dockerd").filter(|_| need_root(test))?;
        let folder = scratch();
        let at = |name: &str| folder.path().join(name);
        let mut command = Command::new(&program);
        // Its containerd and runc are beside it.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let beside = program.parent().map(PathBuf::from);
        let path = beside.into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(path).unwrap());
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(flag).arg(at(name));
        }
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.arg("--storage-driver=vfs");
        let log = std::fs::File::create(at("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.arg("--host").arg(host(folder.path()));
        let mut engine = Engine { child: command.spawn().unwrap(), folder };
        let mut has_ended = false;
        wait_at_most(PATIENCE, "dockerd listens", || {
            has_ended = engine.child.try_wait().unwrap().is_some();
            has_ended || engine.folder.path().join(SOCKET).exists()
        });
        if has_ended {
            let log = std::fs::read_to_string(engine.folder.path().join("log")).unwrap();
            let why = log.lines().last().unwrap_or_default();
            skip(test, &format!("a machine on which dockerd runs, not one where it says {why}"));
            return None;
        }
        Some(engine)
    }

    fn host(&self) -> String {
        host(self.folder.path())
    }

    /// The beginning of a script whose docker and buildx ask this engine. There is a `context` to build.
    fn prepare(&self, bench: &Bench) -> String {
        bench.write("context/Dockerfile", "FROM scratch\nCOPY noise /noise\n");
        std::fs::write(bench.at("context/noise"), noise("a layer", 200_000)).unwrap();
        format!("export DOCKER_HOST={}\n", self.host())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // It ends its containerd as well, if it is asked and not killed.
        let _ = kill(pid, Signal::SIGTERM);
        let last = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < last {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id of an image is the digest of its config.
#[track_caller]
fn config(bench: &Bench, tag: &str) -> String {
    let manifest = format!("/v2/{WORKSPACE}/app/manifests/{tag}");
    let manifest = bench.ask(&tests::v2::get(manifest)).json();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn docker_builds_pushes_and_pulls() {
    let Some(engine) = Engine::start("exec, docker_builds_pushes_and_pulls") else { return };
    let bench = Bench::new("");
    let script = engine.prepare(&bench);
    let ran = bench
        .script(&format!(
            "{script}
             docker build -q -t $BOND_REGISTRY/app:1 context >&2
             docker push $BOND_REGISTRY/app:1
             docker rmi $BOND_REGISTRY/app:1 >&2
             docker pull $BOND_REGISTRY/app:1 >&2
             docker image inspect --format '{{{{.Id}}}}' $BOND_REGISTRY/app:1"
        ))
        .ok();
    let reported =
        ran.text().split("digest: ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(reported, bench.stored("app", "1"), "{}", ran.told());
    assert_eq!(ran.lines().last(), Some(&config(&bench, "1").as_str()), "{}", ran.told());

    // The login is the command's and not the engine's: without it nobody is let in.
    let open = bench.open();
    let mut outside = Command::new(peer("docker").expect("the client is beside its engine"));
    outside.env("HOME", bench.at("none")).arg("--host").arg(engine.host());
    let refused = run(outside.args(["pull", &format!("{}/app:1", open.address())]));
    assert_ne!(refused.code, Some(0), "{}", refused.told());
    assert!(refused.err.contains("no basic auth credentials"), "{}", refused.told());
}

#[test]
fn buildx_builds_and_pushes() {
    const TEST: &str = "exec, buildx_builds_and_pushes";
    let Some(_) = need(TEST, "buildx") else { return };
    let Some(engine) = Engine::start(TEST) else { return };
    let bench = Bench::new("");
    let script = engine.prepare(&bench);
    let ran = bench
        .script(&format!(
            "{script}
             buildx build --push --metadata-file said -t $BOND_REGISTRY/app:1 context"
        ))
        .ok();
    let said = std::fs::read(bench.at("said")).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["containerimage.digest"], bench.stored("app", "1"), "{}", ran.told());
}
