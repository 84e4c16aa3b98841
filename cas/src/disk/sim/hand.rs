//! What tests do to a simulated disk behind the store's back: look, rot, tamper. Nothing here is
//! numbered, nothing fails by injection, and every change is durable at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use super::SimDisk;
use super::names::apply;
use super::state::{Body, Data, Ino, Names, ROOT, State};
use crate::disk::{Kind, RelPath};

/// What a look at one path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub kind: Kind,
    /// The bytes of a file; the target of a symlink.
    pub bytes: Arc<Vec<u8>>,
    /// Names that lead to it.
    pub n_links: u64,
    /// Which file it is.
    pub inode: u64,
    /// The mode.
    pub mode: u32,
    /// The group that was set.
    pub gid: Option<u32>,
}

impl SimDisk {
    /// Everything below the root by path.
    pub fn snapshot(&self) -> BTreeMap<String, Seen> {
        let state = self.state();
        let mut seen = BTreeMap::new();
        let mut folders = vec![(String::new(), ROOT)];
        while let Some((path, folder)) = folders.pop() {
            for (name, number) in state.names(folder).into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if state.inode(*number).kind() == Kind::Folder {
                    folders.push((path.clone(), *number));
                }
                seen.insert(path, look(&state, *number));
            }
        }
        seen
    }

    /// The regular files below the root by path.
    pub fn files(&self) -> BTreeMap<String, Seen> {
        let mut seen = self.snapshot();
        seen.retain(|_, seen| seen.kind == Kind::File);
        seen
    }

    /// Everything below the root as text, for a report.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (path, seen) in self.snapshot() {
            let Seen { kind, bytes, n_links, inode, .. } = seen;
            let _ = writeln!(
                text,
                "{path}  {kind:?} {} B, inode {inode}, {n_links} links",
                bytes.len()
            );
        }
        text
    }

    /// Flips every bit of the byte at `offset`, in every name of that file; past its end, the last one.
    ///
    /// # Errors
    /// `NotFound`, and what else a path can be wrong for; `InvalidInput` for an empty file.
    pub fn corrupt(&self, path: &RelPath, offset: usize) -> io::Result<()> {
        self.tamper(path, |bytes| {
            let last = bytes.len().checked_sub(1);
            let last = last.ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
            bytes[offset.min(last)] ^= 0xff;
            Ok(())
        })
    }

    /// Sets a file's size; what is new is zeros.
    ///
    /// # Errors
    /// `NotFound`, and what else a path can be wrong for.
    pub fn truncate(&self, path: &RelPath, size: usize) -> io::Result<()> {
        self.tamper(path, |bytes| {
            bytes.resize(size, 0);
            Ok(())
        })
    }

    /// Writes a file's bytes anew, in every name that it has.
    ///
    /// # Errors
    /// `NotFound`, and what else a path can be wrong for.
    pub fn overwrite(&self, path: &RelPath, with: &[u8]) -> io::Result<()> {
        self.tamper(path, |bytes| {
            *bytes = with.to_vec();
            Ok(())
        })
    }

    /// Puts a file of its own at this path, whatever file was there.
    ///
    /// # Errors
    /// `NotFound` when its folder is missing.
    pub fn plant(&self, path: &RelPath, bytes: &[u8]) -> io::Result<()> {
        self.put(path, Some(Body::File(Data::whole(bytes.to_vec()))))
    }

    /// Puts an empty folder at this path.
    ///
    /// # Errors
    /// `NotFound` when its folder is missing.
    pub fn plant_dir(&self, path: &RelPath) -> io::Result<()> {
        self.put(path, Some(Body::Folder(Names::default())))
    }

    /// Puts a symlink at this path.
    ///
    /// # Errors
    /// `NotFound` when its folder is missing.
    pub fn plant_symlink(&self, path: &RelPath, target: &str) -> io::Result<()> {
        self.put(path, Some(Body::Symlink(target.to_owned())))
    }

    /// Puts a FIFO at this path.
    ///
    /// # Errors
    /// `NotFound` when its folder is missing.
    pub fn plant_special(&self, path: &RelPath) -> io::Result<()> {
        self.put(path, Some(Body::Special))
    }

    /// Ends a name, and with a folder's name all that is in it.
    ///
    /// # Errors
    /// `NotFound`, and what else a path can be wrong for.
    pub fn erase(&self, path: &RelPath) -> io::Result<()> {
        self.state().find(path)?;
        self.put(path, None)
    }

    fn tamper(
        &self,
        path: &RelPath,
        act: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(path)?;
        state.with_data_mut(inode, |data| {
            let mut bytes = data.now.as_ref().clone();
            act(&mut bytes)?;
            *data = Data { n_errors: data.n_errors, ..Data::whole(bytes) };
            Ok(())
        })?
    }

    fn put(&self, path: &RelPath, body: Option<Body>) -> io::Result<()> {
        let mut state = self.state();
        let (folder, name) = state.place(path)?;
        let inode = body.map(|body| state.add(body));
        state.change(vec![(folder, name.clone(), inode)]);
        // Past the unsynced changes of the same name, which are then none any more.
        state.log.pop();
        let (same_name, rest) = state.closed_subset(&mut |_, change| {
            change.iter().any(|(place, other, _)| *place == folder && *other == name)
        });
        state.log = same_name;
        state.settle_names(None);
        state.log = rest;
        if let Body::Folder(names) = &mut state.inode_mut(folder).body {
            apply(Arc::make_mut(&mut names.durable), &name, inode);
        }
        Ok(())
    }
}

fn look(state: &State, number: Ino) -> Seen {
    let inode = state.inode(number);
    let bytes = match &inode.body {
        Body::File(data) => data.now.clone(),
        Body::Symlink(target) => Arc::new(target.clone().into_bytes()),
        Body::Folder(_) | Body::Special => Arc::default(),
    };
    let (mode, gid) = (inode.mode, inode.gid);
    Seen {
        kind: inode.kind(),
        bytes,
        n_links: state.stat(number).n_links,
        inode: number,
        mode,
        gid,
    }
}
