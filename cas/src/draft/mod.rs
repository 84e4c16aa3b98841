//! An artifact on its way in: invisible until it is sealed, gone without a trace if it is not.
//!
//! A draft is a layout in the making, in `staging/`: [`take`] takes blobs in, [`seal`] makes the
//! whole an artifact, [`mend`] gives its files to the layout that is there already.

mod mend;
mod seal;
mod take;

pub(crate) use seal::Listing;

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::digest::{Algorithm, Digest};
use crate::disk::RelPath;
use crate::error::Error;
use crate::layout;
use crate::linking::{Scraps, Stands as Held};
use crate::memory::Share;
use crate::oci::{self, Closure, Descriptor, Refusal, media_type};
use crate::reader::read_small;
use crate::sealed::Sealed;
use crate::source::Source;
use crate::store::{Store, lock};
use crate::workspace::{Name, Tag, Workspace, check_title};

/// How often a seal looks again for memory, and the pause in between: ten seconds in all.
const N_TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// A blob that a draft has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What became of the bytes of an artifact's members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Members that were new.
    pub n_written: u64,
    /// Members, and files of an existing layout, whose rotten copy was replaced.
    pub n_healed: u64,
}

/// What a put did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The workspace had this artifact before.
    pub existed: bool,
    /// By what the workspace had before, whatever others have: this is for its peers. A rotten
    /// copy that only others had is new to it. Without an index everything is new that no layout
    /// of this very artifact had.
    pub workspace: Tally,
    /// By what the store had before: this is for its keeper alone.
    pub store: Tally,
    /// Bytes of the whole closure.
    pub size: u64,
    /// Members of the closure.
    pub n_blobs: u64,
    /// Non-distributable layers that were not brought.
    pub absent: Vec<Digest>,
}

/// An artifact on its way in. Dropped without being sealed, it leaves nothing.
pub struct Draft {
    store: Store,
    workspace: Workspace,
    dir: RelPath,
    members: Mutex<HashMap<Digest, Member>>,
    progress: AtomicU64,
    /// Claimed bytes, for the quota.
    admitted: AtomicU64,
    /// Other things of this draft in staging.
    extras: Scraps,
    placed: bool,
    /// Syncs that had failed before anything of this was written.
    since: u64,
}

/// How a blob stands at the draft's name for it.
#[derive(Clone, Copy)]
struct Member {
    /// Absent while it is being taken.
    size: Option<u64>,
    held: Held,
    synced: bool,
}

impl Draft {
    pub(crate) fn begin(store: Store, workspace: Workspace) -> Result<Draft, Error> {
        store.inner.has_room(0)?;
        let dir = store.inner.staging(&layout::draft_of(&workspace));
        let since = store.inner.barrier.n_failed();
        let extras = Scraps::new(&store);
        let draft = Draft {
            store,
            workspace,
            dir,
            members: Mutex::default(),
            progress: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            extras,
            placed: false,
            since,
        };
        let blobs = draft.dir.join(layout::BLOBS);
        for path in [&draft.dir, &blobs, &blobs.join(Algorithm::Sha256.name())] {
            draft.make_dir(path)?;
        }
        Ok(draft)
    }

    fn make_dir(&self, path: &RelPath) -> Result<(), Error> {
        match self.store.inner.disk.make_dir(path, 0o755) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(Error::disk("making", path)),
        }
    }

    /// The workspace that it will be sealed in.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Bytes hashed so far.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Seals what `root` reaches. Everything it reaches must have been taken. A name that leads
    /// elsewhere is moved only if `may_move` says so of its tag.
    ///
    /// # Errors
    /// [`Error::Refused`] when the closure is incomplete or contradicts itself, [`Error::TagTaken`],
    /// [`Error::Quota`], [`Error::Busy`], [`Error::Full`]: nothing is visible then. After [`Error::Disk`]
    /// the artifact may be there, whole, although nobody has said that it is durable.
    pub fn seal(
        self,
        root: &Descriptor,
        names: &[Name],
        may_move: &dyn Fn(&Tag) -> bool,
    ) -> Result<(Sealed, Receipt), Error> {
        if !root.is_manifest() {
            let (digest, claimed) = (root.digest, root.media_type.clone());
            let found = "no manifest or index that can be the root of an artifact".to_owned();
            return Err(Refusal::MediaType { digest, claimed, found }.into());
        }
        let (closure, _share) = self.reach(root)?;
        self.seal_named(&root.digest, closure, names, may_move)
    }

    /// Follows the root through what was taken. All of it may be lost if this is refused, so it
    /// waits a while for memory that others hold, each time without any of its own.
    fn reach(&self, root: &Descriptor) -> Result<(Closure, Share), Error> {
        let mut n_tries = 0;
        loop {
            let mut share = self.store.inner.memory.share();
            let walked = oci::walk(root, &self.store.inner.options.limits, &mut |claim| {
                self.member(claim)?;
                share.grow(claim.size)?;
                self.read(claim)
            });
            match walked {
                Err(Error::Busy) if n_tries < N_TRIES => n_tries += 1,
                walked => return Ok((walked?, share)),
            }
            drop(share);
            std::thread::sleep(PAUSE);
        }
    }

    /// Seals one file, wrapped in a manifest that the same file always gets.
    ///
    /// # Errors
    /// As for [`Draft::seal`]; the title must be one plain file name.
    pub fn seal_file(
        self,
        title: &str,
        artifact_type: Option<&str>,
        layer_type: Option<&str>,
        taken: &Taken,
        names: &[Name],
        may_move: &dyn Fn(&Tag) -> bool,
    ) -> Result<(Sealed, Receipt), Error> {
        let malformed = |reason: String| Refusal::Malformed { digest: taken.digest, reason };
        check_title(title)?;
        let layer_type = layer_type.unwrap_or(media_type::OCTETS);
        let artifact_type = artifact_type.unwrap_or(media_type::OCTETS);
        if media_type::is_manifest(layer_type) {
            return Err(malformed(format!("a file cannot be of the type {layer_type}")).into());
        }
        let bytes = oci::file_manifest(title, artifact_type, layer_type, taken.digest, taken.size)
            .map_err(malformed)?;
        let root =
            Descriptor::new(media_type::IMAGE_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
        self.take(&Digest::of(b"{}"), 2, Source::Stream(&mut &b"{}"[..]))?;
        self.take(&root.digest, root.size, Source::Stream(&mut &bytes[..]))?;
        let limits = &self.store.inner.options.limits;
        let closure = oci::walk::<Error>(&root, limits, &mut |_| Ok(bytes.clone()))?;
        self.seal_named(&root.digest, closure, names, may_move)
    }

    fn seal_named(
        self,
        root: &Digest,
        closure: Closure,
        names: &[Name],
        may_move: &dyn Fn(&Tag) -> bool,
    ) -> Result<(Sealed, Receipt), Error> {
        let listing = Listing { names: names.to_vec(), repository: None, may_move };
        listing.check(&self.store, &self.workspace, root)?;
        self.seal_closure(closure, &listing)
    }

    /// The bytes of a manifest that was taken.
    fn read(&self, claim: &Descriptor) -> Result<Vec<u8>, Error> {
        let path = layout::blob_in(&self.dir, &claim.digest);
        let file = self.store.inner.disk.open(&path).map_err(Error::disk("opening", &path))?;
        let bytes = read_small(&*file, claim.size).map_err(Error::disk("reading", &path))?;
        bytes.ok_or_else(|| {
            let source = io::Error::other("a file of the draft has another size than was written");
            Error::Disk { doing: "reading", path, source }
        })
    }

    /// The member that a descriptor claims, with the size that it claims.
    fn member(&self, claim: &Descriptor) -> Result<Member, Refusal> {
        let member = lock(&self.members).get(&claim.digest).copied();
        let (digest, claimed) = (claim.digest, claim.size);
        match member {
            Some(Member { size: Some(actual), .. }) if actual != claimed => {
                Err(Refusal::WrongSize { digest, claimed, actual })
            }
            Some(member @ Member { size: Some(_), .. }) => Ok(member),
            _ => Err(Refusal::Missing { digest, media_type: claim.media_type.clone() }),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the store is opened next.
        if !self.placed {
            let _ = self.store.inner.remove_tree(&self.dir);
        }
    }
}
