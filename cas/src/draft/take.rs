//! Taking blobs into a draft: every byte that is brought is read and hashed, whatever the store
//! has.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Draft, Held, Member, Taken};
use crate::buffer::{Buffer, STEP};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{File, RelPath, Stat};
use crate::error::Error;
use crate::index::NOTED_FROM;
use crate::intake::{Expected, Intake, MayGrow, Proved};
use crate::layout::{self, Pool};
use crate::linking::Linking;
use crate::oci::{Descriptor, Refusal};
use crate::quarantine::{self, Subject};
use crate::source::{Reading, Source};
use crate::store::{Writing, lock};

/// A file up to this size is read into memory before it is decided whether to write it. The index
/// knows the sizes of larger blobs.
const SMALL_FILE: u64 = NOTED_FROM;

impl Draft {
    /// Takes a blob in: every byte of the source is read and hashed, whatever the store has.
    ///
    /// # Errors
    /// [`Error::Refused`] with a mismatch or wrong size, [`Error::SourceRead`],
    /// [`Error::SourceChanged`], [`Error::Quota`], [`Error::Full`], [`Error::Disk`].
    pub fn take(&self, claimed: &Digest, size: u64, source: Source<'_>) -> Result<Taken, Error> {
        let mut reading = Reading::new(source)?;
        if self.begin_member(claimed) {
            return self.prove_again(claimed, size, &mut reading);
        }
        let taken = self.take_new(claimed, size, reading);
        if taken.is_err() {
            // First the file, then the member: nobody else may begin this blob in between.
            let _ = self.store.inner.disk.unlink(&self.member_path(claimed));
            lock(&self.members).remove(claimed);
        }
        taken
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
        Ok(Taken { digest, size })
    }

    fn take_new(&self, claimed: &Digest, size: u64, reading: Reading<'_>) -> Result<Taken, Error> {
        let path = self.member_place(claimed)?;
        let (existing, mut held) = self.linking().hold(claimed, &path)?;
        let expected =
            Expected { algorithm: claimed.algorithm(), digest: Some(*claimed), size: Some(size) };
        let had = existing.is_some();
        let claim = Claim::new(self);
        claim.admit(size)?;
        // What this workspace has needs no room, even if it turns out to be rotten: then the good
        // bytes are worth the last of it. What only others have must not be told apart from what
        // nobody has.
        let is_of_size = |file: &dyn File| file.stat().is_ok_and(|stat| stat.size == size);
        let needs_room = !(existing.as_deref().is_some_and(is_of_size)
            && self.store.is_held(&self.workspace, claimed, None));
        if needs_room && reading.is_file() {
            claim.writing.grow(size)?;
        } else if needs_room {
            // A stream's word takes no room from others, but one that cannot come true is refused.
            self.store.inner.has_room(size)?;
        }
        let may_grow = |size| if needs_room { claim.writing.grow(size) } else { Ok(()) };
        let intake = self.intake(&path, existing, Some(claimed), &may_grow);
        let proved = intake.run(&expected, reading)?;
        if had {
            held = if proved.kept { Held::Kept } else { Held::Heals };
        }
        claim.keep();
        Ok(self.note_member(&proved, held))
    }

    fn note_member(&self, proved: &Proved, held: Held) -> Taken {
        let member = Member { size: Some(proved.size), held, synced: proved.synced };
        lock(&self.members).insert(proved.digest, member);
        Taken { digest: proved.digest, size: proved.size }
    }

    fn intake<'a>(
        &'a self,
        path: &'a RelPath,
        existing: Option<Box<dyn File>>,
        digest: Option<&Digest>,
        may_grow: &'a MayGrow<'a>,
    ) -> Intake<'a> {
        let disk = &*self.store.inner.disk;
        let digest = digest.copied();
        Intake {
            disk,
            path,
            existing,
            wanted_upto: 0,
            pipeline_from: self.store.inner.options.pipeline_from,
            progress: &self.progress,
            may_grow,
            on_rot: Box::new(move |rotten| {
                if let Some(digest) = digest {
                    tracing::error!(%digest, "the store's copy is rotten and is replaced");
                    quarantine::keep_open(disk, &Subject::Blob(digest), rotten);
                }
            }),
        }
    }

    pub(super) fn linking(&self) -> Linking<'_> {
        let inner = &*self.store.inner;
        Linking::new(inner, inner.pool(&self.workspace), &self.extras)
    }

    /// Links a file of the store in as a member, in place of bytes that are brought. Who asks for
    /// this answers for the bytes: the file that was linked is told, to see whether they are proved.
    pub(crate) fn adopt(&self, claim: &Descriptor, from: &RelPath) -> Result<Stat, Error> {
        let (digest, size) = (claim.digest, claim.size);
        let inner = &*self.store.inner;
        let disk = &*inner.disk;
        let counted = Claim::new(self);
        counted.admit(size)?;
        let path = self.member_place(&digest)?;
        // If it is in the log, sealing syncs it.
        inner.mend_lost(&digest)?;
        self.linking().link(&digest, from, &path)?;
        let stat = disk.stat(&path).map_err(Error::disk("looking at", &path))?;
        // Where a crash or rot took the pool's name, sealing gives it back.
        let held = match disk.stat(&self.pool().blob(&digest)) {
            Ok(_) => Held::Kept,
            Err(_) => Held::New,
        };
        let member = Member { size: Some(size), held, synced: true };
        lock(&self.members).insert(digest, member);
        counted.keep();
        Ok(stat)
    }

    /// Gives up a member that was adopted.
    pub(crate) fn disown(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.member_path(digest);
        self.store.inner.disk.unlink(&path).map_err(Error::disk("removing", &path))?;
        lock(&self.members).remove(digest);
        Ok(())
    }

    /// The draft's own name for a member.
    pub(crate) fn member_path(&self, digest: &Digest) -> RelPath {
        layout::blob_in(&self.dir, digest)
    }

    /// The same, in a folder that is there: every draft begins with the one for SHA-256.
    fn member_place(&self, digest: &Digest) -> Result<RelPath, Error> {
        if digest.algorithm() != Algorithm::Sha256 {
            self.make_dir(&self.dir.join(layout::BLOBS).join(digest.algorithm().name()))?;
        }
        Ok(self.member_path(digest))
    }

    pub(super) fn pool(&self) -> Pool {
        self.store.inner.pool(&self.workspace)
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
            return match self.take(&digest, size, Source::Range { file, offset, len }) {
                // Nobody claimed this digest but our own first look at the file.
                Err(Error::Refused(Refusal::Mismatch { .. })) => {
                    Err(Error::SourceChanged { what: "the file".to_owned() })
                }
                taken => taken,
            };
        }
        self.take_unknown(Expected { algorithm, digest: claimed, size }, reading)
    }

    fn may_have_size(&self, size: u64) -> bool {
        self.store.inner.index().is_some_and(|index| index.may_have_size(size))
    }

    /// Writes first and sees afterwards which blob it was.
    fn take_unknown(&self, expected: Expected, reading: Reading<'_>) -> Result<Taken, Error> {
        let claim = Claim::new(self);
        if let Some(size) = expected.size {
            claim.admit(size)?;
            if reading.is_file() {
                claim.writing.grow(size)?;
            }
        }
        let is_known = expected.size.is_some();
        let may_grow = |size| {
            if !is_known {
                claim.admit(size)?;
            }
            claim.writing.grow(size)
        };
        let disk = &*self.store.inner.disk;
        let spool = self.extras.path("file");
        let proved = self.intake(&spool, None, None, &may_grow).run(&expected, reading)?;
        let is_in_store = disk.stat(&self.pool().blob(&proved.digest)).is_ok();
        // From here on it counts like any other blob, for what it turned out to have.
        drop(claim);
        if is_in_store || self.begin_member(&proved.digest) {
            let file = disk.open(&spool).map_err(Error::disk("opening", &spool))?;
            let mut spooled = FileReader { file: &*file, at: 0 };
            let taken = self.take(&proved.digest, proved.size, Source::Stream(&mut spooled))?;
            disk.unlink(&spool).map_err(Error::disk("removing", &spool))?;
            return Ok(taken);
        }
        let path = self.member_place(&proved.digest)?;
        let claim = Claim::new(self);
        let renamed = disk.rename(&spool, &path).map_err(Error::disk("renaming", &spool));
        if let Err(error) = claim.admit(proved.size).and(renamed) {
            lock(&self.members).remove(&proved.digest);
            return Err(error);
        }
        claim.keep();
        Ok(self.note_member(&proved, Held::New))
    }
}

/// What one blob on its way counts: to the draft's size, and of the disk's room. Given back when
/// it is dropped, but for the size of a blob that was kept.
struct Claim<'a> {
    draft: &'a Draft,
    admitted: AtomicU64,
    writing: Writing<'a>,
}

impl<'a> Claim<'a> {
    fn new(draft: &'a Draft) -> Claim<'a> {
        let writing = draft.store.inner.writing();
        Claim { draft, admitted: AtomicU64::new(0), writing }
    }

    /// Counts bytes to what the draft has; refuses what no workspace may hold.
    fn admit(&self, size: u64) -> Result<(), Error> {
        let add = |before: u64| before.checked_add(size);
        let all = &self.draft.admitted;
        let limit = self.draft.store.inner.options.quota;
        let before = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let before = before.map_err(|_| Error::Quota { limit })?;
        self.admitted.fetch_add(size, Ordering::Relaxed);
        self.draft.store.inner.admit(before.saturating_add(size))
    }

    fn keep(&self) {
        self.admitted.store(0, Ordering::Relaxed);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let admitted = self.admitted.load(Ordering::Relaxed);
        self.draft.admitted.fetch_sub(admitted, Ordering::Relaxed);
    }
}

fn hash_reading(
    reading: &mut Reading<'_>,
    algorithm: Algorithm,
    size: u64,
) -> Result<(Digest, u64), Error> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = Buffer::new(STEP);
    let mut at = 0;
    while at <= size {
        let filled = reading.fill(buffer.space())?;
        buffer.set_filled(filled);
        hasher.update(buffer.bytes());
        at += filled as u64;
        if !buffer.is_full() {
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
