//! One work with so many clients: every registry in turns, and what the table says of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use benches::measure::{Contestant, Doing, Failed, Result, Series, in_turns};
use benches::programs::Programs;
use benches::registries::{Peer, Server};
use benches::table::{Row, Section, Target};

use crate::bare;
use crate::crowd::{self, Bounds, Outcome};
use crate::work::{Goods, Size, Work};

/// The targets are about so many clients.
const N_CLIENTS: usize = 8;
/// Measurements with large blobs take so many times as long as others.
const LONGER: u32 = 3;

/// What every section needs.
pub(crate) struct Setting<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) dir: &'a Path,
    pub(crate) goods: &'a Arc<Goods>,
    pub(crate) n_rounds: usize,
    pub(crate) bounds: Bounds,
    pub(crate) peers: Vec<Peer>,
    pub(crate) foreign: Vec<SocketAddr>,
    pub(crate) n_dirs: Cell<usize>,
}

impl Setting<'_> {
    /// A new folder for one server.
    fn next_dir(&self) -> Result<PathBuf> {
        self.n_dirs.set(self.n_dirs.get() + 1);
        let dir = self.dir.join(self.n_dirs.get().to_string());
        fs::create_dir_all(&dir).doing(format!("making {}", dir.display()))?;
        Ok(dir)
    }
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Bonded, over loopback like everybody else.
    Bonded,
    /// Bonded, over its Unix socket.
    Socket,
    /// Bonded, whose client takes descriptors.
    Descriptors,
    /// A peer that is started here.
    Peer(Peer),
    /// A registry that runs already.
    Foreign(SocketAddr),
    /// Nobody: the same files, made by this program.
    Disk,
}

impl Contender {
    /// Who does this work.
    fn all(setting: &Setting<'_>, work: Work) -> Vec<Contender> {
        let mut all = vec![Contender::Bonded, Contender::Socket];
        // Bonded's client takes small blobs as bodies.
        if matches!(work, Work::Pull(Size::Medium | Size::Large)) {
            all.push(Contender::Descriptors);
        }
        let peers = setting.peers.iter().filter(|peer| **peer != Peer::Crane || work.only_reads());
        all.extend(peers.map(|peer| Contender::Peer(*peer)));
        all.extend(setting.foreign.iter().map(|address| Contender::Foreign(*address)));
        if bare::knows(work) {
            all.push(Contender::Disk);
        }
        all
    }

    fn name(self) -> String {
        match self {
            Contender::Bonded => "bonded".to_owned(),
            Contender::Socket => "bonded over its Unix socket".to_owned(),
            Contender::Descriptors => "bonded, with a descriptor".to_owned(),
            Contender::Peer(peer) => peer.name().to_owned(),
            Contender::Foreign(address) => format!("the registry at {address}"),
            Contender::Disk => "the disk alone".to_owned(),
        }
    }

    fn is_other(self) -> bool {
        matches!(self, Contender::Peer(_) | Contender::Foreign(_))
    }

    /// None where there is no server.
    fn start<'a>(self, setting: &Setting<'a>, dir: &Path) -> Result<Option<Server<'a>>> {
        let programs = setting.programs;
        let server = match self {
            Contender::Bonded => Server::bonded(programs, dir, false)?,
            Contender::Socket | Contender::Descriptors => Server::bonded(programs, dir, true)?,
            Contender::Peer(peer) => Server::peer(programs, dir, peer)?,
            Contender::Foreign(address) => Server::foreign(address),
            Contender::Disk => return Ok(None),
        };
        Ok(Some(server))
    }
}

/// Answers that were right and wrong, by who gave them.
#[derive(Default)]
pub(crate) struct Errors(BTreeMap<String, (usize, usize, Option<String>)>);

impl Errors {
    fn note(&mut self, who: &str, outcome: &Outcome) {
        let (n_right, n_wrong, first) = self.0.entry(who.to_owned()).or_default();
        *n_right += outcome.n_right;
        *n_wrong += outcome.n_wrong;
        if first.is_none() {
            first.clone_from(&outcome.first_wrong);
        }
    }

    pub(crate) fn any_of_bonded(&self) -> bool {
        self.0.iter().any(|(who, (_, n_wrong, _))| who.starts_with("bonded") && *n_wrong > 0)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (who, (n_right, n_wrong, first)) in &self.0 {
            // Writing to a String never fails.
            let _ = write!(text, "errors: {n_wrong} of {} at {who}", n_right + n_wrong);
            let _ = match first {
                Some(first) => writeln!(text, ", the first: {first}"),
                None => writeln!(text),
            };
        }
        text
    }
}

/// What is asked of Bonded, beside the fastest of the others or beside olareg.
fn targets(work: Work, n_clients: usize) -> (Target, Target) {
    if n_clients != N_CLIENTS {
        return (Target::None, Target::None);
    }
    match work {
        Work::Small => (Target::None, Target::AtLeast(1.5)),
        Work::Push(Size::Small) => (Target::None, Target::AtLeast(0.8)),
        Work::Push(Size::Medium) => (Target::None, Target::AtLeast(1.0)),
        Work::Push(Size::Large) => (Target::AtLeast(1.5), Target::None),
        Work::Pull(_) => (Target::AtLeast(0.65), Target::None),
        Work::Manifest(_) | Work::Head | Work::Tags => (Target::AtLeast(1.0), Target::None),
        Work::Mix => (Target::None, Target::None),
    }
}

/// Beside the fastest body.
const OF_DESCRIPTORS: f64 = 1.2;

/// Measures everybody, and compares.
pub(crate) fn measure(
    setting: &Setting<'_>,
    work: Work,
    n_clients: usize,
    errors: &mut Errors,
) -> Section {
    let contenders = Contender::all(setting, work);
    let outcomes = RefCell::new(vec![Vec::new(); contenders.len()]);
    let contestants = contenders.iter().enumerate().map(|(i, contender)| {
        let outcomes = &outcomes;
        Contestant::new(contender.name(), move || {
            let outcome = once(setting, *contender, work, n_clients)?;
            outcomes.borrow_mut()[i].push(outcome.clone());
            time_of_one(&outcome)
        })
    });
    let series = in_turns(setting.n_rounds, contestants.collect());
    let outcomes = outcomes.into_inner();
    let answering = |contender: &Contender| *contender != Contender::Disk;
    for (contender, outcomes) in contenders.iter().zip(&outcomes).filter(|(c, _)| answering(c)) {
        outcomes.iter().for_each(|outcome| errors.note(&contender.name(), outcome));
    }
    let clients = if n_clients == 1 { "client" } else { "clients" };
    let mut section = Section::new(format!("{}, {n_clients} {clients}", work.title()));
    compare(&mut section, work, n_clients, &contenders, &series);
    for (contender, outcomes) in contenders.iter().zip(&outcomes) {
        if let Some(line) = outcomes.last().and_then(where_time_goes) {
            section.explain(format!("{}: {line}", contender.name()));
        }
    }
    section
}

fn once(
    setting: &Setting<'_>,
    contender: Contender,
    work: Work,
    n_clients: usize,
) -> Result<Outcome> {
    let dir = setting.next_dir()?;
    let server = contender.start(setting, &dir)?;
    let mut bounds = setting.bounds;
    if matches!(work, Work::Push(Size::Large) | Work::Pull(Size::Large)) {
        bounds.time *= LONGER;
    }
    let Some(server) = server else { return bare::measure(&dir, work, n_clients, bounds) };
    let as_descriptors = contender == Contender::Descriptors;
    crowd::measure(&server, work, n_clients, as_descriptors, setting.goods, bounds)
}

fn time_of_one(outcome: &Outcome) -> Result<Duration> {
    match outcome.n_right {
        0 => Err(Failed(outcome.first_wrong.clone().unwrap_or("nothing was done".to_owned()))),
        n => Ok(outcome.time.div_f64(n as f64)),
    }
}

fn compare(
    section: &mut Section,
    work: Work,
    n_clients: usize,
    contenders: &[Contender],
    series: &[Series],
) {
    let (unit, amount) = work.unit();
    let (of_fastest, of_olareg) = targets(work, n_clients);
    let speeds: Vec<Result<Vec<f64>>> = series.iter().map(|one| one.speeds(amount)).collect();
    let of = |contender| contenders.iter().position(|other| *other == contender);
    let fastest = fastest(contenders, &speeds);
    let Some(ours) = of(Contender::Bonded).map(|i| &speeds[i]) else { return };
    for (contender, theirs) in contenders.iter().zip(&speeds).filter(|(c, _)| c.is_other()) {
        let target = match contender {
            Contender::Peer(Peer::Olareg) => of_olareg,
            _ => Target::None,
        };
        section.row(Row::new(contender.name(), unit, ours, theirs, target));
    }
    if of_fastest != Target::None {
        section.row(Row::new("the fastest of them", unit, ours, &fastest, of_fastest));
    }
    if let Some(i) = of(Contender::Descriptors) {
        let target =
            if n_clients == N_CLIENTS { Target::AtLeast(OF_DESCRIPTORS) } else { Target::None };
        let beside = "with a descriptor: the fastest of them";
        section.row(Row::new(beside, unit, &speeds[i], &fastest, target));
    }
    if let Some(i) = of(Contender::Socket) {
        let beside = "over loopback: the same over its Unix socket";
        section.row(Row::new(beside, unit, ours, &speeds[i], Target::None));
    }
    if let Some(i) = of(Contender::Disk) {
        let beside = "the disk alone: the same files, nothing else";
        section.row(Row::new(beside, unit, ours, &speeds[i], Target::None));
    }
}

/// The best figure of the others, round by round. Of one who failed there is none.
fn fastest(contenders: &[Contender], speeds: &[Result<Vec<f64>>]) -> Result<Vec<f64>> {
    let others = contenders.iter().zip(speeds).filter(|(contender, _)| contender.is_other());
    let others: Vec<&Vec<f64>> = others.filter_map(|(_, speeds)| speeds.as_ref().ok()).collect();
    let n_rounds = others.iter().map(|speeds| speeds.len()).min();
    let n_rounds = n_rounds.ok_or_else(|| Failed("there is nobody beside".to_owned()))?;
    let best = |round: usize| others.iter().map(|speeds| speeds[round]).fold(0.0, f64::max);
    Ok((0..n_rounds).map(best).collect())
}

/// Processor time of one operation, of the registry and of the driver.
fn where_time_goes(outcome: &Outcome) -> Option<String> {
    let usage = outcome.usage?;
    let n = (outcome.n_right + outcome.n_wrong).max(1) as f64;
    let of_one = |seconds: f64| {
        let us = seconds / n * 1e6;
        if us < 10_000.0 { format!("{us:.0} µs") } else { format!("{:.1} ms", us / 1e3) }
    };
    let (user, kernel) = (of_one(usage.user), of_one(usage.kernel));
    let (driver, share) = (of_one(usage.clients), usage.share(outcome.time.as_secs_f64()));
    Some(format!(
        "for one, {user} in its own code, {kernel} in the kernel, {driver} in the driver; the cores \
         were {share:.0} % in use"
    ))
}
