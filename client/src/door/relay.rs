//! One request of the command: let in or not, then carried to the daemon and its answer back, both
//! as they come.
//!
//! What is let in has the credential, names the host by a loopback address, comes from no page and
//! asks for `/v2/`. What hangs on one connection alone stays on it; what bond and bonded say to each
//! other in the header is said by bond alone.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::on_informational;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use wire::api::WORKSPACE;

use super::bodies::{Answered, Asked, Driver, PIECE_WITHIN, Sent, Wanted};
use super::credential::Credential;
use super::listener::Visitor;
use crate::hearing::Hearing;

/// How long a connection to the daemon may take to come about; its socket is on this machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the daemon may take to answer when nothing more is sent to it. It has limits of its own
/// for everything that it waits for, and some artifacts take long to hash.
const ANSWER_WITHIN: Duration = Duration::from_secs(4 * 3600);
/// How long a wrong password is thought about.
const WRONG_FOR: Duration = Duration::from_millis(500);
/// Buffer of a connection to the daemon; also the largest header of an answer.
const BUFFER: usize = 128 << 10;

/// Fields that are about one connection (RFC 9110, 7.6.1), and what goes with them.
const OF_ONE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];
/// How the fields begin by which bond and bonded understand each other.
const OURS: &str = "bonded-";

/// The way from the door to the daemon.
pub(super) struct Relay {
    /// The daemon's socket.
    pub(super) socket: PathBuf,
    /// The workspace within which the command works.
    pub(super) workspace: HeaderValue,
    /// What a request must come with.
    pub(super) credential: Credential,
}

/// Why a request is not carried on.
enum Refused {
    /// There are several ways to read it.
    Unclear,
    /// Its body broke off, or is none.
    Torn,
    /// It comes from a page, or by a name that is not this machine's.
    Foreign(&'static str),
    /// It has no credential.
    Unknown,
    /// It has another credential.
    Wrong,
    /// It is not about the front door.
    NotHere,
    /// The daemon is gone.
    NoDaemon,
    /// The daemon does not answer.
    Late,
}

// === impl Relay ===

impl Relay {
    /// Answers one request.
    pub(super) async fn answer(
        &self,
        visitor: &Visitor,
        request: Request<Incoming>,
    ) -> Result<Response<Answered>, Infallible> {
        let (head, body) = request.into_parts();
        let admitted = self.admit(&head);
        if admitted.is_ok() {
            visitor.is_known();
        }
        let outcome = match admitted {
            Ok(path) => self.carry(path, head, body).await,
            Err(refused) => Err(refused),
        };
        if let Err(Refused::Wrong) = outcome {
            tokio::time::sleep(WRONG_FOR).await;
        }
        Ok(outcome.unwrap_or_else(Refused::told))
    }

    /// Whether a request is carried on, and with which path.
    fn admit(&self, head: &Parts) -> Result<PathAndQuery, Refused> {
        // Before anything is stripped that the daemon would refuse.
        wire::framing::check(head).map_err(|_| Refused::Unclear)?;
        if head.headers.contains_key(header::ORIGIN) {
            return Err(Refused::Foreign("pages in a browser are not served"));
        }
        if !names_this_machine(head) {
            return Err(Refused::Foreign("name this registry by its loopback address"));
        }
        let mut told = head.headers.get_all(header::AUTHORIZATION).iter();
        match (told.next(), told.next()) {
            (None, _) => return Err(Refused::Unknown),
            (Some(value), None) if self.credential.is(value) => {}
            _ => return Err(Refused::Wrong),
        }
        let path = head.uri.path_and_query().filter(|path| {
            let rest = path.path().strip_prefix("/v2");
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        path.cloned().ok_or(Refused::NotHere)
    }

    /// Carries a request to the daemon, on a connection of its own: nothing of one request can be
    /// taken for part of another, and a client that leaves takes the daemon's work with it.
    async fn carry(
        &self,
        path: PathAndQuery,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Answered>, Refused> {
        let stream = timeout(CONNECT_WITHIN, UnixStream::connect(&self.socket)).await;
        let stream = stream.map_err(|_| Refused::NoDaemon)?.map_err(|_| Refused::NoDaemon)?;
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(Hearing::new(stream)))
            .await
            .map_err(|_| Refused::NoDaemon)?;
        let mut driver = Driver { connection: driver, is_over: false };

        let (request, sent) = self.request(path, head, body);
        let answered = driver.drive(sender.send_request(request));
        let response = waited_for(answered, &sent.n_pieces).await.ok_or(Refused::Late)?;
        let broke_off = |_| match sent.is_torn.load(Ordering::Relaxed) {
            true => Refused::Torn,
            false => Refused::NoDaemon,
        };
        let (mut head, body) = response.map_err(broke_off)?.into_parts();
        strip(&mut head.headers);
        let patience = Box::pin(sleep(PIECE_WITHIN));
        Ok(Response::from_parts(
            head,
            Answered::Carried { driver: Box::new(driver), body, patience },
        ))
    }

    fn request(
        &self,
        path: PathAndQuery,
        head: Parts,
        body: Incoming,
    ) -> (Request<Asked>, Arc<Sent>) {
        let mut headers = head.headers;
        strip(&mut headers);
        headers.remove(header::AUTHORIZATION);
        // How long the body is, its own type knows; two opinions would be one too many.
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::HOST, HeaderValue::from_static("bonded"));
        headers.insert(WORKSPACE, self.workspace.clone());
        let waits = headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));

        let sent = Arc::new(Sent::default());
        let (go_on, told) = oneshot::channel();
        let asked = Asked {
            body,
            wanted: if waits { Wanted::Asked(told) } else { Wanted::Yes },
            sent: Arc::clone(&sent),
            broken: None,
        };
        let mut request = Request::new(asked);
        *request.method_mut() = head.method;
        *request.uri_mut() = Uri::from(path);
        *request.headers_mut() = headers;
        if waits {
            let go_on = Mutex::new(Some(go_on));
            on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE
                    && let Some(go_on) = go_on.lock().ok().and_then(|mut one| one.take())
                {
                    let _ = go_on.send(());
                }
            });
        }
        (request, sent)
    }
}

/// Whether the request is meant for this machine, by its address. A name could be anybody's that
/// made it point here, `localhost` included on machines with odd files of hosts.
fn names_this_machine(head: &Parts) -> bool {
    let mut written = head.headers.get_all(header::HOST).iter();
    let (first, second) = (written.next(), written.next());
    let host: Option<Authority> = first.and_then(|host| host.to_str().ok()?.parse().ok());
    let is_address = |host: &Authority| {
        let bare = host.host().trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    // What the request's line names counts as well.
    let line = head.uri.authority().is_none_or(is_address);
    line && second.is_none() && host.as_ref().is_some_and(is_address)
}

/// Takes out what is about one connection, and what bond and bonded say to each other.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let ours = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned();
    let gone: Vec<HeaderName> = ours.chain(named).chain(OF_ONE_CONNECTION).collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Waits for an answer, for as long as that may take after the last piece that was sent.
async fn waited_for<F: Future>(answered: F, n_pieces: &AtomicU64) -> Option<F::Output> {
    let mut answered = pin!(answered);
    let mut before = 0;
    loop {
        if let Ok(answered) = timeout(ANSWER_WITHIN, &mut answered).await {
            return Some(answered);
        }
        let now = n_pieces.load(Ordering::Relaxed);
        if now == before {
            return None;
        }
        before = now;
    }
}

// === impl Refused ===

impl Refused {
    fn told(self) -> Response<Answered> {
        let is_over = matches!(self, Refused::Unclear | Refused::Torn);
        let (status, code, message) = match self {
            Refused::Unclear => (
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED",
                "there are several ways to read this request",
            ),
            Refused::Torn => (StatusCode::BAD_REQUEST, "SIZE_INVALID", "the body broke off"),
            Refused::Foreign(message) => (StatusCode::FORBIDDEN, "DENIED", message),
            Refused::Unknown => {
                (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "this registry is one command's alone")
            }
            Refused::Wrong => {
                (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "this is not its credential")
            }
            Refused::NotHere => (StatusCode::NOT_FOUND, "UNSUPPORTED", "nothing but /v2/ is here"),
            Refused::NoDaemon => {
                (StatusCode::BAD_GATEWAY, "UNKNOWN", "bonded cannot be reached, or broke off")
            }
            Refused::Late => (StatusCode::GATEWAY_TIMEOUT, "UNKNOWN", "bonded does not answer"),
        };
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
        let mut response = Response::new(Answered::Own(Some(body.into())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let version = HeaderName::from_static("docker-distribution-api-version");
        headers.insert(version, HeaderValue::from_static("registry/2.0"));
        if is_over {
            // What follows on the connection may be a part of it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"bonded\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
