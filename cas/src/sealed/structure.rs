//! What else a layout holds: its two fixed files, and nothing that does not belong there.

use std::collections::{HashMap, HashSet};
use std::io;

use super::Sealed;
use crate::digest::Algorithm;
use crate::disk::{Create, Entry, Kind, RelPath, write_all_at};
use crate::durable::sync_folder_of;
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
        let index = layout::index_json(root);
        let mut damages = Vec::new();
        for (name, expected) in
            [(layout::OCI_LAYOUT_FILE, layout::OCI_LAYOUT), (layout::INDEX_FILE, &index[..])]
        {
            let path = self.path().join(name);
            if self.look_at_fixed(&path, expected)?.is_none() {
                continue;
            }
            // No damage, if a failed sync dropped what the log still has.
            self.inner().forget_names(&[self.path()])?;
            let _artifact = self.exclude()?;
            // Perhaps somebody has just written it again.
            let Some(what) = self.look_at_fixed(&path, expected)? else { continue };
            match self.heal_fixed(&path, &what, expected)? {
                true => *n_healed += 1,
                false => damages.push(Damage { file: name.to_owned(), what }),
            }
        }
        Ok(damages)
    }

    fn look_at_fixed(&self, path: &RelPath, expected: &[u8]) -> Result<Option<DamageKind>, Error> {
        Ok(match self.inner().disk.open(path) {
            Ok(file) => {
                let bytes = read_small(&*file, expected.len() as u64);
                let bytes = bytes.map_err(Error::disk("reading", path))?;
                (bytes.as_deref() != Some(expected)).then_some(DamageKind::Edited)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(DamageKind::Missing),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Some(DamageKind::NotAFile),
            Err(error) => return Err(Error::disk("opening", path)(error)),
        })
    }

    /// Puts the wrong file away. If such damage was told before, writes the right one: it follows
    /// from the root, which has just been proved.
    fn heal_fixed(
        &self,
        path: &RelPath,
        what: &DamageKind,
        expected: &[u8],
    ) -> Result<bool, Error> {
        let inner = self.inner();
        let disk = &*inner.disk;
        let subject = Subject::Fixed(self.digest);
        let is_known = quarantine::knows(disk, &subject);
        if *what == DamageKind::Missing {
            quarantine::keep(disk, &subject, None);
        } else {
            put_stranger_away(inner, &subject, path)?;
        }
        if !is_known {
            return Ok(false);
        }
        let spare = inner.staging("fixed");
        let file = disk.create(&spare, Create::Buffered);
        let file = file.map_err(Error::disk("creating", &spare))?;
        write_all_at(&*file, expected, 0).map_err(Error::disk("writing", &spare))?;
        file.sync().map_err(Error::disk("syncing", &spare))?;
        disk.rename(&spare, path).map_err(Error::disk("renaming", &spare))?;
        sync_folder_of(disk, path)?;
        Ok(true)
    }

    /// Puts what does not belong there into quarantine.
    pub(super) fn check_strangers(&self, closure: &Closure) -> Result<Vec<Damage>, Error> {
        if strangers(self.inner(), &self.path(), closure)?.is_empty() {
            return Ok(Vec::new());
        }
        let _artifact = self.exclude()?;
        let damages = put_strangers_away(self.inner(), &self.path(), closure)?;
        for Damage { file, .. } in &damages {
            let artifact = self.digest;
            tracing::error!(%artifact, file, "a file that does not belong there was found");
        }
        Ok(damages)
    }
}

/// Finds what does not belong into a layout and puts it into quarantine. The caller excludes
/// others from the layout.
pub(crate) fn put_strangers_away(
    inner: &Inner,
    layout: &RelPath,
    closure: &Closure,
) -> Result<Vec<Damage>, Error> {
    let Some(root) = closure.manifests().last() else { return Ok(Vec::new()) };
    let subject = Subject::Fixed(root.digest());
    let mut damages = Vec::new();
    for (file, path) in strangers(inner, layout, closure)? {
        put_stranger_away(inner, &subject, &path)?;
        damages.push(Damage { file, what: DamageKind::Extra });
    }
    Ok(damages)
}

/// What does not belong into a layout: its name there, and its path.
fn strangers(
    inner: &Inner,
    layout: &RelPath,
    closure: &Closure,
) -> Result<Vec<(String, RelPath)>, Error> {
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
    Ok(strangers)
}

/// A file is copied, so that quarantine holds no link to it; anything else is moved there.
pub(crate) fn put_stranger_away(
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
