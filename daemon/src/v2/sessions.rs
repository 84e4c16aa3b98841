//! The open uploads of the front door: each bound to the peer and the repository that began it.
//!
//! An upload is begun without touching the disk. It goes when it is committed, cancelled or found
//! wrong, and when nothing was done with it for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::{Fault, Kind};
use super::path::Target;
use crate::config::Config;
use crate::peer::Whom;

/// All open uploads.
pub struct Sessions<U> {
    open: Mutex<HashMap<String, Open<U>>>,
    most: usize,
    most_per_uid: usize,
    idle: Duration,
}

struct Open<U> {
    upload: Arc<Upload<U>>,
    uid: Whom,
    target: Target,
    used: Instant,
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
    pub fn begin(&self, uid: Whom, target: Target, upload: U) -> Result<String, Fault> {
        let id = new_id()?;
        let mut open = self.lock();
        let n_own = open.values().filter(|one| one.uid == uid).count();
        if n_own >= self.most_per_uid || open.len() >= self.most {
            let message = format!("{n_own} of your uploads are open, {} of all", open.len());
            return Err(Fault::new(Kind::TooMany, message));
        }
        let upload = Arc::new(Upload::new(upload));
        open.insert(id.clone(), Open { upload, uid, target, used: Instant::now() });
        Ok(id)
    }

    /// The upload of that name, if this peer began it in this repository.
    ///
    /// # Errors
    /// [`Kind::UploadUnknown`].
    pub fn find(&self, id: &str, uid: Whom, target: &Target) -> Result<Arc<Upload<U>>, Fault> {
        let mut open = self.lock();
        let one = open.get_mut(id).filter(|one| one.uid == uid && one.target == *target);
        let one = one.ok_or_else(|| unknown(id))?;
        one.used = Instant::now();
        Ok(one.upload.clone())
    }

    /// Takes an upload out; whoever holds it last drops it.
    ///
    /// # Errors
    /// [`Kind::UploadUnknown`].
    pub fn end(&self, id: &str, uid: Whom, target: &Target) -> Result<Arc<Upload<U>>, Fault> {
        self.find(id, uid, target)?;
        Ok(self.lock().remove(id).ok_or_else(|| unknown(id))?.upload)
    }

    /// Takes out the uploads whose time is over. To drop them may take the disk some time.
    #[must_use]
    pub fn expired(&self) -> Vec<Arc<Upload<U>>> {
        let mut open = self.lock();
        let is_over =
            |one: &Open<U>| Arc::strong_count(&one.upload) == 1 && one.used.elapsed() > self.idle;
        let over: Vec<String> =
            open.iter().filter(|(_, one)| is_over(one)).map(|(id, _)| id.clone()).collect();
        over.iter().filter_map(|id| open.remove(id)).map(|one| one.upload).collect()
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
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open<U>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: &str) -> Fault {
    let id: String = id.chars().take(64).collect();
    Fault::new(Kind::UploadUnknown, format!("there is no upload {id} in this repository"))
}

/// A random UUID (RFC 9562, version 4): the specification wants one in an upload's location.
fn new_id() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Fault::new(Kind::Broken, "no upload could be named")
    })?;
    let bits = u128::from_be_bytes(bytes);
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Ok(format!("{a}-{b}-{c}-{d}-{e}"))
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
        let id = sessions.begin(Whom::Uid(1), own.clone(), 7).expect("begun");
        assert!(sessions.find(&id, Whom::Uid(1), &own).is_ok());
        for (id, uid, target) in [
            (id.as_str(), 2, &own),
            (&id, 1, &target("w/s")),
            (&id, 1, &target("v/r")),
            ("x", 1, &own),
        ] {
            let unknown = Some(Kind::UploadUnknown);
            assert_eq!(sessions.find(id, Whom::Uid(uid), target).err().map(|f| f.kind), unknown);
            assert_eq!(sessions.end(id, Whom::Uid(uid), target).err().map(|f| f.kind), unknown);
        }
        assert!(sessions.end(&id, Whom::Uid(1), &own).is_ok());
        assert!(sessions.find(&id, Whom::Uid(1), &own).is_err());
    }

    #[test]
    fn a_peer_has_so_many_and_all_have_so_many() {
        let sessions = sessions(3, 2);
        let begin = |uid| sessions.begin(Whom::Uid(uid), target("w/r"), 0).map_err(|f| f.kind);
        let first = begin(1).expect("begun");
        let ends: Vec<_> = [1, 1, 2, 2].map(begin).into_iter().map(|end| end.is_ok()).collect();
        assert_eq!(ends, [true, false, true, false]);
        drop(sessions.end(&first, Whom::Uid(1), &target("w/r")).expect("ended"));
        assert!(begin(2).is_ok());
        assert_eq!(begin(3), Err(Kind::TooMany));
    }

    #[test]
    fn what_is_in_use_does_not_expire() {
        let sessions = sessions(8, 8);
        let own = target("w/r");
        let id = sessions.begin(Whom::Uid(1), own.clone(), 0).expect("begun");
        let used = sessions.find(&id, Whom::Uid(1), &own).expect("found");
        std::thread::sleep(Duration::from_millis(60));
        assert!(sessions.expired().is_empty());
        drop(used);
        assert_eq!((sessions.expired().len(), sessions.n_open()), (1, 0));
    }

    #[test]
    fn an_upload_is_named_by_a_uuid() {
        for _ in 0..100 {
            let id = new_id().expect("an id");
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(id[14..].starts_with('4') && "89ab".contains(&id[19..20]), "{id}");
        }
    }
}
