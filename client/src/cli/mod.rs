//! The command `bond`: one file for a verb, one story in each.
//!
//! What the user typed is parsed here; what a verb does with it stands in the verb's file. Answers
//! go to standard output, everything else (progress, notes, errors) to standard error.

mod doctor;
mod exec;
mod gc;
mod get;
mod ls;
mod progress;
mod put;
mod reference;
mod resolve;
mod retire;
mod say;
mod show;
mod tree;
mod verify;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use wire::Code;
use wire::api::{DEFAULT_SOCKET, DEFAULT_WORKSPACE, ErrorBody};

use crate::door::command::Signals;
use crate::pool::Client;
use crate::problem::Error;

/// How long a verb that was interrupted may take to put its things away.
const TIDY_WITHIN: Duration = Duration::from_secs(1);

/// Keeps the exact bytes of build artifacts: put once, checked at every hand-over.
#[derive(Debug, Parser)]
#[command(
    name = "bond",
    version,
    after_help = "REF is a digest, the start of one, NAME:TAG, or a handle's path.\n\
                  `bond help exit-codes` lists the exit codes.",
    after_long_help = "REF is a digest, an unambiguous start of one (`sha256:` may be left out), \
                  NAME:TAG, or the path in a handle.\n\n\
                  Answers go to standard output, progress and errors to standard error. Every \
                  error has a code and every code an exit code: `bond help exit-codes` lists them."
)]
struct Bond {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Args)]
struct Common {
    /// Where bonded listens
    #[arg(long, env = "BOND_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    #[arg(global = true, help_heading = "Common options")]
    socket: PathBuf,
    /// Whose artifacts
    #[arg(long, env = "BOND_WORKSPACE", value_name = "NAME", default_value = DEFAULT_WORKSPACE)]
    #[arg(global = true, help_heading = "Common options")]
    workspace: String,
    /// For people, or for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    #[arg(global = true, help_heading = "Common options")]
    format: Format,
    /// No progress and no notes on standard error
    #[arg(long, short, global = true, help_heading = "Common options")]
    quiet: bool,
}

/// How answers and errors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Put(put::Put),
    Get(get::Get),
    Resolve(resolve::Resolve),
    Verify(verify::Verify),
    Ls(ls::Ls),
    Show(show::Show),
    Tree(tree::Tree),
    Why(why::Why),
    Retire(retire::Retire),
    Gc(gc::Gc),
    Doctor(doctor::Doctor),
    Exec(exec::Exec),
    /// Lists the exit codes
    #[command(hide = true, after_help = exit_codes())]
    ExitCodes,
}

/// Where a verb is: the common options, and the way to the daemon.
struct Context {
    common: Common,
}

impl Context {
    async fn client(&self) -> Result<Client, Error> {
        Client::connect(&self.common.socket).await?.in_workspace(&self.common.workspace)
    }

    fn is_json(&self) -> bool {
        self.common.format == Format::Json
    }
}

/// Runs `bond` with the process's arguments, from the first to the exit code.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let bond = match Bond::try_parse_from(arguments) {
        Ok(bond) => bond,
        Err(error) => {
            // When even that cannot be written, nobody is left to be told.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Code::Usage.exit() } else { 0 });
        }
    };
    // Before there is a second thread.
    let signals = match &bond.verb {
        Verb::Exec(_) => match Signals::take() {
            Ok(signals) => Some(signals),
            Err(error) => return fail(bond.common.format, &error),
        },
        _ => None,
    };
    let is_passed_on = signals.is_some();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = Error::Source { doing: "starting", source };
            return fail(bond.common.format, &error);
        }
    };
    let context = Context { common: bond.common };
    let end = runtime.block_on(async {
        tokio::select! {
            end = act(&context, bond.verb, signals) => end,
            signal = interrupted(), if !is_passed_on => Ok(ExitCode::from(128 + signal)),
        }
    });
    // What was interrupted puts its files away; a read of standard input cannot be ended.
    runtime.shutdown_timeout(TIDY_WITHIN);
    end.unwrap_or_else(|error| fail(context.common.format, &error))
}

async fn act(context: &Context, verb: Verb, signals: Option<Signals>) -> Result<ExitCode, Error> {
    match verb {
        Verb::Put(put) => put.run(context).await,
        Verb::Get(get) => get.run(context).await,
        Verb::Resolve(resolve) => resolve.run(context).await,
        Verb::Verify(verify) => verify.run(context).await,
        Verb::Ls(ls) => ls.run(context).await,
        Verb::Show(show) => show.run(context).await,
        Verb::Tree(tree) => tree.run(context).await,
        Verb::Why(why) => why.run(context).await,
        Verb::Retire(retire) => retire.run(context).await,
        Verb::Gc(gc) => gc.run(context).await,
        Verb::Doctor(doctor) => doctor.run(context).await,
        Verb::Exec(exec) => {
            // They were taken before there was a second thread.
            let signals = signals.map_or_else(Signals::take, Ok)?;
            exec.run(context, signals).await
        }
        Verb::ExitCodes => say::text(&exit_codes()).map(|()| ExitCode::SUCCESS),
    }
}

/// The number of the signal that wants us to end.
async fn interrupted() -> u8 {
    let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
    match (signal(interrupt), signal(terminate)) {
        (Ok(mut int), Ok(mut term)) => tokio::select! {
            _ = int.recv() => 2,
            _ = term.recv() => 15,
        },
        // Without handlers the signals do what they always did.
        _ => std::future::pending().await,
    }
}

/// Tells what went wrong and ends with its code.
fn fail(format: Format, error: &Error) -> ExitCode {
    if error.is_closed_output() {
        return ExitCode::from(Code::LocalIo.exit());
    }
    let problem = error.problem();
    let exit = problem.code.exit();
    let text = match format {
        Format::Json => serde_json::to_string(&ErrorBody { error: problem }).unwrap_or_default(),
        Format::Text => say::problem(&problem),
    };
    say::note(&text);
    ExitCode::from(exit)
}

fn exit_codes() -> String {
    let mut text = String::from("Exit codes, and the codes in JSON errors:\n\n   0  done\n");
    for code in Code::ALL {
        text.push_str(&format!("{:>4}  {:<20} {}\n", code.exit(), code.name(), code.meaning()));
    }
    text.push_str(" 130  interrupted (SIGINT)\n 143  terminated (SIGTERM)\n\n");
    text.push_str(
        "`bond exec` ends with the code of its command: 128 and its number for a signal, 127 for a\n\
         command that is not there, 126 for one that cannot be run.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_shows_examples() {
        Bond::command().debug_assert();
        for verb in Bond::command().get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", verb.get_name());
        }
    }

    #[test]
    fn every_code_is_listed() {
        let text = exit_codes();
        for code in Code::ALL {
            assert!(text.contains(code.name()) && text.contains(code.meaning()), "{code:?}");
        }
    }
}
