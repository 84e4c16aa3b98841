//! Reading what is listed: never a byte that was not proved.

use std::io;

use super::Repository;
use super::members::Fills;
use crate::digest::Digest;
use crate::disk::{File, Kind, RelPath};
use crate::error::{Damage, DamageKind, Error};
use crate::layout::{self, MemberKind};
use crate::linking::{Linking, Scraps};
use crate::memory::Share;
use crate::names;
use crate::oci::{Descriptor, Manifest, Node, Refusal, media_type, root_media_type};
use crate::proving::{Good, Place};
use crate::quarantine::{self, Subject};
use crate::reader::{Verified, read_small};
use crate::sealed::CheckedBlob;
use crate::workspace::{Name, Reference};

/// Bytes of a manifest that is read at a look.
const AT_A_LOOK: u64 = 64 << 10;

/// A blob or manifest that is listed. Of a manifest the bytes are in memory, and proved.
pub struct Held {
    repository: Repository,
    path: RelPath,
    digest: Digest,
    size: u64,
    media_type: String,
    bytes: Option<(Vec<u8>, Share)>,
}

fn not_found(what: impl ToString) -> Error {
    Error::NotFound { what: what.to_string() }
}

impl Repository {
    /// A blob that is listed here.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`].
    pub fn blob(&self, digest: &Digest) -> Result<Held, Error> {
        let path = self.member(MemberKind::Blob, digest);
        let size = match self.disk().stat(&path) {
            Ok(stat) if stat.kind == Kind::File => stat.size,
            Ok(_) => return Err(not_found(digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.list_blob_again(digest)?.ok_or_else(|| not_found(digest))?
            }
            Err(error) => return Err(Error::disk("looking at", &path)(error)),
        };
        // What was found rotten somewhere is not promised before it is looked at.
        if quarantine::knows(self.disk(), &Subject::Blob(*digest))
            && self.prove(digest, size, &path)?.is_err()
        {
            return Err(not_found(digest));
        }
        let media_type = media_type::OCTETS.to_owned();
        Ok(Held { repository: self.clone(), path, digest: *digest, size, media_type, bytes: None })
    }

    /// Lists a blob again that a manifest listed here reaches: it was found rotten here, and healed since where
    /// its artifact is. Returns its size.
    fn list_blob_again(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        match !self.lists_as_any(digest)? && self.needed_by(digest, digest)?.is_some() {
            true => self.mount(digest, None),
            false => Ok(None),
        }
    }

    /// The same for a manifest that a tag leads to, or that another one reaches which is listed by itself. Says
    /// whether it is listed now.
    fn list_manifest_again(&self, digest: &Digest) -> Result<bool, Error> {
        let Some((kind, artifact)) = self.to_be_listed_as(digest)? else { return Ok(false) };
        let limit = self.inner().options.limits.manifest_size;
        let from = layout::blob_in(&layout::artifact(&self.workspace, &artifact), digest);
        let subject = || {
            // Most of what an artifact has is none, and that is seen without a look at the rest of it.
            let file = self.disk().open(&from).map_err(Error::disk("opening", &from))?;
            let size = file.stat().map_err(Error::disk("reading", &from))?.size;
            if size > limit {
                return Ok(None);
            }
            let Some(held) = self.read_good(&*file, digest, size, &from)? else { return Ok(None) };
            let Ok(manifest) = held.parsed() else { return Ok(None) };
            let sealed = self.store.sealed(&self.workspace, &artifact)?;
            let (closure, _share) = sealed.reaches()?;
            let is_one = matches!(closure.get(digest), Some(Node::Manifest(_)));
            Ok::<_, Error>(is_one.then(|| manifest.subject().map(|subject| subject.digest)))
        };
        let subject = match subject() {
            Ok(Some(subject)) => subject,
            Err(error @ (Error::Busy | Error::Stopped)) => return Err(error),
            // Whatever is wrong with that artifact is told to those who ask for it.
            Ok(None) | Err(_) => return Ok(false),
        };
        let inner = self.inner();
        let scraps = Scraps::new(&self.store);
        let linking = Linking::new(inner, inner.pool(&self.workspace), &scraps);
        let _repository = self.exclude();
        if self.to_be_listed_as(digest)? != Some((kind, artifact)) {
            return Ok(false);
        }
        let entry = subject.filter(|_| kind == MemberKind::Manifest);
        let entry = entry.map(|subject| self.referrer(&subject, digest));
        for to in [Some(self.member(kind, digest)), entry].into_iter().flatten() {
            match self.link(digest, &from, &to, Fills::Empty, &linking) {
                // Retired in this moment.
                Err(_) if !self.is_there(&from)? => return Ok(false),
                linked => drop(linked?),
            }
        }
        Ok(true)
    }

    /// As what a manifest is to be listed here, and in which artifact it is. What a crash takes of it, the
    /// next start or the next who asks does again.
    fn to_be_listed_as(&self, digest: &Digest) -> Result<Option<(MemberKind, Digest)>, Error> {
        if !self.names_of(digest)?.is_empty() {
            return Ok(Some((MemberKind::Manifest, *digest)));
        }
        let by = self.reached_by(digest, &|artifact| self.lists(artifact))?;
        Ok(by.map(|by| (MemberKind::Child, by)))
    }

    /// A manifest that is listed here, by itself or because another reaches it; read and proved.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] once for one that rotted, [`Error::DamagedName`],
    /// [`Error::Busy`], [`Error::Disk`].
    pub fn manifest(&self, reference: &Reference) -> Result<Held, Error> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                let name = Name::new(&self.name, tag);
                self.led(&name)?.ok_or_else(|| not_found(&name))?
            }
        };
        let kinds = [MemberKind::Manifest, MemberKind::Child];
        let mut held = self.manifest_at(&digest, &kinds);
        if matches!(held, Err(Error::NotFound { .. })) && self.list_manifest_again(&digest)? {
            held = self.manifest_at(&digest, &kinds);
        }
        held.map_err(|error| match error {
            Error::NotFound { .. } => not_found(reference),
            other => other,
        })
    }

    /// The same at a look, without waiting for the disk: `None` says nothing, and then
    /// [`Repository::manifest`] does. What is larger than 64 KiB is left alone, so that it takes no
    /// longer than it takes to hash so much.
    pub fn manifest_at_a_look(&self, reference: &Reference) -> Option<Held> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                names::get_now(self.disk(), &self.workspace, &Name::new(&self.name, tag))?
            }
        };
        let most = self.inner().options.limits.manifest_size.min(AT_A_LOOK);
        for kind in [MemberKind::Manifest, MemberKind::Child] {
            let path = self.member(kind, &digest);
            match self.disk().read_now(&path, most) {
                Ok(bytes) => {
                    let mut share = self.inner().memory.share();
                    share.grow(bytes.len() as u64).ok()?;
                    return self.good(bytes, &digest, &path, share);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Whatever is wrong with it, or with the disk, is found out and told elsewhere.
                Err(_) => return None,
            }
        }
        None
    }

    pub(super) fn manifest_at(&self, digest: &Digest, kinds: &[MemberKind]) -> Result<Held, Error> {
        for kind in kinds {
            let path = self.member(*kind, digest);
            match self.read_manifest(digest, &path) {
                Err(Error::NotFound { .. }) => {}
                other => return other,
            }
        }
        Err(not_found(digest))
    }

    /// Reads a manifest from one of its links here.
    pub(super) fn read_manifest(&self, digest: &Digest, path: &RelPath) -> Result<Held, Error> {
        let limit = self.inner().options.limits.manifest_size;
        let file = match self.disk().open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found(digest)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(not_found(digest));
            }
            Err(error) => return Err(Error::disk("opening", path)(error)),
        };
        let size = file.stat().map_err(Error::disk("reading", path))?.size;
        if size <= limit
            && let Some(held) = self.read_good(&*file, digest, size, path)?
        {
            return Ok(held);
        }
        let good = self.prove(digest, size, path)?.map_err(|what| corrupt(digest, what))?;
        let read = match size <= limit {
            true => self.read_good(&*good.file, digest, size, path)?,
            false => None,
        };
        read.ok_or_else(|| Refusal::TooLarge { digest: *digest, size, limit }.into())
    }

    /// Reads a manifest of so many bytes; `None` when they are not what the digest says.
    fn read_good(
        &self,
        file: &dyn File,
        digest: &Digest,
        size: u64,
        path: &RelPath,
    ) -> Result<Option<Held>, Error> {
        let mut share = self.inner().memory.share();
        share.grow(size)?;
        let bytes = read_small(file, size).map_err(Error::disk("reading", path))?;
        Ok(bytes.and_then(|bytes| self.good(bytes, digest, path, share)))
    }

    /// A manifest of these bytes, if they are what the digest says.
    fn good(&self, bytes: Vec<u8>, digest: &Digest, path: &RelPath, share: Share) -> Option<Held> {
        (Digest::compute(digest.algorithm(), &bytes) == *digest).then(|| Held {
            repository: self.clone(),
            path: path.clone(),
            digest: *digest,
            size: bytes.len() as u64,
            media_type: root_media_type(&bytes),
            bytes: Some((bytes, share)),
        })
    }

    /// Hashes one of the files that are linked here; a rotten one is healed or put away.
    pub(super) fn prove(
        &self,
        digest: &Digest,
        size: u64,
        path: &RelPath,
    ) -> Result<Result<Good, DamageKind>, Error> {
        let still = || match self.is_there(path)? {
            true => Ok(()),
            false => Err(not_found(digest)),
        };
        let (inner, digest, stop) = (self.inner(), *digest, &self.stop);
        let place = Place { inner, pool: inner.pool(&self.workspace), digest, size, path, stop };
        place.prove(&still, &|| self.exclude())
    }
}

fn corrupt(digest: &Digest, what: DamageKind) -> Error {
    let damage = Damage { file: layout::blob_file(digest), what };
    tracing::error!(artifact = %digest, %damage, "damage was found");
    Error::Corrupt { artifact: *digest, damages: vec![damage] }
}

impl Held {
    /// The repository that lists it, and its file there.
    pub(crate) fn place(&self) -> (&Repository, &RelPath) {
        (&self.repository, &self.path)
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What a manifest says that it is, or looks like; of a blob nothing is known.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Media type, digest and size.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.size)
    }

    /// The manifest that it is, proved.
    pub(super) fn parsed(self) -> Result<Manifest, Error> {
        let (repository, claim) = (self.repository.clone(), self.descriptor());
        let limits = &repository.inner().options.limits;
        Ok(Manifest::parse(&claim, self.bytes()?, limits)?)
    }

    /// All of it, proved; only for what is as small as a manifest may be.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is larger, [`Error::Corrupt`], [`Error::NotFound`] when it was
    /// deleted meanwhile, [`Error::Disk`].
    pub fn bytes(self) -> Result<Vec<u8>, Error> {
        if let Some((bytes, _)) = self.bytes {
            return Ok(bytes);
        }
        let (digest, size) = (self.digest, self.size);
        let limit = self.repository.inner().options.limits.manifest_size;
        if size > limit {
            return Err(Refusal::TooLarge { digest, size, limit }.into());
        }
        let path = self.path.clone();
        let file = self.proved()?;
        let bytes = read_small(&*file, size).map_err(Error::disk("reading", &path))?;
        // What was read now is what goes out, so it is what must be proved.
        let bytes = bytes.unwrap_or_default();
        let actual = Digest::compute(digest.algorithm(), &bytes);
        match actual == digest {
            true => Ok(bytes),
            false => Err(corrupt(&digest, DamageKind::Bytes { actual })),
        }
    }

    /// It as a stream that withholds its tail until its digest agrees.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was deleted meanwhile, [`Error::Disk`]; damage is found while
    /// reading.
    pub fn stream(self) -> Result<Verified, Error> {
        let (digest, size) = (self.digest, self.size);
        let file = match self.repository.disk().open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_found(digest));
            }
            Err(error) => return Err(Error::disk("opening", &self.path)(error)),
        };
        let on_rot = Box::new(move || {
            // The reader only knows that something is wrong; this finds out what, and keeps it.
            if let Err(error) = self.proved() {
                tracing::error!(%digest, %error, "a blob turned out damaged while it was served");
            }
        });
        Ok(Verified::new(file, digest, size, on_rot))
    }

    /// It hashed whole now, and open.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NotFound`] when it was deleted meanwhile, [`Error::Stopped`],
    /// [`Error::Disk`].
    pub fn checked(self) -> Result<CheckedBlob, Error> {
        let (digest, size) = (self.digest, self.size);
        Ok(CheckedBlob::new(digest, size, self.proved()?))
    }

    fn proved(self) -> Result<Box<dyn File>, Error> {
        match self.repository.prove(&self.digest, self.size, &self.path)? {
            Ok(good) => Ok(good.file),
            Err(DamageKind::Missing) => Err(not_found(self.digest)),
            Err(what) => Err(corrupt(&self.digest, what)),
        }
    }
}
