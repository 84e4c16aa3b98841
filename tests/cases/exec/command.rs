//! How a command is started, told of signals, and ended.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::peers::{need, skip};
use tests::programs::run_with;
use tests::{Home, run};
use wire::Code;

use super::Bench;

#[test]
fn the_exit_code_is_the_commands() {
    let bench = Bench::new("");
    bench.write("plain", "no program");
    let script = bench.write("no-interpreter", "#!/nowhere/sh\n");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    for (words, code, says) in [
        (&["true"][..], 0, ""),
        (&["false"], 1, ""),
        (&["sh", "-c", "exit 77"], 77, ""),
        (&["sh", "-c", "exit 255"], 255, ""),
        // Not one of ours, though the number is.
        (&["sh", "-c", "exit 3"], 3, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["sh", "-c", "kill -KILL $$"], 137, ""),
        (&["no-such-command"], 127, "bond: no-such-command: there is no such command"),
        (&["./nowhere/x"], 127, "bond: ./nowhere/x"),
        (&["./no-interpreter"], 127, "bond: ./no-interpreter"),
        (&["./plain"], 126, "bond: ./plain: Permission denied"),
        (&["/"], 126, "bond: /: Permission denied"),
        // What follows the command is the command's, be it an option of ours.
        (&["sh", "-c", "exit $#", "sh", "--workspace", "x", "--help"], 3, ""),
    ] {
        let ran = run(&mut bench.exec(words));
        assert_eq!((ran.code, ran.err.contains(says)), (Some(code), true), "{}", ran.told());
        assert_eq!(says.is_empty(), ran.err.is_empty(), "{}", ran.told());
    }
}

#[test]
fn streams_and_words_are_the_commands() {
    let bench = Bench::new("");
    let input = std::fs::File::open(bench.write("input", "what comes in\n")).unwrap();
    let script = "cat; echo $1 >&2; echo $BOND_WORKSPACE; bond ls --format json";
    let mut command = bench.exec(&["sh", "-c", script, "sh", "a word"]);
    let own = tests::programs::own("bond");
    let path = format!("{}:{}", own.parent().unwrap().display(), std::env::var("PATH").unwrap());
    command.env("PATH", path);
    let ran = run_with(&mut command, input).ok();
    assert_eq!(ran.lines()[..2], ["what comes in", "ci"], "{}", ran.told());
    assert_eq!(ran.err, "a word\n");
}

#[test]
fn without_a_daemon_or_a_command_nothing_is_started() {
    let home = Home::new("");
    let marker = home.folder().join("marker");
    let touch = ["exec", "--", "touch", marker.to_str().unwrap()];
    run(home.bond().args(touch)).fails(Code::Unreachable).says(&["bonded cannot be reached"]);
    assert!(!marker.exists());
    let bench = Bench::new("");
    for words in [&["exec"][..], &["exec", "--"], &["exec", "--no-such-option", "true"]] {
        run(&mut bench.daemon.command(words)).fails(Code::Usage);
    }
    bench.daemon.bond(&["--workspace", "..", "exec", "true"]).fails(Code::NameInvalid);
    // The same with everything right.
    bench.daemon.bond(&touch).ok();
    assert!(marker.exists());
}

/// A command that says when it is ready.
fn ready(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    ignored & 1 << (signal as u32 - 1) != 0
}

#[test]
fn signals_reach_the_command() {
    let bench = Bench::new("");
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGALRM, "ALRM"),
    ] {
        // A shell's background job ignores some, and so does every shell within it, whatever it traps.
        if is_ignored(signal) {
            skip(
                "exec, signals_reach_the_command",
                &format!("{signal} not to be ignored from above"),
            );
            continue;
        }
        // One that knows what to do, and one that is ended.
        let heard = format!(
            "trap 'exit 42' {name}; echo ready; i=0; while [ $((i+=1)) -lt 3000 ]; do sleep 0.02; done"
        );
        for (words, code) in [
            (&["sh", "-c", &heard][..], 42),
            (&["sh", "-c", "echo ready; exec sleep 60"], 128 + signal as i32),
        ] {
            let (mut child, _out) = ready(bench.exec(words));
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(code), "{signal} {words:?}");
        }
    }
}

#[test]
fn signals_are_for_the_command_as_they_were_for_bond() {
    let bench = Bench::new("");
    let words = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let plain = run(Command::new(words[0]).args(&words[1..])).ok();
    let within = run(&mut bench.exec(&words)).ok();
    assert_eq!(within.text(), plain.text());
}

/// The same command as `env` starts it, which is told of a signal.
fn told(signal: &str, exec: &Command) -> Command {
    let mut command = Command::new("env");
    command.arg(signal).arg(exec.get_program()).args(exec.get_args());
    command.envs(exec.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn the_end_is_heard_where_ends_are_ignored() {
    let bench = Bench::new("");
    let exec = bench.exec(&["sh", "-c", "exit 5"]);
    let mut child = told("--ignore-signal=CHLD", &exec).stdout(Stdio::null()).spawn().unwrap();
    tests::wait_until("the command ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

/// `bond exec` at a terminal, which `script` makes and whose keys are its input.
fn at_a_terminal(script: &Path, bench: &Bench, words: &[&str]) -> Child {
    let exec = bench.exec(words);
    let mut command = Command::new(script);
    let words: Vec<_> = std::iter::once(exec.get_program()).chain(exec.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
    // Ctrl-C goes to every process of the terminal: no shell may stand between and end by it, and
    // whoever runs the tests in the background has it ignored.
    let words = format!("exec env --default-signal=INT {}", words.join(" "));
    command.args(["-qefc", &words, "/dev/null"]).current_dir(bench.folder.path());
    for (name, value) in exec.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("SHELL", "/bin/sh");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Waits until `bond exec` of this command has blocked its signals, which it does before all else.
fn wait_for_bond(word: &str) -> Pid {
    let mut bond = None;
    tests::wait_until("bond reads its signals", || {
        let found = std::fs::read_dir("/proc").unwrap().flatten().find(|process| {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            words.next().is_some_and(|name| name.ends_with(b"/bond"))
                && words.any(|other| other == word.as_bytes())
        });
        let Some(found) = found else { return false };
        bond = found.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
        let status = std::fs::read_to_string(found.path().join("status")).unwrap_or_default();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        blocked.is_some_and(|set| !set.trim().trim_matches('0').is_empty())
    });
    bond.unwrap()
}

/// A daemon that says nothing keeps nobody from being ended.
#[test]
fn what_a_terminal_says_too_early_is_heard() {
    let Some(script) = need("exec, what_a_terminal_says_too_early", "script") else { return };
    let bench = Bench::new("");
    bench.daemon.signal(Signal::SIGSTOP);
    let mut child = at_a_terminal(&script, &bench, &["sleep", "7.031"]);
    wait_for_bond("7.031");
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"\x03").unwrap();
    keys.flush().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32));
    bench.daemon.signal(Signal::SIGCONT);
}

#[test]
fn a_signal_before_there_is_a_command_ends_bond_or_waits_for_the_command() {
    let bench = Bench::new("");
    for (n, (signal, default)) in [
        (Signal::SIGTERM, "--default-signal"),
        (Signal::SIGINT, "--default-signal"),
        // Ignored from above it ends nobody; and what ends nobody is for the command.
        (Signal::SIGTERM, "--ignore-signal"),
        (Signal::SIGUSR1, "--default-signal"),
    ]
    .into_iter()
    .enumerate()
    {
        let marker = bench.at(&format!("begun-{n}"));
        let word = format!("{}", 7.2 + n as f64 / 1000.0);
        let script = format!("touch {}; exec sleep {word}", marker.display());
        let exec = bench.exec(&["sh", "-c", &script, &word]);
        let mut command = told(&format!("{default}={}", &signal.as_str()[3..]), &exec);
        bench.daemon.signal(Signal::SIGSTOP);
        let mut child = command.spawn().unwrap();
        let bond = wait_for_bond(&word);
        kill(bond, signal).unwrap();
        let is_passed_on = default == "--ignore-signal" || signal == Signal::SIGUSR1;
        if !is_passed_on {
            assert_eq!(child.wait().unwrap().signal(), Some(signal as i32), "{signal}");
            bench.daemon.signal(Signal::SIGCONT);
            assert!(!marker.exists(), "{signal}: nothing was started");
            continue;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "{signal}");
        bench.daemon.signal(Signal::SIGCONT);
        if signal == Signal::SIGUSR1 {
            assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
            continue;
        }
        tests::wait_until("the command has begun", || marker.exists());
        kill(bond, Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn what_a_terminal_says_is_heard_once() {
    let Some(script) = need("exec, what_a_terminal_says", "script") else { return };
    let bench = Bench::new("");
    bench.write(
        "heard.sh",
        "trap 'echo heard >>heard' INT\necho ready\n\
         i=0; while [ ! -e heard ] && [ $((i+=1)) -lt 400 ]; do sleep 0.05; done\n\
         sleep 0.5\nexit 5\n",
    );
    let mut child = at_a_terminal(&script, &bench, &["sh", "heard.sh"]);
    let mut keys = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "ready");
    keys.write_all(b"\x03").unwrap();
    keys.flush().unwrap();
    let status = child.wait().unwrap();
    let heard = std::fs::read_to_string(bench.at("heard")).unwrap();
    assert_eq!((status.code(), heard.as_str()), (Some(5), "heard\n"));
}
