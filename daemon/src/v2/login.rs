//! Who a request over TLS is from: a name and a password with every request (RFC 7617), checked once
//! for a connection.
//!
//! A check is dear on purpose, so it is bounded by address, and what was found right is remembered
//! for as long as the connection lives, by a digest that is of use to nobody who reads it. What was
//! found wrong is answered late. No password is logged, nor a name that is no user's: people type
//! passwords there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas::digest::Digest;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::fault::{Fault, Kind};
use super::users::Users;
use crate::app::App;
use crate::bridge;
use crate::peer::{Peer, Whom};
use crate::policy::Anonymous;

/// How late the first failure of an address is answered; each one after it twice as late.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const MOST_DELAY: Duration = Duration::from_secs(8);
/// An address without a failure for so long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Failures that are remembered; beyond it the oldest is forgotten.
const MOST_FAILURES: usize = 4096;
/// Whoever would wait longer for its next try is told to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom the listener lets in.
#[derive(Debug)]
pub struct Login {
    users: Option<UsersFile>,
    anonymous: Anonymous,
    /// Known to this process alone: without it nobody can guess at what a connection remembers.
    key: [u8; 32],
    failures: Failures,
}

#[derive(Debug)]
struct UsersFile {
    path: PathBuf,
    users: RwLock<Arc<Users>>,
}

/// One connection over TLS, and who was found to be there.
pub struct Visitor {
    login: Arc<Login>,
    address: IpAddr,
    known: Mutex<Option<Known>>,
}

/// A header field that was found right.
struct Known {
    field: Digest,
    /// The users among whom it was: when their file was read anew, it has to be checked again.
    among: Arc<Users>,
    peer: Arc<Peer>,
}

/// What a client says of itself. There is no way to print it.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
struct Credentials {
    name: String,
    password: Vec<u8>,
}

/// Failures by address, which says how late one is answered, and by address and name, which says when
/// that name may be tried from there again: who hangs up instead of waiting gains nothing by it.
#[derive(Debug, Default)]
struct Failures(Mutex<HashMap<(Whom, Option<Digest>), Failed>>);

#[derive(Debug)]
struct Failed {
    n_times: u32,
    last: Instant,
    /// When the next try may begin.
    next: Instant,
}

// === impl Login ===

impl Login {
    /// Lets these users in, if there are any, and those who are anonymous as far as is said.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(users: Option<&Path>, anonymous: Anonymous) -> Result<Login, String> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| format!("the system gives no random bytes: {e}"))?;
        let users = match users {
            None => None,
            Some(path) => {
                let users = RwLock::new(Arc::new(Users::load(path)?));
                Some(UsersFile { path: path.to_owned(), users })
            }
        };
        Ok(Login { users, anonymous, key, failures: Failures::default() })
    }

    /// Reads the file of users anew; when something is wrong with it, everything stays as it was.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reload(&self) -> Result<(), String> {
        if let Some(file) = &self.users {
            let users = Arc::new(Users::load(&file.path)?);
            *file.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        }
        Ok(())
    }

    /// The users of now.
    pub fn users(&self) -> Option<Arc<Users>> {
        let file = self.users.as_ref()?;
        Some(file.users.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// What those may do who say nothing of themselves.
    pub fn anonymous(&self) -> Anonymous {
        self.anonymous
    }

    fn digest(&self, field: &HeaderValue) -> Digest {
        Digest::of(&[&self.key, field.as_bytes()].concat())
    }
}

// === impl Visitor ===

impl Visitor {
    /// Somebody from this address.
    pub fn new(login: Arc<Login>, address: IpAddr) -> Visitor {
        Visitor { login, address, known: Mutex::default() }
    }

    /// By what its limits are counted, as far as is known.
    pub fn whom(&self) -> Whom {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map_or(Whom::Anonymous, |known| known.peer.whom())
    }

    /// Whether there are users that somebody who is anonymous could turn out to be.
    pub fn may_log_in(&self) -> bool {
        self.login.users.is_some()
    }

    /// Who sent this request.
    ///
    /// Clients ask for `/v2/` to learn whether a password is wanted, and some never say theirs when
    /// it is not, not even when they are asked for it later. So whoever asks there and says nothing
    /// is told of it, even where reading needs no password.
    ///
    /// # Errors
    /// [`Kind::Unauthorized`], late when a password was wrong; [`Kind::TooMany`] when too many are
    /// checked, or the user has too many connections.
    pub async fn identify(
        &self,
        app: &App,
        connection: u64,
        head: &Parts,
        is_base: bool,
    ) -> Result<Arc<Peer>, Fault> {
        let Some(users) = self.login.users() else {
            return Ok(Arc::new(Peer::Anonymous));
        };
        let mut fields = head.headers.get_all(AUTHORIZATION).iter();
        let (field, None) = (fields.next(), fields.next()) else {
            return Err(unauthorized("a request has one Authorization"));
        };
        if let Some(known) = field.and_then(|field| self.recall(&self.login.digest(field), &users))
        {
            return Ok(known);
        }
        let said = match field {
            None => None,
            Some(field) => Credentials::parse(field)?,
        };
        match (said, field) {
            (Some(said), Some(field)) => self.check(app, connection, users, said, field).await,
            _ if is_base || self.login.anonymous == Anonymous::Nothing => {
                Err(unauthorized("say who you are, by name and password"))
            }
            _ => Ok(Arc::new(Peer::Anonymous)),
        }
    }

    async fn check(
        &self,
        app: &App,
        connection: u64,
        users: Arc<Users>,
        said: Credentials,
        field: &HeaderValue,
    ) -> Result<Arc<Peer>, Fault> {
        let stranger = Whom::stranger(self.address);
        let Credentials { name, password } = said;
        let (among, called) = (users.clone(), name.clone());
        let verify = move || Ok(among.verify(&called, &password));
        let tried = Digest::of(name.as_bytes());
        let Some(turn) = self.login.failures.turn(stranger, tried, Instant::now()) else {
            let message = "this name was tried too often with a wrong password";
            return Err(Fault::new(Kind::TooMany, message));
        };
        tokio::time::sleep(turn).await;
        let place = bridge::Kind::Password;
        let is_right = app.bridge.run(place, stranger, verify).await?;
        app.metrics.password_checks.fetch_add(1, Ordering::Relaxed);
        if !is_right {
            app.metrics.logins_refused.fetch_add(1, Ordering::Relaxed);
            let user = users.has(&name).then_some(&*name);
            tracing::warn!(from = %self.address, user, "a name or password is wrong");
            let delay = self.login.failures.one_more(stranger, tried, Instant::now());
            tokio::time::sleep(delay).await;
            return Err(unauthorized("the name or the password is wrong"));
        }
        self.login.failures.forget(stranger, tried);
        let peer = Arc::new(Peer::user(&name));
        if !app.connections.belongs_to(connection, peer.whom()) {
            let message = format!("{name} has too many connections open");
            return Err(Fault::new(Kind::TooMany, message));
        }
        let known = Known { field: self.login.digest(field), among: users, peer: peer.clone() };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(peer)
    }

    /// Who was found to say this, on this connection, among these users.
    fn recall(&self, field: &Digest, users: &Arc<Users>) -> Option<Arc<Peer>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        (known.field == *field && Arc::ptr_eq(&known.among, users)).then(|| known.peer.clone())
    }
}

/// The answer that asks who it is.
pub fn unauthorized(message: &str) -> Fault {
    Fault::new(Kind::Unauthorized, message)
}

// === impl Credentials ===

impl Credentials {
    /// What stands in the field. No name and no password say nothing: some clients send them to
    /// whoever asks for any.
    fn parse(field: &HeaderValue) -> Result<Option<Credentials>, Fault> {
        let basic = || {
            let (scheme, rest) = field.to_str().ok()?.trim().split_once(' ')?;
            let rest = Some(rest.trim()).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
            let mut said = STANDARD.decode(rest).ok()?;
            let colon = said.iter().position(|byte| *byte == b':')?;
            let password = said.split_off(colon + 1);
            said.truncate(colon);
            Some(Credentials { name: String::from_utf8(said).ok()?, password })
        };
        match basic() {
            Some(said) if said.name.is_empty() && said.password.is_empty() => Ok(None),
            Some(said) => Ok(Some(said)),
            None => Err(unauthorized("Authorization is Basic, with name and password")),
        }
    }
}

// === impl Failures ===

impl Failures {
    /// Notes one more, and says how late it is answered.
    fn one_more(&self, whom: Whom, name: Digest, now: Instant) -> Duration {
        let mut all = self.lock();
        let of_address = note(&mut all, (whom, None), now);
        let delay = FIRST_DELAY * (1 << (of_address.n_times - 1).min(16));
        let delay = delay.min(MOST_DELAY);
        let of_name = note(&mut all, (whom, Some(name)), now);
        of_name.next = of_name.next.max(now + delay);
        delay
    }

    /// How long somebody there has to wait who tries this name now; `None` when that is too long.
    /// Those who try it at the same time get a turn each, one after the other.
    fn turn(&self, whom: Whom, name: Digest, now: Instant) -> Option<Duration> {
        let mut all = self.lock();
        let Some(failed) = all.get_mut(&(whom, Some(name))) else {
            return Some(Duration::ZERO);
        };
        let wait = failed.next.saturating_duration_since(now);
        if wait > PATIENCE {
            return None;
        }
        failed.next = now + wait + FIRST_DELAY;
        Some(wait)
    }

    /// A name whose password was said from there may be tried at once.
    fn forget(&self, whom: Whom, name: Digest) {
        self.lock().remove(&(whom, Some(name)));
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<(Whom, Option<Digest>), Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one more failure, and makes room for it when there is none.
fn note(
    all: &mut HashMap<(Whom, Option<Digest>), Failed>,
    key: (Whom, Option<Digest>),
    now: Instant,
) -> &mut Failed {
    let is_over = |failed: &Failed| now.saturating_duration_since(failed.last) > FORGOTTEN;
    if all.len() >= MOST_FAILURES && !all.contains_key(&key) {
        all.retain(|_, failed| !is_over(failed));
        if all.len() >= MOST_FAILURES
            && let Some(oldest) = all.iter().min_by_key(|(_, failed)| failed.last).map(|(k, _)| *k)
        {
            all.remove(&oldest);
        }
    }
    let failed = all.entry(key).or_insert(Failed { n_times: 0, last: now, next: now });
    if is_over(failed) {
        failed.n_times = 0;
    }
    (failed.n_times, failed.last) = (failed.n_times.saturating_add(1), now);
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_read_and_nothing_else() {
        let said = |name: &str, password: &str| {
            Ok(Some(Credentials { name: name.to_owned(), password: password.into() }))
        };
        let encode = |text: &str| STANDARD.encode(text);
        for (field, expected) in [
            (format!("Basic {}", encode("ada:pass")), said("ada", "pass")),
            (format!("basic   {} ", encode("ada:pass")), said("ada", "pass")),
            (format!("Basic {}", encode("ada:a:b")), said("ada", "a:b")),
            (format!("Basic {}", encode("ada:")), said("ada", "")),
            (format!("Basic {}", encode(":pass")), said("", "pass")),
            (format!("Basic {}", encode("ädä:ü")), said("ädä", "ü")),
            (format!("Basic {}", encode(":")), Ok(None)),
            (format!("Basic {}", encode("ada")), Err(())),
            ("Basic".to_owned(), Err(())),
            ("Basic ????".to_owned(), Err(())),
            (format!("Bearer {}", encode("ada:pass")), Err(())),
            (format!("Basic {}", STANDARD.encode(b"\xff:x")), Err(())),
            (String::new(), Err(())),
        ] {
            let value = HeaderValue::from_str(&field).expect("a field");
            let got = Credentials::parse(&value).map_err(|fault| {
                assert_eq!(fault.kind, Kind::Unauthorized);
            });
            assert_eq!(got, expected, "{field}");
        }
    }

    #[test]
    fn failures_of_one_address_are_answered_later_and_later_and_then_forgotten() {
        let (failures, now) = (Failures::default(), Instant::now());
        let address = |n: u32| Whom::stranger(IpAddr::from(n.to_be_bytes()));
        let name = Digest::of(b"ada");
        let delays: Vec<u64> =
            (0..6).map(|_| failures.one_more(address(0), name, now).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 8, 8]);
        assert_eq!(failures.one_more(address(1), name, now), FIRST_DELAY);
        let later = now + FORGOTTEN + Duration::from_secs(1);
        assert_eq!(failures.one_more(address(0), name, later), FIRST_DELAY);
        assert_eq!(failures.one_more(address(0), name, later), 2 * FIRST_DELAY);
        for n in 0..10_000 {
            let now = later + Duration::from_millis(n.into());
            failures.one_more(address(n + 10), name, now);
        }
        let all = failures.lock();
        assert_eq!(all.len(), MOST_FAILURES);
        let has = |n| all.contains_key(&(address(n), Some(name)));
        assert!(has(10_009) && !has(10));
    }

    #[test]
    fn who_hangs_up_instead_of_waiting_waits_at_the_next_try() {
        let (failures, now) = (Failures::default(), Instant::now());
        let [here, there] = [1, 2].map(|n| Whom::stranger(IpAddr::from([192, 0, 2, n])));
        let [ada, bob] = ["ada", "bob"].map(|name| Digest::of(name.as_bytes()));
        let turn = |whom, name, now| failures.turn(whom, name, now).map(|wait| wait.as_secs());
        assert_eq!(turn(here, ada, now), Some(0));
        failures.one_more(here, ada, now);
        // Each of several at once gets a turn of its own, until that takes too long.
        let turns: Vec<_> = (0..12).map(|_| turn(here, ada, now)).collect();
        let expected: Vec<_> = (1..=12).map(|n| (n <= 10).then_some(n)).collect();
        assert_eq!(turns, expected);
        // Another name, and another address, has nothing to do with it.
        assert_eq!((turn(here, bob, now), turn(there, ada, now)), (Some(0), Some(0)));
        // Who waited for the answer may try at once.
        assert_eq!(turn(here, ada, now + Duration::from_secs(11)), Some(0));
        failures.forget(here, ada);
        assert_eq!(turn(here, ada, now), Some(0));
    }

    #[test]
    fn what_is_remembered_is_remembered_for_those_users_alone() {
        let text = "ada:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
        let users = || Arc::new(Users::parse(text).expect("users"));
        let login = |key| {
            let (users, failures) = (None, Failures::default());
            Arc::new(Login { users, anonymous: Anonymous::Nothing, key, failures })
        };
        let (first, second) = (users(), users());
        let visitor = Visitor::new(login([1; 32]), IpAddr::from([127, 0, 0, 1]));
        let (field, other) = (HeaderValue::from_static("a"), HeaderValue::from_static("b"));
        let digest = |field| visitor.login.digest(field);
        assert_eq!(visitor.whom(), Whom::Anonymous);
        let peer = Arc::new(Peer::user("ada"));
        let known = Known { field: digest(&field), among: first.clone(), peer: peer.clone() };
        *visitor.known.lock().expect("a lock") = Some(known);
        assert_eq!(visitor.whom(), peer.whom());
        assert_eq!(visitor.recall(&digest(&field), &first), Some(peer));
        assert_eq!(visitor.recall(&digest(&other), &first), None);
        assert_eq!(visitor.recall(&digest(&field), &second), None, "the file was read anew");
        assert_ne!(digest(&field), login([2; 32]).digest(&field), "each process has its key");
    }
}
