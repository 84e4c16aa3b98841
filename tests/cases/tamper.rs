//! A corpus of tampered stores: every file of a layout, every kind of damage, each refused, each
//! untouched twin accepted, and each made good again by putting the same bytes once more.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas::digest::{Algorithm, Digest};
use cas::disk::RealDisk;
use cas::oci::{Descriptor, media_type};
use cas::workspace::Workspace;
use cas::{Error, Options, Sealed, Source, Store};

/// An index of two images that share a layer, with a sha512 member: every shape of name there is.
struct Image {
    root: Descriptor,
    blobs: Vec<(Digest, Vec<u8>)>,
}

fn image(seed: u8) -> Image {
    let mut blobs = Vec::new();
    let mut add = |algorithm, kind: &str, bytes: Vec<u8>| {
        let digest = Digest::compute(algorithm, &bytes);
        let descriptor = Descriptor::new(kind, digest, bytes.len() as u64);
        blobs.push((digest, bytes));
        descriptor
    };
    let json = |d: &Descriptor| serde_json::to_string(d).unwrap();
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let shared = add(Algorithm::Sha256, layer, vec![seed; 70_000]);
    let own = add(Algorithm::Sha512, layer, (0..=255).map(|b: u8| b ^ seed).collect());
    let config =
        |n: u8| format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"n\":{n}}}").into_bytes();
    let mut manifests = Vec::new();
    for (n, extra) in [None, Some(&own)].into_iter().enumerate() {
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = add(Algorithm::Sha256, kind, config(n as u8 + seed));
        let layers: Vec<String> = std::iter::once(&shared).chain(extra).map(json).collect();
        let (kind, config, layers) = (media_type::IMAGE_MANIFEST, json(&config), layers.join(","));
        let text = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{config},\"layers\":[{layers}]}}"
        );
        manifests.push(json(&add(Algorithm::Sha256, kind, text.into_bytes())));
    }
    let kind = media_type::IMAGE_INDEX;
    let manifests = manifests.join(",");
    let text =
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"manifests\":[{manifests}]}}");
    let root = add(Algorithm::Sha256, kind, text.into_bytes());
    Image { root, blobs }
}

fn put(store: &Store, workspace: &Workspace, image: &Image) -> Sealed {
    let draft = store.draft(workspace).unwrap();
    for (digest, bytes) in &image.blobs {
        draft.take(digest, bytes.len() as u64, Source::Stream(&mut &bytes[..])).unwrap();
    }
    draft.seal(&image.root, &[], &|_| true).unwrap().0
}

/// What is done to one file of a layout. `None` when it cannot be done to this one.
struct Damage {
    name: &'static str,
    act: fn(&Path, &Path) -> bool,
}

/// Opens a sealed file for writing as somebody with the daemon's own rights could.
fn write_into(path: &Path, act: impl FnOnce(&fs::File)) -> bool {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    act(&file);
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    true
}

fn flip(path: &Path, at: u64) -> bool {
    write_into(path, |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    })
}

const DAMAGES: &[Damage] = &[
    Damage { name: "first bit flipped", act: |path, _| flip(path, 0) },
    Damage {
        name: "middle bit flipped",
        act: |path, _| flip(path, fs::metadata(path).unwrap().len() / 2),
    },
    Damage {
        name: "last bit flipped",
        act: |path, _| flip(path, fs::metadata(path).unwrap().len() - 1),
    },
    Damage {
        name: "truncated by a byte",
        act: |path, _| {
            let size = fs::metadata(path).unwrap().len();
            write_into(path, |file| file.set_len(size - 1).unwrap())
        },
    },
    Damage { name: "emptied", act: |path, _| write_into(path, |file| file.set_len(0).unwrap()) },
    Damage {
        name: "a byte appended",
        act: |path, _| {
            let size = fs::metadata(path).unwrap().len();
            write_into(path, |file| file.write_all_at(b"\n", size).unwrap())
        },
    },
    Damage {
        name: "zeroed",
        act: |path, _| {
            let size = fs::metadata(path).unwrap().len() as usize;
            write_into(path, |file| file.write_all_at(&vec![0; size], 0).unwrap())
        },
    },
    Damage { name: "missing", act: |path, _| fs::remove_file(path).is_ok() },
    Damage {
        name: "replaced by another file",
        act: |path, _| {
            fs::remove_file(path).unwrap();
            fs::write(path, b"{}").is_ok()
        },
    },
    Damage {
        name: "swapped with its neighbour",
        act: |path, other| {
            let between = path.with_extension("between");
            fs::rename(path, &between).unwrap();
            fs::rename(other, path).unwrap();
            fs::rename(&between, other).is_ok()
        },
    },
    Damage {
        name: "a symlink to the same bytes",
        act: |path, _| {
            let aside =
                path.ancestors().find(|p| p.ends_with("store")).unwrap().with_extension("aside");
            fs::copy(path, &aside).unwrap();
            fs::remove_file(path).unwrap();
            symlink(&aside, path).is_ok()
        },
    },
    Damage {
        name: "a folder",
        act: |path, _| fs::remove_file(path).is_ok() && fs::create_dir(path).is_ok(),
    },
    Damage {
        name: "a second file beside it",
        act: |path, _| fs::write(path.with_file_name("extra"), b"x").is_ok(),
    },
    Damage {
        name: "a folder beside it",
        act: |path, _| fs::create_dir(path.with_file_name("extra")).is_ok(),
    },
];

fn files_of(layout: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![layout.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn no_tampered_store_is_accepted_and_every_untouched_one_is() {
    let workspace: Workspace = "default".parse().unwrap();
    let other: Workspace = "other".parse().unwrap();
    let (mut n_refused, mut n_accepted, mut n_healed) = (0, 0, 0);
    let n_files = {
        let folder = tempfile::tempdir().unwrap();
        let (store, root) = open(folder.path());
        let sealed = put(&store, &workspace, &image(10));
        files_of(&root.join(sealed.path().as_str())).len()
    };
    for damage in DAMAGES {
        for n in 0..n_files {
            let folder = tempfile::tempdir().unwrap();
            let (store, root) = open(folder.path());
            let (tampered, twin) = (image(10), image(20));
            let sealed = put(&store, &workspace, &tampered);
            let neighbour = put(&store, &other, &tampered);
            let untouched = put(&store, &workspace, &twin);

            let files = files_of(&root.join(sealed.path().as_str()));
            let file = &files[n];
            assert!((damage.act)(file, &files[(n + 1) % files.len()]));
            let case = format!("{} of {}", damage.name, file.display());

            // The artifact itself is refused, by name, and again for as long as nobody helps.
            match sealed.check() {
                Err(Error::Corrupt { damages, .. }) => assert!(!damages.is_empty(), "{case}"),
                Err(error) => panic!("{case}: refused for another reason: {error}"),
                Ok(_) => panic!("{case}: accepted"),
            }
            n_refused += 1;
            // A copy of what was wrong is kept, and its folder is there even for what is missing.
            let quarantine = fs::read_dir(root.join("quarantine")).unwrap().count();
            assert!(quarantine > 0, "{case}: nothing in quarantine");

            // The twin knows nothing of it.
            untouched.check().unwrap_or_else(|error| panic!("{case}: the twin: {error}"));
            n_accepted += 1;

            // The same bytes once more make it whole, in every layout that shares them.
            let again = put(&store, &workspace, &tampered);
            again.check().unwrap_or_else(|error| panic!("{case}: after healing: {error}"));
            neighbour.check().unwrap_or_else(|error| panic!("{case}: the neighbour: {error}"));
            n_healed += 1;
        }
    }
    tests::say(&format!(
        "measured: tampered stores refused: {n_refused}, untouched twins accepted: {n_accepted}, healed: {n_healed}"
    ));
    assert_eq!((n_refused, n_accepted), (n_files * DAMAGES.len(), n_files * DAMAGES.len()));
}

/// Parts of a closure are handed out one by one as well: none of them may come out damaged.
#[test]
fn a_damaged_blob_is_handed_out_by_no_way() {
    let workspace: Workspace = "default".parse().unwrap();
    let image = image(10);
    for (digest, bytes) in &image.blobs {
        let folder = tempfile::tempdir().unwrap();
        let (store, root) = open(folder.path());
        let sealed = put(&store, &workspace, &image);

        let stream = |sealed: &Sealed| {
            let mut out = Vec::new();
            let end = std::io::Read::read_to_end(&mut sealed.stream(digest).unwrap(), &mut out);
            (end.is_ok(), out)
        };
        assert_eq!(stream(&sealed), (true, bytes.clone()));
        assert!(sealed.blob(digest).is_ok());

        let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        flip(&root.join(sealed.path().as_str()).join(name), bytes.len() as u64 / 2);
        let (is_complete, out) = stream(&sealed);
        assert!(!is_complete && out.len() < bytes.len());
        assert!(matches!(sealed.blob(digest), Err(Error::Corrupt { .. })));
    }
}

fn open(folder: &Path) -> (Store, PathBuf) {
    let root = folder.join("store");
    let disk = RealDisk::open(&root).unwrap();
    // Threads take part from 64 KiB on, so that the ways of large blobs are walked as well.
    let options = Options { pipeline_from: 64 << 10, ..Options::default() };
    (Store::open(Arc::new(disk), options).unwrap(), root)
}
