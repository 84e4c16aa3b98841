//! `bond exec`: runs a command with a registry of its own.

use std::ffi::OsString;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::{Context, say};
use crate::bridge::apart;
use crate::door::Door;
use crate::door::command::{self, Signals};
use crate::door::tools::{Surroundings, prepare};
use crate::problem::Error;

/// How often it is seen to signals while there is no command yet.
const HEED_EVERY: Duration = Duration::from_millis(50);

/// Runs a command that finds the workspace as a registry at $BOND_REGISTRY
///
/// The registry is at a port of 127.0.0.1 for as long as the command runs, with a password that
/// only this command gets. Names in it have no workspace: $BOND_REGISTRY/app:1 is app:1 of the
/// workspace. skopeo, podman, buildah, crane, regctl, oras, cosign and others find the password
/// and the certificate by themselves, and the user's own logins as before. Exit code and signals
/// are the command's; 127 says that there is no such command, 126 that it cannot be run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond exec -- sh -c 'crane push image.tar $BOND_REGISTRY/app:1'
  bond exec --workspace ci -- sh -c 'skopeo copy oci:image docker://$BOND_REGISTRY/team/app:1'
  bond exec -- sh -c 'podman build -t $BOND_REGISTRY/app:1 . && podman push $BOND_REGISTRY/app:1'
  bond exec -- make release
  bond exec -- bash")]
pub(super) struct Exec {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

impl Exec {
    pub(super) async fn run(
        self,
        context: &Context,
        mut signals: Signals,
    ) -> Result<ExitCode, Error> {
        // Where it is ignored, as some that start bond leave it, nobody is told how the command ended.
        let _heard = signal(SignalKind::child())
            .map_err(|source| Error::Source { doing: "listening for the command's end", source })?;
        let socket = std::path::absolute(&context.common.socket)
            .map_err(|source| Error::Source { doing: "looking for the socket", source })?;
        let opening = async {
            let client = context.client().await?;
            // A daemon that cannot be reached is told now, and not by the command.
            client.status().await?;
            let door = Door::open(socket.clone(), client.workspace()).await?;
            Ok::<_, Error>((client, Arc::new(door)))
        };
        let (client, door) = heeding(&mut signals, opening).await??;

        let mut user = Surroundings::own();
        user.variables.insert("BOND_SOCKET".into(), socket.into());
        user.variables.insert("BOND_WORKSPACE".into(), client.workspace().as_str().into());
        let ours = Arc::clone(&door);
        let prepared = apart(move || prepare(&ours, user)).await;
        let prepared = prepared.map_err(|error| Error::lost("preparing the command", &error))??;
        if !context.common.quiet {
            prepared.notes.iter().for_each(|note| say::note(&format!("bond: {note}")));
        }

        let Exec { words } = self;
        let name = words.first().cloned().unwrap_or_default();
        // The files stay until the command has ended, and the port is closed then.
        let running = apart(move || command::run(&signals, &words, &prepared.variables));
        let end = tokio::select! {
            end = running => end.map_err(|error| Error::lost("running the command", &error))??,
            never = door.serve() => match never {},
        };
        if let Some(complaint) = end.complaint(&name) {
            say::note(&format!("bond: {complaint}"));
        }
        Ok(ExitCode::from(end.exit()))
    }
}

/// Waits for something as any process does that a signal can end.
async fn heeding<F: Future>(signals: &mut Signals, what: F) -> Result<F::Output, Error> {
    let mut what = pin!(what);
    loop {
        match timeout(HEED_EVERY, &mut what).await {
            Ok(done) => return Ok(done),
            Err(_) => signals.obey()?,
        }
    }
}
