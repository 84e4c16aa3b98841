//! Taking an image in whose layers the store has already: every byte is proved, none is written.

use std::cell::Cell;

use crate::cache;
use crate::corpus::Image;
use crate::daemon::{Daemon, Usage};
use crate::limits;
use crate::measure::{Contestant, Failed, Result, in_turns};
use crate::table::{Row, Section, Target};

use super::{Bench, GB};

/// Of the time that it takes to hash the source and to read the store's copy.
const MOST: f64 = 1.15;
/// What a put of nothing new may write: the layout's own small files and the journal.
const MOST_WRITTEN: f64 = 1.0;
const MB: f64 = 1e6;

/// Puts an image again, with the store's copy in memory or not.
pub(crate) fn measure(bench: &Bench<'_>, image: &Image) -> Result<Section> {
    let daemon = Daemon::start(bench.programs, bench.dir)?;
    let source = format!("oci:{}", image.layout.display());
    daemon.bond(&["put", &source])?;
    let copies: Vec<_> = image.layers.iter().map(|layer| daemon.blob(layer)).collect();
    let sources = image.files();
    let (used, most_written) = (Cell::new(Usage::default()), Cell::new(0_u64));
    let ready = |is_warm: bool| {
        cache::drop(&copies)?;
        cache::warm(&sources)?;
        if is_warm {
            cache::warm(&copies)?;
        }
        cache::settle();
        Ok::<(), Failed>(())
    };
    let ours = |is_warm: bool| {
        ready(is_warm)?;
        let (before, written) = (daemon.usage()?, daemon.written()?);
        let (_, time) = daemon.bond(&["put", &source])?;
        used.set(daemon.usage()?.since(before));
        most_written.set(most_written.get().max(daemon.written()? - written));
        Ok(time)
    };
    let limit = |is_warm: bool| {
        ready(is_warm)?;
        limits::hash_and_read(&sources, &copies, 2)
    };
    let series = in_turns(
        bench.n_rounds,
        vec![
            Contestant::new("bond put, both copies in memory", || ours(true)),
            Contestant::new("hashing and reading, both in memory", || limit(true)),
            Contestant::new("bond put, the store's copy on disk", || ours(false)),
            Contestant::new("hashing and reading, the store's copy on disk", || limit(false)),
        ],
    );
    let mut section = Section::new(format!("7.2 put, {}, all layers in the store", image.name));
    for pair in series.chunks(2) {
        let [ours, limit] = pair else { continue };
        let (time, least) = (ours.times.clone(), limit.times.clone());
        section.row(Row::new(&limit.name, "s", &time, &least, Target::AtMost(MOST)));
    }
    let written = Ok(vec![most_written.get() as f64 / MB]);
    section.row(Row::bound("bytes written, at most (no layer)", "MB", &written, MOST_WRITTEN));
    section.explain(used.get().text(series.get(2).map_or(f64::NAN, |ours| ours.median())));
    section.explain(format!("{:.2} GB are hashed, and as many read", image.size() as f64 / GB));
    Ok(section)
}
