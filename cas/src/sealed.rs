//! Artifacts that are whole and durable, and the proof, each time anew, that they still are.
//!
//! Damage is told once, loudly: the bad file goes to quarantine and the check fails. What
//! quarantine knows of is healed at a later check, if the store has the good bytes by then; that
//! is how every layout that shared a rotten blob gets the copy that somebody put again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::digest::{Algorithm, Digest};
use crate::disk::{Create, Entry, File, Kind, RelPath, write_all_at};
use crate::error::{Damage, DamageKind, Error};
use crate::index::Facts;
use crate::layout;
use crate::oci::{self, Closure, Descriptor, Node, media_type};
use crate::quarantine::{self, Subject};
use crate::reader::{Verified, hash, read_small};
use crate::store::{Inner, Store, lock};
use crate::workspace::Workspace;

/// From this size on, a blob that is hashed alone is read ahead by a second thread.
const AHEAD_FROM: u64 = 8 << 20;

/// An artifact that was sealed at some time. Nothing is said of its bytes now.
#[derive(Clone)]
pub struct Sealed {
    store: Store,
    workspace: Workspace,
    digest: Digest,
}

/// An artifact of which every byte was hashed just now.
pub struct Checked {
    path: RelPath,
    closure: Closure,
    size: u64,
    n_healed: u64,
    absent: Vec<Digest>,
}

/// One blob or manifest that was hashed whole just now, still open.
pub struct CheckedBlob {
    digest: Digest,
    size: u64,
    file: Box<dyn File>,
}

/// What a look at a layout found.
struct Inspection {
    closure: Closure,
    absent: Vec<Digest>,
    n_healed: u64,
}

// === impl Sealed ===

impl Sealed {
    pub(crate) fn new(store: Store, workspace: Workspace, digest: Digest) -> Sealed {
        Sealed { store, workspace, digest }
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
        // `oci-layout` is written with the layout and never again.
        let path = self.path();
        let stat = self.inner().disk.stat(&path.join(layout::OCI_LAYOUT_FILE));
        let stat = stat.or_else(|_| self.inner().disk.stat(&path));
        let stat = stat.map_err(Error::disk("looking at", &path))?;
        Ok(u64::try_from(stat.modified_ns / 1_000_000_000).unwrap_or(0))
    }

    fn inner(&self) -> &Inner {
        &self.store.inner
    }

    /// What it reaches. The layout's structure is checked (every file there, of the right size, no
    /// other; `index.json` and `oci-layout` as they must be) and every manifest hashed.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NotFound`], [`Error::Disk`].
    pub fn closure(&self) -> Result<Closure, Error> {
        self.inspect(false).map(|inspection| inspection.closure)
    }

    /// Hashes every byte.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with all that was found, [`Error::NotFound`], [`Error::Disk`].
    pub fn check(&self) -> Result<Checked, Error> {
        let Inspection { closure, absent, n_healed } = self.inspect(true)?;
        let here = |node: &&Node| !absent.contains(&node.digest());
        let size = closure.nodes().iter().filter(here).map(Node::size).sum();
        Ok(Checked { path: self.path(), closure, size, n_healed, absent })
    }

    /// One member, hashed whole, and open.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is no member or absent, [`Error::Corrupt`], [`Error::Disk`].
    pub fn blob(&self, digest: &Digest) -> Result<CheckedBlob, Error> {
        let path = layout::blob_in(&self.path(), digest);
        let size = self.size_of(digest, &path)?;
        let mut n_healed = 0;
        match self.prove(digest, size, true, &mut n_healed)? {
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
        let file = self.inner().disk.open(&path).map_err(Error::disk("opening", &path))?;
        let (sealed, digest) = (self.clone(), *digest);
        let on_rot = Box::new(move || {
            // The reader only knows that something is wrong; this finds out what, and keeps it.
            if let Err(error) = sealed.blob(&digest) {
                tracing::error!(%digest, %error, "a blob turned out damaged while it was served");
            }
        });
        Ok(Verified::new(file, digest, size, on_rot))
    }

    fn size_of(&self, digest: &Digest, path: &RelPath) -> Result<u64, Error> {
        match self.inner().disk.stat(path) {
            Ok(stat) => Ok(stat.size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Perhaps it belongs there and was lost: the closure knows.
                let closure = self.closure()?;
                let node = closure.get(digest);
                node.map(Node::size).ok_or_else(|| Error::NotFound { what: digest.to_string() })
            }
            Err(error) => Err(Error::disk("looking at", path)(error)),
        }
    }

    /// What a listing says of it.
    pub(crate) fn facts(&self) -> Result<Facts, Error> {
        let (root, bytes) = self.root()?;
        let limits = &self.inner().options.limits;
        let layout = self.path();
        let closure = oci::walk(&root, limits, &mut |claim| {
            if claim.digest == root.digest {
                return Ok(bytes.clone());
            }
            let path = layout::blob_in(&layout, &claim.digest);
            let file = self.inner().disk.open(&path).map_err(Error::disk("opening", &path))?;
            let bytes = read_small(&*file, claim.size).map_err(Error::disk("reading", &path))?;
            bytes.ok_or_else(|| Error::NotFound { what: claim.digest.to_string() })
        })?;
        let there = |node: &&Node| {
            self.inner().disk.stat(&layout::blob_in(&layout, &node.digest())).is_ok()
        };
        let size = closure.nodes().iter().filter(there).map(Node::size).sum();
        Ok(facts_of(&closure, size))
    }

    /// After an unclean stop: notes what the index should know, and gives a blob of this layout
    /// that `blobs/` lost its name there back.
    pub(crate) fn relink(&self) -> Result<(), Error> {
        let facts = self.facts()?;
        let index = self.inner().index();
        if let Some(index) = &index {
            index.note(&self.workspace, &self.digest, &facts);
        }
        let blobs = self.path().join(layout::BLOBS);
        for algorithm in Algorithm::ALL {
            for entry in self.inner().entries(&blobs.join(algorithm.name()))? {
                let Ok(digest) = Digest::from_hex(algorithm, &entry.name) else { continue };
                let path = layout::blob_in(&self.path(), &digest);
                let Ok(stat) = self.inner().disk.stat(&path) else { continue };
                if let Some(index) = &index {
                    index.note_size(stat.size);
                }
                let blob = layout::blob(&digest);
                if stat.kind == Kind::File && self.inner().disk.stat(&blob).is_err() {
                    match self.inner().disk.link(&path, &blob) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        other => other.map_err(Error::disk("linking", &path))?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the whole layout, and with `bytes` hashes the blobs as well.
    fn inspect(&self, bytes: bool) -> Result<Inspection, Error> {
        // Retired meanwhile, or never there: that is no damage.
        self.store.sealed(&self.workspace, &self.digest)?;
        let mut n_healed = 0;
        let mut damages = Vec::new();
        let closure = self.walk(&mut n_healed)?;
        let layout = self.path();
        let disk = &*self.inner().disk;

        let mut absent = Vec::new();
        let mut whole = Vec::new();
        for descriptor in closure.blobs() {
            let digest = descriptor.digest;
            if descriptor.may_be_absent()
                && disk.stat(&layout::blob_in(&layout, &digest)).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            {
                absent.push(digest);
                continue;
            }
            whole.push((digest, descriptor.size));
        }
        let depth = if bytes { Depth::Bytes } else { Depth::Sizes };
        for (digest, what) in self.prove_all(whole, depth, &mut n_healed)? {
            damages.push(Damage { file: layout::blob_file(&digest), what });
        }
        damages.extend(put_strangers_away(self.inner(), &layout, &closure, false)?);
        if let Some(root) = closure.manifests().last() {
            damages.extend(self.check_fixed(&root.descriptor(), &mut n_healed)?);
        }
        match damages.is_empty() {
            true => Ok(Inspection { closure, absent, n_healed }),
            false => Err(self.corrupt(damages)),
        }
    }

    fn corrupt(&self, damages: Vec<Damage>) -> Error {
        let artifact = self.digest;
        for damage in &damages {
            tracing::error!(%artifact, workspace = %self.workspace, %damage, "damage was found");
        }
        Error::Corrupt { artifact, damages }
    }

    /// The root's descriptor, made from its own bytes, which are not proved here.
    fn root(&self) -> Result<(Descriptor, Vec<u8>), Error> {
        let path = layout::blob_in(&self.path(), &self.digest);
        let limit = self.inner().options.limits.manifest_size;
        let open = || -> io::Result<Option<Vec<u8>>> {
            let file = self.inner().disk.open(&path)?;
            let size = file.stat()?.size;
            if size > limit { Ok(None) } else { read_small(&*file, size) }
        };
        let bytes = open().map_err(Error::disk("reading", &path))?.unwrap_or_default();
        let media_type = oci::root_media_type(&bytes);
        Ok((Descriptor::new(media_type, self.digest, bytes.len() as u64), bytes))
    }

    /// Reads the root and every manifest below it, each hashed.
    fn walk(&self, n_healed: &mut u64) -> Result<Closure, Error> {
        let path = layout::blob_in(&self.path(), &self.digest);
        let limit = self.inner().options.limits.manifest_size;
        // Nothing but the digest says how large the root is: its own size if that proves right,
        // else that of the store's copy.
        let size_at = |path: &RelPath| self.inner().disk.stat(path).ok().map(|s| s.size.min(limit));
        let own = size_at(&path).unwrap_or(0);
        if self.look(&self.digest, own, false, &path)?.is_err() {
            let size = size_at(&layout::blob(&self.digest)).unwrap_or(own);
            if let Err(what) = self.prove(&self.digest, size, false, n_healed)? {
                let file = layout::blob_file(&self.digest);
                return Err(self.corrupt(vec![Damage { file, what }]));
            }
        }
        let (root, bytes) = self.root()?;
        let limits = self.inner().options.limits;
        oci::walk(&root, &limits, &mut |claim| {
            if claim.digest == root.digest {
                return Ok(bytes.clone());
            }
            match self.prove(&claim.digest, claim.size, false, n_healed)? {
                Ok(file) => {
                    let path = layout::blob_in(&self.path(), &claim.digest);
                    let bytes = read_small(&*file, claim.size);
                    Ok(bytes.map_err(Error::disk("reading", &path))?.unwrap_or_default())
                }
                Err(what) => {
                    let file = layout::blob_file(&claim.digest);
                    Err(self.corrupt(vec![Damage { file, what }]))
                }
            }
        })
    }

    /// Proves many blobs, the largest first, several at once.
    fn prove_all(
        &self,
        mut blobs: Vec<(Digest, u64)>,
        depth: Depth,
        n_healed: &mut u64,
    ) -> Result<Vec<(Digest, DamageKind)>, Error> {
        blobs.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let n_large = blobs.iter().filter(|(_, size)| *size >= AHEAD_FROM).count();
        let n_threads = match depth {
            Depth::Sizes => 1,
            Depth::Bytes => self.inner().options.n_threads.min(n_large).max(1),
        };
        let ahead = n_large < self.inner().options.n_threads.max(2);
        let next = AtomicUsize::new(0);
        let found = Mutex::new((Vec::new(), 0));
        let work = || -> Result<(), Error> {
            let mut healed = 0;
            while let Some((digest, size)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let damage = match depth {
                    Depth::Sizes => self.prove_size(digest, *size, &mut healed)?,
                    Depth::Bytes => self.prove(digest, *size, ahead, &mut healed)?.err(),
                };
                if let Some(what) = damage {
                    lock(&found).0.push((*digest, what));
                }
            }
            lock(&found).1 += healed;
            Ok(())
        };
        if n_threads == 1 {
            work()?;
        } else {
            std::thread::scope(|scope| {
                let helpers: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
                let mut outcome = work();
                for helper in helpers {
                    let died = || Err(Error::disk("checking", &self.path())(io::Error::other("a thread died")));
                    let other = helper.join().unwrap_or_else(|_| died());
                    outcome = outcome.and(other);
                }
                outcome
            })?;
        }
        let (mut damages, healed) = found.into_inner().unwrap_or_default();
        damages.sort_by_key(|(digest, _)| *digest);
        *n_healed += healed;
        Ok(damages)
    }

    /// Is the file there, and as long as it should be?
    fn prove_size(
        &self,
        digest: &Digest,
        size: u64,
        n_healed: &mut u64,
    ) -> Result<Option<DamageKind>, Error> {
        let path = layout::blob_in(&self.path(), digest);
        let stat = self.inner().disk.stat(&path);
        match stat {
            Ok(stat) if stat.kind == Kind::File && stat.size == size => Ok(None),
            _ => self.prove(digest, size, true, n_healed).map(Result::err),
        }
    }

    /// Hashes one member of the layout. A damaged one is healed if it can be, and otherwise put
    /// into quarantine.
    fn prove(
        &self,
        digest: &Digest,
        size: u64,
        ahead: bool,
        n_healed: &mut u64,
    ) -> Result<Result<Box<dyn File>, DamageKind>, Error> {
        let path = layout::blob_in(&self.path(), digest);
        let damage = match self.look(digest, size, ahead, &path)? {
            Ok(file) => return Ok(Ok(file)),
            Err(damage) => damage,
        };
        if quarantine::knows(&*self.inner().disk, &Subject::Blob(*digest))
            && self.heal(digest, size, &path)?
        {
            tracing::warn!(%digest, artifact = %self.digest, "a damaged blob was healed from the store's good copy");
            *n_healed += 1;
            return self.look(digest, size, ahead, &path);
        }
        self.put_away(digest, size, &path)?;
        Ok(Err(damage))
    }

    fn look(
        &self,
        digest: &Digest,
        size: u64,
        ahead: bool,
        path: &RelPath,
    ) -> Result<Result<Box<dyn File>, DamageKind>, Error> {
        let file = match self.inner().disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(DamageKind::Missing));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Ok(Err(DamageKind::NotAFile));
            }
            Err(error) => return Err(Error::disk("opening", path)(error)),
        };
        let actual = file.stat().map_err(Error::disk("looking at", path))?.size;
        if actual != size {
            return Ok(Err(DamageKind::Size { expected: size, actual }));
        }
        let ahead = ahead && size >= AHEAD_FROM;
        let (actual, _) = hash(&*file, digest.algorithm(), size, ahead)
            .map_err(Error::disk("reading", path))?;
        match actual == *digest {
            true => Ok(Ok(file)),
            false => Ok(Err(DamageKind::Bytes { actual })),
        }
    }

    /// Replaces the layout's file by a link to the store's, if that one is another file and good.
    fn heal(&self, digest: &Digest, size: u64, path: &RelPath) -> Result<bool, Error> {
        let inner = self.inner();
        let disk = &*inner.disk;
        let blob = layout::blob(digest);
        let good = match (disk.stat(&blob), disk.stat(path)) {
            (Err(_), _) => return Ok(false),
            (Ok(good), Ok(bad)) if good.inode == bad.inode => return Ok(false),
            (Ok(good), _) if good.kind != Kind::File || good.size != size => return Ok(false),
            (Ok(_), _) => disk.open(&blob).map_err(Error::disk("opening", &blob))?,
        };
        let hashed = hash(&*good, digest.algorithm(), size, false);
        if hashed.map_err(Error::disk("reading", &blob))?.0 != *digest {
            return Ok(false);
        }
        quarantine::keep(disk, &Subject::Blob(*digest), Some(path));
        let spare = inner.staging("heal");
        {
            let _guard = inner.lock_digest(digest);
            disk.link(&blob, &spare).map_err(Error::disk("linking", &blob))?;
        }
        if disk.stat(path).is_ok_and(|stat| stat.kind == Kind::Folder) {
            inner.remove_tree(path)?;
        }
        disk.rename(&spare, path).map_err(Error::disk("renaming", &spare))?;
        self.sync_folder_of(path)?;
        Ok(true)
    }

    fn sync_folder_of(&self, path: &RelPath) -> Result<(), Error> {
        let Some((folder, _)) = path.split() else { return Ok(()) };
        self.inner().disk.sync_dir(&folder).map_err(Error::disk("syncing", &folder))
    }

    /// A damaged file leaves the layout, and if it is the store's own copy, `blobs/` as well, so
    /// that the next put writes it anew. A copy stays in quarantine.
    fn put_away(&self, digest: &Digest, size: u64, path: &RelPath) -> Result<(), Error> {
        let inner = self.inner();
        let disk = &*inner.disk;
        let Ok(stat) = disk.stat(path) else {
            quarantine::keep(disk, &Subject::Blob(*digest), None);
            return Ok(());
        };
        if stat.kind == Kind::File {
            // Twice wrong before anything is removed: a read that went wrong once is no rot.
            if matches!(self.look(digest, size, false, path), Ok(Ok(_))) {
                return Ok(());
            }
            quarantine::keep(disk, &Subject::Blob(*digest), Some(path));
            disk.unlink(path).map_err(Error::disk("removing", path))?;
            let _guard = inner.lock_digest(digest);
            let blob = layout::blob(digest);
            if disk.stat(&blob).is_ok_and(|there| there.inode == stat.inode) {
                disk.unlink(&blob).map_err(Error::disk("removing", &blob))?;
                self.sync_folder_of(&blob)?;
            }
        } else {
            put_stranger_away(inner, &Subject::Blob(*digest), path)?;
        }
        self.sync_folder_of(path)
    }

    /// `index.json` and `oci-layout` must be, byte for byte, what the root demands.
    fn check_fixed(&self, root: &Descriptor, n_healed: &mut u64) -> Result<Vec<Damage>, Error> {
        let inner = self.inner();
        let disk = &*inner.disk;
        let subject = Subject::Fixed(self.digest);
        let index = layout::index_json(root);
        let mut damages = Vec::new();
        for (name, expected) in
            [(layout::OCI_LAYOUT_FILE, layout::OCI_LAYOUT), (layout::INDEX_FILE, &index[..])]
        {
            let path = self.path().join(name);
            let what = match disk.open(&path) {
                Ok(file) => {
                    let bytes = read_small(&*file, expected.len() as u64);
                    let bytes = bytes.map_err(Error::disk("reading", &path))?;
                    if bytes.as_deref() == Some(expected) {
                        continue;
                    }
                    DamageKind::Edited
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => DamageKind::Missing,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => DamageKind::NotAFile,
                Err(error) => return Err(Error::disk("opening", &path)(error)),
            };
            let known = quarantine::knows(disk, &subject);
            if what == DamageKind::Missing {
                quarantine::keep(disk, &subject, None);
            } else {
                put_stranger_away(inner, &subject, &path)?;
            }
            if !known {
                damages.push(Damage { file: name.to_owned(), what });
                continue;
            }
            // Told before: both files follow from the root, which has just been proved.
            let spare = inner.staging("fixed");
            let file = disk.create(&spare, Create::Buffered).map_err(Error::disk("creating", &spare))?;
            write_all_at(&*file, expected, 0).map_err(Error::disk("writing", &spare))?;
            file.sync().map_err(Error::disk("syncing", &spare))?;
            disk.rename(&spare, &path).map_err(Error::disk("renaming", &spare))?;
            self.sync_folder_of(&path)?;
            *n_healed += 1;
        }
        Ok(damages)
    }
}

#[derive(Clone, Copy)]
enum Depth {
    Sizes,
    Bytes,
}

/// Finds what does not belong into a layout and puts it into quarantine. With `told`, the finding
/// is not news to anybody; it is returned all the same.
pub(crate) fn put_strangers_away(
    inner: &Inner,
    layout: &RelPath,
    closure: &Closure,
    told: bool,
) -> Result<Vec<Damage>, Error> {
    let Some(root) = closure.manifests().last() else { return Ok(Vec::new()) };
    let subject = Subject::Fixed(root.digest());
    let mut belongs: HashMap<Algorithm, HashSet<String>> = HashMap::new();
    for node in closure.nodes() {
        let digest = node.digest();
        belongs.entry(digest.algorithm()).or_default().insert(digest.hex());
    }
    let blobs = layout.join(layout::BLOBS);
    let mut strangers: Vec<(String, RelPath)> = Vec::new();
    let mut look = |folder: &RelPath, prefix: String, fits: &dyn Fn(&Entry) -> bool| {
        for entry in inner.entries(folder)? {
            if !fits(&entry) {
                strangers.push((format!("{prefix}{}", entry.name), folder.join(&entry.name)));
            }
        }
        Ok::<(), Error>(())
    };
    look(layout, String::new(), &|entry| match entry.name.as_str() {
        // What kind of thing they are is looked at where they are read.
        layout::OCI_LAYOUT_FILE | layout::INDEX_FILE => true,
        layout::BLOBS => entry.kind == Kind::Folder,
        _ => false,
    })?;
    look(&blobs, format!("{}/", layout::BLOBS), &|entry| {
        let algorithm = Algorithm::from_name(&entry.name);
        entry.kind == Kind::Folder && algorithm.is_some_and(|a| {
            // Every layout has a folder for SHA-256, used or not.
            a == Algorithm::Sha256 || belongs.contains_key(&a)
        })
    })?;
    for (algorithm, names) in &belongs {
        let folder = blobs.join(algorithm.name());
        let prefix = format!("{}/{}/", layout::BLOBS, algorithm.name());
        look(&folder, prefix, &|entry| names.contains(&entry.name))?;
    }
    let mut damages = Vec::new();
    for (file, path) in strangers {
        put_stranger_away(inner, &subject, &path)?;
        if !told {
            tracing::error!(artifact = %root.digest(), file, "a file that does not belong there was found");
        }
        damages.push(Damage { file, what: DamageKind::Extra });
    }
    Ok(damages)
}

/// A file is copied, so that quarantine holds no link to it; anything else is moved there.
fn put_stranger_away(inner: &Inner, subject: &Subject, path: &RelPath) -> Result<(), Error> {
    let disk = &*inner.disk;
    let stat = disk.stat(path).map_err(Error::disk("looking at", path))?;
    quarantine::keep(disk, subject, Some(path));
    if stat.kind == Kind::Folder {
        return quarantine::move_folder(disk, subject, path).map_err(Error::disk("moving", path));
    }
    disk.unlink(path).map_err(Error::disk("removing", path))
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
        title: layer.and_then(title),
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
    pub fn absent(&self) -> &[Digest] {
        &self.absent
    }
}

// === impl CheckedBlob ===

impl CheckedBlob {
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

    /// Reads from the very file that was hashed.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
}
