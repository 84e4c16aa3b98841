//! `bond exec`: stock clients without a flag, who is let in and who is not, what a command finds
//! around it, and how it is started, told and ended.

mod clients;
mod command;
mod door;
mod engine;
mod surroundings;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use tests::peers::peer;
use tests::v2::{Door, Step};
use tests::{Daemon, Run, run, scratch};

/// Nobody listens there: a tool that asks for more than this machine has is told so at once.
const NOWHERE: &str = "http://127.0.0.1:1";
/// The workspace in which commands work.
const WORKSPACE: &str = "ci";

/// A daemon, and a folder that is the home of the commands and where they run.
pub(crate) struct Bench {
    pub(crate) daemon: Daemon,
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    fn new(config: &str) -> Bench {
        Bench { daemon: Daemon::with(config), folder: scratch() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl ToString) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content.to_string()).unwrap();
        path
    }

    /// `bond exec` with a command, not started yet.
    fn exec(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.command(&["--workspace", WORKSPACE, "exec", "--"]);
        command.args(words).current_dir(self.folder.path()).env("HOME", self.folder.path());
        for name in [
            "DOCKER_CONFIG",
            "REGISTRY_AUTH_FILE",
            "REGCTL_CONFIG",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
            "NO_PROXY",
            "no_proxy",
        ] {
            command.env_remove(name);
        }
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, NOWHERE);
        }
        let peers =
            ["crane", "regctl", "oras", "cosign", "cosign2", "helm", "buildx", "dockerd"].map(peer);
        let folders = peers.iter().flatten().filter_map(|program| program.parent());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = folders.map(Path::to_owned).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).unwrap());
        command
    }

    /// Runs a script in one.
    #[track_caller]
    fn script(&self, script: &str) -> Run {
        run(&mut self.exec(&["sh", "-euc", script]))
    }

    /// Opens a door, and holds it open.
    #[track_caller]
    pub(crate) fn open(&self) -> Open {
        Open::new(self.exec(&["sh", "-c", SHOW]))
    }

    /// Asks the daemon by its socket, by whole names.
    #[track_caller]
    fn ask(&self, step: &Step) -> tests::v2::Answer {
        Door::of(&self.daemon)[0].ask(step)
    }

    /// The digest under a name of the workspace, as the store has it; the artifact verifies.
    #[track_caller]
    fn stored(&self, name: &str, tag: &str) -> String {
        let reference = format!("{name}:{tag}");
        self.daemon.bond(&["--workspace", WORKSPACE, "verify", &reference]).ok();
        let path = format!("/v2/{WORKSPACE}/{name}/manifests/{tag}");
        self.ask(&tests::v2::head(path)).headers["docker-content-digest"].clone()
    }
}

/// What a held door says of itself; it closes when its input ends.
const SHOW: &str = r#"
for name in BOND_REGISTRY BOND_WORKSPACE BOND_SOCKET SSL_CERT_FILE DOCKER_CONFIG \
    REGISTRY_AUTH_FILE REGCTL_CONFIG PATH; do
    eval "echo $name=\$$name"
done
echo
read -r end
"#;

/// A door that is open for as long as this is.
pub(crate) struct Open {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    variables: BTreeMap<String, String>,
}

impl Open {
    #[track_caller]
    fn new(mut command: Command) -> Open {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bond starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut variables = BTreeMap::new();
        while let Some(Ok(line)) =
            lines.next().filter(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
        {
            let (name, value) = line.split_once('=').unwrap();
            variables.insert(name.to_owned(), value.to_owned());
        }
        assert!(variables.contains_key("BOND_REGISTRY"), "{variables:?}");
        Open { child, lines, variables }
    }

    fn variable(&self, name: &str) -> &str {
        &self.variables[name]
    }

    fn address(&self) -> &str {
        self.variable("BOND_REGISTRY")
    }

    fn file(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(name).unwrap()).unwrap()
    }

    fn docker(&self) -> Value {
        self.file(&format!("{}/config.json", self.variable("DOCKER_CONFIG")))
    }

    /// The value of `Authorization` that lets one in.
    pub(crate) fn authorization(&self) -> String {
        let docker = self.docker();
        format!("Basic {}", docker["auths"][self.address()]["auth"].as_str().unwrap())
    }

    /// The same request, by one who is let in.
    fn by_command(&self, step: Step) -> Step {
        step.with("authorization", self.authorization())
    }

    pub(crate) fn door(&self) -> Door {
        Door::Loopback(self.address().to_owned())
    }

    /// Ends the command, and says its exit code.
    #[track_caller]
    pub(crate) fn close(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(self.lines.next().is_none());
        status.code()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
