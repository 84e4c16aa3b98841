//! The open uploads of the front door: each bound to the peer and the repository that began it.
//!
//! An upload is begun without touching the disk, since most get all their bytes in the next moment; one that
//! waits longer is written down. It goes when it is committed, cancelled or found
//! wrong, and when nothing was done with it for long. What an earlier process left is open again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cas::UploadId;

use super::fault::{Fault, Kind};
use super::path::Target;
use crate::config::Config;

/// How long an upload is known to this process alone.
const MOMENT: Duration = Duration::from_millis(500);

/// All open uploads.
pub struct Sessions<U> {
    open: Mutex<HashMap<UploadId, Open<U>>>,
    most: usize,
    most_per_uid: usize,
    idle: Duration,
}

struct Open<U> {
    upload: Arc<Upload<U>>,
    owner: String,
    target: Target,
    begun: Instant,
    used: Instant,
    /// The next process knows of it, or cannot.
    is_known: bool,
}

/// One upload, as one request at a time has it.
pub type Upload<U> = tokio::sync::Mutex<U>;

// === impl Sessions ===

impl<U> Sessions<U> {
    /// None, with the limits of the configuration.
    pub fn new(config: &Config) -> Sessions<U> {
        Sessions {
            open: Mutex::default(),
            most: config.limits.uploads,
            most_per_uid: config.limits.uploads_per_uid,
            idle: config.timeouts.upload_idle.0,
        }
    }

    /// Begins an upload and names it.
    ///
    /// # Errors
    /// [`Kind::TooMany`] when the peer, or all of them, have as many as they may.
    pub fn begin(
        &self,
        owner: &str,
        target: &Target,
        make: impl FnOnce(&UploadId) -> U,
    ) -> Result<UploadId, Fault> {
        let id = new_id()?;
        let mut open = self.lock();
        let n_own = open.values().filter(|one| one.owner == owner).count();
        if n_own >= self.most_per_uid || open.len() >= self.most {
            let message = format!("{n_own} of your uploads are open, {} of all", open.len());
            return Err(Fault::new(Kind::TooMany, message));
        }
        open.insert(id.clone(), Open::new(owner, target, make(&id), false));
        Ok(id)
    }

    /// Opens an upload again that an earlier process left, however many there are.
    pub fn adopt(&self, id: UploadId, owner: &str, target: &Target, upload: U) {
        self.lock().insert(id, Open::new(owner, target, upload, true));
    }

    /// The upload of that name, if this peer began it in this repository.
    ///
    /// # Errors
    /// [`Kind::UploadUnknown`].
    pub fn find(&self, id: &str, owner: &str, target: &Target) -> Result<Arc<Upload<U>>, Fault> {
        let mut open = self.lock();
        let one = id.parse().ok().and_then(|id: UploadId| open.get_mut(&id));
        let one = one.filter(|one| one.owner == owner && one.target == *target);
        let one = one.ok_or_else(|| unknown(id))?;
        one.used = Instant::now();
        Ok(one.upload.clone())
    }

    /// Takes an upload out; whoever holds it last drops it.
    ///
    /// # Errors
    /// [`Kind::UploadUnknown`].
    pub fn end(&self, id: &str, owner: &str, target: &Target) -> Result<Arc<Upload<U>>, Fault> {
        self.find(id, owner, target)?;
        let key = id.parse().map_err(|_| unknown(id))?;
        Ok(self.lock().remove(&key).ok_or_else(|| unknown(id))?.upload)
    }

    /// Takes out the uploads whose time is over. To drop them may take the disk some time.
    #[must_use]
    pub fn expired(&self) -> Vec<Arc<Upload<U>>> {
        let mut open = self.lock();
        let is_over =
            |one: &Open<U>| Arc::strong_count(&one.upload) == 1 && one.used.elapsed() > self.idle;
        let over: Vec<UploadId> =
            open.iter().filter(|(_, one)| is_over(one)).map(|(id, _)| id.clone()).collect();
        over.iter().filter_map(|id| open.remove(id)).map(|one| one.upload).collect()
    }

    /// Those that were begun a moment ago, and that the next process may not know of yet.
    #[must_use]
    pub fn waiting(&self) -> Vec<(UploadId, Arc<Upload<U>>)> {
        let open = self.lock();
        let waiting = open.iter().filter(|(_, one)| !one.is_known && one.begun.elapsed() >= MOMENT);
        waiting.map(|(id, one)| (id.clone(), one.upload.clone())).collect()
    }

    /// The next process knows of this one, or cannot.
    pub fn note_known(&self, id: &UploadId) {
        if let Some(one) = self.lock().get_mut(id) {
            one.is_known = true;
        }
    }

    /// Takes out all of them.
    #[must_use]
    pub fn clear(&self) -> Vec<Arc<Upload<U>>> {
        self.lock().drain().map(|(_, one)| one.upload).collect()
    }

    /// How many are open.
    pub fn n_open(&self) -> usize {
        self.lock().len()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<UploadId, Open<U>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<U> Open<U> {
    fn new(owner: &str, target: &Target, upload: U, is_known: bool) -> Open<U> {
        let (upload, begun) = (Arc::new(Upload::new(upload)), Instant::now());
        let (owner, target, used) = (owner.to_owned(), target.clone(), begun);
        Open { upload, owner, target, begun, used, is_known }
    }
}

fn unknown(id: &str) -> Fault {
    let id: String = id.chars().take(64).collect();
    Fault::new(Kind::UploadUnknown, format!("there is no upload {id} in this repository"))
}

/// A random UUID (RFC 9562, version 4): the specification wants one in an upload's location.
fn new_id() -> Result<UploadId, Fault> {
    let mut bytes = [0; 16];
    let broken = || Fault::new(Kind::Broken, "no upload could be named");
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        broken()
    })?;
    let bits = u128::from_be_bytes(bytes);
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{a}-{b}-{c}-{d}-{e}").parse().map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::super::path::Access;
    use super::*;

    fn target(name: &str) -> Target {
        Target::parse(name, Access::Write).expect(name)
    }

    fn sessions(most: usize, most_per_uid: usize) -> Sessions<u8> {
        let mut config = Config::default();
        (config.limits.uploads, config.limits.uploads_per_uid) = (most, most_per_uid);
        config.timeouts.upload_idle.0 = Duration::from_millis(50);
        Sessions::new(&config)
    }

    #[test]
    fn an_upload_belongs_to_its_peer_and_repository() {
        let sessions = sessions(8, 8);
        let own = target("w/r");
        let begun = sessions.begin("uid 1", &own, |_| 7).expect("begun").to_string();
        let left = new_id().expect("an id");
        sessions.adopt(left.clone(), "uid 1", &own, 8);
        for id in [begun, left.to_string()] {
            assert!(sessions.find(&id, "uid 1", &own).is_ok());
            for (id, owner, target) in [
                (id.as_str(), "uid 2", &own),
                (&id, "uid 11", &own),
                (&id, "uid 1", &target("w/s")),
                (&id, "uid 1", &target("v/r")),
                ("x", "uid 1", &own),
                (&id.to_uppercase(), "uid 1", &own),
            ] {
                let unknown = Some(Kind::UploadUnknown);
                assert_eq!(sessions.find(id, owner, target).err().map(|f| f.kind), unknown);
                assert_eq!(sessions.end(id, owner, target).err().map(|f| f.kind), unknown);
            }
            assert!(sessions.end(&id, "uid 1", &own).is_ok());
            assert!(sessions.find(&id, "uid 1", &own).is_err());
        }
    }

    #[test]
    fn a_peer_has_so_many_and_all_have_so_many() {
        let sessions = sessions(3, 2);
        let begin = |owner| sessions.begin(owner, &target("w/r"), |_| 0).map_err(|f| f.kind);
        let first = begin("a").expect("begun").to_string();
        let ends: Vec<_> =
            ["a", "a", "b", "b"].map(begin).into_iter().map(|end| end.is_ok()).collect();
        assert_eq!(ends, [true, false, true, false]);
        drop(sessions.end(&first, "a", &target("w/r")).expect("ended"));
        assert!(begin("b").is_ok());
        assert_eq!(begin("c"), Err(Kind::TooMany));
    }

    #[test]
    fn what_is_in_use_does_not_expire() {
        let sessions = sessions(8, 8);
        let own = target("w/r");
        let id = sessions.begin("a", &own, |_| 0).expect("begun").to_string();
        let used = sessions.find(&id, "a", &own).expect("found");
        std::thread::sleep(Duration::from_millis(60));
        assert!(sessions.expired().is_empty());
        drop(used);
        assert_eq!((sessions.expired().len(), sessions.n_open()), (1, 0));
    }

    #[test]
    fn what_waits_is_told_until_it_is_known() {
        let sessions = sessions(8, 8);
        let own = target("w/r");
        sessions.adopt(new_id().expect("an id"), "a", &own, 1);
        let begun = sessions.begin("a", &own, |_| 2).expect("begun");
        assert!(sessions.waiting().is_empty());
        std::thread::sleep(MOMENT);
        let waiting = || sessions.waiting().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        // However often it was used since.
        drop(sessions.find(&begun.to_string(), "a", &own).expect("found"));
        assert_eq!((waiting(), waiting()), (vec![begun.clone()], vec![begun.clone()]));
        sessions.note_known(&begun);
        assert!(waiting().is_empty());
    }

    #[test]
    fn an_upload_is_named_by_a_uuid() {
        for _ in 0..100 {
            let id = new_id().expect("an id").to_string();
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(id[14..].starts_with('4') && "89ab".contains(&id[19..20]), "{id}");
        }
    }
}
