//! Many small artifacts: each whole and durable before the next one of the same client.

use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use benches::fresh::Blob;
use bytes::Bytes;
use client::Client;
use tokio::runtime;

use crate::cache;
use crate::corpus::small_files;
use crate::daemon::{Daemon, Usage};
use crate::limits::spread;
use crate::measure::{Contestant, Doing, Failed, Result, in_turns};
use crate::registries::{Peer, Server};
use crate::registry::Registry;
use crate::table::{Row, Section, Target};

use super::Bench;

/// Clients at once.
const N_CLIENTS: usize = 8;
/// One at a time takes so much longer that fewer do.
const FEWER: usize = 10;
/// Times as many as olareg takes, and as one client alone puts.
const LEAST: f64 = 2.0;

/// Puts `n` files of 4 KiB with eight clients, a tenth of them with one, and pushes as many to
/// olareg, which syncs nothing.
pub(crate) fn measure(bench: &Bench<'_>, n: usize) -> Result<Section> {
    let daemon = Daemon::start(bench.programs, bench.dir)?;
    let used = Cell::new(Usage::default());
    let ours = |n_clients: usize, n: usize| {
        let files = small_files(n)?;
        cache::settle();
        let before = daemon.usage()?;
        let socket = daemon.socket();
        let connected = async || {
            let connected = Client::connect_with(&socket, 1).await;
            connected.doing("connecting to bonded")
        };
        let put = async |client: &mut Client, title: String, bytes: Bytes| {
            client.put_file(&title, bytes).await.map(drop).doing("putting a file")
        };
        let time = all_at_once(n_clients, files, connected, put)?;
        if n_clients == N_CLIENTS {
            used.set(daemon.usage()?.since(before));
        }
        Ok(time)
    };
    let theirs = || {
        let files = small_files(n)?;
        let olareg = Server::peer(bench.programs, bench.dir, Peer::Olareg)?;
        cache::settle();
        let connected = async || {
            let mut registry = Registry::connect(olareg.at(), "bench").await?;
            registry.push_config().await?;
            Ok(registry)
        };
        let push = async |registry: &mut Registry, title: String, bytes: Bytes| {
            registry.push_artifact(&title, &Blob::of(bytes)).await.map(drop)
        };
        let time = all_at_once(N_CLIENTS, files, connected, push);
        drop(olareg);
        fs::remove_dir_all(bench.dir.join("olareg")).doing("removing olareg's files")?;
        time
    };
    let n_alone = (n / FEWER).max(1);
    let series = in_turns(
        bench.n_rounds,
        vec![
            Contestant::new("bonded, 8 clients", || ours(N_CLIENTS, n)),
            Contestant::new("olareg over HTTP, 8 clients, never synced", theirs),
            Contestant::new("our own, one at a time", || ours(1, n_alone)),
        ],
    );
    let title = format!("7.4 small artifacts, {n} files of 4 KiB, 8 clients");
    let mut section = Section::new(title);
    let [eight, olareg, alone] = &series[..] else { return Ok(section) };
    let speed = eight.speeds(n as f64);
    for (other, n) in [(olareg, n), (alone, n_alone)] {
        let speeds = other.speeds(n as f64);
        section.row(Row::new(&other.name, "/s", &speed, &speeds, Target::AtLeast(LEAST)));
    }
    section.explain(used.get().text(eight.median()));
    Ok(section)
}

/// Shares files out among clients that work at the same time, each on a thread of its own, and
/// measures from the first file to the last.
fn all_at_once<C>(
    n_clients: usize,
    files: Vec<Bytes>,
    connected: impl AsyncFn() -> Result<C> + Sync,
    put: impl AsyncFn(&mut C, String, Bytes) -> Result<()> + Sync,
) -> Result<Duration> {
    let next = AtomicUsize::new(0);
    let work = async || -> Result<(Instant, Instant)> {
        let mut client = connected().await?;
        let begun = Instant::now();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(bytes) = files.get(i) else { break };
            put(&mut client, format!("file-{i}"), bytes.clone()).await?;
        }
        Ok((begun, Instant::now()))
    };
    let indices: Vec<usize> = (0..n_clients).collect();
    let times = Mutex::new(Vec::new());
    spread(n_clients, &indices, |_| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let spent = runtime.doing("starting a runtime")?.block_on(work())?;
        times.lock().unwrap_or_else(PoisonError::into_inner).push(spent);
        Ok(())
    })?;
    let times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
    let first = times.iter().map(|(begun, _)| *begun).min();
    let last = times.iter().map(|(_, ended)| *ended).max();
    let span = first.zip(last).map(|(first, last)| last - first);
    span.ok_or_else(|| Failed("nobody did anything".to_owned()))
}
