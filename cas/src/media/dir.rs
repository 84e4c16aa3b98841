//! An OCI layout in a folder: read from one of the user's, or made new.

use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::{Error, Part, Proved, copy, index_json};
use crate::digest::Algorithm;
use crate::disk::{Foreign, ForeignError, NewFolder};
use crate::layout::{BLOBS, INDEX_FILE, OCI_LAYOUT, OCI_LAYOUT_FILE, blob_file};
use crate::oci::Descriptor;

/// A folder that is read.
#[derive(Debug)]
pub(super) struct Dir(Foreign);

impl Dir {
    pub(super) fn open(folder: &Path, follow_symlinks: bool) -> Result<Dir, Error> {
        Ok(Dir(Foreign::open(folder, follow_symlinks)?))
    }

    pub(super) fn part(&self, name: &str) -> Result<Option<Part>, Error> {
        let file = match self.0.file(name) {
            Err(ForeignError::Missing { .. }) => return Ok(None),
            other => other?,
        };
        let unreadable = |source| ForeignError::Unreadable { file: name.to_owned(), source };
        let len = file.stat().map_err(unreadable)?.size;
        Ok(Some(Part::File { file: Arc::new(file), offset: 0, len }))
    }
}

/// A layout that is being made: blobs in any order and from several threads, then manifests, then
/// `index.json`, then its name. Until then nothing stands at its place.
#[derive(Debug)]
pub struct DirSink {
    folder: NewFolder,
    shown: String,
}

impl DirSink {
    /// Begins a layout at a path where nothing is, for blobs with digests of these algorithms.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Write`].
    pub fn begin(target: &Path, algorithms: &[Algorithm]) -> Result<DirSink, Error> {
        let shown = target.display().to_string();
        let used = Algorithm::ALL.into_iter().filter(|algorithm| algorithms.contains(algorithm));
        let folders: Vec<String> = std::iter::once(BLOBS.to_owned())
            .chain(used.map(|algorithm| format!("{BLOBS}/{}", algorithm.name())))
            .collect();
        let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
        match NewFolder::beside(target, &folders) {
            Ok(folder) => Ok(DirSink { folder, shown }),
            Err(error) => Err(Error::making(&shown, error)),
        }
    }

    /// Takes the bytes of one blob or manifest and proves them.
    ///
    /// # Errors
    /// [`Error::NotProved`], [`Error::Read`], [`Error::Write`].
    pub fn blob(&self, descriptor: &Descriptor, from: &mut dyn Read) -> Result<(), Error> {
        let name = blob_file(&descriptor.digest);
        let mut output = self.folder.create(&name).map_err(|e| self.failed(&name, e))?;
        copy(&mut Proved::new(descriptor, from), &mut output)?;
        output.sync().map_err(|e| self.failed(&name, e))
    }

    /// Writes what makes it a layout of this root, and gives it its name.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Write`].
    pub fn finish(self, root: &Descriptor, name: Option<&str>) -> Result<(), Error> {
        for (file, bytes) in
            [(OCI_LAYOUT_FILE, OCI_LAYOUT.to_vec()), (INDEX_FILE, index_json(root, name)?)]
        {
            let mut output = self.folder.create(file).map_err(|e| self.failed(file, e))?;
            output.write_all(&bytes).map_err(|e| self.failed(file, e))?;
            output.sync().map_err(|e| self.failed(file, e))?;
        }
        self.folder.finish().map_err(|e| Error::making(&self.shown, e))
    }

    /// Gives it up, although other threads may still write to it.
    pub fn discard(&self) {
        self.folder.discard();
    }

    fn failed(&self, name: &str, source: std::io::Error) -> Error {
        Error::Write { what: format!("{}/{name}", self.shown), source }
    }
}
