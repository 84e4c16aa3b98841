//! The names of a simulated filesystem: looked up, changed, made durable.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use super::state::{Body, Change, Ino, NameMap, ROOT, State};
use crate::disk::{Kind, RelPath};

impl State {
    pub(super) fn find(&self, path: &RelPath) -> io::Result<Ino> {
        let mut place = ROOT;
        for part in path.as_str().split('/').filter(|part| !part.is_empty()) {
            self.require_no_symlink(place)?;
            let next = self.names(place)?.get(part);
            place = *next.ok_or_else(|| io::Error::from(Errno::ENOENT))?;
        }
        Ok(place)
    }

    /// The folder and the name of a path, whether or not the name exists.
    pub(super) fn place(&self, path: &RelPath) -> io::Result<(Ino, String)> {
        let (folder, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = self.find(&folder)?;
        self.require_no_symlink(folder)?;
        self.names(folder)?;
        Ok((folder, name.to_owned()))
    }

    /// The folder and the name of a path that must not exist.
    pub(super) fn vacant(&self, path: &RelPath) -> io::Result<(Ino, String)> {
        let (folder, name) = self.place(path)?;
        if self.names(folder)?.contains_key(&name) {
            return Err(Errno::EEXIST.into());
        }
        Ok((folder, name))
    }

    fn require_no_symlink(&self, inode: Ino) -> io::Result<()> {
        match self.inode(inode).kind() {
            Kind::Symlink => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "a symlink is in the way"))
            }
            Kind::File | Kind::Folder | Kind::Special => Ok(()),
        }
    }

    pub(super) fn rename(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        only_new: bool,
    ) -> io::Result<()> {
        let moved = self.find(from)?;
        let (from_folder, from_name) = self.place(from)?;
        let (to_folder, to_name) = self.place(to)?;
        let is_folder = self.inode(moved).kind() == Kind::Folder;
        let inside = to.as_str().strip_prefix(from.as_str());
        if is_folder && inside.is_some_and(|rest| rest.starts_with('/')) {
            return Err(Errno::EINVAL.into());
        }
        if let Some(there) = self.names(to_folder)?.get(&to_name).copied() {
            if only_new {
                return Err(Errno::EEXIST.into());
            }
            if there == moved {
                return Ok(());
            }
            match (is_folder, self.names(there)) {
                (true, Err(_)) => return Err(Errno::ENOTDIR.into()),
                (true, Ok(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY.into()),
                (false, Ok(_)) => return Err(Errno::EISDIR.into()),
                (true, Ok(_)) | (false, Err(_)) => {}
            }
        }
        self.change(vec![(from_folder, from_name, None), (to_folder, to_name, Some(moved))]);
        Ok(())
    }

    /// Changes names now; they are not durable yet.
    pub(super) fn change(&mut self, change: Change) {
        for (folder, name, target) in &change {
            let Body::Folder(names) = &mut self.inode_mut(*folder).body else {
                continue;
            };
            let names = Arc::make_mut(&mut names.now);
            let before = match target {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
            self.touch(*folder, true);
            for (inode, by) in before.map(|i| (i, -1)).into_iter().chain(target.map(|i| (i, 1))) {
                let counted = self.inode_mut(inode);
                counted.n_links = counted.n_links.saturating_add_signed(by);
                self.touch(inode, false);
            }
        }
        self.log.push(Arc::new(change));
    }

    /// Makes the unsynced changes of one folder durable, or all of them. Whatever came before them
    /// at the same names goes along.
    pub(super) fn settle_names(&mut self, folder: Option<Ino>) {
        let wanted = |change: &Change| match folder {
            Some(folder) => change.iter().any(|(place, _, _)| *place == folder),
            None => true,
        };
        let (kept, rest) = self.closed_subset(&mut |_, change| wanted(change));
        for change in kept {
            for (folder, name, target) in change.iter() {
                let Body::Folder(names) = &mut self.inode_mut(*folder).body else {
                    continue;
                };
                apply(Arc::make_mut(&mut names.durable), name, *target);
            }
        }
        self.log = rest;
    }

    /// Splits the unsynced changes: those that `wanted` picks and all earlier ones of the same
    /// names, and the rest; both in order.
    pub(super) fn closed_subset(
        &self,
        wanted: &mut dyn FnMut(usize, &Change) -> bool,
    ) -> (Vec<Arc<Change>>, Vec<Arc<Change>>) {
        let mut tied: BTreeSet<(Ino, &str)> = BTreeSet::new();
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        for (number, change) in self.log.iter().enumerate().rev() {
            let keys = || change.iter().map(|(folder, name, _)| (*folder, name.as_str()));
            if wanted(number, change) || keys().any(|key| tied.contains(&key)) {
                tied.extend(keys());
                kept.push(change.clone());
            } else {
                rest.push(change.clone());
            }
        }
        kept.reverse();
        rest.reverse();
        (kept, rest)
    }
}

pub(super) fn apply(names: &mut NameMap, name: &str, target: Option<Ino>) {
    match target {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

/// FNV-1a: an order of names that is no order.
pub(super) fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
