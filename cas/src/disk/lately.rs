//! What was read lately, believed for as long as it is what it was.
//!
//! A small file or listing that many ask for is kept together with a descriptor of where it came from.
//! Two things end that. Whoever takes a name away or gives it to another file through this disk
//! says so here when that is done. And whoever asks again has the kernel tell what it knows of that
//! descriptor, which waits for no disk and walks no path: what others did to its bytes or names shows in
//! its times. What was changed just before it was read is not kept, for the clock of a filesystem may not
//! tell that change from the next one.
//!
//! This is where bytes come from, and nothing more: whoever gives them out has proved them first.

#![allow(clippy::disallowed_methods, reason = "this is the room of filesystem calls")]

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::stat::fstat;
use nix::time::{ClockId, clock_gettime};

use super::real::stat_of;
use super::{RelPath, Stat};

/// How much is kept, in items and in bytes. Who comes then takes the place of any other.
const MOST: usize = 256;
const MOST_BYTES: usize = 2 << 20;
/// How long something must have been what it is: ten steps of the slowest clock of a kernel, and more
/// where times are kept in whole seconds.
const SETTLED: Duration = Duration::from_millis(100);
const SETTLED_BY_THE_SECOND: Duration = Duration::from_secs(3);

pub(super) struct Lately<T> {
    known: Mutex<Known<T>>,
}

struct Known<T> {
    by_path: HashMap<String, Arc<Kept<T>>>,
    bytes: usize,
    /// How often something was changed through this disk.
    n_changes: u64,
}

struct Kept<T> {
    place: OwnedFd,
    was: Stat,
    what: T,
    bytes: usize,
}

/// What was read of a place, after it was [`Seen`].
pub(super) struct JustRead<T> {
    pub(super) place: OwnedFd,
    pub(super) seen: Seen,
    pub(super) what: T,
    pub(super) bytes: usize,
}

impl<T> Default for Lately<T> {
    fn default() -> Lately<T> {
        Lately { known: Mutex::new(Known { by_path: HashMap::new(), bytes: 0, n_changes: 0 }) }
    }
}

impl<T> Known<T> {
    /// Takes something out. It is dropped by the caller, who no longer holds the lock: what was
    /// deleted meanwhile ends for good with its last descriptor.
    fn remove(&mut self, path: &str) -> Option<Arc<Kept<T>>> {
        let kept = self.by_path.remove(path)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }
}

impl<T: Clone> Lately<T> {
    fn known(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept of that path, if it is still what is there.
    pub(super) fn get(&self, path: &RelPath) -> Option<T> {
        let kept = self.known().by_path.get(path.as_str()).cloned()?;
        if fstat(&kept.place).is_ok_and(|stat| stat_of(&stat) == kept.was) {
            return Some(kept.what.clone());
        }
        let mut known = self.known();
        // Not what somebody else has put there meanwhile.
        let is_there = known.by_path.get(path.as_str()).is_some_and(|now| Arc::ptr_eq(now, &kept));
        let removed = is_there.then(|| known.remove(path.as_str()));
        drop(known);
        drop(removed);
        None
    }

    /// Keeps what was read, if it can be told from what may come after it and its path still leads
    /// there.
    pub(super) fn keep(
        &self,
        path: &RelPath,
        read: JustRead<T>,
        still_leads: impl FnOnce() -> bool,
    ) {
        let JustRead { place, seen, what, bytes } = read;
        if bytes > MOST_BYTES || !seen.is_settled() {
            return;
        }
        // A name that is being taken away may still lead there when its file has changed for the
        // last time. Whoever does that says so afterwards.
        let n_changes = self.known().n_changes;
        if !still_leads() {
            return;
        }
        let mut removed = Vec::new();
        let mut known = self.known();
        if known.n_changes == n_changes {
            removed.extend(known.remove(path.as_str()));
            while known.by_path.len() >= MOST || known.bytes + bytes > MOST_BYTES {
                let Some(any) = known.by_path.keys().next().cloned() else { break };
                removed.extend(known.remove(&any));
            }
            known.bytes += bytes;
            let kept = Arc::new(Kept { place, was: seen.stat, what, bytes });
            known.by_path.insert(path.as_str().to_owned(), kept);
        }
        drop(known);
        drop(removed);
    }

    #[cfg(test)]
    pub(super) fn n_kept(&self) -> usize {
        self.known().by_path.len()
    }

    /// Something else is at this path from now on.
    pub(super) fn changed(&self, path: &str) {
        let mut known = self.known();
        known.n_changes += 1;
        let removed = known.remove(path);
        drop(known);
        drop(removed);
    }
}

/// What the kernel said of a place, and when it was asked.
pub(super) struct Seen {
    asked_ns: i128,
    pub(super) stat: Stat,
}

impl Seen {
    pub(super) fn of(place: &OwnedFd) -> io::Result<Seen> {
        // The clock that filesystems take their times from.
        let asked = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
        let asked_ns = i128::from(asked.tv_sec()) * 1_000_000_000 + i128::from(asked.tv_nsec());
        Ok(Seen { asked_ns, stat: stat_of(&fstat(place)?) })
    }

    /// Whether each change from then on has another time than the last one before.
    fn is_settled(&self) -> bool {
        let changed_ns = self.stat.changed_ns.max(self.stat.modified_ns);
        let is_by_the_second = self.stat.changed_ns % 1_000_000_000 == 0;
        let settled = if is_by_the_second { SETTLED_BY_THE_SECOND } else { SETTLED };
        let age = u128::try_from(self.asked_ns - changed_ns);
        age.is_ok_and(|age| age >= settled.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::thread::sleep;

    use super::*;

    fn read(place: &Path, bytes: usize) -> JustRead<u8> {
        let place = OwnedFd::from(File::open(place).expect("a place"));
        let seen = Seen::of(&place).expect("what it is");
        JustRead { place, seen, what: 7, bytes }
    }

    fn keep(lately: &Lately<u8>, path: &RelPath, place: &Path, bytes: usize) -> bool {
        lately.keep(path, read(place, bytes), || true);
        lately.get(path).is_some()
    }

    /// Every way in which others make a place stop to be what it was.
    #[test]
    fn what_others_changed_is_not_believed() {
        let scratch = tempfile::tempdir().expect("a folder");
        let at = |name: &str| scratch.path().join(name);
        type Change<'a> = (&'a str, &'a dyn Fn(&Path));
        let next = at("next");
        let of_files: [Change<'_>; 6] = [
            ("other bytes", &|file| fs::write(file, "other").expect("written")),
            ("longer", &|file| fs::write(file, "longer than that").expect("written")),
            ("gone", &|file| fs::remove_file(file).expect("removed")),
            ("gone while it has another name", &|file| {
                fs::hard_link(file, at("other")).expect("linked");
                fs::remove_file(file).expect("removed");
            }),
            ("moved away", &|file| fs::rename(file, at("away")).expect("renamed")),
            ("another in its place", &|file| {
                fs::write(&next, "bytes").expect("written");
                fs::rename(&next, file).expect("renamed");
            }),
        ];
        let of_folders: [Change<'_>; 4] = [
            ("one more", &|folder| drop(File::create(folder.join("b")).expect("made"))),
            ("one less", &|folder| fs::remove_file(folder.join("a")).expect("removed")),
            ("another name", &|folder| {
                fs::rename(folder.join("a"), folder.join("b")).expect("renamed");
            }),
            ("gone altogether", &|folder| fs::remove_dir_all(folder).expect("removed")),
        ];
        let file = |place: &Path| fs::write(place, "bytes").expect("written");
        let folder = |place: &Path| {
            fs::create_dir(place).expect("made");
            fs::write(place.join("a"), "bytes").expect("written");
        };
        let of_files = of_files.map(|(what, change)| (what, &file as &dyn Fn(&Path), change));
        let of_folders = of_folders.map(|(what, change)| (what, &folder as &dyn Fn(&Path), change));
        for (what, make, change) in of_files.into_iter().chain(of_folders) {
            let (path, place) = (RelPath::new(what), at(what));
            make(&place);
            sleep(SETTLED * 2);
            let lately = Lately::default();
            assert!(keep(&lately, &path, &place, 5), "{what}: settled");
            assert_eq!(lately.get(&path), Some(7), "{what}: asked again");
            change(&place);
            assert_eq!(lately.get(&path), None, "{what}");
            let known = lately.known();
            assert!(known.by_path.is_empty() && known.bytes == 0, "{what}: it does not come back");
        }
    }

    #[test]
    fn what_changes_while_it_is_read_is_not_kept() {
        let scratch = tempfile::tempdir().expect("a folder");
        let place = scratch.path().join("file");
        fs::write(&place, "bytes").expect("written");
        sleep(SETTLED * 2);
        let (path, lately) = (RelPath::new("a"), Lately::default());
        lately.keep(&path, read(&place, 5), || false);
        assert_eq!(lately.get(&path), None, "it leads elsewhere");
        lately.keep(&path, read(&place, 5), || {
            lately.changed("b");
            true
        });
        assert_eq!(lately.get(&path), None, "something was changed, and perhaps this");
        assert!(keep(&lately, &path, &place, 5));
        lately.changed("b");
        assert_eq!(lately.get(&path), Some(7), "something else was changed");
        lately.changed("a");
        assert_eq!(lately.get(&path), None, "this was changed");
    }

    #[test]
    fn what_was_changed_just_now_is_not_kept() {
        let scratch = tempfile::tempdir().expect("a folder");
        let file = scratch.path().join("file");
        fs::write(&file, "bytes").expect("written");
        let mut seen = read(&file, 5).seen;
        let now = seen.asked_ns;
        let ago = |how_long: Duration| now - i128::try_from(how_long.as_nanos()).expect("short");
        let second = 1_000_000_000;
        for (changed_ns, settled) in [
            (now, false),
            (now + 60 * second, false),
            (ago(SETTLED * 2) | 1, true),
            (ago(SETTLED * 2) / second * second, false),
            (ago(SETTLED_BY_THE_SECOND) / second * second, true),
        ] {
            (seen.stat.changed_ns, seen.stat.modified_ns) = (changed_ns, 0);
            assert_eq!(seen.is_settled(), settled, "changed {} ns ago", now - changed_ns);
            seen.stat.modified_ns = now;
            assert!(!seen.is_settled(), "its bytes were changed now");
        }
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let scratch = tempfile::tempdir().expect("a folder");
        let file = scratch.path().join("file");
        fs::write(&file, "bytes").expect("written");
        sleep(SETTLED * 2);
        let lately = Lately::default();
        let path = |i: usize| RelPath::new(&i.to_string());
        let n_kept = |lately: &Lately<u8>| {
            let known = lately.known();
            let bytes: usize = known.by_path.values().map(|kept| kept.bytes).sum();
            assert_eq!(known.bytes, bytes);
            assert!(known.by_path.len() <= MOST && known.bytes <= MOST_BYTES);
            known.by_path.len()
        };
        assert!(!keep(&lately, &path(0), &file, MOST_BYTES + 1), "larger than all");
        for i in 0..2 {
            assert!(keep(&lately, &path(i), &file, MOST_BYTES / 2));
        }
        assert!(keep(&lately, &path(1), &file, MOST_BYTES / 2), "in its own place");
        assert_eq!(n_kept(&lately), 2);
        assert!(keep(&lately, &path(2), &file, 1), "in the place of one of them");
        assert_eq!(n_kept(&lately), 2);
        for i in 3..2 * MOST {
            assert!(keep(&lately, &path(i), &file, 1));
        }
        assert_eq!(n_kept(&lately), MOST);
    }
}
