//! What this process hashed while it wrote it: that alone is believed without being read again.
//!
//! A proof is of one file, in the repository that it was brought to: it holds for as long as that very file
//! is held by a link and was not changed, and until somebody's lease on it begins anew without its bytes. What
//! is forgotten here is hashed once more, and nothing else is lost.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;

use crate::digest::Digest;
use crate::disk::Stat;
use crate::store::lock;
use crate::workspace::{RepositoryName, Workspace};

/// Proofs that are kept at least; twice as many at most, some eight megabytes.
const N_KEPT: usize = 32 << 10;

/// Proofs by digest, the newer half and the older one.
#[derive(Default)]
pub(crate) struct Proofs {
    halves: Mutex<[HashMap<Digest, Proof>; 2]>,
    random: RandomState,
}

/// Which file it was, and that its bytes have not changed since.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Proof {
    /// Of the repository, a number that nobody can guess.
    place: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl Proof {
    fn of(place: u64, stat: &Stat) -> Proof {
        Proof { place, inode: stat.inode, size: stat.size, modified_ns: stat.modified_ns }
    }
}

impl Proofs {
    /// The file was written and hashed for this repository, and is durable.
    pub(crate) fn note(&self, at: (&Workspace, &RepositoryName), digest: &Digest, stat: &Stat) {
        let place = self.random.hash_one(at);
        let mut halves = lock(&self.halves);
        if halves[0].len() >= N_KEPT {
            halves.swap(0, 1);
            halves[0].clear();
        }
        halves[0].insert(*digest, Proof::of(place, stat));
    }

    /// Damage was found in a file of this digest, or a lease on one began anew: none is believed any more.
    pub(crate) fn forget(&self, digest: &Digest) {
        for half in lock(&self.halves).iter_mut() {
            half.remove(digest);
        }
    }

    /// Whether this very file is proved, in this repository.
    pub(crate) fn has(
        &self,
        at: (&Workspace, &RepositoryName),
        digest: &Digest,
        stat: &Stat,
    ) -> bool {
        let place = self.random.hash_one(at);
        let halves = lock(&self.halves);
        let newest = halves.iter().find_map(|half| half.get(digest));
        newest == Some(&Proof::of(place, stat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Kind;

    #[test]
    fn a_proof_is_of_one_file_and_old_ones_are_forgotten() {
        let proofs = Proofs::default();
        let workspace: Workspace = "w".parse().expect("a workspace");
        let [here, there]: [RepositoryName; 2] =
            ["r", "s"].map(|name| name.parse().expect("a repository"));
        let at = (&workspace, &here);
        let stat = |inode, size, modified_ns| {
            let (kind, n_links, changed_ns) = (Kind::File, 2, 9);
            Stat { kind, size, n_links, inode, modified_ns, changed_ns }
        };
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        proofs.note(at, &digest(0), &stat(7, 100, 5));

        assert!(proofs.has(at, &digest(0), &stat(7, 100, 5)));
        for other in [stat(8, 100, 5), stat(7, 101, 5), stat(7, 100, 6)] {
            assert!(!proofs.has(at, &digest(0), &other), "{other:?}");
        }
        assert!(!proofs.has(at, &digest(1), &stat(7, 100, 5)));
        assert!(!proofs.has((&workspace, &there), &digest(0), &stat(7, 100, 5)));
        (1..N_KEPT).for_each(|n| proofs.note(at, &digest(n), &stat(1, 1, 1)));
        assert!(proofs.has(at, &digest(0), &stat(7, 100, 5)), "still kept");
        (N_KEPT..2 * N_KEPT + 1).for_each(|n| proofs.note(at, &digest(n), &stat(1, 1, 1)));
        assert!(!proofs.has(at, &digest(0), &stat(7, 100, 5)), "long ago");
        proofs.note(at, &digest(0), &stat(7, 100, 5));
        proofs.forget(&digest(0));
        assert!(!proofs.has(at, &digest(0), &stat(7, 100, 5)), "damaged");
    }
}
