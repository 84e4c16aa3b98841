//! Repositories on the simulated disk and in a real folder: what is listed, what is refused, what
//! may be deleted, and what rot does. Each acceptance has its refusal beside it.

use std::cell::Cell;
use std::io::Read as _;
use std::sync::Arc;

use cas::digest::{Algorithm, Digest};
use cas::disk::sim::{Fault, SimDisk, Times};
use cas::disk::{Disk, RealDisk, RelPath};
use cas::layout::{self, MemberKind};
use cas::oci::{Descriptor, Refusal, media_type};
use cas::workspace::{Reference, Tag};
use cas::{Error, Held, Options, Repository, Source, Store};

use super::fixture::{self, Artifact};
use super::uploads;
use super::world::{default_workspace, other_workspace};

/// A store on each kind of disk, with an index and without one.
fn on_each_disk(test: impl Fn(&Store)) {
    let folder = tests::scratch();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::open(folder.path()).unwrap());
    let index = Some(folder.path().join("index"));
    for (disk, index) in [(real, index), (Arc::new(SimDisk::new()) as Arc<dyn Disk>, None)] {
        let options = Options { index, log: super::LOG, ..Options::default() };
        test(&Store::open(disk, options).unwrap());
    }
}

fn repository(store: &Store, name: &str) -> Repository {
    store.repository(&default_workspace(), &name.parse().unwrap())
}

fn take(repository: &Repository, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let mut source = bytes;
    let size = Some(bytes.len() as u64);
    let taken = repository.take(&digest, size, Source::Stream(&mut source)).unwrap();
    assert_eq!((taken.digest, taken.size), (digest, bytes.len() as u64));
    digest
}

fn blob(repository: &Repository, digest: &Digest) -> Result<Vec<u8>, Error> {
    repository.blob(digest)?.bytes()
}

fn by_tag(repository: &Repository, tag: &str) -> Result<Digest, Error> {
    let tag: Tag = tag.parse().unwrap();
    Ok(manifest(repository, &Reference::Tag(tag))?.digest())
}

fn by_digest(repository: &Repository, digest: &Digest) -> Result<Vec<u8>, Error> {
    manifest(repository, &Reference::Digest(*digest))?.bytes()
}

/// A manifest as it is read, which is what a look at it shows, if that shows anything.
fn manifest(repository: &Repository, reference: &Reference) -> Result<Held, Error> {
    let looked = repository.manifest_at_a_look(reference);
    let read = repository.manifest(reference);
    if let Some(looked) = looked {
        let read = read.as_ref().expect("a look showed it");
        assert_eq!(looked.descriptor(), read.descriptor());
        let bytes = looked.bytes().unwrap();
        assert_eq!(read.digest(), Digest::compute(read.digest().algorithm(), &bytes));
    }
    read
}

/// A store in which one artifact was pushed into one repository, under a tag.
fn lone_is_here() -> (SimDisk, Store, Repository, Artifact) {
    let disk = SimDisk::new();
    let store = super::open(&disk).unwrap();
    let here = repository(&store, "here");
    let lone = fixture::lone();
    lone.take(&here).unwrap();
    lone.push(&here, &["1"]).unwrap();
    (disk, store, here, lone)
}

#[track_caller]
fn is_gone<T>(result: Result<T, Error>) {
    match result {
        Err(Error::NotFound { .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is there"),
    }
}

#[track_caller]
fn incomplete<T>(result: Result<T, Error>) -> Vec<Digest> {
    match result {
        Err(Error::Incomplete { missing }) => missing,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was taken"),
    }
}

fn tags(repository: &Repository, after: Option<&str>, limit: usize) -> (Vec<String>, bool) {
    let (tags, is_more) = repository.tags(after, limit).unwrap();
    (tags.iter().map(Tag::to_string).collect(), is_more)
}

#[test]
fn a_blob_is_seen_where_it_was_taken_and_nowhere_else() {
    on_each_disk(|store| {
        let (here, there) = (repository(store, "a/here"), repository(store, "there"));
        assert!(!here.is_known().unwrap());
        for size in [0, 1, 700, 300_000, 5 << 20] {
            let bytes = fixture::bytes(size as u64, size);
            let digest = take(&here, &bytes);

            assert_eq!(take(&here, &bytes), digest, "again");
            let held = here.blob(&digest).unwrap();
            assert_eq!((held.digest(), held.size()), (digest, size as u64));
            assert_eq!(held.media_type(), media_type::OCTETS);
            let mut read = Vec::new();
            held.stream().unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes);
            let checked = here.blob(&digest).unwrap().checked().unwrap();
            assert_eq!(checked.size(), size as u64);
            is_gone(here.blob(&Digest::of(b"never brought")));
            is_gone(there.blob(&digest));
            is_gone(store.repository(&other_workspace(), here.name()).blob(&digest));
            is_gone(by_digest(&here, &digest));
        }
        assert!(here.is_known().unwrap() && !there.is_known().unwrap());
    });
}

#[test]
fn what_is_not_what_was_claimed_leaves_nothing() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let good = Digest::of(b"good");
        let sha512 = Digest::compute(Algorithm::Sha512, b"good");
        let cases: [(Digest, Option<u64>, &[u8]); 5] = [
            (good, Some(4), b"evil"),
            (good, None, b"evil"),
            (good, Some(4), b"goo"),
            (good, Some(4), b"good and more"),
            (sha512, Some(4), b"evil"),
        ];
        for (claimed, size, mut bytes) in cases {
            let refused = here.take(&claimed, size, Source::Stream(&mut bytes));
            let wrong = |refusal: &Refusal| {
                matches!(refusal, Refusal::Mismatch { .. } | Refusal::WrongSize { .. })
            };
            assert!(matches!(&refused, Err(Error::Refused(why)) if wrong(why)), "{refused:?}");
            is_gone(here.blob(&claimed));
        }
        for (digest, size) in [(good, Some(4)), (sha512, None)] {
            here.take(&digest, size, Source::Stream(&mut &b"good"[..])).unwrap();
            assert_eq!(blob(&here, &digest).unwrap(), b"good");
        }
    });
}

#[test]
fn an_upload_in_parts_is_a_blob_once_its_digest_agrees() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let bytes = fixture::bytes(3, 400_000);
        let (first, last) = bytes.split_at(150_000);
        for algorithm in Algorithm::ALL {
            // Begun without a word on the algorithm.
            let mut upload = here.upload(uploads::id(1), "uid 1", Algorithm::Sha256);
            let digest = Digest::compute(algorithm, &bytes);
            assert_eq!(upload.append(Source::Stream(&mut &first[..])).unwrap(), 150_000);
            assert_eq!(upload.append(Source::Stream(&mut &b""[..])).unwrap(), 150_000);
            assert_eq!(upload.append(Source::Stream(&mut &last[..])).unwrap(), 400_000);
            is_gone(here.blob(&digest));
            upload.commit(&digest).unwrap();
            let ended = upload.append(Source::Stream(&mut &last[..]));
            assert!(matches!(ended, Err(Error::NotFound { .. })), "{ended:?}");
            assert!(store.uploads().unwrap().is_empty());
            assert_eq!(blob(&here, &digest).unwrap(), bytes);
        }
        // Who breaks off goes on where it stopped.
        let mut upload = here.upload(uploads::id(1), "uid 1", Algorithm::Sha256);
        let mut broken = first[..1000].chain(Broken);
        let broken = upload.append(Source::Stream(&mut broken));
        assert!(matches!(broken, Err(Error::SourceRead { .. })), "{broken:?}");
        assert_eq!(upload.offset(), 1000);
        upload.append(Source::Stream(&mut &first[1000..])).unwrap();
        let refused = upload.commit(&Digest::of(&bytes));
        assert!(matches!(refused, Err(Error::Refused(Refusal::Mismatch { .. }))), "{refused:?}");
        is_gone(here.blob(&Digest::of(first)));
        drop(upload);
        assert!(store.uploads().unwrap().is_empty());
    });
}

struct Broken;

impl std::io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

#[test]
fn a_mount_lists_what_the_workspace_has_and_nothing_of_others() {
    on_each_disk(|store| {
        let (from, to) = (repository(store, "from"), repository(store, "to"));
        let digest = take(&from, b"to be mounted");
        let elsewhere = store.repository(&other_workspace(), to.name());
        fixture::lone().put(store, &default_workspace(), &["x:1".parse().unwrap()]).unwrap();
        let sealed = fixture::lone().members[0].0.digest;

        let unknown = "unknown".parse().unwrap();
        assert_eq!(to.mount(&digest, Some(&unknown)).unwrap(), None);
        assert_eq!(to.mount(&Digest::of(b"nowhere"), None).unwrap(), None);
        assert_eq!(elsewhere.mount(&digest, Some(from.name())).unwrap(), None);
        assert_eq!(elsewhere.mount(&digest, None).unwrap(), None);
        is_gone(to.blob(&digest));

        assert_eq!(to.mount(&digest, Some(from.name())).unwrap(), Some(13));
        assert!(to.mount(&sealed, None).unwrap().is_some());
        from.delete_blob(&digest).unwrap();
        is_gone(from.blob(&digest));
        assert_eq!(blob(&to, &digest).unwrap(), b"to be mounted");
        let third = repository(store, "third");
        assert_eq!(third.mount(&digest, None).unwrap(), Some(13));
        store.gc(false, &mut || {}).unwrap();
        assert_eq!(blob(&third, &digest).unwrap(), b"to be mounted");
    });
}

/// What is mounted is hashed when it is sealed; if that finds rot, nobody mounts it again, and the bytes that are
/// brought then heal it.
#[test]
fn rot_that_was_mounted_is_not_mounted_again() {
    for is_told_where in [true, false] {
        let (disk, store, here, lone) = lone_is_here();
        let there = repository(&store, "there");
        let (layer, bytes) = &lone.members[1];
        let from = is_told_where.then(|| here.name());
        let mount = |digest| there.mount(digest, from).unwrap().is_some();
        let prepare = || there.prepare(&lone.root, lone.manifest().to_vec());
        assert!(lone.members[..2].iter().all(|(claim, _)| mount(&claim.digest)));
        let size = lone.members[0].0.size + layer.size;
        assert_eq!(prepare().unwrap().n_unproved(), size, "nobody brought them here");
        drop(prepare().unwrap().seal(&[], &|_| true).unwrap());
        there.delete_manifest(&lone.digest()).unwrap();

        disk.corrupt(&layout::Pool::Shared.blob(&layer.digest), 10).unwrap();
        assert_eq!(incomplete(prepare().unwrap().seal(&[], &|_| true)), [layer.digest]);
        assert!(!mount(&layer.digest), "it is known to be rotten");
        is_gone(here.blob(&layer.digest));
        assert!(mount(&lone.members[0].0.digest), "this one is not");
        fixture::take(&there, bytes).unwrap();
        lone.push(&there, &["1"]).unwrap().sealed.check().unwrap();
        assert_eq!(&blob(&there, &layer.digest).unwrap(), bytes);
    }
}

/// A proof is of what was brought to this repository, and only until its lease begins anew on somebody's word.
#[test]
fn what_nobody_brought_under_this_lease_is_hashed() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let lone = fixture::lone();
        let [config, layer] = [0, 1].map(|n| lone.members[n].0.clone());
        let n_unproved =
            || here.prepare(&lone.root, lone.manifest().to_vec()).unwrap().n_unproved();
        lone.take(&here).unwrap();
        assert_eq!(n_unproved(), 0);
        here.blob(&layer.digest).unwrap().renew(i128::MIN);
        assert_eq!(n_unproved(), 0, "its lease is young");
        here.blob(&layer.digest).unwrap().renew(i128::MAX);
        assert_eq!(n_unproved(), layer.size);
        here.mount(&config.digest, None).unwrap().unwrap();
        assert_eq!(n_unproved(), layer.size + config.size);
        lone.take(&here).unwrap();
        assert_eq!(n_unproved(), 0, "it was brought again");
    });
}

/// Blobs that wait in another repository for their manifest are linked in, good ones.
#[test]
fn what_waits_in_another_repository_is_linked_in() {
    let disk = SimDisk::new();
    let store = super::open(&disk).unwrap();
    let [here, beside] = ["here", "beside"].map(|name| repository(&store, name));
    let (lone, plain) = (fixture::lone(), fixture::plain());
    lone.take(&beside).unwrap();
    assert!(here.prepare(&lone.root, lone.manifest().to_vec()).unwrap().n_unproved() > 0);
    lone.push(&here, &["1"]).unwrap().sealed.check().unwrap();
    for (claim, bytes) in &lone.members[..2] {
        assert_eq!(&blob(&here, &claim.digest).unwrap(), bytes);
    }

    plain.take(&beside).unwrap();
    let own = |artifact: &Artifact| {
        artifact.members.iter().find(|m| !m.0.is_manifest()).unwrap().0.digest
    };
    let rotten = own(&plain);
    disk.corrupt(&layout::Pool::Shared.blob(&rotten), 1).unwrap();
    let prepare = || here.prepare(&plain.root, plain.manifest().to_vec());
    assert_eq!(incomplete(prepare().unwrap().seal(&[], &|_| true)), [rotten]);
    is_gone(beside.blob(&rotten));
    // Of all that is lacking, that alone is not somewhere.
    assert_eq!(incomplete(prepare()), [rotten]);
    plain.take(&beside).unwrap();
    plain.push(&here, &[]).unwrap().sealed.check().unwrap();
}

#[test]
fn a_push_needs_all_that_it_reaches_and_tells_all_that_is_missing() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let (tree, [one, two]) = (fixture::tree(), fixture::branches());
        let sorted = |mut digests: Vec<Digest>| {
            digests.sort();
            digests
        };
        let prepare =
            |artifact: &Artifact| here.prepare(&artifact.root, artifact.manifest().to_vec());
        assert_eq!(incomplete(prepare(&tree)), sorted(vec![one.digest(), two.digest()]));
        let all: Vec<Digest> =
            one.listing().filter(|m| m.0 == MemberKind::Blob).map(|m| m.1).collect();
        assert_eq!(incomplete(prepare(&one)), sorted(all.clone()));
        // Another workspace's are not here.
        let other = store.repository(&other_workspace(), here.name());
        one.take(&other).unwrap();
        assert_eq!(incomplete(prepare(&one)), sorted(all));

        one.take(&here).unwrap();
        assert_eq!(prepare(&one).unwrap().n_unproved(), 0, "this process wrote all of it");
        let pushed = one.push(&here, &["one"]).unwrap();
        assert_eq!((pushed.sealed.digest(), pushed.subject), (one.digest(), None));
        assert!(!pushed.receipt.existed);
        // What the missing manifest reaches nobody can tell.
        assert_eq!(incomplete(prepare(&tree)), vec![two.digest()]);
        two.take(&here).unwrap();
        two.push(&here, &[]).unwrap();
        tree.push(&here, &["1", "latest"]).unwrap();

        for (artifact, tag) in [(&one, "one"), (&tree, "1"), (&tree, "latest")] {
            assert_eq!(by_tag(&here, tag).unwrap(), artifact.digest());
            assert_eq!(by_digest(&here, &artifact.digest()).unwrap(), artifact.manifest());
            let held = here.manifest(&Reference::Digest(artifact.digest())).unwrap();
            assert_eq!(held.media_type(), artifact.root.media_type);
            store.sealed(here.workspace(), &artifact.digest()).unwrap().check().unwrap();
        }
        is_gone(here.blob(&tree.digest()));
        is_gone(by_tag(&here, "2"));
        assert!(tree.push(&here, &["1"]).unwrap().receipt.existed, "the same again");
        let resolved = store.resolve(here.workspace(), "here:latest").unwrap();
        assert_eq!(resolved, tree.digest());
    });
}

#[test]
fn a_push_refuses_what_is_no_manifest() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let lone = fixture::lone();
        lone.take(&here).unwrap();
        let bytes = lone.manifest().to_vec();
        let claim = |media_type: &str, bytes: &[u8]| {
            Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
        };
        let text = |replace: &str, by: &str| {
            String::from_utf8(bytes.clone()).unwrap().replace(replace, by).into_bytes()
        };
        let wrong_size = {
            let size = format!("\"size\":{}", lone.members[1].0.size);
            text(&size, "\"size\":7")
        };
        let untyped = text(&format!("\"mediaType\":\"{}\",", media_type::IMAGE_MANIFEST), "");
        let cases: [(&str, Descriptor, Vec<u8>); 7] = [
            (
                "another digest",
                Descriptor::new(media_type::IMAGE_MANIFEST, Digest::of(b""), bytes.len() as u64),
                bytes.clone(),
            ),
            ("an index", claim(media_type::IMAGE_INDEX, &bytes), bytes.clone()),
            ("another type", claim(media_type::DOCKER_MANIFEST, &untyped), untyped.clone()),
            ("no type of ours", claim("application/json", &bytes), bytes.clone()),
            ("no JSON", claim(media_type::IMAGE_MANIFEST, b"{"), b"{".to_vec()),
            (
                "bytes behind",
                claim(media_type::IMAGE_MANIFEST, &[&bytes[..], b"{}"].concat()),
                [&bytes[..], b"{}"].concat(),
            ),
            ("a wrong size", claim(media_type::IMAGE_MANIFEST, &wrong_size), wrong_size.clone()),
        ];
        for (what, claim, bytes) in cases {
            let refused = here.prepare(&claim, bytes).map(drop);
            assert!(matches!(refused, Err(Error::Refused(_))), "{what}: {refused:?}");
        }
        let claim = claim(media_type::IMAGE_MANIFEST, &untyped);
        let pushed = here.prepare(&claim, untyped).unwrap().seal(&[], &|_| false).unwrap();
        pushed.sealed.check().unwrap();
    });
}

#[test]
fn a_tag_moves_only_where_it_may() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let (one, two) = (fixture::lone(), fixture::plain());
        for artifact in [&one, &two] {
            artifact.take(&here).unwrap();
        }
        let push = |artifact: &Artifact, tags: &[&str], may: bool| {
            let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
            here.prepare(&artifact.root, artifact.manifest().to_vec())?.seal(&tags, &|_| may)
        };
        push(&one, &["v1"], false).unwrap();
        push(&one, &["v1"], false).unwrap();
        let refused = push(&two, &["new", "v1"], false).map(drop);
        match refused {
            Err(Error::TagTaken { name, digest }) => {
                assert_eq!((name.to_string(), digest), ("here:v1".to_owned(), one.digest()));
            }
            other => panic!("{other:?}"),
        }
        is_gone(by_tag(&here, "new"));
        is_gone(by_digest(&here, &two.digest()));
        // Somebody else makes the tag at any moment of the push, of an artifact that is in the log and of one
        // that is not.
        for branch in fixture::branches() {
            branch.take(&here).unwrap();
            branch.push(&here, &[]).unwrap();
        }
        for (artifact, new) in [(&fixture::tree(), "new"), (&two, "newer")] {
            let mut n_refused = 0_u32;
            loop {
                let left = Cell::new(n_refused);
                let may = |_: &Tag| left.replace(left.get().saturating_sub(1)) > 0;
                let names = [new, "v1"].map(|tag| tag.parse().unwrap());
                let push = here.prepare(&artifact.root, artifact.manifest().to_vec()).unwrap();
                match push.seal(&names, &may).map(drop) {
                    Err(Error::TagTaken { .. }) => n_refused += 1,
                    pushed => break pushed.unwrap(),
                }
                is_gone(by_tag(&here, new));
                is_gone(by_digest(&here, &artifact.digest()));
                store.retire_unlisted(false, &mut || {}).unwrap();
            }
            assert!(n_refused > 1, "it is asked again when nobody else can move it");
        }
        push(&one, &["v1"], true).unwrap();
        push(&two, &["v1"], true).unwrap();
        assert_eq!(by_tag(&here, "v1").unwrap(), two.digest());
        assert_eq!(by_digest(&here, &one.digest()).unwrap(), one.manifest(), "listed without tag");
    });
}

#[test]
fn tags_are_listed_by_their_bytes_page_by_page() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        assert_eq!(tags(&here, None, 10), (vec![], false));
        let all = ["1", "10", "2", "B", "_x", "a", "b"];
        let names: Vec<_> = all.iter().map(|tag| format!("here:{tag}").parse().unwrap()).collect();
        fixture::lone().put(store, here.workspace(), &names).unwrap();
        let cases: [(Option<&str>, usize, &[&str], bool); 7] = [
            (None, 100, &all, false),
            (None, 7, &all, false),
            (None, 3, &["1", "10", "2"], true),
            (Some("2"), 3, &["B", "_x", "a"], true),
            (Some("3"), 9, &["B", "_x", "a", "b"], false),
            (Some("b"), 1, &[], false),
            (None, 0, &[], true),
        ];
        for (after, limit, expected, is_more) in cases {
            let (found, more) = tags(&here, after, limit);
            assert_eq!(
                (found.iter().map(String::as_str).collect::<Vec<_>>(), more),
                (expected.to_vec(), is_more),
                "{after:?} {limit}"
            );
        }
    });
}

#[test]
fn what_is_put_under_a_name_is_listed_there() {
    on_each_disk(|store| {
        let (here, beside) = (repository(store, "here"), repository(store, "here/beside"));
        let (tree, [one, _]) = (fixture::tree(), fixture::branches());
        tree.put(store, here.workspace(), &["here:1".parse().unwrap()]).unwrap();
        assert_eq!(by_tag(&here, "1").unwrap(), tree.digest());
        assert_eq!(by_digest(&here, &one.digest()).unwrap(), one.manifest(), "a child");
        for (claim, bytes) in tree.members.iter().filter(|m| !m.0.is_manifest()) {
            assert_eq!(&blob(&here, &claim.digest).unwrap(), bytes);
            is_gone(beside.blob(&claim.digest));
        }
        is_gone(by_tag(&beside, "1"));
        let refused = here.delete_manifest(&one.digest());
        assert!(matches!(refused, Err(Error::Needed { by, .. }) if by == tree.digest()));

        fixture::lone().put(store, here.workspace(), &[]).unwrap();
        is_gone(by_digest(&here, &fixture::lone().digest()));

        store.retire(here.workspace(), &tree.digest()).unwrap();
        is_gone(by_tag(&here, "1"));
        is_gone(by_digest(&here, &one.digest()));
        is_gone(here.blob(&fixture::shared_layer()));
        assert!(!here.is_known().unwrap());
        store.retire(here.workspace(), &fixture::lone().digest()).unwrap();
        store.gc(false, &mut || {}).unwrap();
        assert_eq!(store.gc(true, &mut || {}).unwrap().n_blobs, 0);
    });
}

#[test]
fn retiring_takes_away_only_what_nothing_else_needs() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let [one, two] = fixture::branches();
        for artifact in [&one, &two] {
            artifact.take(&here).unwrap();
            artifact.push(&here, &["1"]).unwrap();
        }
        let own = |artifact: &Artifact| artifact.members[0].0.digest;
        store.retire(here.workspace(), &one.digest()).unwrap();
        is_gone(by_digest(&here, &one.digest()));
        is_gone(here.blob(&own(&one)));
        blob(&here, &fixture::shared_layer()).unwrap();
        blob(&here, &own(&two)).unwrap();
        assert_eq!(by_tag(&here, "1").unwrap(), two.digest());
    });
}

/// Somebody ended or moved a tag and could not make it durable. Whoever retires what it led to sees no
/// tag, and a power cut must not bring it back: it would lead nowhere.
#[test]
fn a_tag_that_was_not_synced_is_gone_before_what_it_led_to() {
    for (is_crowded, moves) in [(false, false), (false, true), (true, false), (true, true)] {
        for n in 0.. {
            let (disk, store, here, lone) = lone_is_here();
            let disk = disk.with_crowd(is_crowded);
            let other = fixture::plain();
            other.take(&here).unwrap();
            disk.fail(disk.calls() + n, Fault::Io, Times::Once);
            let changed = match moves {
                true => other.push(&here, &["1"]).map(drop),
                false => here.delete_tag(&"1".parse().unwrap()),
            };
            if !disk.failed() {
                changed.unwrap();
                assert!(n > 3, "nothing was tried");
                break;
            }
            // It may be told once more of the sync that failed, and is done all the same.
            let retire = || store.retire(&default_workspace(), &lone.digest());
            match retire().or_else(|_| retire()) {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            for seed in 0..8 {
                let left = disk.crash(seed);
                let store = super::open(&left).unwrap();
                let here = repository(&store, "here");
                for tag in tags(&here, None, 10).0 {
                    by_tag(&here, &tag).unwrap_or_else(|error| {
                        panic!(
                            "crowded {is_crowded}, moves {moves}, call {n}, seed {seed}: {error}"
                        )
                    });
                }
            }
        }
    }
}

#[test]
fn what_is_needed_is_not_deleted() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let (tree, [one, two]) = (fixture::tree(), fixture::branches());
        for (artifact, tag) in [(&one, "one"), (&two, "two")] {
            artifact.take(&here).unwrap();
            artifact.push(&here, &[tag]).unwrap();
        }
        tree.push(&here, &["1", "latest"]).unwrap();
        let config = one.members[0].0.digest;
        let needed = |result: Result<(), Error>, by: &[&Artifact]| match result {
            Err(Error::Needed { by: needs, .. }) => {
                assert!(by.iter().any(|artifact| artifact.digest() == needs));
            }
            other => panic!("{other:?}"),
        };
        needed(here.delete_blob(&config), &[&one, &tree]);
        needed(here.delete_manifest(&one.digest()), &[&tree]);
        assert_eq!(by_tag(&here, "one").unwrap(), one.digest(), "nothing was half deleted");

        here.delete_tag(&"latest".parse().unwrap()).unwrap();
        is_gone(here.delete_tag(&"latest".parse().unwrap()));
        assert_eq!(tags(&here, None, 9).0, ["1", "one", "two"]);
        here.delete_manifest(&tree.digest()).unwrap();
        is_gone(here.delete_manifest(&tree.digest()));
        is_gone(by_tag(&here, "1"));
        assert_eq!(tags(&here, None, 9).0, ["one", "two"]);
        here.delete_manifest(&one.digest()).unwrap();
        here.delete_blob(&config).unwrap();
        is_gone(here.delete_blob(&config));
        needed(here.delete_blob(&fixture::shared_layer()), &[&two]);
        here.delete_manifest(&two.digest()).unwrap();
        here.delete_blob(&fixture::shared_layer()).unwrap();
        assert_eq!(tags(&here, None, 9), (vec![], false));
        assert!(here.is_known().unwrap());
        // Deleting ends names; the artifacts are the keeper's to retire.
        store.sealed(here.workspace(), &tree.digest()).unwrap().check().unwrap();
    });
}

#[test]
fn referrers_are_listed_whether_or_not_their_subject_is_there() {
    on_each_disk(|store| {
        let here = repository(store, "here");
        let lone = fixture::lone();
        let referrer = fixture::referrer(&lone);
        let list = |filter: Option<&str>| here.referrers(&lone.digest(), filter, None, 1).unwrap();
        assert_eq!(list(None), (vec![], None));
        referrer.take(&here).unwrap();
        let pushed = referrer.push(&here, &[]).unwrap();
        assert_eq!(pushed.subject, Some(lone.digest()));

        let (found, next) = list(None);
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!((found.digest, found.size), (referrer.digest(), referrer.root.size));
        assert_eq!(found.artifact_type.as_deref(), Some("application/vnd.example.signature"));
        assert_eq!(found.annotations.get("by").map(String::as_str), Some("us"));
        assert_eq!(next, None);
        assert_eq!(list(Some("application/vnd.example.signature")).0.len(), 1);
        assert_eq!(list(Some("application/vnd.example.other")).0, vec![]);
        let elsewhere = repository(store, "elsewhere");
        assert_eq!(elsewhere.referrers(&lone.digest(), None, None, 1).unwrap().0, vec![]);

        // A subject is no child: it may come and go.
        lone.take(&here).unwrap();
        lone.push(&here, &[]).unwrap();
        here.delete_manifest(&lone.digest()).unwrap();
        assert_eq!(list(None).0.len(), 1);

        // Another one, put under a name: one does not fit beside the other.
        let file = referrer_of(&lone, "second");
        file.take(&here).unwrap();
        file.push(&here, &["second"]).unwrap();
        let (first, next) = list(None);
        assert_eq!((first.len(), next), (1, Some(first[0].digest)));
        let rest = here.referrers(&lone.digest(), None, next.as_ref(), 1).unwrap();
        assert_eq!((rest.0.len(), rest.1), (1, None));
        assert_eq!(here.referrers(&lone.digest(), None, None, 1 << 20).unwrap().0.len(), 2);
        here.delete_manifest(&referrer.digest()).unwrap();
        assert_eq!(list(None).0[0].digest, file.digest());
        store.retire(here.workspace(), &file.digest()).unwrap();
        assert_eq!(list(None).0, vec![]);
    });
}

#[test]
fn a_blob_that_nothing_needs_is_held_by_a_lease() {
    on_each_disk(|store| {
        let (here, there) = (repository(store, "here"), repository(store, "there"));
        let (lone, (tree, [one, two])) = (fixture::lone(), (fixture::tree(), fixture::branches()));
        lone.take(&here).unwrap();
        lone.push(&here, &["1"]).unwrap();
        let waiting = take(&here, b"its manifest may come yet");
        assert_eq!(there.mount(&waiting, None).unwrap(), Some(25));
        for artifact in [&one, &two] {
            artifact.take(&there).unwrap();
            artifact.push(&there, &[]).unwrap();
        }
        tree.push(&there, &["1"]).unwrap();
        let leases = |before: i128, dry_run| store.end_leases(before, dry_run, &mut || {}).unwrap();
        let count = |n_blobs, bytes| cas::Count { n_blobs, bytes };
        let now = cas::Leases { held: count(2, 50), over: count(0, 0) };
        assert_eq!(leases(i128::MIN, false), now);
        assert_eq!(leases(i128::MAX, true), cas::Leases { held: count(0, 0), over: count(2, 50) });
        let listed = |digest: &Digest| -> Vec<(String, bool)> {
            let listed = store.listings(here.workspace(), digest).unwrap();
            let told = |l: &cas::Listed| (l.repository.to_string(), l.leased_since.is_some());
            listed.iter().map(told).collect()
        };
        assert_eq!(listed(&waiting), [("here".to_owned(), true), ("there".to_owned(), true)]);
        assert_eq!(listed(&one.digest()), [("there".to_owned(), false)]);
        assert_eq!(listed(&Digest::of(b"nowhere")), []);

        // Whoever is told that it is there begins the lease anew.
        let since = store.listings(here.workspace(), &waiting).unwrap()[0].leased_since.unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        here.blob(&waiting).unwrap().renew(since);
        assert_eq!(leases(since + 1, true).over, count(2, 50), "not yet");
        here.blob(&waiting).unwrap().renew(since + 1);
        assert_eq!(leases(since + 1, false), now);

        // And so does whoever mounts it, also where it is listed already.
        let since = store.listings(here.workspace(), &waiting).unwrap()[1].leased_since.unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(leases(since + 1, true).over, count(2, 50), "not yet");
        assert_eq!(there.mount(&waiting, Some(here.name())).unwrap(), Some(25));
        assert_eq!(leases(since + 1, false), now);

        let over = leases(i128::MAX, false).over;
        assert_eq!(over, count(2, 50));
        is_gone(here.blob(&waiting));
        is_gone(there.blob(&waiting));
        assert_eq!(store.gc(false, &mut || {}).unwrap().n_blobs, 1);
        for (repository, artifact) in [(&here, &lone), (&there, &tree)] {
            by_digest(repository, &artifact.digest()).unwrap();
            for (claim, bytes) in artifact.members.iter().filter(|m| !m.0.is_manifest()) {
                assert_eq!(&blob(repository, &claim.digest).unwrap(), bytes);
            }
        }
        // What only a deleted index needed is held by leases as well.
        for artifact in [&tree, &one, &two] {
            there.delete_manifest(&artifact.digest()).unwrap();
        }
        assert!(leases(i128::MIN, true).held.n_blobs > 0);
        leases(i128::MAX, false);
        is_gone(by_digest(&there, &one.digest()));
        is_gone(there.blob(&fixture::shared_layer()));
        by_digest(&here, &lone.digest()).unwrap();
    });
}

#[test]
fn what_was_pushed_and_is_listed_nowhere_goes_and_a_put_holds() {
    on_each_disk(|store| {
        let (here, there) = (repository(store, "here"), repository(store, "there"));
        let of = here.workspace().clone();
        let (lone, plain) = (fixture::lone(), fixture::plain());
        let retire = |dry_run| store.retire_unlisted(dry_run, &mut || {}).unwrap();
        let is_there = |artifact: &Artifact| store.sealed(&of, &artifact.digest()).is_ok();
        for repository in [&here, &there] {
            lone.take(repository).unwrap();
            lone.push(repository, &["1"]).unwrap();
        }
        plain.take(&here).unwrap();
        plain.push(&here, &["2"]).unwrap();
        assert_eq!(retire(false), 0, "listed");
        here.delete_manifest(&lone.digest()).unwrap();
        assert_eq!(retire(false), 0, "listed elsewhere");
        // Put, by somebody who gives it no name.
        plain.put(store, &of, &[]).unwrap();
        here.delete_manifest(&plain.digest()).unwrap();
        there.delete_manifest(&lone.digest()).unwrap();
        assert_eq!((retire(true), retire(false), retire(false)), (1, 1, 0));
        assert!(!is_there(&lone) && is_there(&plain));
        // Put first and pushed later is put all the same; pushed anew it is pushed.
        plain.take(&here).unwrap();
        plain.push(&here, &["2"]).unwrap();
        here.delete_manifest(&plain.digest()).unwrap();
        lone.take(&here).unwrap();
        lone.push(&here, &[]).unwrap();
        assert_eq!(retire(false), 0);
        here.delete_manifest(&lone.digest()).unwrap();
        assert_eq!(retire(false), 1);
        assert!(!is_there(&lone) && is_there(&plain));
        store.sealed(&of, &plain.digest()).unwrap().check().unwrap();
        store.retire(&of, &plain.digest()).unwrap();
    });
}

#[test]
fn a_gc_beside_pushes_and_deletes_takes_nothing_that_is_held() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let folder = tests::scratch();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let index = Some(folder.path().join("index"));
    let store =
        &Store::open(disk, Options { index, log: super::LOG, ..Options::default() }).unwrap();
    let (one, two) = (&fixture::branches()[0], &fixture::plain());
    let is_over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let gc = scope.spawn(move || {
            let (mut n_rounds, mut n_retired) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                // Leases that begin now go on.
                store.end_leases(0, false, &mut || {}).unwrap();
                n_retired += store.retire_unlisted(false, &mut || {}).unwrap();
                store.gc(false, &mut || {}).unwrap();
                n_rounds += 1;
            }
            (n_rounds, n_retired)
        });
        let pushers = [("a", one), ("b", one), ("c", two)].map(|(name, artifact)| {
            scope.spawn(move || {
                let here = repository(store, name);
                for _ in 0..60 {
                    artifact.take(&here).unwrap();
                    artifact.push(&here, &["1"]).unwrap().sealed.check().unwrap();
                    assert_eq!(by_tag(&here, "1").unwrap(), artifact.digest());
                    here.delete_manifest(&artifact.digest()).unwrap();
                }
            })
        });
        let pushed = pushers.map(|pusher| pusher.join());
        is_over.store(true, Ordering::Relaxed);
        let (n_rounds, n_retired) = gc.join().unwrap();
        for ended in pushed {
            ended.unwrap();
        }
        assert!(n_rounds > 1 && n_retired > 0, "{n_rounds} rounds, {n_retired} retired");
    });
}

#[test]
fn what_is_not_listed_because_it_rotted_is_not_retired() {
    let (disk, store, here, lone) = lone_is_here();
    disk.corrupt(&layout::Pool::Shared.blob(&lone.digest()), 10).unwrap();
    assert!(matches!(by_tag(&here, "1"), Err(Error::Corrupt { .. })));
    is_gone(by_tag(&here, "1"));
    here.delete_tag(&"1".parse().unwrap()).unwrap();
    assert_eq!(store.retire_unlisted(false, &mut || {}).unwrap(), 0);
    // Its manifest alone makes it whole again.
    lone.push(&here, &["1"]).unwrap().sealed.check().unwrap();
}

/// Another referrer, told apart by an annotation.
fn referrer_of(subject: &Artifact, who: &str) -> Artifact {
    let mut artifact = fixture::referrer(subject);
    let (claim, bytes) = artifact.members.pop().unwrap();
    let bytes = String::from_utf8(bytes).unwrap().replace("\"us\"", &format!("\"{who}\""));
    let bytes = bytes.into_bytes();
    let root = Descriptor::new(claim.media_type, Digest::of(&bytes), bytes.len() as u64);
    artifact.members.push((root.clone(), bytes));
    artifact.root = root;
    artifact
}

#[test]
fn a_look_shows_what_is_small_and_good_and_nothing_else() {
    let (disk, store, here, lone) = lone_is_here();
    let root: serde_json::Value = serde_json::from_slice(lone.manifest()).unwrap();
    let push = |size: usize| {
        let with = |padding: usize| {
            let mut root = root.clone();
            root["annotations"] = serde_json::json!({ "padding": "x".repeat(padding) });
            serde_json::to_vec(&root).unwrap()
        };
        let bytes = with(size - with(0).len());
        assert_eq!(bytes.len(), size);
        let claim = Descriptor::new(lone.root.media_type.clone(), Digest::of(&bytes), size as u64);
        here.prepare(&claim, bytes).unwrap().seal(&[], &|_| true).unwrap();
        Reference::Digest(claim.digest)
    };
    let tag = Reference::Tag("1".parse().unwrap());
    let shows = |here: &Repository, reference: &Reference| {
        manifest(here, reference).map(drop).unwrap();
        here.manifest_at_a_look(reference).is_some()
    };
    let (small, largest, large) = (push(5_000), push(64 << 10), push((64 << 10) + 1));
    assert!(shows(&here, &tag) && shows(&here, &small) && shows(&here, &largest));
    assert!(!shows(&here, &large), "too large for a look");
    for absent in [Reference::Digest(Digest::of(b"absent")), Reference::Tag("2".parse().unwrap())] {
        is_gone(manifest(&here, &absent));
    }

    // A store that takes no manifests of that size any more shows none either.
    drop((here, store));
    let mut options = Options::default();
    options.limits.manifest_size = 4_000;
    let store = Store::open(Arc::new(disk.clone()), options).unwrap();
    let here = repository(&store, "here");
    assert!(shows(&here, &tag) && here.manifest_at_a_look(&small).is_none());
    assert!(matches!(here.manifest(&small).map(drop), Err(Error::Refused(_))));

    // Rot is for whoever can tell of it: in the manifest, then in the tag.
    disk.corrupt(&layout::Pool::Shared.blob(&lone.digest()), 10).unwrap();
    assert!(here.manifest_at_a_look(&tag).is_none());
    assert!(matches!(by_tag(&here, "1"), Err(Error::Corrupt { .. })));
    lone.push(&here, &["1"]).unwrap();
    assert!(shows(&here, &tag));
    let name = layout::tags(&default_workspace(), here.name()).join("1");
    disk.corrupt(&name, 10).unwrap();
    assert!(here.manifest_at_a_look(&tag).is_none());
    assert!(matches!(by_tag(&here, "1"), Err(Error::DamagedName { .. })));
}

#[test]
fn a_start_on_a_full_disk_lists_what_was_coming_without_a_copy() {
    let bytes = fixture::bytes(17, 100_000);
    let digest = Digest::of(&bytes);
    let disk = SimDisk::new();
    let store = super::open(&disk).unwrap();
    let here = repository(&store, "here");
    take(&here, &bytes);
    // Its bytes are durable under the one name that says what they are to be.
    let left = disk.crash(0);
    let coming = layout::members(&default_workspace(), here.name(), MemberKind::Blob);
    let mut names = Vec::new();
    let each = &mut |entry: cas::disk::Entry| {
        names.push(entry.name.to_owned());
        std::ops::ControlFlow::Continue(())
    };
    left.list(&coming, each).unwrap();
    let [name] = &names[..] else { panic!("{names:?}") };
    assert_eq!(layout::digest_of_coming(name), Some(digest));
    let space = left.space().unwrap();
    let (used, coming) = (space.total - space.free, coming.join(name));

    // So many blocks are free: from none to enough for the copy.
    for n_blocks in [0, 1, 2, 10, 30, 1000] {
        for is_rotten in [false, true] {
            let full = left.fork().with_capacity(used + n_blocks * 4096);
            if is_rotten {
                full.corrupt(&coming, 50_000).unwrap();
            }
            let store = super::open(&full).unwrap();
            let here = repository(&store, "here");
            match is_rotten {
                false => assert_eq!(blob(&here, &digest).unwrap(), bytes, "{n_blocks} blocks"),
                true => is_gone(blob(&here, &digest)),
            }
            drop((here, store));

            // With room again, and after one more crash, it is there or is brought again.
            let roomy = full.crash(n_blocks).with_capacity(space.total);
            let here = repository(&super::open(&roomy).unwrap(), "here");
            if !is_rotten {
                assert_eq!(blob(&here, &digest).unwrap(), bytes, "{n_blocks} blocks, then more");
            }
            take(&here, &bytes);
            assert_eq!(blob(&here, &digest).unwrap(), bytes);
        }
    }
}

/// A crash took the listing of an artifact from which rot took a blob: all else is listed again.
/// A put found its artifact there and gave its draft up; the power went while that was removed, and somebody
/// else was retiring the artifact.
#[test]
fn a_draft_that_was_given_up_is_no_artifact() {
    let lone = fixture::lone();
    for is_whole in [true, false] {
        let disk = SimDisk::new();
        let store = super::open(&disk).unwrap();
        let name = "here:1".parse().unwrap();
        let place = lone.put(&store, &default_workspace(), &[name]).unwrap().path();
        drop(store);
        let draft = layout::draft_of(&default_workspace());
        disk.rename(&place, &RelPath::new(layout::STAGING).join(format!("{draft}-7"))).unwrap();
        if !is_whole {
            let draft = RelPath::new(layout::STAGING).join(format!("{draft}-7"));
            disk.unlink(&layout::blob_in(&draft, &lone.members[1].0.digest)).unwrap();
        }
        let store = super::open(&disk).unwrap();
        let sealed = store.sealed(&default_workspace(), &lone.digest());
        match is_whole {
            true => assert!(sealed.unwrap().check().is_ok()),
            false => is_gone(sealed),
        }
    }
}

#[test]
fn what_rot_took_keeps_nothing_else_from_being_listed_again() {
    let (disk, tree) = (SimDisk::new(), fixture::tree());
    let store = super::open(&disk).unwrap();
    let here = repository(&store, "here");
    let names = ["here:1".parse().unwrap()];
    let sealed = tree.put(&store, &default_workspace(), &names).unwrap();
    let lost = fixture::shared_layer();
    disk.erase(&layout::blob_in(&sealed.path(), &lost)).unwrap();
    let file = |(kind, digest): (MemberKind, Digest)| {
        let folder = layout::members(&default_workspace(), here.name(), kind);
        folder.join(layout::digest_file(&digest))
    };
    for member in tree.listing() {
        disk.erase(&file(member)).unwrap();
    }
    let left = disk.fork();
    let store = super::open(&left).unwrap();
    for member in tree.listing() {
        assert_eq!(left.stat(&file(member)).is_ok(), member.1 != lost, "{member:?}");
    }
    // Whoever brings it lists it.
    tree.put(&store, &default_workspace(), &names).unwrap();
    for member in tree.listing() {
        left.stat(&file(member)).unwrap();
    }
}

#[test]
fn what_rots_is_told_once_and_good_bytes_heal_it() {
    let (disk, store, here, lone) = lone_is_here();
    let (layer, bytes) = &lone.members[1];
    let rot = |digest: &Digest| disk.corrupt(&layout::Pool::Shared.blob(digest), 10).unwrap();

    rot(&layer.digest);
    let mut read = Vec::new();
    let cut = here.blob(&layer.digest).unwrap().stream().unwrap().read_to_end(&mut read);
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert!(read.len() < bytes.len());
    is_gone(here.blob(&layer.digest));
    let prepare = || here.prepare(&lone.root, lone.manifest().to_vec());
    assert_eq!(incomplete(prepare()), vec![layer.digest]);
    lone.take(&here).unwrap();
    assert_eq!(blob(&here, &layer.digest).unwrap(), *bytes);
    let pushed = lone.push(&here, &["1"]).unwrap();
    pushed.sealed.check().unwrap();

    // A manifest, by its tag: once damage, then absent, then good again.
    rot(&lone.digest());
    assert!(matches!(by_tag(&here, "1"), Err(Error::Corrupt { .. })));
    is_gone(by_tag(&here, "1"));
    lone.push(&here, &["1"]).unwrap().sealed.check().unwrap();
    assert_eq!(by_tag(&here, "1").unwrap(), lone.digest());

    // A referrer: an error once, and not a list without it.
    let referrer = fixture::referrer(&lone);
    referrer.take(&here).unwrap();
    referrer.push(&here, &[]).unwrap();
    let list = || here.referrers(&lone.digest(), None, None, 1 << 20).map(|(found, _)| found.len());
    assert_eq!(list().unwrap(), 1);
    rot(&referrer.digest());
    assert!(matches!(list(), Err(Error::Corrupt { .. })));
    assert_eq!(list().unwrap(), 0);
    referrer.push(&here, &[]).unwrap();
    assert_eq!(list().unwrap(), 1);

    // Another life of the daemon believes nothing, and finds what rotted meanwhile.
    drop((pushed, here, store));
    let store = super::open(&disk).unwrap();
    let here = repository(&store, "here");
    let push = here.prepare(&lone.root, lone.manifest().to_vec()).unwrap();
    assert_eq!(push.n_unproved(), lone.members[0].0.size + layer.size);
    rot(&layer.digest);
    match push.seal(&[], &|_| true).map(drop) {
        Err(Error::Incomplete { missing }) => assert_eq!(missing, vec![layer.digest]),
        other => panic!("{other:?}"),
    }
    is_gone(here.blob(&layer.digest));
}
