//! The program: parse, build, run, drain.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitCode, id};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use daemon::app::{App, now};
use daemon::args::Args;
use daemon::bridge::{self, Bridge};
use daemon::config::{Config, EXAMPLE};
use daemon::log::Log;
use daemon::peer::Whom;
use daemon::settle::{Settled, settle};
use daemon::socket::{Listening, SocketError};
use daemon::v2::listener::Front;
use daemon::{refusal, serve};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use wire::{Code, Problem};

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let mut out = std::io::stderr();
            let _ = writeln!(out, "bonded: {problem}");
            if let Some(hint) = &problem.hint {
                let _ = writeln!(out, "  hint: {hint}");
            }
            ExitCode::from(problem.code.exit())
        }
    }
}

fn run(args: &Args) -> Result<(), Problem> {
    if args.print_config {
        return print(EXAMPLE);
    }
    let settled = settle(args).map_err(|e| Problem::new(Code::Config, e.to_string()))?;
    if args.check_config {
        return print("the configuration is good\n");
    }
    let Settled { config, store: root, front } = settled;
    let _log = Log::start(config.log.format, &config.log.level)
        .map_err(|e| Problem::new(Code::Config, e))?;
    raise_limits();
    give_memory_back();

    // Who can listen nowhere need not open the store; who finds it held must not touch the socket.
    let failed = |e: SocketError| Problem::new(Code::LocalIo, e.to_string());
    let inherited = Listening::inherited().map_err(failed)?;
    let Some(place) = inherited.map(Ok).or(config.socket.path.clone().map(Err)) else {
        let message = "socket.path: name the socket with --socket or in the configuration";
        return Err(Problem::new(Code::Config, message));
    };
    let store = open(&config, &root)?;
    let listening = match place {
        Ok(inherited) => inherited,
        Err(path) => {
            let group = config.socket.group.map(|group| group.0);
            Listening::bind(&path, config.socket.mode.0, group).map_err(failed)?
        }
    };
    let front = match front {
        Some(front) => Some((listen(front.address)?, Arc::new(front))),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4))
        .max_blocking_threads(Bridge::n_threads(&config))
        .thread_name("bonded")
        .enable_all()
        .build()
        .map_err(|e| internal("the runtime could not be started", &e))?;
    let closing = store.clone();
    let app = Arc::new(App::new(store, root, config).map_err(|e| Problem::new(Code::Config, e))?);
    app.adopt_uploads().map_err(refusal::problem)?;
    let served = runtime.block_on(serve(app.clone(), listening, front));

    // Drafts first: an open one holds links and staging folders that nobody is going to want.
    drop(app.drafts.clear());
    app.keep_uploads();
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(app);
    closing.close();
    tracing::info!("stopped");
    served
}

fn open(config: &Config, root: &Path) -> Result<cas::Store, Problem> {
    let disk = cas::disk::RealDisk::open(root)
        .map_err(|e| Problem::new(Code::StoreIo, format!("{}: {e}", root.display())))?;
    let defaults = cas::Options::default();
    let options = cas::Options {
        limits: config.oci_limits(),
        index: Some(root.join("index")),
        index_cache: config.store.index_cache.0,
        min_free: config.store.min_free.0,
        dedup: config.store.dedup,
        documents: config.limits.manifests_in_memory.0,
        quota: config.store.quota.0,
        n_threads: std::thread::available_parallelism().map_or(2, usize::from).min(8),
        holder: format!("bonded, pid {}, since {}", id(), utc(now())),
        new_id: new_id()?,
        ..defaults
    };
    cas::Store::open(Arc::new(disk), options).map_err(|error| match error {
        // Nobody can retire anything before there is a daemon to ask.
        cas::Error::Full => Problem::new(Code::DiskFull, "the store's disk is full")
            .hint("nothing is lost: free some room on that filesystem, outside of the store"),
        other => refusal::problem(other),
    })
}

/// Listens on an address, which the settling of the configuration has looked at.
fn listen(address: SocketAddr) -> Result<std::net::TcpListener, Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(Code::LocalIo, format!("{address} cannot be listened on: {error}"))
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

async fn serve(
    app: Arc<App>,
    listening: Listening,
    front: Option<(std::net::TcpListener, Arc<Front>)>,
) -> Result<(), Problem> {
    let failed = |e: std::io::Error| internal("the socket cannot be listened on", &e);
    let listener = listening.listener().map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    let front = match front {
        Some((listener, front)) => {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            tell(&listener, &front);
            tell_of_rules(&app, &front);
            Some((listener, front))
        }
        None => None,
    };
    let signals =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
        return Err(Problem::new(Code::Internal, "signals cannot be waited for"));
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), store = app.store.id(), "ready");
    notify(&[NotifyState::Ready]);

    let watchdog = sd_notify::watchdog_enabled();
    let (again, reloading) = (app.clone(), front.as_ref().map(|(_, front)| front.clone()));
    let stop = async move {
        // systemd's advice: say that we live twice as often as it asks.
        let mut clock = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3600)) / 2);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => reload(&again, reloading.clone()).await,
                _ = clock.tick(), if watchdog.is_some() => notify(&[NotifyState::Watchdog]),
            }
        }
        tracing::info!("stopping: what is in flight may end");
        notify(&[NotifyState::Stopping]);
        // Nobody finds the socket any more, while those who are connected are served to the end.
        drop(listening);
    };
    serve::serve(app, listener, front, stop).await;
    Ok(())
}

/// Says where the listener is, and for whom.
fn tell(listener: &tokio::net::TcpListener, front: &Front) {
    let Ok(address) = listener.local_addr() else { return };
    match front.login.users() {
        Some(users) => {
            let (n_users, anonymous) = (users.n_users(), front.login.anonymous());
            tracing::info!(n_users, ?anonymous, %address, "users may connect here, over TLS");
        }
        None => tracing::info!(%address, "everybody on this machine may connect here, unasked"),
    }
}

/// A rule for a user who is not there gives nobody anything: its name may be misspelt.
fn tell_of_rules(app: &App, front: &Front) {
    let users = front.login.users();
    let is_there = |user: &str| users.as_ref().is_some_and(|users| users.has(user));
    for user in app.policy.registry_users().filter(|user| !is_there(user)) {
        tracing::warn!(user, "a rule is for a user of the registry who is not there");
    }
}

/// Reads anew what the listener needs and its keeper may change while it runs.
async fn reload(app: &App, front: Option<Arc<Front>>) {
    let Some(front) = front else {
        tracing::info!("there is nothing to read anew");
        return;
    };
    let own = Whom::Uid(nix::unistd::Uid::effective().as_raw());
    let reloaded = front.clone();
    let read = move || Ok(reloaded.reload());
    match app.bridge.run(bridge::Kind::Short, own, read).await {
        Ok(Ok(())) => {
            tracing::info!("certificate and users were read anew");
            tell_of_rules(app, &front);
        }
        Ok(Err((key, reason))) => tracing::error!(key, reason, "it stays as it was"),
        Err(problem) => tracing::error!(%problem, "certificate and users stay as they were"),
    }
}

/// Tells the service manager, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// A connection can hold two descriptors beside its own; the usual soft limit is 1024.
fn raise_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536).max(soft), hard);
    }
}

/// Holds glibc to what is in use. Left alone it keeps large buffers in the arenas of many threads once
/// the first of them was freed: 70 MiB after a crowd of large requests where 29 MiB do
/// (docs/decisions/0006). They are made once for each large blob, so mapping them anew costs nothing.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "no safe wrapper of mallopt is at hand")]
fn give_memory_back() {
    use nix::libc::{M_MMAP_THRESHOLD, mallopt};
    // SAFETY: mallopt takes two numbers, and locks the arenas that it changes.
    if unsafe { mallopt(M_MMAP_THRESHOLD, 128 << 10) } != 1 {
        tracing::debug!("the allocator could not be tuned");
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}

fn print(text: &str) -> Result<(), Problem> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Problem::new(Code::LocalIo, format!("standard output: {e}")))
}

fn internal(what: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::Internal, format!("{what}: {error}"))
}

fn new_id() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| internal("the system gives no random bytes", &e))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Seconds since 1970 as RFC 3339 (days to a date after Howard Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn seconds_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_763_700_000, "2025-11-21T04:40:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
