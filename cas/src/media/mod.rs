//! Artifacts outside of the store: where they are read from, and where copies go.
//!
//! A [`Layout`] is an OCI image layout of somebody else, in a folder or in an archive that is read
//! in place. It yields descriptors and, for each, the [`Part`] of a file that claims to be its
//! bytes. Nothing here hashes blobs of a source: who takes them in does. A sink hashes what it is
//! given and finishes only with what was proved. This room knows nothing of stores and sockets.
//!
//! Formats: image-spec 1.1 "Image Layout", and the archives of it that skopeo, buildx and
//! `docker save` write (the latter with docker's own `manifest.json` beside it, which is ignored).

mod archive;
mod dir;
mod error;
mod file;

use std::sync::Arc;

use base64::Engine as _;

use crate::digest::Digest;
use crate::disk::ForeignFile;
use crate::layout::{INDEX_FILE, OCI_LAYOUT_FILE, blob_file};
use crate::oci::{Closure, Descriptor, Limits, Manifest, Refusal, media_type, walk};

pub use archive::{ArchiveSink, is_oci_archive};
pub use dir::DirSink;
pub use error::Error;
pub use file::{Proved, copy};

/// The name of an entry of `index.json` (image-spec 1.1, "Pre-Defined Annotation Keys").
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name that containerd, buildx and docker give it.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// `oci-layout` holds one short text; more than this is something else.
const OCI_LAYOUT_LIMIT: u64 = 4096;

/// The bytes of one blob, where they lie. They are claimed, not proved.
#[derive(Clone, Debug)]
pub enum Part {
    /// A range of an open file.
    File {
        /// The file: the blob's own, or the whole archive.
        file: Arc<ForeignFile>,
        /// Where the blob begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
    },
    /// The `data` of the descriptor, for a blob that has no file.
    Inline(Vec<u8>),
}

impl Part {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Part::File { len, .. } => *len,
            Part::Inline(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all of it, which its caller knows to be small.
    ///
    /// # Errors
    /// [`Error::Read`], also when the file is shorter by now.
    pub fn read(&self, what: &str) -> Result<Vec<u8>, Error> {
        let (file, mut offset, len) = match self {
            Part::Inline(bytes) => return Ok(bytes.clone()),
            Part::File { file, offset, len } => (file, *offset, *len),
        };
        let failed = |source| Error::Read { what: what.to_owned(), source };
        let len =
            usize::try_from(len).map_err(|_| failed(std::io::ErrorKind::FileTooLarge.into()))?;
        let mut bytes = vec![0; len];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            match file.read_at(rest, offset) {
                Ok(0) => return Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => {
                    offset += n as u64;
                    rest = &mut rest[n..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(bytes)
    }
}

/// Where the files of a layout lie.
#[derive(Debug)]
enum Place {
    Dir(dir::Dir),
    Archive(archive::Archive),
}

impl Place {
    /// The file of that name; `None` when there is none.
    fn part(&self, name: &str) -> Result<Option<Part>, Error> {
        match self {
            Place::Dir(dir) => dir.part(name),
            Place::Archive(archive) => Ok(archive.part(name)),
        }
    }

    /// A whole small file; what exceeds `limit` is refused by `too_large`, told the size.
    fn read(
        &self,
        name: &str,
        limit: u64,
        too_large: &dyn Fn(u64) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let missing = || Error::NotLayout {
            reason: format!("{name} is missing"),
            is_docker: matches!(self.part("manifest.json"), Ok(Some(_))),
        };
        let part = self.part(name)?.ok_or_else(missing)?;
        match part.len() > limit {
            true => Err(too_large(part.len())),
            false => part.read(name),
        }
    }
}

/// An OCI layout of somebody else.
#[derive(Debug)]
pub struct Layout {
    place: Place,
    /// What the user types to mean this layout, such as `oci:DIR`.
    typed: String,
    entries: Vec<Descriptor>,
    limits: Limits,
}

impl Layout {
    /// Opens the layout in a folder. `typed` is how the user says it, without tag and digest; it
    /// comes back in the references of [`Layout::candidates`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_dir(
        folder: &std::path::Path,
        typed: &str,
        follow_symlinks: bool,
        limits: &Limits,
    ) -> Result<Layout, Error> {
        Layout::open(Place::Dir(dir::Dir::open(folder, follow_symlinks)?), typed, limits)
    }

    /// Opens the layout in a tar archive, which begins at `offset` in the file.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_archive(
        file: ForeignFile,
        offset: u64,
        typed: &str,
        limits: &Limits,
    ) -> Result<Layout, Error> {
        let archive = archive::Archive::open(file, offset, limits)?;
        Layout::open(Place::Archive(archive), typed, limits)
    }

    fn open(place: Place, typed: &str, limits: &Limits) -> Result<Layout, Error> {
        check_version(&place)?;
        let limit = limits.manifest_size;
        let too_large = |size| Error::IndexTooLarge { size, limit };
        let index = place.read(INDEX_FILE, limit, &too_large)?;
        let claim =
            Descriptor::new(media_type::IMAGE_INDEX, Digest::of(&index), index.len() as u64);
        let index = Manifest::parse(&claim, index, limits).map_err(Error::Index)?;
        let entries = index.children().to_vec();
        Ok(Layout { place, typed: typed.to_owned(), entries, limits: *limits })
    }

    /// What `index.json` lists, each as a reference to type.
    pub fn candidates(&self) -> Vec<String> {
        self.references(&self.entries.iter().collect::<Vec<_>>())
    }

    fn references(&self, entries: &[&Descriptor]) -> Vec<String> {
        let is_alone = |name: &str| {
            let digests = self.entries.iter().filter(|e| has_name(e, name)).map(|e| e.digest);
            digests.collect::<std::collections::HashSet<_>>().len() == 1
        };
        let mut references = Vec::new();
        for entry in entries {
            let name = names(entry).find(|name| is_alone(name));
            let reference = match name {
                Some(name) => format!("{}:{name}", self.typed),
                None => format!("{}@{}", self.typed, entry.digest),
            };
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        references
    }

    /// The one entry that is meant; it is never guessed. A name is compared with both annotations
    /// that producers use. A digest may also be that of a manifest inside a listed index.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] and [`Error::NotListed`], or what reading an index failed with.
    pub fn pick(&self, name: Option<&str>, digest: Option<&Digest>) -> Result<Descriptor, Error> {
        let wanted = match (name, digest) {
            (None, None) => self.typed.clone(),
            (Some(name), None) => format!("{}:{name}", self.typed),
            (None, Some(digest)) => format!("{}@{digest}", self.typed),
            (Some(name), Some(digest)) => format!("{}:{name}@{digest}", self.typed),
        };
        let mut found: Vec<&Descriptor> = Vec::new();
        for entry in &self.entries {
            let fits = name.is_none_or(|name| has_name(entry, name))
                && digest.is_none_or(|digest| entry.digest == *digest);
            // One image under two names is still one image.
            if fits && !found.iter().any(|e| e.digest == entry.digest) {
                found.push(entry);
            }
        }
        match (found.as_slice(), name, digest) {
            ([only], ..) => Ok((*only).clone()),
            ([], None, Some(digest)) => {
                let entries = self.entries.clone();
                let inner = self.find(digest, &entries, self.limits.depth)?;
                inner.ok_or_else(|| Error::NotListed { wanted, candidates: self.candidates() })
            }
            ([], ..) => Err(Error::NotListed { wanted, candidates: self.candidates() }),
            (several, ..) => Err(Error::Ambiguous { wanted, candidates: self.references(several) }),
        }
    }

    /// Looks for a manifest inside the indexes among `entries`.
    fn find(
        &self,
        digest: &Digest,
        entries: &[Descriptor],
        depth: usize,
    ) -> Result<Option<Descriptor>, Error> {
        for index in entries.iter().filter(|e| media_type::is_index(&e.media_type)) {
            if depth == 0 {
                break;
            }
            let manifest = Manifest::parse(index, self.document(index)?, &self.limits)?;
            let children = manifest.children();
            if let Some(child) = children.iter().find(|c| c.digest == *digest) {
                return Ok(Some(child.clone()));
            }
            if let Some(child) = self.find(digest, children, depth - 1)? {
                return Ok(Some(child));
            }
        }
        Ok(None)
    }

    /// Where the bytes of a descriptor lie.
    ///
    /// # Errors
    /// [`Refusal::Missing`] and [`Refusal::WrongSize`], or why the file is not read.
    pub fn part(&self, of: &Descriptor) -> Result<Part, Error> {
        let part = match (self.place.part(&blob_file(&of.digest))?, &of.data) {
            (Some(part), _) => part,
            (None, Some(data)) => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(data);
                Part::Inline(decoded.map_err(|error| {
                    let reason = format!("its inline data: {error}");
                    Refusal::Malformed { digest: of.digest, reason }
                })?)
            }
            (None, None) => {
                let media_type = of.media_type.clone();
                return Err(Refusal::Missing { digest: of.digest, media_type }.into());
            }
        };
        if part.len() != of.size {
            let (claimed, actual) = (of.size, part.len());
            return Err(Refusal::WrongSize { digest: of.digest, claimed, actual }.into());
        }
        Ok(part)
    }

    fn document(&self, claim: &Descriptor) -> Result<Vec<u8>, Error> {
        if claim.size > self.limits.manifest_size {
            let limit = self.limits.manifest_size;
            return Err(Refusal::TooLarge { digest: claim.digest, size: claim.size, limit }.into());
        }
        self.part(claim)?.read(&blob_file(&claim.digest))
    }

    /// Everything that `root` reaches. Its documents are hashed and parsed; of its blobs it is
    /// checked that a file of the right size is there, unless they may be absent.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn closure(&self, root: &Descriptor) -> Result<Closure, Error> {
        let closure = walk(root, &self.limits, &mut |claim| self.document(claim))?;
        for blob in closure.blobs() {
            match self.part(blob) {
                Err(Error::Refused(Refusal::Missing { .. })) if blob.may_be_absent() => {}
                other => drop(other?),
            }
        }
        Ok(closure)
    }
}

/// The names of an entry, the short one first.
fn names(entry: &Descriptor) -> impl Iterator<Item = &str> {
    [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| entry.annotations.get(key)).map(|n| &**n)
}

fn has_name(entry: &Descriptor, name: &str) -> bool {
    names(entry).any(|n| n == name)
}

/// Image-spec 1.1: `imageLayoutVersion` must be there, and the version is 1.0.0 until the format
/// changes. Any 1.x is read.
fn check_version(place: &Place) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct OciLayout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let not_layout = |reason: String| Error::NotLayout { reason, is_docker: false };
    let too_large = |size| not_layout(format!("{OCI_LAYOUT_FILE} has {size} bytes"));
    let bytes = place.read(OCI_LAYOUT_FILE, OCI_LAYOUT_LIMIT, &too_large)?;
    let layout: OciLayout = serde_json::from_slice(&bytes)
        .map_err(|error| not_layout(format!("{OCI_LAYOUT_FILE}: {error}")))?;
    match layout.version.split('.').next() {
        Some("1") => Ok(()),
        _ => Err(not_layout(format!("its version is {:?}, not 1.0.0", layout.version))),
    }
}

/// `index.json` with one entry, named or not.
fn index_json(root: &Descriptor, name: Option<&str>) -> Result<Vec<u8>, Error> {
    let Some(name) = name else { return Ok(crate::layout::index_json(root)) };
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        schema_version: u8,
        media_type: &'static str,
        manifests: [Descriptor; 1],
    }
    let mut entry = Descriptor::new(root.media_type.clone(), root.digest, root.size);
    entry.annotations.insert(REF_NAME.to_owned(), name.to_owned());
    let index =
        Index { schema_version: 2, media_type: media_type::IMAGE_INDEX, manifests: [entry] };
    serde_json::to_vec(&index)
        .map_err(|error| Error::Write { what: INDEX_FILE.to_owned(), source: error.into() })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests;
