//! Artifacts for the sweep: small, sharing blobs, and known byte by byte.

use std::collections::BTreeMap;

use cas::digest::{Algorithm, Digest};
use cas::disk::sim::SimDisk;
use cas::layout::MemberKind;
use cas::oci::{Descriptor, media_type};
use cas::workspace::{Name, Tag, Workspace};
use cas::{Error, Pushed, Repository, Sealed, Source, Store};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An artifact and every byte of it.
#[derive(Clone)]
pub(crate) struct Artifact {
    pub(crate) root: Descriptor,
    /// Children before parents.
    pub(crate) members: Vec<(Descriptor, Vec<u8>)>,
    /// Put as a file of this title.
    title: Option<&'static str>,
    /// It has a layer that may be absent, and is.
    pub(crate) lacks: bool,
    /// What it is about.
    pub(crate) subject: Option<Digest>,
}

impl Artifact {
    pub(crate) fn digest(&self) -> Digest {
        self.root.digest
    }

    /// What its layout must hold of blobs, by name.
    pub(crate) fn blobs(&self) -> BTreeMap<String, &[u8]> {
        let named = self.members.iter().map(|(claim, bytes)| {
            let name = format!("blobs/{}/{}", claim.digest.algorithm().name(), claim.digest.hex());
            (name, bytes.as_slice())
        });
        named.collect()
    }

    /// What is listed of it in a repository, as what.
    pub(crate) fn listing(&self) -> impl Iterator<Item = (MemberKind, Digest)> {
        self.members.iter().map(|(claim, _)| {
            let kind = match claim.is_manifest() {
                true if claim.digest == self.digest() => MemberKind::Manifest,
                true => MemberKind::Child,
                false => MemberKind::Blob,
            };
            (kind, claim.digest)
        })
    }

    /// The bytes of its manifest.
    pub(crate) fn manifest(&self) -> &[u8] {
        let root = self.members.iter().find(|(claim, _)| claim.digest == self.digest());
        &root.unwrap().1
    }

    /// Takes its blobs into a repository.
    pub(crate) fn take(&self, repository: &Repository) -> Result<(), Error> {
        for (claim, bytes) in self.members.iter().filter(|(claim, _)| !claim.is_manifest()) {
            let source = Source::Stream(&mut bytes.as_slice());
            repository.take(&claim.digest, Some(claim.size), source)?;
        }
        Ok(())
    }

    /// Pushes its manifest, which may move any tag.
    pub(crate) fn push(&self, repository: &Repository, tags: &[&str]) -> Result<Pushed, Error> {
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        repository.prepare(&self.root, self.manifest().to_vec())?.seal(&tags, &|_| true)
    }

    /// Brings all of it, children first, and seals it.
    pub(crate) fn put(
        &self,
        store: &Store,
        workspace: &Workspace,
        names: &[Name],
    ) -> Result<Sealed, Error> {
        let draft = store.draft(workspace)?;
        self.bring(&draft)?;
        self.seal(draft, names)
    }

    /// Brings all of it into a draft.
    pub(crate) fn bring(&self, draft: &cas::Draft) -> Result<(), Error> {
        if self.title.is_some() {
            return Ok(());
        }
        for (claim, bytes) in &self.members {
            draft.take(&claim.digest, claim.size, Source::Stream(&mut bytes.as_slice()))?;
        }
        Ok(())
    }

    /// Seals what was brought.
    pub(crate) fn seal(&self, draft: cas::Draft, names: &[Name]) -> Result<Sealed, Error> {
        let Some(title) = self.title else {
            return Ok(draft.seal(&self.root, names, &|_| true)?.0);
        };
        let bytes = &self.members[0].1;
        let size = Some(bytes.len() as u64);
        let taken = draft.take_file(size, None, Source::Stream(&mut bytes.as_slice()))?;
        Ok(draft.seal_file(title, None, None, &taken, names, &|_| true)?.0)
    }
}

/// Takes a blob into a repository.
pub(crate) fn take(repository: &Repository, bytes: &[u8]) -> Result<(), Error> {
    let (digest, size) = (Digest::of(bytes), Some(bytes.len() as u64));
    repository.take(&digest, size, Source::Stream(&mut &*bytes)).map(drop)
}

/// Bytes that no other seed makes.
pub(crate) fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn blob(media_type: &str, algorithm: Algorithm, bytes: Vec<u8>) -> (Descriptor, Vec<u8>) {
    let digest = Digest::compute(algorithm, &bytes);
    (Descriptor::new(media_type, digest, bytes.len() as u64), bytes)
}

fn layer(seed: u64, size: usize) -> (Descriptor, Vec<u8>) {
    blob(LAYER, Algorithm::Sha256, bytes(seed, size))
}

fn document(media_type: &str, fields: &[(&str, serde_json::Value)]) -> (Descriptor, Vec<u8>) {
    let mut object = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type });
    for (key, value) in fields {
        object[*key] = value.clone();
    }
    blob(media_type, Algorithm::Sha256, serde_json::to_vec(&object).unwrap())
}

fn image(n: u64, layers: &[(Descriptor, Vec<u8>)]) -> Artifact {
    let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"n\":{n}}}");
    let config = blob(CONFIG, Algorithm::Sha256, config.into_bytes());
    let claims: Vec<&Descriptor> = layers.iter().map(|(claim, _)| claim).collect();
    let manifest = document(
        media_type::IMAGE_MANIFEST,
        &[("config", serde_json::json!(config.0)), ("layers", serde_json::json!(claims))],
    );
    let root = manifest.0.clone();
    let mut members = vec![config];
    members.extend_from_slice(layers);
    members.push(manifest);
    Artifact { root, members, title: None, lacks: false, subject: None }
}

/// One image with a layer that may be absent, and is.
pub(crate) fn torso() -> Artifact {
    let (mut claim, layer) = layer(7, 500);
    claim.media_type = FOREIGN_LAYER.to_owned();
    let absent = claim.digest;
    let mut artifact = image(5, &[base(), (claim, layer)]);
    artifact.members.retain(|(claim, _)| claim.digest != absent);
    artifact.lacks = true;
    artifact
}

fn base() -> (Descriptor, Vec<u8>) {
    layer(1, 1500)
}

fn by_sha512() -> (Descriptor, Vec<u8>) {
    blob(LAYER, Algorithm::Sha512, bytes(2, 900))
}

/// The digest of the layer that [`tree`] and [`plain`] share.
pub(crate) fn shared_layer() -> Digest {
    base().0.digest
}

/// The images of [`tree`].
pub(crate) fn branches() -> [Artifact; 2] {
    [image(1, &[base(), by_sha512()]), image(2, &[base(), layer(3, 700)])]
}

/// An index over two images that share a layer; one has a layer by sha512.
pub(crate) fn tree() -> Artifact {
    let parts = branches();
    let claims: Vec<&Descriptor> = parts.iter().map(|part| &part.root).collect();
    let index = document(media_type::IMAGE_INDEX, &[("manifests", serde_json::json!(claims))]);
    let root = index.0.clone();
    let mut members: Vec<(Descriptor, Vec<u8>)> = Vec::new();
    for member in parts.into_iter().flat_map(|part| part.members).chain([index]) {
        if !members.iter().any(|(claim, _)| claim.digest == member.0.digest) {
            members.push(member);
        }
    }
    Artifact { root, members, title: None, lacks: false, subject: None }
}

/// A manifest about another one; what it is about need not be there.
pub(crate) fn referrer(of: &Artifact) -> Artifact {
    let config = blob(media_type::EMPTY, Algorithm::Sha256, b"{}".to_vec());
    let signature = layer(8, 300);
    let manifest = document(
        media_type::IMAGE_MANIFEST,
        &[
            ("artifactType", serde_json::json!("application/vnd.example.signature")),
            ("config", serde_json::json!(config.0)),
            ("layers", serde_json::json!([signature.0])),
            ("subject", serde_json::json!(of.root)),
            ("annotations", serde_json::json!({ "by": "us" })),
        ],
    );
    let root = manifest.0.clone();
    let (members, subject) = (vec![config, signature, manifest], Some(of.digest()));
    Artifact { root, members, title: None, lacks: false, subject }
}

/// One image that shares two layers with [`tree`]; another layer is empty.
pub(crate) fn plain() -> Artifact {
    image(3, &[base(), by_sha512(), layer(4, 600), layer(5, 0)])
}

/// One image that shares nothing.
pub(crate) fn lone() -> Artifact {
    image(4, &[layer(6, 1100)])
}

/// A file; all files share the empty config.
pub(crate) fn file(n: u64) -> Artifact {
    const TITLES: [&str; 6] = ["tool-0", "tool-1", "tool-2", "tool-3", "tool-4", "tool-5"];
    let title = TITLES[n as usize];
    let content = blob(media_type::OCTETS, Algorithm::Sha256, bytes(100 + n, 800));
    let mut artifact = Artifact {
        root: content.0.clone(),
        members: vec![content],
        title: Some(title),
        lacks: false,
        subject: None,
    };
    // The manifest is the store's to make: it is taken from a put on a disk that never failed.
    let disk = SimDisk::new();
    let store = super::open(&disk).unwrap();
    let workspace = "fixture".parse().unwrap();
    let sealed = artifact.put(&store, &workspace, &[]).unwrap();
    let digest = sealed.digest();
    let layout = sealed.path().to_string();
    for (path, seen) in disk.files() {
        let Some(hex) = path.strip_prefix(&format!("{layout}/blobs/sha256/")) else { continue };
        if hex == artifact.members[0].0.digest.hex() {
            assert_eq!(*seen.bytes, artifact.members[0].1);
            continue;
        }
        let media_type =
            if hex == digest.hex() { media_type::IMAGE_MANIFEST } else { media_type::EMPTY };
        let member = blob(media_type, Algorithm::Sha256, seen.bytes.to_vec());
        assert_eq!(member.0.digest.hex(), hex);
        if member.0.digest == digest {
            artifact.root = member.0.clone();
        }
        artifact.members.push(member);
    }
    assert_eq!((artifact.members.len(), artifact.root.digest), (3, digest));
    artifact
}
