//! What was read lately, believed for as long as it is what it was.
//!
//! A small file or listing that many ask for is kept together with a descriptor of where it came from.
//! Whoever asks again has the kernel tell what it knows of that descriptor, which waits for no disk
//! and walks no path. Any change shows in it: of bytes or names in the times, a name that was ended or
//! taken over by another file in the time of change. What was changed just before it was read
//! is not kept, for the clock of a filesystem may not tell that change from the next one.
//!
//! This is where bytes come from, and nothing more: whoever gives them out has proved them first.

#![allow(clippy::disallowed_methods, reason = "this is the room of filesystem calls")]

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::stat::fstat;

use super::Stat;
use super::real::stat_of;

/// How much is kept, in items and in bytes. More than that, and it begins anew: what is asked for comes
/// back soon.
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
}

struct Kept<T> {
    place: Arc<OwnedFd>,
    was: Stat,
    what: T,
}

impl<T> Default for Lately<T> {
    fn default() -> Lately<T> {
        Lately { known: Mutex::new(Known { by_path: HashMap::new(), bytes: 0 }) }
    }
}

impl<T: Clone> Lately<T> {
    /// What was kept of that path, if it is still what is there.
    pub(super) fn get(&self, path: &str) -> Option<T> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known().by_path.get(path).cloned()?;
        if fstat(&*kept.place).is_ok_and(|stat| stat_of(&stat) == kept.was) {
            return Some(kept.what.clone());
        }
        let mut known = known();
        // Not what somebody else has put there meanwhile.
        if known.by_path.get(path).is_some_and(|now| Arc::ptr_eq(now, &kept)) {
            known.by_path.remove(path);
        }
        None
    }

    /// Keeps what was read of a place after it was [`Seen`], so many bytes. The path was found to lead
    /// there after that as well.
    pub(super) fn keep(&self, path: &str, place: Arc<OwnedFd>, seen: &Seen, what: T, bytes: usize) {
        if bytes > MOST_BYTES || !seen.is_settled() {
            return;
        }
        let was = seen.stat;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.by_path.len() >= MOST || known.bytes + bytes > MOST_BYTES {
            known.by_path.clear();
            known.bytes = 0;
        }
        // Of what is replaced or not believed any more the bytes stay counted until then.
        known.bytes += bytes;
        known.by_path.insert(path.to_owned(), Arc::new(Kept { place, was, what }));
    }
}

/// What the kernel said of a place, and when it was asked.
pub(super) struct Seen {
    asked: SystemTime,
    pub(super) stat: Stat,
}

impl Seen {
    pub(super) fn of(place: &OwnedFd) -> io::Result<Seen> {
        let asked = SystemTime::now();
        Ok(Seen { asked, stat: stat_of(&fstat(place)?) })
    }

    /// Whether each change from then on has another time than the last one before.
    pub(super) fn is_settled(&self) -> bool {
        let asked = self.asked.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let changed = self.stat.changed_ns.max(self.stat.modified_ns);
        let is_by_the_second = self.stat.changed_ns % 1_000_000_000 == 0;
        let settled = if is_by_the_second { SETTLED_BY_THE_SECOND } else { SETTLED };
        let age = u128::try_from(changed).ok().and_then(|changed| asked.checked_sub(changed));
        age.is_some_and(|age| age >= settled.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::thread::sleep;

    use super::*;

    /// A folder to work in, gone afterwards.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(what: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("lately-{what}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn keep(lately: &Lately<u8>, path: &str, place: &Path, bytes: usize) -> bool {
        let place = Arc::new(OwnedFd::from(File::open(place).expect("a place")));
        let seen = Seen::of(&place).expect("what it is");
        lately.keep(path, place, &seen, 7, bytes);
        lately.get(path).is_some()
    }

    /// Every way in which a place stops to be what it was.
    #[test]
    fn what_changed_is_not_believed() {
        let scratch = Scratch::new("changed");
        let at = |name: &str| scratch.0.join(name);
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
        for (what, change) in of_files {
            let file = at("file");
            fs::write(&file, "bytes").expect("written");
            sleep(SETTLED * 2);
            let lately = Lately::default();
            assert!(keep(&lately, what, &file, 5), "{what}: settled");
            assert_eq!(lately.get(what), Some(7), "{what}: asked again");
            change(&file);
            assert_eq!(lately.get(what), None, "{what}");
            assert_eq!(lately.get(what), None, "{what}: it does not come back");
        }
        let of_folders: [Change<'_>; 4] = [
            ("one more", &|folder| drop(File::create(folder.join("b")).expect("made"))),
            ("one less", &|folder| fs::remove_file(folder.join("a")).expect("removed")),
            ("another name", &|folder| {
                fs::rename(folder.join("a"), folder.join("b")).expect("renamed");
            }),
            ("gone", &|folder| fs::remove_dir_all(folder).expect("removed")),
        ];
        for (what, change) in of_folders {
            let folder = at(what);
            fs::create_dir(&folder).expect("made");
            fs::write(folder.join("a"), "bytes").expect("written");
            sleep(SETTLED * 2);
            let lately = Lately::default();
            assert!(keep(&lately, what, &folder, 5), "{what}: settled");
            change(&folder);
            assert_eq!(lately.get(what), None, "{what}");
        }
    }

    #[test]
    fn what_was_changed_just_now_is_not_kept() {
        let scratch = Scratch::new("unsettled");
        let file = scratch.0.join("file");
        fs::write(&file, "bytes").expect("written");
        let place = OwnedFd::from(File::open(&file).expect("a place"));
        let mut seen = Seen::of(&place).expect("what it is");
        let now = seen.asked.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        let now = i128::try_from(now).expect("before the end of time");
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
        let scratch = Scratch::new("room");
        let file = scratch.0.join("file");
        fs::write(&file, "bytes").expect("written");
        sleep(SETTLED * 2);
        let lately = Lately::default();
        assert!(!keep(&lately, "larger than all", &file, MOST_BYTES + 1));
        assert!(keep(&lately, "half", &file, MOST_BYTES / 2));
        assert!(keep(&lately, "the other half", &file, MOST_BYTES / 2));
        assert_eq!(lately.get("half"), Some(7));
        assert!(keep(&lately, "one byte", &file, 1));
        assert_eq!(lately.get("half"), None, "it began anew");
        for i in 0..MOST {
            assert!(keep(&lately, &i.to_string(), &file, 1));
        }
        assert_eq!(lately.get("one byte"), None, "and again");
        let known = lately.known.lock().expect("nobody panics");
        assert!(known.by_path.len() <= MOST && known.bytes <= MOST_BYTES);
    }
}
