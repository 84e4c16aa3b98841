//! The client's one way from connections to blocking work and back, and the one place that starts
//! tasks.
//!
//! Files are read and hashed on tokio's blocking threads, never more of them than there are
//! connections: each transfer has one.

use std::sync::{Arc, Mutex, PoisonError};

use cas::media;
use tokio::task::{JoinHandle, JoinSet};

use crate::problem::Error;

/// Runs what touches files away from the threads that move connections.
pub(crate) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, media::Error> + Send + 'static,
) -> Result<T, Error> {
    match apart(job).await {
        Ok(end) => Ok(end?),
        Err(error) => Err(Error::lost("working with files", &error)),
    }
}

/// Starts blocking work that somebody looks after later.
#[allow(clippy::disallowed_methods, reason = "this is the bridge")]
pub(crate) fn apart<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(job)
}

/// Does something with every item, in order, up to `n_workers` at once. The first error ends it,
/// and what is under way is given up.
#[allow(clippy::disallowed_methods, reason = "the one place that starts tasks")]
pub(crate) async fn each<T, F>(
    n_workers: usize,
    items: Vec<T>,
    act: impl Fn(T) -> F + Clone + Send + 'static,
) -> Result<(), Error>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Error>> + Send,
{
    let n_workers = n_workers.min(items.len());
    let queue = Arc::new(Mutex::new(items.into_iter()));
    let mut workers = JoinSet::new();
    for _ in 0..n_workers {
        let (queue, act) = (Arc::clone(&queue), act.clone());
        workers.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                match next {
                    Some(item) => act(item).await?,
                    None => return Ok(()),
                }
            }
        });
    }
    while let Some(end) = workers.join_next().await {
        end.unwrap_or_else(|error| Err(Error::lost("working", &error)))?;
    }
    Ok(())
}
