//! Folders, looked at from outside: what is in them, byte for byte.

use std::collections::BTreeMap;
use std::path::Path;

use cas::digest::{Algorithm, Digest, Hasher};

/// Every file below a folder by its relative path, with its bytes; folders are left out.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    each(folder, "", &mut |name, path| {
        files.insert(name.to_owned(), std::fs::read(path).expect("a readable file"));
    });
    files
}

/// Every name below a folder that is no folder itself.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    each(folder, "", &mut |name, _| names.push(name.to_owned()));
    names.sort();
    names
}

fn each(folder: &Path, prefix: &str, found: &mut dyn FnMut(&str, &Path)) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each(&entry.path(), &format!("{name}/"), found);
        } else {
            found(&name, &entry.path());
        }
    }
}

/// What a store holds and what a failed operation could have left there: the names in its blobs,
/// layouts, names and staging. The index and what was quarantined are told by nobody's put.
pub fn store(store: &Path) -> Vec<String> {
    ["artifacts", "blobs", "leases", "names", "staging", "uploads"]
        .iter()
        .flat_map(|part| names(&store.join(part)).into_iter().map(move |n| format!("{part}/{n}")))
        .collect()
}

/// The blobs of a layout by digest, each proved to have the bytes that its name says.
#[track_caller]
pub fn blobs(layout: &Path) -> BTreeMap<Digest, Vec<u8>> {
    let mut blobs = BTreeMap::new();
    for (name, bytes) in files(&layout.join("blobs")) {
        let digest: Digest = name.replace('/', ":").parse().expect("a blob's name is its digest");
        assert_eq!(Digest::compute(digest.algorithm(), &bytes), digest, "{name}");
        blobs.insert(digest, bytes);
    }
    blobs
}

/// The digest of a large file.
pub fn digest(file: &Path) -> Digest {
    use std::io::Read as _;
    let mut file = std::fs::File::open(file).expect("an open file");
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).expect("read") {
            0 => return hasher.finish(),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Copies a folder with everything in it, through ordinary files and links alike.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for (name, bytes) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, bytes).expect("written");
    }
}
