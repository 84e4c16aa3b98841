//! `POST /v1/gc?dry_run=BOOL`: ends the leases that are over, retires what was pushed and is listed
//! nowhere any more, and frees the blobs that nobody holds. One at a time.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use wire::api::Gc;
use wire::{Code, Problem};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::refusal;

/// The pause after each group of deletes. Right after mass deletes writes ran 5 to 8 times slower
/// (FACTS.md), so a put that comes meanwhile must find the disk's journal not full of them.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(ask: &Ask) -> Result<Answer, Problem> {
    let dry_run = ask.query(&["dry_run"])?.parsed("dry_run")?.unwrap_or(false);
    ask.check_admin()?;
    let Ok(_only_one) = ask.app.gc.try_acquire() else {
        return Err(Problem::new(Code::Busy, "another gc is running").hint("wait for it to end"));
    };
    let app = ask.app.clone();
    let collect = move || {
        let mut pace = || {
            if !dry_run {
                sleep(PAUSE)
            }
        };
        let over = app.leases_over();
        let leases = app.store.end_leases(over, dry_run, &mut pace).map_err(refusal::problem)?;
        let n_retired = app.store.retire_unlisted(dry_run, &mut pace).map_err(refusal::problem)?;
        let collected = app.store.gc(dry_run, &mut pace).map_err(refusal::problem)?;
        if !dry_run {
            app.metrics.gc_blobs.fetch_add(collected.n_blobs, Ordering::Relaxed);
            app.metrics.gc_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
        }
        Ok(Gc {
            dry_run,
            n_blobs: collected.n_blobs,
            bytes: collected.bytes,
            n_retired,
            n_leases_ended: leases.over.n_blobs,
            n_leases: leases.held.n_blobs,
            lease_bytes: leases.held.bytes,
        })
    };
    Answer::json(&ask.run(Kind::Short, collect).await?)
}
