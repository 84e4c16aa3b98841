//! One round: a store as the plan wants it, the threads, and what they were answered.

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use cas::disk::RelPath;
use cas::disk::sim::SimDisk;
use cas::{Error, Options, Store, layout};

use super::model::{Answer, Event, What};
use super::plan::{self, Held, Key, Op, Plan, keys, names};
use super::turns::{Turned, Turns};

/// Threads that have not ended by then wait for each other.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// What a round left.
pub(crate) struct Ended {
    pub(crate) store: Store,
    pub(crate) events: Vec<Event>,
    pub(crate) clock: Arc<AtomicU64>,
    pub(crate) trace: Vec<String>,
}

/// Whether the power went, as the threads can know it.
type IsCut = Arc<dyn Fn() -> bool + Send + Sync>;

/// Whether this member of an artifact is the one that the plan lets rot.
pub(crate) fn is_rotten(plan: &Plan, key: Key, member: usize) -> bool {
    let members = &keys()[key].artifact.members;
    plan.rots && members[member % members.len()].0.digest == plan::rotten()
}

/// A disk with a store in which everything is durable that the plan wants there.
pub(crate) fn prepared(plan: &Plan) -> SimDisk {
    let disk = SimDisk::new();
    let store = Store::open(Arc::new(disk.clone()), options()).unwrap();
    fill(&store, plan);
    store.close();
    cas::disk::Disk::sync_all(&disk).unwrap();
    if plan.rots {
        let rotten = plan::rotten();
        let pool = RelPath::new(layout::BLOBS).join(rotten.algorithm().name());
        disk.corrupt(&pool.join(rotten.hex()), 700).unwrap();
    }
    disk.with_crowd(plan.crowded)
}

/// Puts what the plan wants there. What it wants to be rotten is still to be done.
pub(crate) fn fill(store: &Store, plan: &Plan) {
    for key in &plan.retired {
        let held = &keys()[*key];
        held.artifact.put(store, &held.workspace, &[]).unwrap();
        store.retire(&held.workspace, &held.artifact.digest()).unwrap();
    }
    for (key, tag) in &plan.held {
        assert_eq!(act(store, plan, Op::Put(*key, *tag)), Answer::Done);
    }
}

/// How a store is opened whose calls come in the same order every time.
pub(crate) fn options() -> Options {
    let log = crate::crash::LOG;
    Options { index: None, pipeline_from: u64::MAX, n_threads: 1, log, ..Options::default() }
}

/// Runs the threads in the turns of `seed`; the power goes before call number `cut`.
pub(crate) fn take_turns(
    disk: &SimDisk,
    plan: &Arc<Plan>,
    seed: u64,
    cut: Option<u64>,
) -> Result<Ended, String> {
    let turns = Turns::new(plan.threads.len(), seed);
    let turned = Turned { disk: disk.clone(), turns: turns.clone() };
    let store = Store::open(Arc::new(turned), options()).map_err(|error| error.to_string())?;
    let cut = cut.map(|cut| disk.calls() + cut);
    if let Some(cut) = cut {
        disk.stop_after(cut);
    }
    let watched = disk.clone();
    let is_cut: IsCut = Arc::new(move || cut.is_some_and(|cut| watched.calls() > cut));
    let joined = turns.clone();
    let mut ended = run(store, plan, is_cut, move |me| joined.join(me));
    match &mut ended {
        Ok(ended) => ended.trace = turns.trace(),
        Err(said) => *said = format!("{said}\n  {}", turns.trace().join("\n  ")),
    }
    ended
}

/// Runs the threads as the machine has it.
pub(crate) fn run_free(store: Store, plan: &Arc<Plan>) -> Result<Ended, String> {
    let start = Arc::new(Barrier::new(plan.threads.len()));
    let join = move |_| {
        start.wait();
    };
    run(store, plan, Arc::new(|| false), join)
}

fn run<G>(
    store: Store,
    plan: &Arc<Plan>,
    is_cut: IsCut,
    join: impl Fn(usize) -> G + Clone + Send + 'static,
) -> Result<Ended, String> {
    let clock = Arc::new(AtomicU64::new(0));
    let (send, receive) = mpsc::channel();
    for me in 0..plan.threads.len() {
        let (store, plan, clock, send) = (store.clone(), plan.clone(), clock.clone(), send.clone());
        let (is_cut, join) = (is_cut.clone(), join.clone());
        std::thread::spawn(move || {
            let turns = join(me);
            let mut events = Vec::new();
            for op in &plan.threads[me] {
                events.push(observe(&store, &plan, *op, me, &clock, &is_cut));
            }
            drop(turns);
            drop(store);
            let _ = send.send(events);
        });
    }
    drop(send);
    let mut events = Vec::new();
    for _ in 0..plan.threads.len() {
        let more = receive.recv_timeout(HANGS_AFTER);
        events.extend(more.map_err(|_| "the threads wait for each other for ever".to_owned())?);
    }
    Ok(Ended { store, events, clock, trace: Vec::new() })
}

/// Does it and writes down what came of it.
pub(crate) fn observe(
    store: &Store,
    plan: &Plan,
    op: Op,
    thread: usize,
    clock: &AtomicU64,
    is_cut: &IsCut,
) -> Event {
    let begun = clock.fetch_add(1, Ordering::SeqCst);
    let answer = catch_unwind(AssertUnwindSafe(|| act(store, plan, op)))
        .unwrap_or_else(|_| Answer::Strange("the store panicked".to_owned()));
    // An answer that nobody was there to hear, unless it is a promise.
    let answer = if answer != Answer::Done && is_cut() { Answer::Unknown } else { answer };
    let ended = clock.fetch_add(1, Ordering::SeqCst);
    Event { thread, what: What::Op(op), answer, begun, ended }
}

/// The same, by the one thread that is left.
pub(crate) fn observe_after(store: &Store, plan: &Plan, op: Op, clock: &AtomicU64) -> Event {
    let never: IsCut = Arc::new(|| false);
    observe(store, plan, op, plan.threads.len(), clock, &never)
}

fn act(store: &Store, plan: &Plan, op: Op) -> Answer {
    let found = match op {
        Op::Put(key, tag) => {
            let held = &keys()[key];
            let names: Vec<_> = tag.map(|tag| names()[tag].clone()).into_iter().collect();
            held.artifact.put(store, &held.workspace, &names).map(|_| Answer::Done)
        }
        Op::Abandon(key) => {
            let held = &keys()[key];
            let draft = store.draft(&held.workspace);
            draft.and_then(|draft| held.artifact.bring(&draft)).map(|()| Answer::Done)
        }
        Op::Retire(key) => {
            let held = &keys()[key];
            store.retire(&held.workspace, &held.artifact.digest()).map(|_| Answer::Done)
        }
        Op::Check(key) => {
            let held = &keys()[key];
            let sealed = store.sealed(&held.workspace, &held.artifact.digest());
            sealed.and_then(|sealed| sealed.check()).map(|_| Answer::Done)
        }
        Op::Blob(key, member) => read_blob(store, key, member),
        Op::Stream(key, member) => stream(store, key, member),
        Op::Resolve(tag) => {
            let led = store.resolve(&keys()[0].workspace, &names()[tag].to_string());
            match led {
                Err(Error::NotFound { .. }) => Ok(Answer::Led(None)),
                other => other.map(|led| {
                    let is_it = |key: &Key| *key != 3 && keys()[*key].artifact.digest() == led;
                    Answer::Led((0..keys().len()).find(is_it))
                }),
            }
        }
        Op::List(key) => {
            let Held { workspace, artifact } = &keys()[key];
            let listed = store.list(workspace, None, 100);
            let held = store.holders(workspace, &artifact.members[0].0.digest);
            listed.and(held).and(store.examine()).map(|_| Answer::Done)
        }
        Op::Gc => {
            // Every lease is over: only what somebody needs or put may be left, and all of that is.
            let ended = store.end_leases(i128::MAX, false, &mut || {});
            let retired = ended.and_then(|_| store.retire_unlisted(false, &mut || {}));
            match retired {
                Ok(0) => store.gc(false, &mut || {}).map(|_| Answer::Done),
                Ok(n) => Ok(Answer::Strange(format!("gc retired {n} that were put"))),
                Err(error) => Err(error),
            }
        }
    };
    found.unwrap_or_else(|error| match error {
        Error::NotFound { .. } => Answer::NotFound,
        Error::Corrupt { ref damages, .. } => {
            let file = layout::blob_file(&plan::rotten());
            match plan.rots && damages.iter().all(|damage| damage.file == file) {
                true => Answer::Corrupt,
                false => Answer::Strange(error.to_string()),
            }
        }
        error => Answer::Strange(error.to_string()),
    })
}

fn read_blob(store: &Store, key: Key, member: usize) -> Result<Answer, Error> {
    let Held { workspace, artifact } = &keys()[key];
    let (claim, bytes) = &artifact.members[member % artifact.members.len()];
    let blob = store.sealed(workspace, &artifact.digest())?.blob(&claim.digest)?;
    let (mut read, most) = (Vec::new(), bytes.len() + 1);
    while let Ok(chunk) = blob.chunk(read.len() as u64, (most - read.len()) as u64)
        && !chunk.as_ref().is_empty()
    {
        read.extend_from_slice(chunk.as_ref());
    }
    Ok(match read == *bytes {
        true => Answer::Done,
        false => Answer::Strange("a checked blob has other bytes".to_owned()),
    })
}

fn stream(store: &Store, key: Key, member: usize) -> Result<Answer, Error> {
    let Held { workspace, artifact } = &keys()[key];
    let (claim, bytes) = &artifact.members[member % artifact.members.len()];
    let sealed = store.sealed(workspace, &artifact.digest())?;
    let mut stream = sealed.stream(&claim.digest)?;
    let mut read = Vec::new();
    Ok(match stream.read_to_end(&mut read) {
        Ok(_) if read == *bytes => Answer::Done,
        Ok(_) => Answer::Strange("a stream was complete and had other bytes".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Answer::Corrupt,
        Err(error) => Answer::Strange(format!("reading the stream: {error}")),
    })
}
