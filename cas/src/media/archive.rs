//! An OCI layout in a tar archive: read in place, or made new.
//!
//! Nothing is ever unpacked: what matters of an entry is its name, where its bytes begin and how
//! many there are. Archives are read strictly, because readers that disagree about one see two
//! different archives (CVE-2025-62518 and its kin): only folders and regular files with plain
//! names, each once, up to the end mark.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use tar::EntryType;

use super::{Error, Part, Proved, copy, index_json};
use crate::disk::{ForeignError, ForeignFile};
use crate::layout::{INDEX_FILE, OCI_LAYOUT, OCI_LAYOUT_FILE, blob_file};
use crate::oci::{Descriptor, Limits};

/// The unit of a tar archive, in bytes.
const BLOCK: u64 = 512;
/// The most bytes that the headers of one entry may have: long names and extended attributes.
const HEADER_LIMIT: u64 = 1 << 20;
/// Entries beyond those of the largest closure: the fixed files, folders, docker's own lists.
const N_MORE_ENTRIES: usize = 1024;

/// An archive whose entries are known.
#[derive(Debug)]
pub(super) struct Archive {
    file: Arc<ForeignFile>,
    /// Where the bytes of each regular file begin in the file, and how many there are.
    entries: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Reads the headers of the archive that begins at `base` in the file.
    pub(super) fn open(file: ForeignFile, base: u64, limits: &Limits) -> Result<Archive, Error> {
        let what = "the archive";
        let unreadable = |source| ForeignError::Unreadable { file: what.to_owned(), source };
        let size = file.stat().map_err(unreadable)?.size.saturating_sub(base);
        refuse_compressed(&file, base).map_err(unreadable)??;

        let budget = Cell::new(HEADER_LIMIT);
        let mut archive = tar::Archive::new(Cursor { file: &file, base, at: 0, budget: &budget });
        let mut listing =
            Listing { base, size, end: 0, limits, seen: HashMap::new(), n_entries: 0 };
        for entry in archive.entries_with_seek().map_err(not_archive)? {
            listing.add(&mut entry.map_err(not_archive)?)?;
            budget.set(HEADER_LIMIT);
        }
        let entries = listing.finish(&file)?;
        Ok(Archive { file: Arc::new(file), entries })
    }

    pub(super) fn part(&self, name: &str) -> Option<Part> {
        let (offset, len) = *self.entries.get(name)?;
        Some(Part::File { file: Arc::clone(&self.file), offset, len })
    }
}

/// The entries seen so far.
struct Listing<'a> {
    base: u64,
    size: u64,
    /// Where the next header must begin.
    end: u64,
    limits: &'a Limits,
    /// `None` for a folder.
    seen: HashMap<String, Option<(u64, u64)>>,
    n_entries: usize,
}

impl Listing<'_> {
    fn add(&mut self, entry: &mut tar::Entry<'_, Cursor<'_>>) -> Result<(), Error> {
        self.n_entries += 1;
        let limit = self.limits.entries.saturating_add(N_MORE_ENTRIES);
        if self.n_entries > limit {
            return Err(Error::TooManyEntries { limit });
        }
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = kind_of(entry.header().entry_type(), &shown)?;
        check_extensions(entry, &shown)?;

        let (offset, size) = (entry.raw_file_position(), entry.size());
        let claimed = entry.header().entry_size().map_err(not_archive)?;
        if claimed != 0 && claimed != size {
            let reason = format!("{shown:?} has two sizes, {claimed} and {size}");
            return Err(Error::NotArchive { reason });
        }
        let padded = size.checked_next_multiple_of(BLOCK).and_then(|s| s.checked_add(offset));
        let end = padded.ok_or_else(|| Error::NotArchive {
            reason: format!("{shown:?} has an impossible size"),
        })?;
        if offset + size > self.size {
            let missing = offset + size - self.size;
            let reason = format!("{missing} bytes of {shown:?} are missing");
            return Err(Error::Truncated { reason });
        }
        self.end = end;
        if kind == Kind::Other {
            return Ok(());
        }
        let is_folder = kind == Kind::Folder || (shown.ends_with('/') && size == 0);
        let name = plain_name(&entry.path_bytes(), &shown)?;
        let place = (!is_folder).then_some((self.base + offset, size));
        match self.seen.insert(name, place) {
            None => Ok(()),
            // A folder that is announced twice is one folder.
            Some(None) if is_folder => Ok(()),
            Some(_) => Err(Error::Duplicate { entry: shown }),
        }
    }

    /// The archive must end with a block of zeros: an archive cut between two entries has none.
    fn finish(self, file: &ForeignFile) -> Result<HashMap<String, (u64, u64)>, Error> {
        let mut block = [1; BLOCK as usize];
        let mut cursor = Cursor { file, base: self.base, at: self.end, budget: &Cell::new(BLOCK) };
        if cursor.read_exact(&mut block).is_err() || block.iter().any(|byte| *byte != 0) {
            return Err(Error::Truncated { reason: "it has no end mark".to_owned() });
        }
        Ok(self.seen.into_iter().filter_map(|(name, place)| Some((name, place?))).collect())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    /// Describes the archive, not a file.
    Other,
}

fn kind_of(kind: EntryType, shown: &str) -> Result<Kind, Error> {
    let entry = shown.to_owned();
    match kind {
        EntryType::Regular => Ok(Kind::File),
        EntryType::Directory => Ok(Kind::Folder),
        EntryType::XGlobalHeader => Ok(Kind::Other),
        EntryType::Link | EntryType::Symlink => Err(Error::Link { entry }),
        EntryType::Char | EntryType::Block => Err(Error::Special { entry, kind: "a device" }),
        EntryType::Fifo => Err(Error::Special { entry, kind: "a FIFO" }),
        EntryType::GNUSparse => Err(sparse(shown)),
        other => {
            let kind = other.as_byte().escape_ascii();
            let reason = format!("the entry {entry:?} is of the type '{kind}'");
            Err(Error::NotArchive { reason })
        }
    }
}

fn sparse(shown: &str) -> Error {
    let reason = format!("{shown:?} is stored as a sparse file, so its bytes are not in one piece");
    Error::NotArchive { reason }
}

/// Extended headers may say nothing that makes readers differ about where bytes are.
fn check_extensions(entry: &mut tar::Entry<'_, Cursor<'_>>, shown: &str) -> Result<(), Error> {
    let is_global = entry.header().entry_type() == EntryType::XGlobalHeader;
    let Some(extensions) = entry.pax_extensions().map_err(not_archive)? else { return Ok(()) };
    let malformed = |reason: &str| Error::NotArchive {
        reason: format!("the extended header of {shown:?} {reason}"),
    };
    let (mut has_path, mut has_size) = (false, false);
    for extension in extensions {
        let extension = extension.map_err(|_| malformed("is malformed"))?;
        let key = extension.key_bytes();
        if key.starts_with(b"GNU.sparse.") {
            return Err(sparse(shown));
        }
        let before = match key {
            b"path" => &mut has_path,
            b"size" => &mut has_size,
            _ => continue,
        };
        if is_global {
            return Err(malformed("is for the whole archive and sets a name or size"));
        }
        if std::mem::replace(before, true) {
            return Err(malformed("sets a name or size twice"));
        }
    }
    Ok(())
}

/// The name as a layout has it: no `.` parts, no double or final slash.
fn plain_name(name: &[u8], shown: &str) -> Result<String, Error> {
    let refused = |why| Err(Error::Name { entry: shown.to_owned(), why });
    let Ok(name) = std::str::from_utf8(name) else {
        return refused("is no UTF-8 text");
    };
    if name.starts_with('/') {
        return refused("is absolute");
    }
    if name.contains('\0') {
        return refused("holds a zero byte");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return refused("leads out of the archive");
    }
    Ok(parts.join("/"))
}

/// What the tar reader failed with. Its errors are texts; those about a missing end are known.
fn not_archive(error: io::Error) -> Error {
    let reason = error.to_string();
    let cut = ["failed to read entire block", "no future member found", "failed to read extension"];
    match (error.raw_os_error(), cut.iter().any(|text| reason.contains(text))) {
        (Some(_), _) => Error::Read { what: "the archive".to_owned(), source: error },
        (None, true) => Error::Truncated { reason: "it ends within a header".to_owned() },
        (None, false) => Error::NotArchive { reason },
    }
}

fn refuse_compressed(file: &ForeignFile, base: u64) -> io::Result<Result<(), Error>> {
    const MAGIC: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    let mut start = [0; 8];
    let n = file.read_at(&mut start, base)?;
    let found = MAGIC.iter().find(|(magic, _)| start[..n].starts_with(magic));
    Ok(found.map_or(Ok(()), |(_, with)| Err(Error::Compressed { with })))
}

/// A reader with a position of its own. What it reads between two entries is bounded.
struct Cursor<'a> {
    file: &'a ForeignFile,
    base: u64,
    at: u64,
    budget: &'a Cell<u64>,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let offset = self.base.checked_add(self.at).ok_or(io::ErrorKind::InvalidInput)?;
        let n = self.file.read_at(buf, offset)?;
        self.at += n as u64;
        let left = self.budget.get().checked_sub(n as u64);
        self.budget.set(left.ok_or_else(|| {
            io::Error::other(format!("an entry's headers have more than {HEADER_LIMIT} bytes"))
        })?);
        Ok(n)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A layout that is being written as an archive. The same members in the same order always make
/// the same bytes: no times, no owners. `index.json` and the end mark come last, so an archive that
/// was not finished is none. (That is why `tar::Builder` is not used: it ends what it drops.)
#[derive(Debug)]
pub struct ArchiveSink<W> {
    to: W,
    shown: String,
}

impl<W: Write> ArchiveSink<W> {
    /// Begins an archive; `shown` is what it is called in errors.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn begin(to: W, shown: &str) -> Result<ArchiveSink<W>, Error> {
        let mut sink = ArchiveSink { to, shown: shown.to_owned() };
        sink.small(OCI_LAYOUT_FILE, OCI_LAYOUT)?;
        Ok(sink)
    }

    /// Takes the bytes of one blob or manifest and proves them.
    ///
    /// # Errors
    /// [`Error::NotProved`], [`Error::Read`], [`Error::Write`].
    pub fn blob(&mut self, descriptor: &Descriptor, from: &mut dyn Read) -> Result<(), Error> {
        self.head(&blob_file(&descriptor.digest), descriptor.size)?;
        copy(&mut Proved::new(descriptor, from), &mut self.to)?;
        self.pad(descriptor.size)
    }

    /// Writes what makes it a layout of this root, and ends it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(mut self, root: &Descriptor, name: Option<&str>) -> Result<W, Error> {
        let index = index_json(root, name)?;
        self.small(INDEX_FILE, &index)?;
        self.write(&[0; 2 * BLOCK as usize])?;
        let source = self.to.flush();
        source.map_err(|source| Error::Write { what: self.shown.clone(), source })?;
        Ok(self.to)
    }

    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.head(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// The header of one file, in GNU's format: its sizes have no limit, and a name of more than
    /// 100 bytes (that of a sha512 blob has 141) comes before as an entry of its own.
    fn head(&mut self, name: &str, size: u64) -> Result<(), Error> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let room = header.as_old().name.len();
        if name.len() > room {
            let mut long = header.clone();
            long.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            long.set_entry_type(EntryType::GNULongName);
            long.set_size(name.len() as u64 + 1);
            long.set_cksum();
            self.write(long.as_bytes())?;
            self.write(name.as_bytes())?;
            self.write(b"\0")?;
            self.pad(name.len() as u64 + 1)?;
        }
        let start = &name.as_bytes()[..name.len().min(room)];
        header.as_old_mut().name[..start.len()].copy_from_slice(start);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let n = (BLOCK - size % BLOCK) % BLOCK;
        self.write(&[0; BLOCK as usize][..n as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let what = || self.shown.clone();
        self.to.write_all(bytes).map_err(|source| Error::Write { what: what(), source })
    }
}

/// Whether a file is a tar archive with an `oci-layout` in it, however wrong it may be otherwise:
/// what a user could mean by its bare path.
pub fn is_oci_archive(file: &ForeignFile) -> bool {
    let budget = Cell::new(HEADER_LIMIT);
    let mut archive = tar::Archive::new(Cursor { file, base: 0, at: 0, budget: &budget });
    let Ok(entries) = archive.entries_with_seek() else { return false };
    entries.map_while(Result::ok).take(Limits::default().entries).any(|entry| {
        budget.set(HEADER_LIMIT);
        let name = entry.path_bytes();
        name.strip_prefix(b"./").unwrap_or(&name) == OCI_LAYOUT_FILE.as_bytes()
    })
}
