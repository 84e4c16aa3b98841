//! The client: a few connections to one daemon, and the workspace it speaks for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cas::oci::Limits;
use cas::workspace::Workspace;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use wire::api::DEFAULT_WORKSPACE;

use crate::connection::{Answer, Ask, Connection};
use crate::payload::Brings;
use crate::problem::Error;

/// Connections that a client uses at once when nobody says otherwise.
const N_CONNECTIONS: usize = 4;

/// A client of one daemon. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    workspace: Workspace,
}

struct Shared {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
    n_places: usize,
    /// The daemon's bounds on documents, once somebody asked.
    limits: OnceCell<Limits>,
}

impl Client {
    /// Connects to the daemon at this socket, for the workspace `default`.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Client, Error> {
        Client::connect_with(socket, N_CONNECTIONS).await
    }

    /// The same with a say in how many connections are used at once (at least 1; more are opened
    /// only when they are needed).
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn connect_with(
        socket: impl AsRef<Path>,
        n_connections: usize,
    ) -> Result<Client, Error> {
        let socket = socket.as_ref().to_owned();
        let first = Connection::open(&socket).await?;
        let n_places = n_connections.max(1);
        let shared = Shared {
            socket,
            idle: Mutex::new(vec![first]),
            places: Semaphore::new(n_places),
            n_places,
            limits: OnceCell::new(),
        };
        let workspace = DEFAULT_WORKSPACE.parse().map_err(Error::Name)?;
        Ok(Client { shared: Arc::new(shared), workspace })
    }

    /// The same client for another workspace.
    ///
    /// # Errors
    /// [`Error::Name`] when the name is outside the grammar.
    pub fn in_workspace(&self, workspace: &str) -> Result<Client, Error> {
        let workspace = workspace.parse().map_err(Error::Name)?;
        Ok(Client { shared: Arc::clone(&self.shared), workspace })
    }

    /// The workspace that this client speaks for.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The same client with one connection of its own, which waits for none of the others.
    pub(crate) async fn apart(&self) -> Result<Client, Error> {
        let client = Client::connect_with(&self.shared.socket, 1).await?;
        Ok(Client { shared: client.shared, workspace: self.workspace.clone() })
    }

    /// How many connections are used at once.
    pub(crate) fn n_connections(&self) -> usize {
        self.shared.n_places
    }

    /// The daemon's bounds on documents: what it would refuse is refused here, and nothing else. It
    /// is asked once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn limits(&self) -> Result<Limits, Error> {
        let ask = || async { Ok(self.status().await?.limits.into()) };
        self.shared.limits.get_or_try_init(ask).await.copied()
    }

    /// Makes a request whose answer is a short body.
    pub(crate) async fn call(&self, ask: &Ask) -> Result<Bytes, Error> {
        let (mut lease, answer) = self.ask(ask).await?;
        let bytes = lease.connection.collect(answer).await?;
        lease.give_back().await;
        Ok(bytes)
    }

    /// Makes a request and hands over the connection with the answer on it.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<(Lease<'_>, Answer), Error> {
        // The semaphore is never closed.
        let place = self
            .shared
            .places
            .acquire()
            .await
            .map_err(|_| Error::NeverSent { doing: ask.doing })?;
        if let Some(connection) = self.shared.take_idle().await {
            let mut lease = Lease { shared: &self.shared, connection, _place: place };
            match lease.connection.ask(ask).await {
                // The daemon closed it while it was idle: nothing of the request went out, or
                // nobody read it.
                Err(error) if is_worth_repeating(&error, ask) => {
                    match Connection::open(&self.shared.socket).await {
                        Ok(connection) => lease.connection = connection,
                        // It was not the connection, the daemon is gone.
                        Err(_) => return Err(error),
                    }
                }
                Err(error) => return Err(lease.failed(error).await),
                Ok(answer) => return Ok((lease, answer)),
            }
            return lease.ask(ask).await;
        }
        let connection = Connection::open(&self.shared.socket).await?;
        Lease { shared: &self.shared, connection, _place: place }.ask(ask).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("socket", &self.shared.socket)
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

impl Shared {
    async fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle().pop()?;
            if connection.is_open().await {
                return Some(connection);
            }
        }
    }

    /// No code panics while it holds the lock, so a poisoned one still guards whole connections.
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use.
pub(crate) struct Lease<'a> {
    shared: &'a Shared,
    pub(crate) connection: Connection,
    _place: SemaphorePermit<'a>,
}

impl<'a> Lease<'a> {
    async fn ask(mut self, ask: &Ask) -> Result<(Lease<'a>, Answer), Error> {
        match self.connection.ask(ask).await {
            Ok(answer) => Ok((self, answer)),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// An error that the daemon answered leaves the connection as good as it was, unless part of
    /// the request was still on its way.
    async fn failed(self, error: Error) -> Error {
        if matches!(error, Error::Answered(_)) {
            self.give_back().await;
        }
        error
    }

    /// Keeps the connection for the next request, if it can carry one.
    pub(crate) async fn give_back(mut self) {
        if self.connection.is_open().await {
            self.shared.idle().push(self.connection);
        }
    }
}

fn is_worth_repeating(error: &Error, ask: &Ask) -> bool {
    match error {
        Error::NeverSent { .. } => ask.brings.can_repeat(),
        Error::Lost { .. } => ask.brings.can_repeat() && ask.is_idempotent,
        _ => false,
    }
}

/// A request that brings nothing.
pub(crate) fn plain(doing: &'static str, method: http::Method, path: String) -> Ask {
    Ask {
        doing,
        is_idempotent: matches!(method, http::Method::GET | http::Method::PUT),
        method,
        path,
        brings: Brings::Nothing,
        accepts_descriptor: false,
        patience: std::time::Duration::from_secs(60),
    }
}
