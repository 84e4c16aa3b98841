//! What else a layout holds: its two fixed files, and nothing that does not belong there.

use std::collections::{HashMap, HashSet};
use std::io;

use super::Sealed;
use crate::digest::Algorithm;
use crate::disk::{Create, Entry, Kind, RelPath, write_all_at};
use crate::error::{Damage, DamageKind, Error};
use crate::layout;
use crate::oci::{Closure, Descriptor};
use crate::quarantine::{self, Subject};
use crate::reader::read_small;
use crate::store::Inner;

impl Sealed {
    /// `index.json` and `oci-layout` must be, byte for byte, what the root demands.
    pub(super) fn check_fixed(
        &self,
        root: &Descriptor,
        n_healed: &mut u64,
    ) -> Result<Vec<Damage>, Error> {
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
            // Retired meanwhile: that is no damage.
            self.store.sealed(&self.workspace, &self.digest)?;
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
            let file =
                disk.create(&spare, Create::Buffered).map_err(Error::disk("creating", &spare))?;
            write_all_at(&*file, expected, 0).map_err(Error::disk("writing", &spare))?;
            file.sync().map_err(Error::disk("syncing", &spare))?;
            disk.rename(&spare, &path).map_err(Error::disk("renaming", &spare))?;
            self.sync_folder_of(&path)?;
            *n_healed += 1;
        }
        Ok(damages)
    }
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
        entry.kind == Kind::Folder
            && algorithm.is_some_and(|a| {
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
pub(super) fn put_stranger_away(
    inner: &Inner,
    subject: &Subject,
    path: &RelPath,
) -> Result<(), Error> {
    let disk = &*inner.disk;
    let stat = disk.stat(path).map_err(Error::disk("looking at", path))?;
    quarantine::keep(disk, subject, Some(path));
    if stat.kind == Kind::Folder {
        return quarantine::move_away(disk, subject, path).map_err(Error::disk("moving", path));
    }
    disk.unlink(path).map_err(Error::disk("removing", path))
}
