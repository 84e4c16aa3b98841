//! What is interrupted: each scenario is a durable disk, one operation, and what must be true
//! before and after it.

use std::collections::BTreeMap;

use cas::digest::Digest;
use cas::disk::sim::SimDisk;
use cas::layout::MemberKind;
use cas::{Error, Repository, Source, Store, layout};

use super::fixture::{self, Artifact};
use super::open;
use super::uploads;
use super::world::{
    Scenario, State, Truth, World, check, default_workspace, forget, note, note_deleted,
    note_pushed, note_taken, other_workspace, put, retire,
};

/// Every scenario, in both ways of syncing.
pub(crate) fn all() -> Vec<Scenario> {
    type Make = fn() -> Scenario;
    let makes: [Make; 35] = [
        first_opening,
        reopening,
        put_tree,
        put_file,
        put_shared,
        put_again,
        put_again_from_another_workspace,
        put_with_names,
        names_move,
        two_drafts_at_once,
        put_without_a_layer,
        retire_without_a_layer,
        retire_named,
        retire_one_of_two,
        collect,
        heal_by_put,
        heal_by_check,
        damaged_layout,
        link_limit,
        unsealed,
        take,
        take_in_parts,
        mount,
        push_from_nothing,
        push_index,
        push_referrer,
        push_moves_a_tag,
        push_without_a_layer,
        delete_tag,
        delete_manifest,
        delete_blob,
        retire_pushed,
        put_pushed,
        retire_unlisted,
        leases_end,
    ];
    let each = makes.into_iter().flat_map(|make| {
        let scenario = make();
        let crowded = scenario.crowded();
        [scenario, crowded]
    });
    each.collect()
}

fn first_opening() -> Scenario {
    let lone = fixture::lone();
    let world = World { disk: SimDisk::new(), truth: Truth::default(), artifacts: BTreeMap::new() };
    world
        .scenario(
            "a new store",
            move |store| put(store, &default_workspace(), &lone, &[]),
            |truth| {
                note(truth, &default_workspace(), &fixture::lone(), &[]);
            },
        )
        .with_opening()
}

/// Opened where a put was cut off in the middle, twice.
fn reopening() -> Scenario {
    let (of, tree, lone) = (default_workspace(), fixture::tree(), fixture::lone());
    let world = World::new(SimDisk::new()).has(&of, &lone, &["lone:1"]);
    let store = open(&world.disk).unwrap();
    let draft = store.draft(&of).unwrap();
    tree.bring(&draft).unwrap();
    world.disk.stop_after(world.disk.calls());
    drop((draft, store));
    let disk = world.disk.crash(1);
    World { disk, ..world }.scenario("opening after a crash", |_| Ok(()), |_| {}).with_opening()
}

fn put_tree() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &["lone:1"]);
    let tree = fixture::tree();
    world.scenario(
        "put of an index",
        move |store| put(store, &default_workspace(), &tree, &[]),
        |truth| note(truth, &default_workspace(), &fixture::tree(), &[]),
    )
}

fn put_file() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new().with_short_calls(7)).has(&of, &fixture::lone(), &[]);
    let file = fixture::file(1);
    let known = file.clone();
    world
        .scenario(
            "put of a file",
            move |store| put(store, &default_workspace(), &file, &["team/tool:1"]),
            |truth| note(truth, &default_workspace(), &known, &["team/tool:1"]),
        )
        .and(&known)
}

fn put_shared() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &[]);
    let plain = fixture::plain();
    world.scenario(
        "put that shares blobs",
        move |store| put(store, &default_workspace(), &plain, &[]),
        |truth| note(truth, &default_workspace(), &fixture::plain(), &[]),
    )
}

fn put_again() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1"]);
    let tree = fixture::tree();
    world.scenario(
        "the same put again",
        move |store| put(store, &default_workspace(), &tree, &["team/app:1"]),
        |_| {},
    )
}

fn put_again_from_another_workspace() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1"]);
    let tree = fixture::tree();
    world.scenario(
        "the same put in another workspace",
        move |store| put(store, &other_workspace(), &tree, &["team/app:1"]),
        |truth| note(truth, &other_workspace(), &fixture::tree(), &["team/app:1"]),
    )
}

fn put_with_names() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &["lone:1"]);
    let tree = fixture::tree();
    const NAMES: [&str; 3] = ["team/app:1", "team/app:latest", "lone:2"];
    world.scenario(
        "put with new names",
        move |store| put(store, &default_workspace(), &tree, &NAMES),
        |truth| note(truth, &default_workspace(), &fixture::tree(), &NAMES),
    )
}

fn names_move() -> Scenario {
    let of = default_workspace();
    let world =
        World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1", "team/app:latest"]);
    let lone = fixture::lone();
    const NAMES: [&str; 2] = ["team/app:2", "team/app:latest"];
    world.scenario(
        "put that moves a name",
        move |store| put(store, &default_workspace(), &lone, &NAMES),
        |truth| note(truth, &default_workspace(), &fixture::lone(), &NAMES),
    )
}

fn put_without_a_layer() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::plain(), &[]);
    let torso = fixture::torso();
    world
        .scenario(
            "put without a layer that may be absent",
            move |store| put(store, &default_workspace(), &torso, &["torso:1"]),
            |truth| note(truth, &default_workspace(), &fixture::torso(), &["torso:1"]),
        )
        .and(&fixture::torso())
}

fn retire_without_a_layer() -> Scenario {
    let of = default_workspace();
    let torso = fixture::torso();
    let world = World::new(SimDisk::new()).has(&of, &torso, &["torso:1"]);
    let digest = torso.digest();
    world.scenario(
        "retire of what lacks a layer",
        move |store| retire(store, &default_workspace(), &digest),
        move |truth| forget(truth, &default_workspace(), &torso),
    )
}

/// Two drafts of the same bytes; the first one is not synced yet when the second one is sealed.
fn two_drafts_at_once() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &[]);
    let tree = fixture::tree();
    world.scenario(
        "two drafts at once",
        move |store| {
            let of = default_workspace();
            let (first, second) = (store.draft(&of)?, store.draft(&of)?);
            let brought = tree.bring(&first);
            let second = tree.bring(&second).and_then(|()| tree.seal(second, &[]));
            let first = brought.and_then(|()| tree.seal(first, &[]));
            // Whichever was acknowledged must be there.
            first.or(second).map(drop)
        },
        |truth| note(truth, &default_workspace(), &fixture::tree(), &[]),
    )
}

fn retire_named() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &["lone:1"]).has(
        &of,
        &fixture::tree(),
        &["team/app:1", "team/app:latest"],
    );
    world
        .scenario(
            "retire",
            |store| retire(store, &default_workspace(), &fixture::tree().digest()),
            |truth| forget(truth, &default_workspace(), &fixture::tree()),
        )
        .that_frees()
}

fn retire_one_of_two() -> Scenario {
    let (of, other) = (default_workspace(), other_workspace());
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1"]).has(
        &other,
        &fixture::tree(),
        &["team/app:1"],
    );
    world
        .scenario(
            "retire in one of two workspaces",
            |store| retire(store, &default_workspace(), &fixture::tree().digest()),
            |truth| forget(truth, &default_workspace(), &fixture::tree()),
        )
        .that_frees()
}

fn collect() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new())
        .has(&of, &fixture::plain(), &["team/app:1"])
        .has(&of, &fixture::tree(), &[])
        .lost(&of, &fixture::tree());
    world.scenario("gc", |store| store.gc(false, &mut || {}).map(drop), |_| {}).that_frees()
}

fn heal_by_put() -> Scenario {
    let of = default_workspace();
    let (tree, plain) = (fixture::tree(), fixture::plain());
    let world = World::new(SimDisk::new())
        .has(&of, &fixture::lone(), &[])
        .has(&of, &plain, &["team/app:1"])
        .has(&of, &tree, &[])
        .rots(&fixture::shared_layer(), &[&tree, &plain]);
    world
        .scenario(
            "healing by a put",
            |store| put(store, &default_workspace(), &fixture::tree(), &[]),
            |truth| {
                // What was put is whole; who else shared the rot is healed by its next check.
                let key = (default_workspace(), fixture::tree().digest());
                truth.held.insert(key, State::Whole);
            },
        )
        .with_healing()
}

/// The store's copy is good again, both layouts still hold the rotten one.
fn heal_by_check() -> Scenario {
    let (of, other) = (default_workspace(), other_workspace());
    let (tree, plain) = (fixture::tree(), fixture::plain());
    let rotten = [&tree, &plain];
    let world = World::new(SimDisk::new())
        .has(&of, &plain, &["team/app:1"])
        .has(&of, &tree, &[])
        .rots(&fixture::shared_layer(), &rotten)
        .has(&other, &tree, &[]);
    world
        .scenario(
            "healing by a check",
            |store| {
                let of = default_workspace();
                check(store, &of, &fixture::tree().digest())?;
                check(store, &of, &fixture::plain().digest())
            },
            |_| {},
        )
        .with_healing()
}

/// A layout whose own files were edited, taken away, and added to, behind the store's back.
fn damaged_layout() -> Scenario {
    let of = default_workspace();
    let tree = fixture::tree();
    let mut world = World::new(SimDisk::new())
        .has(&of, &fixture::lone(), &[])
        .has(&of, &fixture::plain(), &["team/app:1"])
        .has(&of, &tree, &[]);
    let place = layout::artifact(&of, &tree.digest());
    let shared = layout::blob_in(&place, &fixture::shared_layer());
    let other = layout::blob_in(&place, &tree.members[0].0.digest);
    let disk = &world.disk;
    disk.plant(&place.join(layout::INDEX_FILE), b"{}").unwrap();
    disk.plant(&shared, &fixture::bytes(9, 1500)).unwrap();
    disk.erase(&other).unwrap();
    disk.plant(&place.join("extra"), b"what is this").unwrap();
    let state = world.truth.held.get_mut(&(of, tree.digest())).unwrap();
    *state = State::Rotten;
    world
        .scenario(
            "a damaged layout",
            |store| check(store, &default_workspace(), &fixture::tree().digest()),
            |_| {},
        )
        .with_healing()
}

/// The empty config of every file has as many names as the filesystem allows.
fn link_limit() -> Scenario {
    let of = default_workspace();
    let files: Vec<Artifact> = (0..5).map(fixture::file).collect();
    let mut world = World::new(SimDisk::new().with_link_limit(4));
    for file in &files[..3] {
        world = world.has(&of, file, &[]);
    }
    let seen = world.disk.files();
    let config = layout::Pool::Shared.blob(&Digest::of(b"{}")).to_string();
    assert_eq!(seen[&config].n_links, 4, "the limit is not reached, so nothing is tried here");
    let brought = files[3..].to_vec();
    let scenario = world.scenario(
        "past the link limit",
        move |store| {
            brought.iter().try_for_each(|file| put(store, &default_workspace(), file, &[]))
        },
        |truth| files[3..].iter().for_each(|file| note(truth, &default_workspace(), file, &[])),
    );
    files.iter().fold(scenario, Scenario::and)
}

/// A draft that is given up, and one that lacks a layer.
fn unsealed() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::plain(), &[]);
    let mut lacking = fixture::tree();
    lacking.members.remove(0);
    world.scenario(
        "drafts that come to nothing",
        move |store| {
            let of = default_workspace();
            let draft = store.draft(&of)?;
            fixture::tree().bring(&draft)?;
            drop(draft);
            match lacking.put(store, &of, &[]) {
                Err(Error::Refused(_)) => Ok(()),
                other => other.map(|sealed| panic!("{} was sealed", sealed.digest())),
            }
        },
        |_| {},
    )
}

/// The repository that whatever comes next puts a name into as well.
const APP: &str = "team/app";

fn app(store: &Store) -> Repository {
    store.repository(&default_workspace(), &APP.parse().unwrap())
}

/// What is not there any more was deleted before.
fn ended(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// Blobs that nobody has, that another workspace has, and that are there already.
fn take() -> Scenario {
    let world = World::new(SimDisk::new())
        .has(&other_workspace(), &fixture::plain(), &[])
        .took("elsewhere", &fixture::lone());
    world.scenario(
        "blobs are taken",
        |store| {
            fixture::plain().take(&app(store))?;
            fixture::lone().take(&app(store))
        },
        |truth| {
            note_taken(truth, &APP.parse().unwrap(), &fixture::plain());
            note_taken(truth, &APP.parse().unwrap(), &fixture::lone());
        },
    )
}

fn take_in_parts() -> Scenario {
    let world = World::new(SimDisk::new().with_short_calls(7)).took("elsewhere", &fixture::lone());
    world.scenario(
        "a blob is taken in parts",
        |store| {
            // What an interrupted one left is given up, and leaves nothing.
            drop(store.uploads()?);
            for (claim, bytes) in fixture::plain().members.iter().filter(|m| !m.0.is_manifest()) {
                let algorithm = claim.digest.algorithm();
                let mut upload = app(store).upload(uploads::id(1), "uid 1", algorithm);
                let (first, last) = bytes.split_at(bytes.len() / 3);
                for mut part in [first, last] {
                    upload.append(Source::Stream(&mut part))?;
                }
                upload.commit(&claim.digest)?;
            }
            Ok(())
        },
        |truth| note_taken(truth, &APP.parse().unwrap(), &fixture::plain()),
    )
}

fn mount() -> Scenario {
    let world = World::new(SimDisk::new()).took("elsewhere", &fixture::plain()).pushed(
        "another",
        &fixture::lone(),
        &[],
    );
    world.scenario(
        "blobs are mounted",
        |store| {
            let from = "elsewhere".parse().unwrap();
            for (_, digest) in fixture::plain().listing().filter(|m| m.0 == MemberKind::Blob) {
                assert!(app(store).mount(&digest, Some(&from))?.is_some());
            }
            for (_, digest) in fixture::lone().listing().filter(|m| m.0 == MemberKind::Blob) {
                assert!(app(store).mount(&digest, None)?.is_some());
            }
            Ok(())
        },
        |truth| {
            note_taken(truth, &APP.parse().unwrap(), &fixture::plain());
            note_taken(truth, &APP.parse().unwrap(), &fixture::lone());
        },
    )
}

fn push_from_nothing() -> Scenario {
    World::new(SimDisk::new()).scenario(
        "a push from nothing",
        |store| {
            fixture::lone().take(&app(store))?;
            fixture::lone().push(&app(store), &["1", "latest"]).map(drop)
        },
        |truth| {
            let name = APP.parse().unwrap();
            note_pushed(truth, &name, &fixture::lone(), &["1", "latest"]);
        },
    )
}

fn push_index() -> Scenario {
    let [one, two] = fixture::branches();
    let world = World::new(SimDisk::new()).pushed(APP, &one, &["one"]).pushed(APP, &two, &[]);
    world.scenario(
        "a push of an index",
        |store| fixture::tree().push(&app(store), &["1"]).map(drop),
        |truth| note_pushed(truth, &APP.parse().unwrap(), &fixture::tree(), &["1"]),
    )
}

/// The manifest that it is about comes later.
fn push_referrer() -> Scenario {
    let of = fixture::lone();
    let referrer = fixture::referrer(&of);
    let known = referrer.clone();
    let world = World::new(SimDisk::new()).took(APP, &of).took(APP, &referrer);
    world
        .scenario(
            "a push of a referrer",
            move |store| {
                referrer.push(&app(store), &[])?;
                fixture::lone().push(&app(store), &["1"]).map(drop)
            },
            |truth| {
                note_pushed(truth, &APP.parse().unwrap(), &known, &[]);
                note_pushed(truth, &APP.parse().unwrap(), &fixture::lone(), &["1"]);
            },
        )
        .and(&known)
}

fn push_moves_a_tag() -> Scenario {
    let world = World::new(SimDisk::new()).pushed(APP, &fixture::lone(), &["1", "latest"]).pushed(
        APP,
        &fixture::plain(),
        &["2"],
    );
    world.scenario(
        "a push that moves a tag",
        |store| fixture::plain().push(&app(store), &["latest"]).map(drop),
        |truth| note_pushed(truth, &APP.parse().unwrap(), &fixture::plain(), &["latest"]),
    )
}

fn push_without_a_layer() -> Scenario {
    let torso = fixture::torso();
    let known = torso.clone();
    let world = World::new(SimDisk::new()).took(APP, &torso);
    world
        .scenario(
            "a push without a layer that may be absent",
            move |store| torso.push(&app(store), &["torso"]).map(drop),
            |truth| note_pushed(truth, &APP.parse().unwrap(), &known, &["torso"]),
        )
        .and(&known)
}

fn delete_tag() -> Scenario {
    let world = World::new(SimDisk::new()).pushed(APP, &fixture::lone(), &["1", "latest"]);
    world
        .scenario(
            "a tag is deleted",
            |store| ended(app(store).delete_tag(&"latest".parse().unwrap())),
            |truth| {
                let name = format!("{APP}:latest").parse().unwrap();
                truth.names.remove(&(default_workspace(), name));
            },
        )
        .that_frees()
}

fn delete_manifest() -> Scenario {
    let referrer = fixture::referrer(&fixture::lone());
    let world = World::new(SimDisk::new())
        .pushed(APP, &fixture::lone(), &["1"])
        .pushed(APP, &referrer, &["sig", "latest"])
        .pushed("elsewhere", &referrer, &["sig"]);
    let digest = referrer.digest();
    world
        .scenario(
            "a manifest is deleted",
            move |store| ended(app(store).delete_manifest(&digest)),
            |truth| note_deleted(truth, &APP.parse().unwrap(), &referrer),
        )
        .that_frees()
}

fn delete_blob() -> Scenario {
    let world = World::new(SimDisk::new())
        .pushed(APP, &fixture::lone(), &["1"])
        .took(APP, &fixture::plain())
        .took("elsewhere", &fixture::plain());
    world
        .scenario(
            "a blob is deleted",
            |store| ended(app(store).delete_blob(&fixture::shared_layer())),
            |truth| {
                let (of, digest) = (default_workspace(), fixture::shared_layer());
                truth.links.remove(&(of, APP.parse().unwrap(), MemberKind::Blob, digest));
            },
        )
        .that_frees()
}

/// Listed in two repositories, in one of them with another that shares a layer.
fn retire_pushed() -> Scenario {
    let [one, two] = fixture::branches();
    let world = World::new(SimDisk::new())
        .pushed(APP, &one, &["one", "latest"])
        .pushed(APP, &two, &["two"])
        .pushed("elsewhere", &one, &[]);
    let digest = one.digest();
    world
        .scenario(
            "retire of what was pushed",
            move |store| retire(store, &default_workspace(), &digest),
            |truth| forget(truth, &default_workspace(), &one),
        )
        .that_frees()
}

/// A put of what was pushed: from then on it is held, whatever repositories list.
fn put_pushed() -> Scenario {
    let lone = fixture::lone();
    let world = World::new(SimDisk::new()).pushed(APP, &lone, &["1"]);
    world.scenario(
        "a put of what was pushed",
        move |store| put(store, &default_workspace(), &lone, &[]),
        |truth| note(truth, &default_workspace(), &fixture::lone(), &[]),
    )
}

/// Of three that are listed nowhere any more only the one goes that nobody put.
fn retire_unlisted() -> Scenario {
    let of = default_workspace();
    let (lone, plain) = (fixture::lone(), fixture::plain());
    let referrer = fixture::referrer(&lone);
    let unlist =
        |digest: Digest| move |repository: &Repository| repository.delete_manifest(&digest);
    let mut world = World::new(SimDisk::new())
        .pushed(APP, &lone, &["1"])
        .pushed(APP, &referrer, &["sig"])
        .has(&of, &plain, &["team/app:2"])
        .pushed(APP, &plain, &["3"]);
    for artifact in [lone.clone(), plain.clone()] {
        let digest = artifact.digest();
        world = world.with(APP, unlist(digest), |truth, name| note_deleted(truth, name, &artifact));
    }
    world
        .scenario(
            "what is listed nowhere is retired",
            |store| store.retire_unlisted(false, &mut || {}).map(drop),
            move |truth| {
                let key = (default_workspace(), lone.digest());
                truth.held.remove(&key);
                truth.pushed.remove(&key);
            },
        )
        .and(&referrer)
        .that_frees()
}

/// What something listed needs stays; what nothing needs goes.
fn leases_end() -> Scenario {
    let world = World::new(SimDisk::new())
        .pushed(APP, &fixture::lone(), &["1"])
        .took(APP, &fixture::plain())
        .took("elsewhere", &fixture::lone());
    world
        .scenario(
            "leases end",
            |store| store.end_leases(i128::MAX, false, &mut || {}).map(drop),
            |truth| {
                let listed = truth.clone();
                truth.links.retain(|(_, name, _, digest)| {
                    let of_listed = listed.listed.iter().filter(|(_, of, _)| of == name);
                    of_listed.count() > 0
                        && fixture::lone().listing().any(|(_, part)| part == *digest)
                });
            },
        )
        .that_frees()
}
