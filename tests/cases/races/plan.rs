//! What the threads of one round do, and on which store, as a seed has it.

use std::fmt;
use std::sync::OnceLock;

use cas::digest::Digest;
use cas::workspace::{Name, Workspace};

use crate::crash::fixture::{self, Artifact};

/// An artifact in a workspace, by its number in [`keys`].
pub(crate) type Key = usize;
/// A name of the workspace `default`, by its number in [`names`].
pub(crate) type Tag = usize;

pub(crate) const N_KEYS: usize = 5;
pub(crate) const N_NAMES: usize = 2;
/// The keys with the layer that rots.
pub(crate) const SHARING: [Key; 3] = [0, 1, 3];

/// Which artifact, and whose.
pub(crate) struct Held {
    pub(crate) workspace: Workspace,
    pub(crate) artifact: Artifact,
}

/// All that a round may put: 0, 1 and 3 share a layer, 0 and 3 are the same in two workspaces, 4
/// is a file.
pub(crate) fn keys() -> &'static [Held; N_KEYS] {
    static KEYS: OnceLock<[Held; N_KEYS]> = OnceLock::new();
    KEYS.get_or_init(|| {
        let held = |workspace: &str, artifact: Artifact| Held {
            workspace: workspace.parse().unwrap(),
            artifact,
        };
        [
            held("default", fixture::tree()),
            held("default", fixture::plain()),
            held("default", fixture::lone()),
            held("other", fixture::tree()),
            held("default", fixture::file(0)),
        ]
    })
}

pub(crate) fn names() -> &'static [Name; N_NAMES] {
    static NAMES: OnceLock<[Name; N_NAMES]> = OnceLock::new();
    NAMES.get_or_init(|| ["team/app:latest".parse().unwrap(), "team/app:v1".parse().unwrap()])
}

/// The blob that rots, where one does.
pub(crate) fn rotten() -> Digest {
    fixture::shared_layer()
}

/// One operation of the store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Put(Key, Option<Tag>),
    /// A draft that has everything and is dropped.
    Abandon(Key),
    Retire(Key),
    Check(Key),
    /// A descriptor of the member of this number.
    Blob(Key, usize),
    /// A stream of the member of this number.
    Stream(Key, usize),
    Resolve(Tag),
    List(Key),
    Gc,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Op::Put(key, None) => write!(f, "put {key}"),
            Op::Put(key, Some(tag)) => write!(f, "put {key} as {}", names()[tag]),
            Op::Abandon(key) => write!(f, "abandon {key}"),
            Op::Retire(key) => write!(f, "retire {key}"),
            Op::Check(key) => write!(f, "check {key}"),
            Op::Blob(key, member) => write!(f, "blob {member} of {key}"),
            Op::Stream(key, member) => write!(f, "stream {member} of {key}"),
            Op::Resolve(tag) => write!(f, "resolve {}", names()[tag]),
            Op::List(key) => write!(f, "list the workspace of {key}"),
            Op::Gc => write!(f, "gc"),
        }
    }
}

/// A round.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) what: &'static str,
    /// What the store has when the round begins, with the names that lead there.
    pub(crate) held: Vec<(Key, Option<Tag>)>,
    /// What it had: gc finds the blobs.
    pub(crate) retired: Vec<Key>,
    /// The shared layer is rotten in the store, and so in every layout.
    pub(crate) rots: bool,
    /// Every file and folder is synced by itself.
    pub(crate) crowded: bool,
    pub(crate) threads: Vec<Vec<Op>>,
}

/// Another plan for every seed; the kinds take turns.
pub(crate) fn plan(seed: u64) -> Plan {
    use Op::{Abandon, Blob, Check, Gc, List, Put, Resolve, Retire, Stream};
    let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9));
    let tag = [None, Some(0), Some(1)][rng.below(3) as usize];
    let member = rng.below(4) as usize;
    // What is held, what rots, and what each thread does.
    let (what, held, rots, mut threads) = match seed % 14 {
        0 => ("the same put", vec![], false, vec![Put(0, tag), Put(0, Some(0)), Put(3, None)]),
        1 => ("overlapping puts", vec![], false, vec![Put(0, tag), Put(1, tag), Put(3, None)]),
        2 => ("the same put again", vec![0], false, vec![Put(0, tag), Put(0, Some(0))]),
        3 => ("put and retire", vec![0], false, vec![Put(0, tag), Retire(0)]),
        4 => ("put and gc", vec![], false, vec![Put(0, tag), Gc, Abandon(1)]),
        5 => ("check and healing put", vec![0, 1], true, vec![Check(0), Put(0, tag), Check(1)]),
        6 => ("check and healing put of another", vec![0, 3], true, vec![Check(0), Put(1, tag)]),
        7 => ("check and retire", vec![0], false, vec![Check(0), Retire(0), List(0)]),
        8 => ("checks of a rotten blob", vec![0, 1, 3], true, vec![Check(0), Check(0), Check(1)]),
        9 => ("a name moves", vec![0, 1], false, vec![Put(1, Some(0)), Retire(0), Resolve(0)]),
        10 => (
            "get and retire",
            vec![0, 1],
            false,
            vec![Blob(0, member), Stream(0, member), Retire(0), Gc],
        ),
        11 => ("retire twice", vec![0], false, vec![Retire(0), Retire(0), Put(0, tag)]),
        12 => ("anything on a rotten store", vec![0, 1, 3], true, vec![]),
        _ => ("anything", vec![0, 2, 4], false, vec![]),
    };
    let threads_wanted = threads.len().max(2) + rng.below(2) as usize;
    let any = |rng: &mut Rng| {
        let key = rng.below(N_KEYS as u64) as usize;
        let tag = Some(rng.below(N_NAMES as u64) as usize).filter(|_| key != 3);
        match rng.below(12) {
            0..3 => Put(key, tag.filter(|_| rng.below(2) == 0)),
            3 => Abandon(key),
            4 | 5 => Retire(key),
            6 => Check(key),
            7 => Blob(key, rng.below(4) as usize),
            8 => Stream(key, rng.below(4) as usize),
            9 => Resolve(tag.unwrap_or(0)),
            10 => List(key),
            _ => Gc,
        }
    };
    let mut threads: Vec<Vec<Op>> = threads.drain(..).map(|op| vec![op]).collect();
    threads.resize_with(threads_wanted, Vec::new);
    let is_anything = what.starts_with("anything");
    for thread in &mut threads {
        let n_more = if is_anything { 1 + rng.below(3) } else { rng.below(5) / 3 };
        thread.extend((0..n_more).map(|_| any(&mut rng)));
        if thread.is_empty() {
            thread.push(any(&mut rng));
        }
    }
    let mut free = vec![Some(0), Some(1), None];
    let held = held.into_iter().map(|key: Key| {
        let at = if key == 3 { free.len() - 1 } else { rng.below(free.len() as u64) as usize };
        (key, if free[at].is_some() { free.remove(at) } else { None })
    });
    let held: Vec<_> = held.collect();
    let there = |key: &Key| held.iter().any(|(held, _)| held == key);
    let retired = (0..N_KEYS).filter(|key| !there(key)).filter(|_| rng.below(3) == 0).collect();
    Plan { what, held, retired, rots, crowded: rng.below(3) == 0, threads }
}

/// SplitMix64.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
