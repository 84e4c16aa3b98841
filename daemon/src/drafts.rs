//! The open drafts: each bound to the uid and the workspace that opened it.
//!
//! Several connections may feed one draft. It goes when nothing was done with it for long, and
//! sooner when every connection that ever used it is gone: then its bringer died.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cas::Draft;
use cas::workspace::Workspace;
use wire::{Code, Problem};

use crate::config::Config;

/// All open drafts.
pub struct Drafts {
    open: Mutex<HashMap<String, Open>>,
    most_per_uid: usize,
    idle: Duration,
    abandoned: Duration,
}

struct Open {
    draft: Arc<Draft>,
    uid: u32,
    workspace: Workspace,
    used: Instant,
    /// Connections that used it and are still there.
    connections: HashSet<u64>,
}

/// A draft in use.
pub struct Found {
    /// The draft.
    pub draft: Arc<Draft>,
    /// Where it was opened.
    pub workspace: Workspace,
}

impl Drafts {
    /// None, with the limits of the configuration.
    pub fn new(config: &Config) -> Drafts {
        Drafts {
            open: Mutex::default(),
            most_per_uid: config.limits.drafts_per_uid,
            idle: config.timeouts.draft_idle.0,
            abandoned: config.timeouts.draft_abandoned.0,
        }
    }

    /// Whether this uid may open one more.
    ///
    /// # Errors
    /// [`Code::Busy`] when it has as many as it may.
    pub fn may_open(&self, uid: u32) -> Result<(), Problem> {
        self.room(&self.lock(), uid)
    }

    /// Keeps a draft and names it. Blocking: a draft that is not kept ends here.
    ///
    /// # Errors
    /// [`Code::Busy`] when the uid has as many as it may.
    pub fn keep(
        &self,
        uid: u32,
        workspace: Workspace,
        connection: u64,
        draft: Draft,
    ) -> Result<String, Problem> {
        let id = new_id()?;
        let draft = Arc::new(draft);
        let mut open = self.lock();
        self.room(&open, uid)?;
        let connections = HashSet::from([connection]);
        let used = Instant::now();
        open.insert(id.clone(), Open { draft, uid, workspace, used, connections });
        Ok(id)
    }

    /// The draft of that name, if this uid opened it.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn find(&self, id: &str, uid: u32, connection: u64) -> Result<Found, Problem> {
        let mut open = self.lock();
        let one = open.get_mut(id).filter(|one| one.uid == uid).ok_or_else(|| unknown(id))?;
        one.used = Instant::now();
        one.connections.insert(connection);
        Ok(Found { draft: one.draft.clone(), workspace: one.workspace.clone() })
    }

    /// Gives a draft up. Its last user drops it: blobs may still be on their way into it.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn give_up(&self, id: &str, uid: u32) -> Result<(Arc<Draft>, Workspace), Problem> {
        let mut open = self.lock();
        match open.remove(id) {
            Some(Open { draft, uid: owner, workspace, .. }) if owner == uid => {
                Ok((draft, workspace))
            }
            Some(other) => {
                open.insert(id.to_owned(), other);
                Err(unknown(id))
            }
            None => Err(unknown(id)),
        }
    }

    /// Takes a draft out to seal it.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Busy`] while a blob is being taken into it.
    pub fn take(&self, id: &str, uid: u32) -> Result<(Draft, Workspace), Problem> {
        let mut open = self.lock();
        let one = open.remove(id).ok_or_else(|| unknown(id))?;
        if one.uid != uid {
            open.insert(id.to_owned(), one);
            return Err(unknown(id));
        }
        let Open { draft, uid, workspace, used, connections } = one;
        match Arc::try_unwrap(draft) {
            Ok(draft) => Ok((draft, workspace)),
            Err(draft) => {
                open.insert(id.to_owned(), Open { draft, uid, workspace, used, connections });
                Err(Problem::new(Code::Busy, "a blob is still being taken into this draft"))
            }
        }
    }

    /// A connection is gone.
    pub fn hang_up(&self, connection: u64) {
        for one in self.lock().values_mut() {
            if one.connections.remove(&connection) && one.connections.is_empty() {
                one.used = Instant::now();
            }
        }
    }

    /// Takes out the drafts whose time is over. To drop them takes the disk some time.
    #[must_use]
    pub fn expired(&self) -> Vec<Arc<Draft>> {
        let mut open = self.lock();
        let is_over = |one: &Open| {
            let most = if one.connections.is_empty() { self.abandoned } else { self.idle };
            Arc::strong_count(&one.draft) == 1 && one.used.elapsed() > most
        };
        let over: Vec<String> =
            open.iter().filter(|(_, one)| is_over(one)).map(|(id, _)| id.clone()).collect();
        over.iter().filter_map(|id| open.remove(id)).map(|one| one.draft).collect()
    }

    /// Takes out all of them.
    #[must_use]
    pub fn clear(&self) -> Vec<Arc<Draft>> {
        self.lock().drain().map(|(_, one)| one.draft).collect()
    }

    /// How many are open.
    pub fn n_open(&self) -> usize {
        self.lock().len()
    }

    fn room(&self, open: &HashMap<String, Open>, uid: u32) -> Result<(), Problem> {
        if open.values().filter(|one| one.uid == uid).count() < self.most_per_uid {
            return Ok(());
        }
        let message = format!("uid {uid} has {} open drafts", self.most_per_uid);
        Err(Problem::new(Code::Busy, message).hint("seal or drop some of them first"))
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: &str) -> Problem {
    let id: String = id.chars().take(64).collect();
    Problem::new(Code::NotFound, format!("there is no draft {id}"))
}

/// 128 random bits in hex.
fn new_id() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Problem::new(Code::Internal, "no draft could be named")
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
