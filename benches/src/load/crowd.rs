//! Clients that work at the same time, and the clock beside them. It knows no ratio and no target.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use benches::cache;
use benches::measure::{Doing, Failed, Result};
use benches::registries::Server;
use benches::registry::At;
use benches::usage::Usage;
use tokio::runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::work::{Caller, Goods, Stock, Work};

/// A client that gets so many wrong answers gives up.
const N_ERRORS: usize = 10;

/// When a measurement ends: at the first of these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) n_ops: usize,
    pub(crate) time: Duration,
}

/// What came of one measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Operations whose answers were right.
    pub(crate) n_right: usize,
    /// Operations with an answer that was not right.
    pub(crate) n_wrong: usize,
    /// What was wrong first.
    pub(crate) first_wrong: Option<String>,
    /// From the moment when all clients began to the one when the last of them was done.
    pub(crate) time: Duration,
    /// Of the registry and of this process.
    pub(crate) usage: Option<Usage>,
}

/// What all clients share.
struct Shared {
    at: At,
    prefix: String,
    work: Work,
    goods: Arc<Goods>,
    stock: Stock,
    /// Where blobs are handed over as descriptors.
    files: Option<PathBuf>,
    bounds: Bounds,
    n_begun: AtomicUsize,
    all_connected: Barrier,
}

/// Fills the registry with what the work needs, and measures.
pub(crate) fn measure(
    server: &Server<'_>,
    work: Work,
    n_clients: usize,
    as_descriptors: bool,
    goods: &Arc<Goods>,
    bounds: Bounds,
) -> Result<Outcome> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.doing("starting a runtime")?;
    let at = server.at().clone();
    let prefix = unique()?;
    let stock = runtime.block_on(Stock::fill(&at, &prefix, work, goods))?;
    cache::settle();
    let shared = Arc::new(Shared {
        at,
        prefix,
        work,
        goods: goods.clone(),
        stock,
        files: server.socket().filter(|_| as_descriptors),
        bounds,
        n_begun: AtomicUsize::new(0),
        all_connected: Barrier::new(n_clients + 1),
    });
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for i in 0..n_clients {
            clients.spawn(client(shared.clone(), i));
        }
        // Passed by all clients or, when one cannot connect, by nobody.
        tokio::select! {
            _ = shared.all_connected.wait() => {}
            Some(ended) = clients.join_next() => {
                ended.doing("running a client")??;
                return Err(Failed("a client ended before it began".to_owned()));
            }
        }
        let (begun, before) = (Instant::now(), server.usage()?);
        let mut all = Outcome::default();
        while let Some(ended) = clients.join_next().await {
            let one = ended.doing("running a client")??;
            all.n_right += one.n_right;
            all.n_wrong += one.n_wrong;
            all.first_wrong = all.first_wrong.or(one.first_wrong);
        }
        all.time = begun.elapsed();
        all.usage = server.usage()?.zip(before).map(|(after, before)| after.since(before));
        Ok(all)
    })
}

async fn client(shared: Arc<Shared>, i: usize) -> Result<Outcome> {
    let Shared { at, prefix, work, goods, stock, files, bounds, .. } = &*shared;
    let connect = || Caller::connect(at, prefix, i, stock, files.as_deref());
    let mut caller = connect().await?;
    shared.all_connected.wait().await;
    let (begun, mut outcome) = (Instant::now(), Outcome::default());
    while begun.elapsed() < bounds.time
        && shared.n_begun.fetch_add(1, Ordering::Relaxed) < bounds.n_ops
    {
        match caller.once(*work, goods, stock).await {
            Ok(()) => outcome.n_right += 1,
            Err(Failed(why)) => {
                outcome.n_wrong += 1;
                outcome.first_wrong.get_or_insert(why);
                if outcome.n_wrong >= N_ERRORS {
                    break;
                }
                // What is left of the answer must not be taken for the next one.
                caller = connect().await?;
            }
        }
    }
    Ok(outcome)
}

/// A part of a repository's name that nobody has used: a foreign registry keeps what it is given.
fn unique() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).doing("asking for random bytes")?;
    Ok(format!("run-{:016x}", u64::from_le_bytes(bytes)))
}
