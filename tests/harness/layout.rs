//! An OCI layout in memory, made up piece by piece, good or bad, and written as a folder or an
//! archive. The same calls always make the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use cas::digest::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::archive::Tar;

/// Media types by the names that people give them.
pub mod types {
    pub use cas::oci::media_type::*;

    /// The config of an OCI image.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer of an OCI image.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer that may be absent.
    pub const FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    /// The config of a Docker image.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A layer of a Docker image.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// The annotation that names an entry of `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout that is being made up.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The blobs by their names in the layout.
    blobs: BTreeMap<String, Vec<u8>>,
    /// The entries of `index.json`.
    entries: Vec<Value>,
    /// Other files, which also take the place of those that every layout has.
    others: BTreeMap<String, Vec<u8>>,
    /// Files that every layout has and this one has not.
    without: Vec<String>,
}

/// The digest in a descriptor.
#[track_caller]
pub fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().expect("a digest").parse().expect("a digest")
}

/// `blobs/ALGORITHM/HEX`
pub fn blob_file(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// A descriptor of these bytes.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    describe(Algorithm::Sha256, media_type, bytes)
}

fn describe(algorithm: Algorithm, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::compute(algorithm, bytes).to_string();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// Bytes without pattern, the same for the same seed.
pub fn noise(seed: &str, n: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(n + 64);
    for number in 0_u64.. {
        if bytes.len() >= n {
            break;
        }
        let block = format!("{seed} {number}");
        bytes.extend_from_slice(Digest::compute(Algorithm::Sha512, block.as_bytes()).bytes());
    }
    bytes.truncate(n);
    bytes
}

impl Layout {
    /// Adds a blob and returns its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: impl AsRef<[u8]>) -> Value {
        self.blob_by(Algorithm::Sha256, media_type, bytes)
    }

    /// Adds a blob whose digest is by that algorithm.
    pub fn blob_by(
        &mut self,
        algorithm: Algorithm,
        media_type: &str,
        bytes: impl AsRef<[u8]>,
    ) -> Value {
        let descriptor = describe(algorithm, media_type, bytes.as_ref());
        self.blobs.insert(blob_file(&digest(&descriptor)), bytes.as_ref().to_vec());
        descriptor
    }

    /// Adds a document and returns its descriptor.
    pub fn document(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string())
    }

    /// Adds an image manifest with this config and these layers.
    pub fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        self.document(types::IMAGE_MANIFEST, &manifest(config, layers))
    }

    /// Adds an index of these.
    pub fn index(&mut self, manifests: &[Value]) -> Value {
        self.document(types::IMAGE_INDEX, &index(manifests))
    }

    /// Adds an ordinary image: a config and two layers that no other seed has.
    pub fn image(&mut self, seed: &str) -> Value {
        let layers = [
            self.blob(types::LAYER, noise(&format!("{seed}, first layer"), 70_000)),
            self.blob(types::LAYER, noise(&format!("{seed}, second layer"), 3_000)),
        ];
        let config = self.config(seed);
        self.manifest(&config, &layers)
    }

    /// Adds the config of an image.
    pub fn config(&mut self, seed: &str) -> Value {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Labels": { "seed": seed } },
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        self.document(types::CONFIG, &config)
    }

    /// Lists an entry in `index.json`.
    pub fn list(&mut self, entry: &Value) -> &mut Layout {
        self.entries.push(entry.clone());
        self
    }

    /// Lists an entry in `index.json` under a name.
    pub fn list_as(&mut self, entry: &Value, name: &str) -> &mut Layout {
        let mut entry = entry.clone();
        entry["annotations"][REF_NAME] = name.into();
        self.entries.push(entry);
        self
    }

    /// Sets a file, whatever it is.
    pub fn set(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> &mut Layout {
        self.others.insert(name.to_owned(), bytes.as_ref().to_vec());
        self
    }

    /// Sets the bytes of a blob without its name following them.
    pub fn spoil(&mut self, blob: &Value, bytes: impl AsRef<[u8]>) -> &mut Layout {
        self.blobs.insert(blob_file(&digest(blob)), bytes.as_ref().to_vec());
        self
    }

    /// Leaves a blob out.
    pub fn lose(&mut self, blob: &Value) -> &mut Layout {
        self.blobs.remove(&blob_file(&digest(blob))).expect("it was there");
        self
    }

    /// Leaves out a file that every layout has.
    pub fn without(&mut self, name: &str) -> &mut Layout {
        self.without.push(name.to_owned());
        self
    }

    /// The bytes of a blob.
    #[track_caller]
    pub fn bytes(&self, blob: &Value) -> &[u8] {
        &self.blobs[&blob_file(&digest(blob))]
    }

    /// The blobs by digest, as their names say.
    pub fn blobs(&self) -> BTreeMap<Digest, Vec<u8>> {
        let parse = |name: &String| name["blobs/".len()..].replace('/', ":").parse();
        let named =
            |(name, bytes): (&String, &Vec<u8>)| (parse(name).expect("a digest"), bytes.clone());
        self.blobs.iter().map(named).collect()
    }

    /// All files by name, those that a reader needs first of all at the front.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let index = json!({ "schemaVersion": 2, "manifests": self.entries });
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        files.retain(|(name, _)| !self.others.contains_key(name) && !self.without.contains(name));
        files.extend(self.others.clone());
        files.extend(self.blobs.clone());
        files
    }

    /// Writes it as a folder, which is made when it is not there.
    pub fn write(&self, folder: &Path) {
        for (name, bytes) in self.files() {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, bytes).expect("written");
        }
    }

    /// It as an archive that is not ended yet.
    pub fn tar(&self) -> Tar {
        let mut tar = Tar::default();
        for (name, bytes) in self.files() {
            tar.file(&name, &bytes);
        }
        tar
    }
}

/// An image manifest.
pub fn manifest(config: &Value, layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": types::IMAGE_MANIFEST,
        "config": config, "layers": layers,
    })
}

/// An index.
pub fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": types::IMAGE_INDEX, "manifests": manifests })
}
