//! What every request shares.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cas::workspace::{Tag, Workspace};
use cas::{Store, Upload};
use nix::unistd::{Gid, Uid};
use tokio::sync::Semaphore;

use crate::body_room::BodyRoom;
use crate::bridge::Bridge;
use crate::config::Config;
use crate::connections::Connections;
use crate::drafts::Drafts;
use crate::metrics::Metrics;
use crate::peer::{Peer, overflow_uid};
use crate::policy::Policy;
use crate::v2::path::Target;
use crate::v2::sessions::Sessions;

/// The daemon, all but its socket.
pub struct App {
    /// The store.
    pub store: Store,
    /// Its folder, absolute.
    pub root: PathBuf,
    /// The configuration.
    pub config: Config,
    /// Who may do what.
    pub policy: Policy,
    /// The way to the blocking store.
    pub bridge: Bridge,
    /// Open drafts.
    pub drafts: Drafts,
    /// Open uploads of the front door.
    pub uploads: Sessions<Upload>,
    /// Room for bodies that are collected whole.
    pub body_room: BodyRoom,
    /// What is counted.
    pub metrics: Metrics,
    /// Open connections.
    pub connections: Arc<Connections>,
    /// One gc at a time.
    pub gc: Semaphore,
    /// What the kernel shows for a uid that it cannot show.
    pub overflow_uid: u32,
    is_draining: AtomicBool,
    own: (u32, u32),
    /// Workspaces whose folder was given to its group.
    prepared: Mutex<HashSet<Workspace>>,
}

impl App {
    /// Puts the parts together.
    ///
    /// # Errors
    /// What is wrong with the policy.
    pub fn new(store: Store, root: PathBuf, config: Config) -> Result<App, String> {
        let rules = config.policy.iter().map(toml::Spanned::get_ref);
        Ok(App {
            policy: Policy::new(rules, config.registry.allow_anonymous)?,
            bridge: Bridge::new(&config),
            drafts: Drafts::new(&config),
            uploads: Sessions::new(&config),
            body_room: BodyRoom::new(&config),
            metrics: Metrics::new(),
            connections: Arc::new(Connections::new(&config)),
            gc: Semaphore::new(1),
            overflow_uid: overflow_uid(),
            is_draining: AtomicBool::new(false),
            own: (Uid::effective().as_raw(), Gid::effective().as_raw()),
            prepared: Mutex::default(),
            store,
            root,
            config,
        })
    }

    /// Opens the uploads again that an earlier process left. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn adopt_uploads(&self) -> Result<(), cas::Error> {
        for upload in self.store.uploads()? {
            let repository = upload.repository();
            let (workspace, repository) = (repository.workspace(), repository.name());
            let target = Target::new(workspace.clone(), repository.clone());
            let owner = upload.owner().to_owned();
            self.uploads.adopt(upload.id().clone(), &owner, &target, upload);
        }
        Ok(())
    }

    /// Leaves the open uploads to the next process. Blocking.
    pub fn keep_uploads(&self) {
        for upload in self.uploads.clear() {
            match Arc::into_inner(upload) {
                Some(upload) => upload.into_inner().keep(),
                None => tracing::warn!("an upload is still written to, and is given up"),
            }
        }
    }

    /// Leases that began before this are over, in nanoseconds since 1970.
    pub fn leases_over(&self) -> i128 {
        i128::from(now()) * 1_000_000_000 - self.lease_ns()
    }

    /// How long a lease lasts, in nanoseconds.
    pub fn lease_ns(&self) -> i128 {
        i128::try_from(self.config.timeouts.lease.0.as_nanos()).unwrap_or(i128::MAX / 2)
    }

    /// Whether a tag that leads to one digest may be led to another.
    pub fn may_move(&self, tag: &Tag) -> bool {
        !self.config.registry.create_only_tags.iter().any(|pattern| pattern.fits(tag.as_str()))
    }

    /// Says that no new requests are wanted.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether the daemon was told to stop.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// The group that may read this workspace's layouts in place, if one is configured.
    fn group_of(&self, workspace: &Workspace) -> Option<u32> {
        let fits = |p: &crate::policy::Pattern| p.fits(workspace.as_str());
        let entry = self.config.in_place.iter().find(|entry| entry.workspaces.iter().any(fits));
        entry.map(|entry| entry.group.0)
    }

    /// Whether the modes of the store's folders let this peer read a layout of the workspace.
    pub fn may_read_in_place(&self, peer: &Peer, workspace: &Workspace) -> bool {
        let group = self.group_of(workspace).unwrap_or(self.own.1);
        peer.uid().is_some_and(|uid| uid == 0 || uid == self.own.0 || peer.is_member(group))
    }

    /// Gives a workspace's folder to its group, once in the life of the process. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn prepare(&self, workspace: &Workspace) -> Result<(), cas::Error> {
        let Some(gid) = self.group_of(workspace) else {
            return Ok(());
        };
        if self.prepared.lock().unwrap_or_else(PoisonError::into_inner).contains(workspace) {
            return Ok(());
        }
        self.store.prepare_workspace(workspace, Some(gid))?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(workspace.clone());
        Ok(())
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
