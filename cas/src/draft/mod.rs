//! An artifact on its way in: invisible until it is sealed, gone without a trace if it is not.
//!
//! A draft is a layout in the making, in `staging/`. This room takes blobs in; [`seal`] makes the
//! whole an artifact.

mod seal;

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{File, RelPath};
use crate::error::Error;
use crate::intake::{Expected, Intake, Proved};
use crate::layout;
use crate::oci::{self, Descriptor, Refusal, media_type};
use crate::quarantine::{self, Subject};
use crate::reader::read_small;
use crate::sealed::Sealed;
use crate::source::{Reading, Source};
use crate::store::{Store, lock};
use crate::workspace::{Name, Workspace, check_title};

/// A file up to this size is read into memory before it is decided whether to write it.
const SMALL_FILE: u64 = 1 << 20;
/// What became of the bytes of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They were new and were written.
    Written,
    /// The store had them: both copies were read and are the same.
    Present,
    /// The store's copy was rotten; these bytes take its place.
    Healed,
}

/// A blob that a draft has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a put did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The workspace had this artifact before.
    pub existed: bool,
    /// Blobs that were new.
    pub n_written: u64,
    /// Blobs, and files of an existing layout, whose rotten copy was replaced.
    pub n_healed: u64,
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
    extras: Mutex<Vec<RelPath>>,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// A link to the store's own copy.
    Kept,
    /// A new file that the store does not have.
    New,
    /// A new file that takes the place of the store's, which is rotten.
    Heals,
    /// A new file that takes the place of the store's, which can have no more links.
    Renews,
}

impl Draft {
    pub(crate) fn begin(store: Store, workspace: Workspace) -> Result<Draft, Error> {
        store.inner.admit(0)?;
        let dir = store.inner.staging("draft");
        let since = store.inner.barrier.n_failed();
        let draft = Draft {
            store,
            workspace,
            dir,
            members: Mutex::default(),
            progress: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            extras: Mutex::default(),
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

    /// Takes a blob in: every byte of the source is read and hashed, whatever the store has.
    ///
    /// # Errors
    /// [`Error::Refused`] with a mismatch or wrong size, [`Error::SourceRead`],
    /// [`Error::SourceChanged`], [`Error::Quota`], [`Error::Full`], [`Error::Disk`].
    pub fn take(&self, claimed: &Digest, size: u64, source: Source<'_>) -> Result<Taken, Error> {
        self.admit(size)?;
        let mut reading = Reading::new(source)?;
        if self.begin_member(claimed) {
            return self.prove_again(claimed, size, &mut reading);
        }
        let taken = self.take_new(claimed, size, reading);
        if taken.is_err() {
            // First the file, then the member: nobody else may begin this blob in between.
            let _ = self.store.inner.disk.unlink(&layout::blob_in(&self.dir, claimed));
            lock(&self.members).remove(claimed);
        }
        taken
    }

    fn admit(&self, size: u64) -> Result<(), Error> {
        let before = self.admitted.fetch_add(size, Ordering::Relaxed);
        self.store.inner.admit(before.saturating_add(size))
    }

    /// Whether somebody brought this blob to this draft already, or is about to.
    fn begin_member(&self, digest: &Digest) -> bool {
        let fresh = Member { size: None, held: Held::New, synced: false };
        let mut members = lock(&self.members);
        if members.contains_key(digest) {
            return true;
        }
        members.insert(*digest, fresh);
        false
    }

    /// The same blob a second time: it is proved like any other, and then there is nothing to do.
    fn prove_again(
        &self,
        claimed: &Digest,
        size: u64,
        reading: &mut Reading<'_>,
    ) -> Result<Taken, Error> {
        if let Some(actual) = lock(&self.members).get(claimed).and_then(|member| member.size)
            && actual != size
        {
            return Err(Refusal::WrongSize { digest: *claimed, claimed: size, actual }.into());
        }
        let (digest, actual) = hash_reading(reading, claimed.algorithm(), size)?;
        if actual != size {
            return Err(Refusal::WrongSize { digest: *claimed, claimed: size, actual }.into());
        }
        if digest != *claimed {
            return Err(Refusal::Mismatch { claimed: *claimed, actual: digest }.into());
        }
        Ok(Taken { digest, size, outcome: Outcome::Present })
    }

    fn take_new(&self, claimed: &Digest, size: u64, reading: Reading<'_>) -> Result<Taken, Error> {
        let path = layout::blob_in(&self.dir, claimed);
        if claimed.algorithm() != Algorithm::Sha256 {
            self.make_dir(&self.dir.join(layout::BLOBS).join(claimed.algorithm().name()))?;
        }
        let (existing, mut held) = self.hold(claimed, &path)?;
        let expected =
            Expected { algorithm: claimed.algorithm(), digest: Some(*claimed), size: Some(size) };
        let had = existing.is_some();
        let proved = self.intake(&path, existing, Some(claimed)).run(&expected, reading)?;
        if had {
            held = if proved.kept { Held::Kept } else { Held::Heals };
        }
        Ok(self.note_member(&proved, held))
    }

    fn note_member(&self, proved: &Proved, held: Held) -> Taken {
        let member = Member { size: Some(proved.size), held, synced: proved.synced };
        lock(&self.members).insert(proved.digest, member);
        let outcome = match held {
            Held::Kept => Outcome::Present,
            Held::New | Held::Renews => Outcome::Written,
            Held::Heals => Outcome::Healed,
        };
        Taken { digest: proved.digest, size: proved.size, outcome }
    }

    fn intake<'a>(
        &'a self,
        path: &'a RelPath,
        existing: Option<Box<dyn File>>,
        digest: Option<&Digest>,
    ) -> Intake<'a> {
        let disk = &*self.store.inner.disk;
        let digest = digest.copied();
        Intake {
            disk,
            path,
            existing,
            pipeline_from: self.store.inner.options.pipeline_from,
            progress: &self.progress,
            may_grow: Box::new(|size| self.admit(size)),
            on_rot: Box::new(move |rotten| {
                if let Some(digest) = digest {
                    tracing::error!(%digest, "the store's copy is rotten and is replaced");
                    quarantine::keep_open(disk, &Subject::Blob(digest), rotten);
                }
            }),
        }
    }

    /// Links the store's copy to the draft's name, so that nobody collects it while it is compared.
    fn hold(
        &self,
        digest: &Digest,
        path: &RelPath,
    ) -> Result<(Option<Box<dyn File>>, Held), Error> {
        let disk = &*self.store.inner.disk;
        let blob = layout::blob(digest);
        let linked = {
            let _guard = self.store.inner.lock_digest(digest);
            disk.link(&blob, path)
        };
        match linked {
            Ok(()) => match disk.open(path) {
                Ok(file) => Ok((Some(file), Held::Kept)),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // No regular file: not ours, whatever it is.
                    disk.unlink(path).map_err(Error::disk("removing", path))?;
                    Ok((None, Held::Heals))
                }
                Err(error) => Err(Error::disk("opening", path)(error)),
            },
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok((None, Held::New)),
                io::ErrorKind::TooManyLinks => Ok((None, Held::Renews)),
                // What stands there is a folder, or something else that cannot be linked.
                io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => {
                    Ok((None, Held::Heals))
                }
                _ => Err(Error::disk("linking", &blob)(error)),
            },
        }
    }

    /// Takes a file in whose digest is found out (SHA-256) while it is read, or is `claimed`.
    ///
    /// # Errors
    /// As for [`Draft::take`].
    pub fn take_file(
        &self,
        size: Option<u64>,
        claimed: Option<Digest>,
        source: Source<'_>,
    ) -> Result<Taken, Error> {
        if let (Some(claimed), Some(size)) = (claimed, size) {
            return self.take(&claimed, size, source);
        }
        let algorithm = claimed.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let mut reading = Reading::new(source)?;
        if let Some(size) = size.filter(|size| *size <= SMALL_FILE) {
            let mut bytes = vec![0; usize::try_from(size + 1).unwrap_or(0)];
            let n = reading.fill(&mut bytes)?;
            bytes.truncate(n);
            let digest = Digest::compute(algorithm, &bytes);
            if n as u64 != size {
                return Err(match reading.stayed()? {
                    true => Refusal::WrongSize { digest, claimed: size, actual: n as u64 }.into(),
                    false => Error::SourceChanged { what: "the file".to_owned() },
                });
            }
            if !reading.stayed()? {
                return Err(Error::SourceChanged { what: "the file".to_owned() });
            }
            return self.take(&digest, size, Source::Stream(&mut &bytes[..]));
        }
        if let (Some((file, offset, len)), Some(size)) = (reading.range(), size)
            && self.may_have_size(size)
        {
            // Perhaps the store has these very bytes: find out before a byte is written.
            let (digest, _) = hash_reading(&mut reading, algorithm, size)?;
            return self.take(&digest, size, Source::Range { file, offset, len });
        }
        self.take_unknown(Expected { algorithm, digest: claimed, size }, reading)
    }

    fn may_have_size(&self, size: u64) -> bool {
        self.store.inner.index().is_some_and(|index| index.may_have_size(size))
    }

    /// Writes first and sees afterwards which blob it was.
    fn take_unknown(&self, expected: Expected, reading: Reading<'_>) -> Result<Taken, Error> {
        self.admit(expected.size.unwrap_or(0))?;
        let disk = &*self.store.inner.disk;
        let spool = self.store.inner.staging("file");
        lock(&self.extras).push(spool.clone());
        let proved = self.intake(&spool, None, None).run(&expected, reading)?;
        let is_in_store = disk.stat(&layout::blob(&proved.digest)).is_ok();
        if is_in_store || self.begin_member(&proved.digest) {
            let file = disk.open(&spool).map_err(Error::disk("opening", &spool))?;
            let mut spooled = FileReader { file: &*file, at: 0 };
            let taken = self.take(&proved.digest, proved.size, Source::Stream(&mut spooled))?;
            disk.unlink(&spool).map_err(Error::disk("removing", &spool))?;
            return Ok(taken);
        }
        let path = layout::blob_in(&self.dir, &proved.digest);
        if proved.digest.algorithm() != Algorithm::Sha256 {
            self.make_dir(&self.dir.join(layout::BLOBS).join(proved.digest.algorithm().name()))?;
        }
        disk.rename(&spool, &path).map_err(Error::disk("renaming", &spool))?;
        Ok(self.note_member(&proved, Held::New))
    }

    /// Seals what `root` reaches. Everything it reaches must have been taken.
    ///
    /// # Errors
    /// [`Error::Refused`] when the closure is incomplete or contradicts itself, [`Error::Full`],
    /// [`Error::Disk`]. Nothing is visible then.
    pub fn seal(self, root: &Descriptor, names: &[Name]) -> Result<(Sealed, Receipt), Error> {
        if !root.is_manifest() {
            let (digest, claimed) = (root.digest, root.media_type.clone());
            let found = "no manifest or index that can be the root of an artifact".to_owned();
            return Err(Refusal::MediaType { digest, claimed, found }.into());
        }
        let closure =
            oci::walk(root, &self.store.inner.options.limits, &mut |claim| self.read(claim))?;
        self.seal_closure(closure, names)
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
        self.seal_closure(closure, names)
    }

    /// The bytes of a manifest that was taken.
    fn read(&self, claim: &Descriptor) -> Result<Vec<u8>, Error> {
        self.member(claim)?;
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
        for path in lock(&self.extras).drain(..) {
            let _ = self.store.inner.disk.unlink(&path);
        }
    }
}

fn hash_reading(
    reading: &mut Reading<'_>,
    algorithm: Algorithm,
    size: u64,
) -> Result<(Digest, u64), Error> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at <= size {
        let n = reading.fill(&mut buffer)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
        if n < buffer.len() {
            break;
        }
    }
    Ok((hasher.finish(), at))
}

/// One of our own files as a stream.
struct FileReader<'a> {
    file: &'a dyn File,
    at: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
