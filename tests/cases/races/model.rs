//! Whether there is an order in which everything that was answered is right.
//!
//! Each operation takes effect in a few steps between its call and its answer; a search tries the
//! orders that the clock allows. What a step does is all that the store promises of it: `put` heals
//! the store's own copy, makes the artifact and then moves the name; `retire` ends name after name,
//! any of them where the power goes meanwhile, and then the artifact, and no name may ever lead to what
//! is not there.

use std::collections::HashSet;

use super::plan::{Key, N_KEYS, N_NAMES, Op, Plan, SHARING};

/// What an operation answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    NotFound,
    /// The rotten blob, and nothing else, was told.
    Corrupt,
    /// A name leads to this, or nowhere.
    Led(Option<Key>),
    /// None: the power went before. The operation happened as a whole, in part or not at all.
    Unknown,
    /// Nothing that may ever be answered.
    Strange(String),
}

/// What a thread did, and when.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) thread: usize,
    pub(crate) what: What,
    pub(crate) answer: Answer,
    /// Ticks of a clock that all threads share.
    pub(crate) begun: u64,
    pub(crate) ended: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Op(Op),
    /// A look at the disk while nobody else does anything.
    Look(There),
}

/// What is there, for everybody to see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct There {
    pub(crate) held: [bool; N_KEYS],
    pub(crate) names: [Option<Key>; N_NAMES],
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Model {
    there: There,
    /// The layouts whose shared layer is rotten or gone.
    bad: [bool; N_KEYS],
    /// The store's own copy of it is good.
    store_good: bool,
    /// Quarantine knows of it.
    told: bool,
}

/// Whether the events can have happened. Reads that nobody was promised to find again are left out
/// with `only_writes`: what was seen before a power cut may be gone after it.
pub(crate) fn is_legal(plan: &Plan, events: &[Event], only_writes: bool) -> bool {
    let is_write = |event: &&Event| match (&event.what, &event.answer) {
        (What::Op(Op::Put(..) | Op::Retire(_)), Answer::Done | Answer::Unknown) => true,
        (What::Op(_), _) => false,
        (What::Look(_), _) => true,
    };
    let events: Vec<&Event> =
        events.iter().filter(|event| !only_writes || is_write(event)).collect();
    let mut met = HashSet::new();
    let mut open = vec![(vec![0_u8; events.len()], Model::new(plan))];
    while let Some((done, model)) = open.pop() {
        let missing = |i: usize| usize::from(done[i]) < n_steps(events[i]);
        let waited_for = |i: usize| missing(i) && events[i].answer != Answer::Unknown;
        if !(0..events.len()).any(waited_for) {
            return true;
        }
        if !met.insert((done.clone(), model.clone())) {
            continue;
        }
        let first_end = (0..events.len()).filter(|i| waited_for(*i)).map(|i| events[i].ended).min();
        for i in (0..events.len()).filter(|i| missing(*i)) {
            // Whatever ended before this one began is over.
            if first_end.is_some_and(|end| end < events[i].begun) {
                continue;
            }
            for next in model.step(plan, events[i], done[i]) {
                let mut done = done.clone();
                done[i] += 1;
                open.push((done, next));
            }
        }
    }
    false
}

fn n_steps(event: &Event) -> usize {
    match (&event.what, &event.answer) {
        (What::Op(Op::Put(_, tag)), Answer::Done | Answer::Unknown) => {
            2 + usize::from(tag.is_some())
        }
        (What::Op(Op::Retire(_)), Answer::Done | Answer::Unknown) => N_NAMES + 1,
        (What::Op(Op::Abandon(_)), Answer::Unknown) => 1,
        (_, Answer::Unknown) => 0,
        _ => 1,
    }
}

impl Model {
    fn new(plan: &Plan) -> Model {
        let mut there = There { held: [false; N_KEYS], names: [None; N_NAMES] };
        for (key, tag) in &plan.held {
            there.held[*key] = true;
            if let Some(tag) = tag {
                there.names[*tag] = Some(*key);
            }
        }
        let mut bad = [false; N_KEYS];
        for key in SHARING {
            bad[key] = plan.rots && there.held[key];
        }
        Model { there, bad, store_good: !plan.rots, told: false }
    }

    /// What the next step of an operation may leave; nothing when it is not legal here.
    fn step(&self, plan: &Plan, event: &Event, step: u8) -> Vec<Model> {
        let mut next = self.clone();
        let mut others = Vec::new();
        let op = match &event.what {
            What::Look(there) if self.there == *there => return vec![next],
            What::Look(_) => return Vec::new(),
            What::Op(op) => *op,
        };
        let has = |key: Key| self.there.held[key];
        let rots = |key: Key| plan.rots && SHARING.contains(&key);
        let legal = match (op, &event.answer, step) {
            (Op::Put(key, _), Answer::Done | Answer::Unknown, 0) => {
                next.store_good |= rots(key);
                next.told |= rots(key);
                true
            }
            (Op::Put(key, _), Answer::Done | Answer::Unknown, 1) => {
                next.there.held[key] = true;
                next.bad[key] = false;
                true
            }
            (Op::Put(key, Some(tag)), Answer::Done | Answer::Unknown, _) => {
                next.there.names[tag] = Some(key);
                has(key)
            }
            (Op::Abandon(key), Answer::Done | Answer::Unknown, _) => {
                next.told |= rots(key);
                true
            }
            (Op::Retire(key), Answer::Done | Answer::Unknown, step)
                if usize::from(step) < N_NAMES =>
            {
                if event.answer == Answer::Unknown {
                    others.push(self.clone());
                }
                let name = &mut next.there.names[usize::from(step)];
                *name = name.filter(|led| *led != key);
                has(key)
            }
            (Op::Retire(key), Answer::Done | Answer::Unknown, _) => {
                next.there.held[key] = false;
                has(key) && !self.there.names.contains(&Some(key))
            }
            (
                Op::Retire(key) | Op::Check(key) | Op::Blob(key, _) | Op::Stream(key, _),
                Answer::NotFound,
                _,
            ) => !has(key),
            (Op::Check(key), Answer::Done, _) => {
                next.bad[key] = false;
                has(key) && (!self.bad[key] || self.told && self.store_good)
            }
            (Op::Blob(key, member) | Op::Stream(key, member), Answer::Done, _) => {
                let heals = super::round::is_rotten(plan, key, member);
                next.bad[key] &= !heals;
                has(key) && (!self.bad[key] || !heals || self.told && self.store_good)
            }
            (Op::Check(key) | Op::Blob(key, _) | Op::Stream(key, _), Answer::Corrupt, _) => {
                next.told = true;
                has(key) && self.bad[key]
            }
            (Op::Resolve(tag), Answer::Led(led), _) => self.there.names[tag] == *led,
            (Op::List(_), Answer::Done, _) => true,
            (Op::Gc, Answer::Done, _) => {
                let is_held = SHARING.iter().any(|key| has(*key) && !self.bad[*key]);
                next.store_good &= is_held || !plan.rots;
                true
            }
            _ => false,
        };
        if !legal {
            return Vec::new();
        }
        others.push(next);
        others
    }
}

#[test]
fn the_model_accepts_what_can_be_and_nothing_else() {
    use Answer::{Corrupt, Done, Led, NotFound, Unknown};
    use Op::{Check, Put, Resolve, Retire};
    let look = |held: [bool; N_KEYS], names| What::Look(There { held, names });
    let none = [false; N_KEYS];
    let only_0 = [true, false, false, false, false];
    let (first, then) = ((0, 1), (2, 3));
    let (beside, end) = ((0, 3), (8, 9));
    let put = What::Op(Put(0, Some(0)));
    let retire = What::Op(Retire(0));
    let check = What::Op(Check(0));
    let resolve = What::Op(Resolve(0));
    let gone = look(none, [None; N_NAMES]);
    let there = look(only_0, [Some(0), None]);
    let dangling = look(none, [Some(0), None]);
    let nameless = look(only_0, [None; N_NAMES]);
    let put_too = What::Op(Put(0, Some(1)));
    let (with_first, with_second) = (look(only_0, [Some(0), None]), look(only_0, [None, Some(0)]));
    let last = (4, 5);
    type Told<'a> = Vec<(&'a What, Answer, (u64, u64))>;
    // By two names, and retired.
    let twice = |retired: Answer, left| {
        let puts = vec![(&put, Done, first), (&put_too, Done, then)];
        [puts, vec![(&retire, retired, last), (left, Done, end)]].concat()
    };
    // Whether the shared layer is rotten, held by key 0; what was answered; whether it can be.
    let cases: Vec<(bool, Told<'_>, bool)> = vec![
        (false, vec![(&put, Done, first), (&there, Done, end)], true),
        (false, vec![(&put, Done, first), (&gone, Done, end)], false),
        (false, vec![(&put, Done, first), (&nameless, Done, end)], false),
        (false, vec![(&put, Unknown, first), (&gone, Done, end)], true),
        (false, vec![(&put, Unknown, first), (&nameless, Done, end)], true),
        (false, vec![(&put, Unknown, first), (&dangling, Done, end)], false),
        (false, vec![(&put, Done, first), (&retire, Done, then), (&gone, Done, end)], true),
        (false, vec![(&put, Done, first), (&retire, Done, then), (&there, Done, end)], false),
        (false, vec![(&put, Done, beside), (&retire, Done, then), (&gone, Done, end)], true),
        (false, vec![(&put, Done, beside), (&retire, Done, then), (&dangling, Done, end)], false),
        (false, vec![(&put, Done, beside), (&retire, NotFound, first), (&there, Done, end)], true),
        (false, vec![(&put, Done, first), (&retire, NotFound, then), (&there, Done, end)], false),
        (false, vec![(&put, Done, first), (&retire, Done, then), (&retire, Done, then)], false),
        (false, vec![(&put, Done, first), (&retire, Done, then), (&retire, NotFound, then)], true),
        (false, twice(Unknown, &with_first), true),
        (false, twice(Unknown, &with_second), true),
        (false, twice(Done, &with_first), false),
        (false, vec![(&put, Done, first), (&put_too, Done, then), (&with_first, Done, end)], false),
        (false, vec![(&put, Done, first), (&resolve, Led(Some(0)), then)], true),
        (false, vec![(&put, Done, first), (&resolve, Led(None), then)], false),
        (false, vec![(&put, Done, beside), (&resolve, Led(None), then)], true),
        (false, vec![(&put, Done, first), (&check, Corrupt, then)], false),
        (true, vec![(&check, Corrupt, first), (&check, Corrupt, then)], true),
        (true, vec![(&check, Corrupt, first), (&check, Done, then)], false),
        (true, vec![(&put, Done, first), (&check, Done, then)], true),
        (true, vec![(&put, Done, first), (&check, Corrupt, then)], false),
        (true, vec![(&put, Done, beside), (&check, Corrupt, then)], true),
    ];
    for (rots, told, expected) in cases {
        let held = if rots { vec![(0, None)] } else { Vec::new() };
        let (retired, threads) = (Vec::new(), Vec::new());
        let plan = Plan { what: "told", held, retired, rots, crowded: false, threads };
        let events =
            told.into_iter().enumerate().map(|(thread, (what, answer, (begun, ended)))| Event {
                thread,
                what: what.clone(),
                answer,
                begun,
                ended,
            });
        let events: Vec<Event> = events.collect();
        assert_eq!(is_legal(&plan, &events, false), expected, "{rots} {events:?}");
    }
}
