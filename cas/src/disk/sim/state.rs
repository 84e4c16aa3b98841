//! The state of a simulated filesystem: inodes, names, and what of both is not durable yet.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use super::crash::Rng;
use super::{Fault, PowerCut, Times};
use crate::disk::{Kind, Stat};

pub(super) type Ino = u64;
pub(super) const ROOT: Ino = 1;
pub(super) const BLOCK: u64 = 4096;

/// One change of names, atomic: what each name leads to afterwards.
pub(super) type Change = Vec<(Ino, String, Option<Ino>)>;
pub(super) type NameMap = BTreeMap<String, Ino>;

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) body: Body,
    /// Names that lead here now.
    pub(super) n_links: u64,
    pub(super) n_opens: u64,
    pub(super) mode: u32,
    pub(super) gid: Option<u32>,
    pub(super) modified: i128,
    pub(super) changed: i128,
}

#[derive(Clone)]
pub(super) enum Body {
    File(Data),
    Folder(Names),
    Symlink(String),
    Special,
}

/// The names in a folder; the changes between the two stand in [`State::log`].
#[derive(Clone, Default)]
pub(super) struct Names {
    pub(super) now: Arc<NameMap>,
    pub(super) durable: Arc<NameMap>,
}

/// The bytes of a file.
#[derive(Clone, Default)]
pub(super) struct Data {
    pub(super) now: Arc<Vec<u8>>,
    pub(super) durable: Arc<Vec<u8>>,
    /// What lies between the two, in order.
    pub(super) pending: Vec<Write>,
    /// A sync failed: `now` holds bytes that no sync will make durable.
    pub(super) lost: bool,
    /// How often one failed.
    pub(super) n_errors: u64,
    pub(super) allocated: u64,
}

/// A write; without bytes it only makes the file at least `offset` long.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) offset: usize,
    pub(super) bytes: Arc<[u8]>,
}

impl Write {
    pub(super) fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }

    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.len() < self.end() {
            bytes.resize(self.end(), 0);
        }
        bytes[self.offset..self.end()].copy_from_slice(&self.bytes);
    }
}

impl Data {
    /// A file that is durable as it is.
    pub(super) fn whole(bytes: Vec<u8>) -> Data {
        let bytes = Arc::new(bytes);
        Data { now: bytes.clone(), durable: bytes, ..Data::default() }
    }

    pub(super) fn write(&mut self, write: Write) {
        write.apply(Arc::make_mut(&mut self.now));
        self.pending.push(write);
    }

    /// A sync that succeeds.
    pub(super) fn settle(&mut self) {
        self.durable = self.flushed();
        self.pending.clear();
    }

    /// What would be durable if everything unsynced reached the medium.
    pub(super) fn flushed(&self) -> Arc<Vec<u8>> {
        if !self.lost {
            return self.now.clone();
        }
        let mut bytes = self.durable.as_ref().clone();
        self.pending.iter().for_each(|write| write.apply(&mut bytes));
        Arc::new(bytes)
    }

    /// A sync that fails: the bytes are clean and lost, the size is known.
    pub(super) fn lose(&mut self) {
        if !self.pending.is_empty() {
            self.pending = vec![Write { offset: self.now.len(), bytes: Arc::new([]) }];
            self.lost = true;
        }
        self.n_errors += 1;
    }

    fn blocks(&self) -> u64 {
        (self.now.len() as u64).max(self.allocated).div_ceil(BLOCK) * BLOCK
    }
}

impl Inode {
    fn new(body: Body, tick: i128) -> Inode {
        let mode = if matches!(body, Body::Folder(_)) { 0o755 } else { 0o444 };
        Inode { body, n_links: 0, n_opens: 0, mode, gid: None, modified: tick, changed: tick }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.body {
            Body::File(_) => Kind::File,
            Body::Folder(_) => Kind::Folder,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special => Kind::Special,
        }
    }
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) inodes: BTreeMap<Ino, Arc<Inode>>,
    pub(super) next: Ino,
    /// Name changes that are not durable, in order.
    pub(super) log: Vec<Arc<Change>>,
    pub(super) tick: i128,

    pub(super) link_limit: u64,
    pub(super) capacity: Option<u64>,
    pub(super) crowded: bool,
    pub(super) shorts: Option<Rng>,

    pub(super) n_calls: u64,
    pub(super) stop_at: Option<u64>,
    pub(super) faults: Vec<(u64, Fault, Times)>,
    pub(super) n_faults: u64,
    pub(super) trace: Option<Vec<String>>,
    pub(super) locks: BTreeMap<Ino, String>,
    /// A file's sync failed and no `sync_all` has said so yet.
    pub(super) unheard_loss: bool,
}

impl State {
    pub(super) fn new() -> State {
        let mut root = Inode::new(Body::Folder(Names::default()), 0);
        root.n_links = 1;
        State {
            inodes: BTreeMap::from([(ROOT, Arc::new(root))]),
            next: ROOT + 1,
            log: Vec::new(),
            tick: 1_700_000_000_000_000_000,
            link_limit: 65_000,
            capacity: None,
            crowded: false,
            shorts: None,
            n_calls: 0,
            stop_at: None,
            faults: Vec::new(),
            n_faults: 0,
            trace: None,
            locks: BTreeMap::new(),
            unheard_loss: false,
        }
    }

    /// The same filesystem as a new process finds it.
    pub(super) fn fork(&self) -> State {
        let mut fork = State {
            n_calls: 0,
            stop_at: None,
            faults: Vec::new(),
            n_faults: 0,
            trace: None,
            locks: BTreeMap::new(),
            unheard_loss: false,
            ..self.clone()
        };
        for inode in fork.inodes.values_mut() {
            if inode.n_opens > 0 {
                Arc::make_mut(inode).n_opens = 0;
            }
        }
        fork
    }

    /// Numbers a call and decides whether it happens.
    pub(super) fn call(
        &mut self,
        name: &str,
        what: impl FnOnce() -> String,
        needs_room: bool,
    ) -> io::Result<()> {
        let number = self.n_calls;
        self.n_calls += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{number} {name} {}", what()));
        }
        if self.stop_at.is_some_and(|n| number >= n) {
            return Err(io::Error::other(PowerCut));
        }
        let strikes = |(from, fault, _): &(u64, Fault, Times)| {
            number >= *from && (needs_room || *fault == Fault::Io)
        };
        let Some(place) = self.faults.iter().position(strikes) else {
            return Ok(());
        };
        let (_, fault, times) = self.faults[place];
        if times == Times::Once {
            self.faults.remove(place);
        }
        self.n_faults += 1;
        Err(match fault {
            Fault::Io => Errno::EIO,
            Fault::NoSpace => Errno::ENOSPC,
        }
        .into())
    }

    // === inodes ===

    pub(super) fn inode(&self, inode: Ino) -> &Inode {
        // Every number that is asked for was found in a name or is held open; the root stands in
        // for one that was not, so that a mistake here shows as a wrong answer and not as a panic.
        self.inodes.get(&inode).unwrap_or_else(|| &self.inodes[&ROOT])
    }

    pub(super) fn inode_mut(&mut self, inode: Ino) -> &mut Inode {
        let tick = self.tick;
        let slot = self.inodes.entry(inode);
        Arc::make_mut(slot.or_insert_with(|| Arc::new(Inode::new(Body::Special, tick))))
    }

    pub(super) fn add(&mut self, body: Body) -> Ino {
        let inode = self.next;
        self.next += 1;
        self.tick += 1_000;
        self.inodes.insert(inode, Arc::new(Inode::new(body, self.tick)));
        inode
    }

    pub(super) fn with_data<T>(&self, inode: Ino, look: impl FnOnce(&Data) -> T) -> io::Result<T> {
        match &self.inode(inode).body {
            Body::File(data) => Ok(look(data)),
            Body::Folder(_) => Err(Errno::EISDIR.into()),
            Body::Symlink(_) | Body::Special => Err(Errno::EINVAL.into()),
        }
    }

    pub(super) fn with_data_mut<T>(
        &mut self,
        inode: Ino,
        act: impl FnOnce(&mut Data) -> T,
    ) -> io::Result<T> {
        match &mut self.inode_mut(inode).body {
            Body::File(data) => Ok(act(data)),
            Body::Folder(_) => Err(Errno::EISDIR.into()),
            Body::Symlink(_) | Body::Special => Err(Errno::EINVAL.into()),
        }
    }

    pub(super) fn names(&self, folder: Ino) -> io::Result<&NameMap> {
        match &self.inode(folder).body {
            Body::Folder(names) => Ok(&names.now),
            Body::File(_) | Body::Symlink(_) | Body::Special => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn stat(&self, number: Ino) -> Stat {
        let inode = self.inode(number);
        Stat {
            kind: inode.kind(),
            size: self.with_data(number, |data| data.now.len() as u64).unwrap_or(0),
            n_links: if inode.kind() == Kind::Folder { 2 } else { inode.n_links },
            inode: number,
            modified_ns: inode.modified,
            changed_ns: inode.changed,
        }
    }

    pub(super) fn touch(&mut self, inode: Ino, bytes: bool) {
        self.tick += 1_000;
        let tick = self.tick;
        let inode = self.inode_mut(inode);
        inode.changed = tick;
        if bytes {
            inode.modified = tick;
        }
    }

    /// Bytes in use: whatever has a name or is open.
    pub(super) fn used(&self) -> u64 {
        let alive = self.inodes.values().filter(|i| i.n_links > 0 || i.n_opens > 0);
        alive
            .map(|inode| match &inode.body {
                Body::File(data) => data.blocks(),
                Body::Folder(_) => BLOCK,
                Body::Symlink(_) | Body::Special => 0,
            })
            .sum()
    }

    /// Bytes that still fit.
    pub(super) fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    pub(super) fn require_room(&self, bytes: u64) -> io::Result<()> {
        if self.capacity.is_some() && self.room() < bytes {
            return Err(Errno::ENOSPC.into());
        }
        Ok(())
    }

    // === bytes ===

    pub(super) fn settle_all_bytes(&mut self) {
        for inode in self.dirty() {
            let _ = self.with_data_mut(inode, Data::settle);
        }
    }

    pub(super) fn lose_all_bytes(&mut self) {
        for inode in self.dirty() {
            let _ = self.with_data_mut(inode, Data::lose);
        }
    }

    fn dirty(&self) -> Vec<Ino> {
        let dirty = self.inodes.iter().filter(|(_, inode)| match &inode.body {
            Body::File(data) => !data.pending.is_empty(),
            Body::Folder(_) | Body::Symlink(_) | Body::Special => false,
        });
        dirty.map(|(number, _)| *number).collect()
    }
}
