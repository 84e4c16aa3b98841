//! Artifacts that are whole and durable, and the proof, each time anew, that they still are.
//!
//! Damage is told once, loudly: the bad file goes to quarantine and the check fails. What
//! quarantine knows of is healed at a later check, if the store has the good bytes by then; that
//! is how every layout that shared a rotten blob gets the copy that somebody put again.

mod prove;
mod structure;

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;

use crate::buffer::{Buffer, STEP};
use crate::digest::Digest;
use crate::disk::{File, Kind, RelPath};
use crate::error::{Damage, Error};
use crate::index::Facts;
use crate::layout;
use crate::memory::Share;
use crate::oci::{self, Closure, Descriptor, Node, media_type};
use crate::reader::{Verified, fill, read_small};
use crate::stop::Stop;
use crate::store::{Inner, Store};
use crate::workspace::Workspace;

use prove::Inspection;
pub(crate) use structure::{put_stranger_away, put_strangers_away};

/// An artifact that was sealed at some time. Nothing is said of its bytes now.
#[derive(Clone)]
pub struct Sealed {
    store: Store,
    workspace: Workspace,
    digest: Digest,
    stop: Stop,
}

/// An artifact of which every byte was hashed just now.
pub struct Checked {
    path: RelPath,
    closure: Closure,
    size: u64,
    n_healed: u64,
    absent: HashSet<Digest>,
    _share: Share,
}

/// What an artifact reaches.
pub struct Reached {
    /// All members.
    pub closure: Closure,
    /// Those that may be absent and are.
    pub absent: HashSet<Digest>,
    _share: Share,
}

/// One blob or manifest that was hashed whole just now, still open.
pub struct CheckedBlob {
    digest: Digest,
    size: u64,
    file: Box<dyn File>,
}

/// How often a layout's age is looked for.
const N_LOOKS: usize = 8;

// === impl Sealed ===

impl Sealed {
    pub(crate) fn new(store: Store, workspace: Workspace, digest: Digest) -> Sealed {
        Sealed { store, workspace, digest, stop: Stop::default() }
    }

    /// The same artifact, whose checks end early after the word was given.
    #[must_use]
    pub fn stopped_by(self, stop: &Stop) -> Sealed {
        Sealed { stop: stop.clone(), ..self }
    }

    /// The artifact digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The workspace that holds it.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Where its layout is below the store's root: what a handle says.
    pub fn path(&self) -> RelPath {
        layout::artifact(&self.workspace, &self.digest)
    }

    /// When it was sealed, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn sealed_at(&self) -> Result<u64, Error> {
        let path = self.path();
        // `oci-layout` is written with the layout and never again; the folder is changed by healing.
        // Both may be missed while the artifact is retired and put again.
        let places = [path.join(layout::OCI_LAYOUT_FILE), path.clone()];
        let mut stat = Err(io::ErrorKind::NotFound.into());
        for place in places.iter().cycle().take(N_LOOKS) {
            stat = self.inner().disk.stat(place);
            match &stat {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        let stat = self.unless_retired(stat.map_err(Error::disk("looking at", &path)))?;
        Ok(u64::try_from(stat.modified_ns / 1_000_000_000).unwrap_or(0))
    }

    fn inner(&self) -> &Inner {
        &self.store.inner
    }

    /// What it reaches, and what of it may be absent and is. The layout's structure is checked
    /// (every file there, of the right size, no other; `index.json` and `oci-layout` as they must
    /// be) and every manifest hashed.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NotFound`], [`Error::Busy`], [`Error::Disk`].
    pub fn closure(&self) -> Result<Reached, Error> {
        let Inspection { closure, absent, share, .. } = self.unless_retired(self.inspect(false))?;
        Ok(Reached { closure, absent, _share: share })
    }

    /// Hashes every byte.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with all that was found, [`Error::NotFound`], [`Error::Busy`],
    /// [`Error::Stopped`], [`Error::Disk`].
    pub fn check(&self) -> Result<Checked, Error> {
        let Inspection { closure, absent, n_healed, share } =
            self.unless_retired(self.inspect(true))?;
        let here = |node: &&Node| !absent.contains(&node.digest());
        let sizes = closure.nodes().iter().filter(here).map(Node::size);
        let size = sizes.fold(0, u64::saturating_add);
        Ok(Checked { path: self.path(), closure, size, n_healed, absent, _share: share })
    }

    /// One member, hashed whole, and open.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is no member or absent, [`Error::Corrupt`], [`Error::Disk`].
    pub fn blob(&self, digest: &Digest) -> Result<CheckedBlob, Error> {
        self.unless_retired(self.blob_now(digest))
    }

    fn blob_now(&self, digest: &Digest) -> Result<CheckedBlob, Error> {
        let path = layout::blob_in(&self.path(), digest);
        let size = self.size_of(digest, &path)?;
        let mut n_healed = 0;
        match self.prove(digest, size, &mut n_healed)? {
            Ok(file) => Ok(CheckedBlob { digest: *digest, size, file }),
            Err(what) => Err(self.corrupt(vec![Damage { file: layout::blob_file(digest), what }])),
        }
    }

    /// One member as a stream that withholds its tail until its digest agrees.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`]; damage is found while reading.
    pub fn stream(&self, digest: &Digest) -> Result<Verified, Error> {
        let path = layout::blob_in(&self.path(), digest);
        let size = self.size_of(digest, &path)?;
        let file = match self.inner().disk.open(&path) {
            Ok(file) => file,
            // Lost, damaged or retired since: this says which.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.blob(digest)?.file,
            Err(error) => return Err(Error::disk("opening", &path)(error)),
        };
        let (sealed, digest) = (self.clone(), *digest);
        let on_rot = Box::new(move || {
            // The reader only knows that something is wrong; this finds out what, and keeps it.
            if let Err(error) = sealed.blob(&digest) {
                tracing::error!(%digest, %error, "a blob turned out damaged while it was served");
            }
        });
        Ok(Verified::new(file, digest, size, on_rot))
    }

    /// What went wrong while somebody retired the artifact went wrong because of that.
    fn unless_retired<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Err(error @ (Error::Disk { .. } | Error::Corrupt { .. })) => {
                self.store.sealed(&self.workspace, &self.digest)?;
                Err(error)
            }
            other => other,
        }
    }

    fn size_of(&self, digest: &Digest, path: &RelPath) -> Result<u64, Error> {
        match self.inner().disk.stat(path) {
            Ok(stat) => Ok(stat.size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Perhaps it belongs there and was lost: the closure knows.
                let Reached { closure, .. } = self.closure()?;
                let node = closure.get(digest);
                node.map(Node::size).ok_or_else(|| Error::NotFound { what: digest.to_string() })
            }
            Err(error) => Err(Error::disk("looking at", path)(error)),
        }
    }

    /// What its documents say that it reaches. Nothing is proved but their digests.
    pub(crate) fn reaches(&self) -> Result<(Closure, Share), Error> {
        let (root, bytes) = self.root()?;
        let limits = &self.inner().options.limits;
        let layout = self.path();
        let mut share = self.inner().memory.share();
        let closure = oci::walk::<Error>(&root, limits, &mut |claim| {
            share.grow(claim.size)?;
            if claim.digest == root.digest {
                return Ok(bytes.clone());
            }
            let path = layout::blob_in(&layout, &claim.digest);
            let file = self.inner().disk.open(&path).map_err(Error::disk("opening", &path))?;
            let bytes = read_small(&*file, claim.size).map_err(Error::disk("reading", &path))?;
            bytes.ok_or_else(|| Error::NotFound { what: claim.digest.to_string() })
        })?;
        Ok((closure, share))
    }

    /// What a listing says of it, and its members that are there with their sizes.
    pub(crate) fn facts(&self) -> Result<(Facts, Vec<(Digest, u64)>), Error> {
        let (closure, _share) = self.reaches()?;
        let layout = self.path();
        let there = |node: &&Node| {
            self.inner().disk.stat(&layout::blob_in(&layout, &node.digest())).is_ok()
        };
        let members: Vec<(Digest, u64)> =
            closure.nodes().iter().filter(there).map(|node| (node.digest(), node.size())).collect();
        let size = members.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        Ok((facts_of(&closure, size), members))
    }

    /// After an unclean stop: notes what the index should know, and gives a blob of this layout
    /// that `blobs/` lost its name there back.
    pub(crate) fn relink(&self) -> Result<(), Error> {
        let (facts, members) = self.facts()?;
        if let Some(index) = self.inner().index() {
            index.note(&self.workspace, &self.digest, &facts, &members);
        }
        let pool = self.inner().pool(&self.workspace);
        for (digest, _) in members {
            let path = layout::blob_in(&self.path(), &digest);
            let Ok(stat) = self.inner().disk.stat(&path) else { continue };
            let blob = pool.blob(&digest);
            if stat.kind == Kind::File && self.inner().disk.stat(&blob).is_err() {
                match self.inner().disk.link(&path, &blob) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other.map_err(Error::disk("linking", &path))?,
                }
            }
        }
        Ok(())
    }
}

/// What an index says of an artifact.
pub(crate) fn facts_of(closure: &Closure, size: u64) -> Facts {
    let root = closure.manifests().last();
    let title = |descriptor: &Descriptor| {
        descriptor.annotations.get("org.opencontainers.image.title").cloned()
    };
    // The shape that a plain file is wrapped in: an empty config and one titled layer.
    let file = root.filter(|root| {
        root.config().is_some_and(|config| config.media_type == media_type::EMPTY)
            && root.children().len() == 2
    });
    let layer = file.and_then(|root| root.children().get(1)).filter(|layer| title(layer).is_some());
    Facts {
        media_type: root.map(|root| root.media_type().to_owned()).unwrap_or_default(),
        artifact_type: root.and_then(|root| root.artifact_type().map(str::to_owned)),
        title: layer.and_then(title).map(|title| title.chars().take(255).collect()),
        file: layer.map(|layer| layer.digest),
        size,
        n_blobs: closure.nodes().len() as u64,
    }
}

// === impl Checked ===

impl Checked {
    /// Where the layout is, below the store's root.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// What was checked.
    pub fn closure(&self) -> &Closure {
        &self.closure
    }

    /// Bytes that were hashed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Files whose damage had been told before and that are good again.
    pub fn n_healed(&self) -> u64 {
        self.n_healed
    }

    /// Non-distributable layers that are not there.
    pub fn absent(&self) -> &HashSet<Digest> {
        &self.absent
    }
}

// === impl CheckedBlob ===

impl CheckedBlob {
    pub(crate) fn new(digest: Digest, size: u64, file: Box<dyn File>) -> CheckedBlob {
        CheckedBlob { digest, size, file }
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A read-only descriptor of the very file that was hashed.
    ///
    /// # Errors
    /// What the system says.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.descriptor()
    }

    /// All of it, which is small; `None` when the file has another size by now.
    pub(crate) fn whole(&self) -> io::Result<Option<Vec<u8>>> {
        read_small(&*self.file, self.size)
    }

    /// The next of `left` bytes of the very file that was hashed, from there on, 128 KiB at most; fewer where the file ends.
    ///
    /// # Errors
    /// What the system says.
    pub fn chunk(&self, offset: u64, left: u64) -> io::Result<Buffer> {
        let mut bytes = Buffer::for_what_is_left(left, STEP);
        let most = usize::try_from(left).unwrap_or(STEP).min(STEP);
        let filled = fill(&*self.file, &mut bytes.space()[..most], offset)?;
        bytes.set_filled(filled);
        Ok(bytes)
    }
}
