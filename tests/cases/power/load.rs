//! What the clients do while the power is on, and the ledger of what they were answered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use cas::digest::Digest;
use tests::layout::{noise, types};
use tests::raw::{Connection, head};
use tests::{Daemon, Layout, Run, file, oci};

/// One put, which can be made again from this alone.
#[derive(Clone, Debug)]
pub(super) struct Work {
    round: usize,
    thread: usize,
    n: usize,
}

/// What an artifact must be after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its put was answered.
    Held,
    /// Its retirement was asked for, and not answered: there or not there.
    Ending,
    /// Its retirement was answered.
    Ended,
}

/// What was answered, and what was cut off.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Artifacts by digest.
    pub(super) fates: BTreeMap<String, Fate>,
    /// Their names.
    pub(super) names: BTreeMap<String, BTreeSet<String>>,
    /// Puts without an answer.
    pub(super) cut_off: Vec<Work>,
    /// Puts and retirements that were answered before a cut.
    pub(super) n_acknowledged: usize,
}

/// What was pushed and answered: a blob, or a manifest of one.
#[derive(Debug)]
pub(super) struct Pushed {
    path: String,
    seed: String,
    size: usize,
    is_manifest: bool,
}

// === impl Pushed ===

impl Pushed {
    pub(super) fn is_there(&self, daemon: &Daemon) -> bool {
        let answer = daemon.connect().get(&self.path);
        let blob = noise(&self.seed, self.size);
        let bytes = if self.is_manifest { manifest(&Digest::of(&blob)) } else { blob };
        answer.status == 200 && answer.body == bytes
    }
}

/// A manifest whose config and only layer is this blob of 4096 bytes.
fn manifest(blob: &Digest) -> Vec<u8> {
    let claim = |media_type: &str| serde_json::json!({ "mediaType": media_type, "digest": blob, "size": 4096 });
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": types::IMAGE_MANIFEST,
        "config": claim(types::CONFIG),
        "layers": [claim(types::LAYER)],
    });
    serde_json::to_vec(&manifest).unwrap()
}

/// Pushes one blob after another, in a repository that is new or not, until something fails; after a small one a
/// manifest, if that is wanted.
pub(super) fn push(
    daemon: &Daemon,
    (round, thread): (usize, usize),
    with_manifests: bool,
    pushed: &Mutex<Vec<Pushed>>,
    over: &AtomicBool,
) {
    for n in 0.. {
        let seed = format!("pushed {round}-{thread}-{n}");
        // Through the page cache, past it, and by more than one thread.
        let size = match n % 10 {
            4 => 1_000_000,
            9 => (4 << 20) + 1,
            n if n % 2 == 0 => 4096,
            _ => 300_001,
        };
        let bytes = noise(&seed, size);
        let (repository, digest) = (format!("default/power-{round}/{}", n / 3), Digest::of(&bytes));
        let begin = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let send = |method: &str, path: &str, bytes: &[u8]| {
            let answer = Connection::open(&daemon.home().socket()).and_then(|mut connection| {
                connection.send(head(method, path, bytes.len() as u64))?;
                connection.send(bytes)?;
                Ok(connection.answer())
            });
            let is_there = answer.as_ref().is_ok_and(|answer| answer.status == 201);
            assert!(is_there || over.load(Ordering::SeqCst), "before the cut: {answer:?}");
            is_there
        };
        if !send("POST", &begin, &bytes) {
            return;
        }
        let path = format!("/v2/{repository}/blobs/{digest}");
        let blob = Pushed { path, seed: seed.clone(), size, is_manifest: false };
        pushed.lock().unwrap().push(blob);
        if !with_manifests || size != 4096 {
            continue;
        }
        let path = format!("/v2/{repository}/manifests/{thread}-{n}");
        if !send("PUT", &path, &manifest(&digest)) {
            return;
        }
        pushed.lock().unwrap().push(Pushed { path, seed, size, is_manifest: true });
    }
}

// === impl Work ===

impl Work {
    /// `NAME:TAG`
    pub(super) fn name(&self) -> String {
        let Work { round, thread, n } = self;
        format!("power:{round}-{thread}-{n}")
    }

    /// Whether nobody else puts the same artifact.
    fn is_own(&self) -> bool {
        self.n % 5 != 3
    }

    /// Writes what is to be put into a folder, which must not be there, and returns it as it is
    /// typed.
    fn write(&self, folder: &Path) -> io::Result<String> {
        let Work { round, n, .. } = self;
        let own = self.name();
        std::fs::create_dir_all(folder)?;
        let mut layout = Layout::default();
        let root = match n % 5 {
            0 => layout.image(&own),
            1 => {
                let path = folder.join("tool");
                std::fs::write(&path, noise(&own, 1_000 + 3_000 * (n % 7)))?;
                return Ok(file(&path));
            }
            // A large layer that several put at the same time: whoever finds it there must not
            // take it for durable.
            2 => {
                let config = layout.config(&own);
                let large = noise(&format!("common {round} {n}"), (5 << 20) + 77);
                let layers = [layout.blob(types::LAYER, large), layout.blob(types::LAYER, &own)];
                layout.manifest(&config, &layers)
            }
            // One artifact, put by everybody under different names.
            3 => layout.image(&format!("together {round} {n}")),
            _ => {
                let config = layout.config(&own);
                let large = noise(&own, (4 << 20) - 1 + (n % 3) * 2_000_003);
                let layers = [layout.blob(types::LAYER, large)];
                layout.manifest(&config, &layers)
            }
        };
        layout.list(&root);
        for (name, bytes) in layout.files() {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap())?;
            std::fs::write(path, bytes)?;
        }
        Ok(oci(folder))
    }

    /// Puts it from below this folder.
    pub(super) fn put(&self, daemon: &Daemon, sources: &Path) -> io::Result<Run> {
        // A colon would begin a reference.
        let folder = sources.join(self.name().replace(':', "-"));
        let written = self.write(&folder);
        let run = written.map(|source| daemon.bond(&["put", &source, "--name", &self.name()]));
        let _ = std::fs::remove_dir_all(&folder);
        run
    }
}

// === impl Ledger ===

impl Ledger {
    /// A put was answered.
    #[track_caller]
    pub(super) fn has_put(&mut self, work: &Work, answer: &Run) {
        let digest = answer.digest().to_string();
        self.fates.insert(digest.clone(), Fate::Held);
        self.names.entry(digest).or_default().insert(work.name());
    }

    /// The artifacts with this fate.
    pub(super) fn with(&self, fate: Fate) -> Vec<String> {
        let those = self.fates.iter().filter(|(_, its)| **its == fate);
        those.map(|(digest, _)| digest.clone()).collect()
    }

    /// Takes an artifact off.
    pub(super) fn forget(&mut self, digest: &str) {
        self.fates.remove(digest);
        self.names.remove(digest);
    }
}

/// One client after another, until something fails, which it must not before the end is said.
pub(super) fn work(
    daemon: &Daemon,
    (round, thread): (usize, usize),
    sources: &Path,
    ledger: &Mutex<Ledger>,
    over: &AtomicBool,
) {
    let is_over = |told: &str| assert!(over.load(Ordering::SeqCst), "before the cut: {told}");
    let mut own = Vec::new();
    for n in 0.. {
        let work = Work { round, thread, n };
        match work.put(daemon, sources) {
            Ok(put) if put.code == Some(0) => {
                let mut ledger = ledger.lock().unwrap();
                ledger.has_put(&work, &put);
                ledger.n_acknowledged += 1;
                if work.is_own() {
                    own.push(put.digest().to_string());
                }
            }
            Ok(put) => {
                is_over(&put.told());
                return ledger.lock().unwrap().cut_off.push(work);
            }
            Err(error) => return is_over(&error.to_string()),
        }
        if own.len() > 4 {
            let ends = own.remove(n % 4);
            ledger.lock().unwrap().fates.insert(ends.clone(), Fate::Ending);
            let retired = daemon.bond(&["retire", &ends]);
            if retired.code != Some(0) {
                return is_over(&retired.told());
            }
            let mut ledger = ledger.lock().unwrap();
            ledger.fates.insert(ends, Fate::Ended);
            ledger.n_acknowledged += 1;
        }
        if thread == 0 && n % 8 == 7 {
            let collected = daemon.bond(&["gc"]);
            if collected.code != Some(0) {
                return is_over(&collected.told());
            }
        }
    }
}
