//! What was found wrong: kept for study, never served.
//!
//! Damage is told once, by an error; what quarantine already knows of is healed at the next check
//! if the store has good bytes. A folder for each digest (or for the fixed files of a layout)
//! holds a copy of the bad bytes, so that quarantine holds no link that would keep a blob alive.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::disk::{Create, Disk, File, RelPath, write_all_at};
use crate::layout;

/// Rotten bytes beyond this are not copied, only noted: a broken disk must not fill the rest.
const MOST_BYTES: u64 = 1 << 30;

/// What damage was found in.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// A blob or manifest, in whatever layout.
    Blob(Digest),
    /// `index.json`, `oci-layout` and what does not belong there, of one artifact.
    Fixed(Digest),
}

impl Subject {
    fn folder(&self) -> RelPath {
        let name = match self {
            Subject::Blob(digest) => format!("{}-{}", digest.algorithm().name(), digest.hex()),
            Subject::Fixed(artifact) => {
                format!("{}-{}.layout", artifact.algorithm().name(), artifact.hex())
            }
        };
        RelPath::new(layout::QUARANTINE).join(name)
    }
}

/// Whether damage to this was told before.
pub(crate) fn knows(disk: &dyn Disk, subject: &Subject) -> bool {
    disk.stat(&subject.folder()).is_ok()
}

/// Notes the damage and keeps a copy of what stands at `path`, if it is a file. Keeping is for
/// study: when it fails the damage is reported all the same, so failures are only logged. `false`
/// when there are bad bytes of which no copy could be made.
pub(crate) fn keep(disk: &dyn Disk, subject: &Subject, path: Option<&RelPath>) -> bool {
    let is_noted = note(disk, subject);
    match path.map(|path| disk.open(path)) {
        Some(Ok(file)) => is_noted && keep_open(disk, subject, &*file),
        _ => is_noted,
    }
}

fn note(disk: &dyn Disk, subject: &Subject) -> bool {
    let folder = subject.folder();
    match disk.make_dir(&folder, 0o700) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::warn!(%folder, %error, "damage could not be noted");
            false
        }
        _ => true,
    }
}

/// The same for a file that is open, whatever became of its name.
pub(crate) fn keep_open(disk: &dyn Disk, subject: &Subject, file: &dyn File) -> bool {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    if !note(disk, subject) {
        return false;
    }
    let folder = subject.folder();
    let part = folder.join(format!("part-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
    let copied = copy(disk, file, &part).and_then(|name| {
        let kept = folder.join(name);
        match disk.rename_new(&part, &kept) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.unlink(&part),
            other => other,
        }
    });
    if let Err(error) = &copied {
        let _ = disk.unlink(&part);
        tracing::warn!(%folder, %error, "damaged bytes could not be copied");
    }
    copied.is_ok()
}

/// Copies a file and returns a name made of what it holds, so that the same rot is kept once.
fn copy(disk: &dyn Disk, file: &dyn File, to: &RelPath) -> io::Result<String> {
    let size = file.stat()?.size;
    let room = disk.space()?.free;
    if size > MOST_BYTES || size > room / 2 {
        return Err(io::Error::other("it is too large to be copied"));
    }
    let copy = disk.create(to, Create::Buffered)?;
    let mut hasher = crate::digest::Hasher::new(crate::digest::Algorithm::Sha256);
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    loop {
        let n = file.read_at(&mut buffer, at)?;
        if n == 0 {
            return Ok(hasher.finish().hex());
        }
        hasher.update(&buffer[..n]);
        write_all_at(&*copy, &buffer[..n], at)?;
        at += n as u64;
    }
}

/// Moves what stands where it does not belong: a folder, or a file that is too large to be copied.
pub(crate) fn move_away(disk: &dyn Disk, subject: &Subject, path: &RelPath) -> io::Result<()> {
    note(disk, subject);
    let folder = subject.folder();
    // Any free name will do; a thousand of them are not put here.
    for number in 0..1000 {
        match disk.rename_new(path, &folder.join(format!("moved-{number}"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
