//! The front door: every requirement of the distribution specification as a case, over the socket
//! and over the loopback listener; users over TLS; stock clients; what one plane brings and the other sees.

mod blobs;
mod clients;
mod deletes;
mod door;
mod limits;
mod manifests;
mod names;
mod planes;
mod races;
mod referrers;
mod rot;
mod tags;
mod tcp;
mod tcp_clients;
mod uploads;
mod within;

use cas::digest::{Algorithm, Digest};
use serde_json::{Value, json};
use tests::layout::types;
use tests::v2::{Case, Door, Step, daemon, digest, manifest, push};

/// Runs cases over every door of a daemon.
#[track_caller]
fn run(cases: &[Case]) {
    let daemon = daemon("");
    let doors = Door::of(&daemon);
    assert_eq!(doors.len(), 2, "the socket and the loopback listener");
    for door in doors {
        door.run(cases);
    }
}

/// A descriptor of these bytes.
fn describe(algorithm: Algorithm, media_type: &str, bytes: &[u8]) -> Value {
    let digest = digest(algorithm, bytes).to_string();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// An image of one layer, by parts.
#[derive(Clone)]
struct Image {
    algorithm: Algorithm,
    config: Vec<u8>,
    layer: Vec<u8>,
    document: Value,
}

impl Image {
    fn new(algorithm: Algorithm, seed: &str) -> Image {
        let config = format!(r#"{{"architecture":"amd64","os":"linux","id":"{seed}"}}"#);
        let (config, layer) = (config.into_bytes(), format!("the layer of {seed}").into_bytes());
        let document = json!({
            "schemaVersion": 2,
            "mediaType": types::IMAGE_MANIFEST,
            "config": describe(algorithm, types::CONFIG, &config),
            "layers": [describe(algorithm, types::LAYER, &layer)],
        });
        Image { algorithm, config, layer, document }
    }

    /// The same with another field in its manifest.
    fn with(mut self, key: &str, value: Value) -> Image {
        self.document[key] = value;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.document.to_string().into_bytes()
    }

    fn digest(&self) -> Digest {
        digest(self.algorithm, self.bytes())
    }

    /// As a descriptor.
    fn descriptor(&self) -> Value {
        let media_type = self.document["mediaType"].as_str().expect("a type");
        describe(self.algorithm, media_type, &self.bytes())
    }

    /// Its blobs, pushed into a repository.
    fn blobs(&self, repository: &str) -> Vec<Step> {
        [&self.config, &self.layer]
            .map(|bytes| push(repository, &digest(self.algorithm, bytes), bytes))
            .to_vec()
    }

    /// Its manifest, pushed by tag or digest.
    fn manifest(&self, repository: &str, reference: &str) -> Step {
        let at = format!("/v2/{repository}/manifests/{reference}");
        let media_type = self.document["mediaType"].as_str().unwrap_or(types::IMAGE_MANIFEST);
        manifest(&at, media_type, &self.document)
    }

    /// All of it, pushed under a tag.
    fn push(&self, repository: &str, tag: &str) -> Vec<Step> {
        let mut steps = self.blobs(repository);
        steps.push(self.manifest(repository, tag));
        steps
    }
}

/// Several lists of steps, one after the other.
fn steps(lists: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    lists.into_iter().flatten().collect()
}
