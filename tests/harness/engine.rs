//! A docker engine of one test. It makes the connections to a registry itself, with the login that its
//! client found.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::layout::noise;
use crate::peers::{need, need_root, peer, skip};
use crate::{Run, run, scratch, wait_at_most};

/// How long it may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What older engines leave among the machine's configuration.
const KEY: &str = "/etc/docker/key.json";

/// Its files are the test's own, and it makes no network: a registry of the test is at a loopback address.
/// An empty `/run/docker` stays behind.
pub struct Engine {
    child: Child,
    makes_key: bool,
    folder: tempfile::TempDir,
}

impl Engine {
    /// `None`, told by name, where there is no engine or the machine lets none run.
    #[track_caller]
    pub fn start(test: &str) -> Option<Engine> {
        let program = need(test, "dockerd").filter(|_| need_root(test))?;
        // An engine without a bridge takes away the one that another engine made.
        if Path::new("/sys/class/net/docker0").exists() {
            skip(test, "a machine on which no other docker engine runs");
            return None;
        }
        let folder = scratch();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("context")).unwrap();
        std::fs::write(at("context/Dockerfile"), "FROM scratch\nCOPY noise /noise\n").unwrap();
        std::fs::write(at("context/noise"), noise("a layer", 200_000)).unwrap();

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
        std::fs::write(at("daemon.json"), "{}").unwrap();
        command.arg("--config-file").arg(at("daemon.json"));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.arg("--ip-forward=false");
        command.args(["--storage-driver=vfs", "--host", &host(folder.path())]);
        let log = std::fs::File::create(at("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let makes_key = !Path::new(KEY).exists();
        let mut engine = Engine { child: command.spawn().unwrap(), makes_key, folder };

        let mut has_ended = false;
        wait_at_most(PATIENCE, "dockerd listens", || {
            has_ended = engine.child.try_wait().unwrap().is_some();
            has_ended || run(&mut engine.docker(engine.folder.path(), &["version"])).code == Some(0)
        });
        if has_ended {
            let log = std::fs::read_to_string(engine.folder.path().join("log")).unwrap();
            let why = log.lines().last().unwrap_or_default();
            skip(test, &format!("a machine on which dockerd runs, not one where it says {why}"));
            return None;
        }
        Some(engine)
    }

    /// Where it listens, as `DOCKER_HOST` wants it.
    pub fn host(&self) -> String {
        host(self.folder.path())
    }

    /// A folder to build an image from.
    pub fn context(&self) -> String {
        self.folder.path().join("context").display().to_string()
    }

    /// Its client, with a home where its login is looked for.
    pub fn docker(&self, home: &Path, words: &[&str]) -> Command {
        let mut docker = Command::new(peer("docker").expect("the client comes with its engine"));
        docker.args(["--host", &self.host()]).args(words);
        docker.env("HOME", home);
        for name in ["DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_BUILDKIT"] {
            docker.env_remove(name);
        }
        docker
    }
}

/// The digest that the client says it pushed.
pub fn pushed(told: &Run) -> Option<&str> {
    told.text().split_once("digest: ")?.1.split(' ').next()
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

fn host(folder: &Path) -> String {
    format!("unix://{}", socket(folder).display())
}

impl Drop for Engine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
            // It ends its containerd as well, if it is asked and not killed.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let last = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < last {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.makes_key {
            let _ = std::fs::remove_file(KEY);
            let _ = Path::new(KEY).parent().map(std::fs::remove_dir);
        }
    }
}
