//! What a power cut may leave of a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::apply;
use super::state::{Body, Change, Data, Ino, NameMap, Names, ROOT, State};

const SECTOR: usize = 512;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What becomes of unsynced bytes.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// The size grew, the bytes did not come.
    Hollow,
    /// Every sector for itself.
    Torn,
}

/// One legal outcome; the seeds are told at [`super::SimDisk::crash`].
pub(super) fn outcome(state: &State, seed: u64) -> State {
    let mut rng = Rng::new(seed);
    let kept = match seed {
        0 | 2 => Vec::new(),
        1 | 3 => state.log.clone(),
        _ => some_names(state, &mut rng),
    };
    let fate = match seed {
        0 | 3 => Some(Fate::Lost),
        1 | 2 => Some(Fate::Kept),
        _ => [None, None, Some(Fate::Kept), Some(Fate::Lost), Some(Fate::Hollow)]
            [rng.below(5) as usize],
    };
    rebuilt(state, &kept, |data| {
        let fate = fate.unwrap_or_else(|| match rng.below(6) {
            0 => Fate::Lost,
            1 | 2 => Fate::Kept,
            3 => Fate::Hollow,
            _ => Fate::Torn,
        });
        surviving(data, fate, &mut rng)
    })
}

/// A legal subset of the unsynced name changes.
fn some_names(state: &State, rng: &mut Rng) -> Vec<Arc<Change>> {
    let n_changes = state.log.len();
    let until = rng.below(n_changes as u64 + 1) as usize;
    let (shape, lost_folder) = (rng.below(6), {
        let n_inodes = state.next - ROOT;
        ROOT + rng.below(n_inodes)
    });
    let (kept, _) = state.closed_subset(&mut |number, change| match shape {
        // A journal that got so far.
        0 => number < until,
        // All but one change, and one change alone.
        1 => number != until,
        2 => number == until,
        // All but what happened in one folder.
        3 => change.iter().all(|(folder, _, _)| *folder != lost_folder),
        4 => rng.below(2) == 0,
        _ => rng.below(5) != 0,
    });
    kept
}

/// What is left of a file's bytes.
fn surviving(data: &Data, fate: Fate, rng: &mut Rng) -> Arc<Vec<u8>> {
    if data.pending.is_empty() {
        return data.durable.clone();
    }
    match fate {
        Fate::Lost => data.durable.clone(),
        Fate::Kept => data.flushed(),
        Fate::Hollow => {
            let mut bytes = data.durable.as_ref().clone();
            let size = data.pending.iter().map(|write| write.end()).max().unwrap_or(0);
            bytes.resize(size.max(bytes.len()), 0);
            Arc::new(bytes)
        }
        Fate::Torn => {
            // Rolls forward through the writes; each touched sector may be caught at any of them.
            let mut rolled = data.durable.as_ref().clone();
            let mut left = rolled.clone();
            let until = rng.below(data.pending.len() as u64 + 1) as usize;
            let mut size = rolled.len();
            for (number, write) in data.pending.iter().enumerate() {
                write.apply(&mut rolled);
                left.resize(rolled.len(), 0);
                if number < until {
                    size = rolled.len();
                }
                let (first, last) = (write.offset / SECTOR, write.end().div_ceil(SECTOR));
                for sector in first..last {
                    if rng.below(3) != 0 {
                        let end = rolled.len().min((sector + 1) * SECTOR);
                        let range = sector * SECTOR..end;
                        left[range.clone()].copy_from_slice(&rolled[range]);
                    }
                }
            }
            left.truncate(size);
            Arc::new(left)
        }
    }
}

/// The filesystem with those name changes and bytes, and nothing that no name leads to.
fn rebuilt(
    state: &State,
    kept: &[Arc<Change>],
    mut bytes: impl FnMut(&Data) -> Arc<Vec<u8>>,
) -> State {
    let mut folders: BTreeMap<Ino, Arc<NameMap>> = BTreeMap::new();
    for (folder, name, target) in kept.iter().flat_map(|change| change.iter()) {
        let Body::Folder(names) = &state.inode(*folder).body else {
            continue;
        };
        let names = folders.entry(*folder).or_insert_with(|| names.durable.clone());
        apply(Arc::make_mut(names), name, *target);
    }
    let mut left = State { inodes: BTreeMap::new(), log: Vec::new(), ..state.fork() };
    let mut found = vec![ROOT];
    while let Some(number) = found.pop() {
        if let Some(again) = left.inodes.get_mut(&number) {
            Arc::make_mut(again).n_links += 1;
            continue;
        }
        let Some(before) = state.inodes.get(&number) else {
            continue;
        };
        let body = match &before.body {
            Body::File(data) => {
                let bytes = bytes(data);
                Body::File(Data { now: bytes.clone(), durable: bytes, ..Data::default() })
            }
            Body::Folder(names) => {
                let names = folders.remove(&number).unwrap_or_else(|| names.durable.clone());
                found.extend(names.values().copied());
                Body::Folder(Names { now: names.clone(), durable: names })
            }
            other @ (Body::Symlink(_) | Body::Special) => other.clone(),
        };
        let mut inode = before.as_ref().clone();
        (inode.body, inode.n_links, inode.n_opens) = (body, 1, 0);
        left.inodes.insert(number, Arc::new(inode));
    }
    left
}
