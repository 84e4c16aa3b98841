//! A store in a temporary folder, and images for it whose bytes no other seed makes.

use std::sync::Arc;

use cas::digest::{Algorithm, Digest};
use cas::disk::RealDisk;
use cas::oci::{Descriptor, media_type};
use cas::workspace::Workspace;
use cas::{Draft, Options, Sealed, Source, Store, Taken};
use serde_json::json;

/// A store that is gone with its folder.
pub(crate) struct Home {
    pub(crate) store: Store,
    pub(crate) workspace: Workspace,
    _folder: tempfile::TempDir,
}

impl Home {
    /// `BONDED_BENCH_DIR` says on which disk, if not on that of the temporary files.
    pub(crate) fn new() -> Home {
        let folder = match std::env::var_os("BONDED_BENCH_DIR") {
            Some(above) => tempfile::tempdir_in(above).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
        let store = Store::open(disk, Options::default()).unwrap();
        Home { store, workspace: "bench".parse().unwrap(), _folder: folder }
    }

    pub(crate) fn draft(&self) -> Draft {
        self.store.draft(&self.workspace).unwrap()
    }

    /// Seals an image of these layers.
    #[allow(dead_code, reason = "not every bench seals something")]
    pub(crate) fn seal(&self, layers: &[Vec<u8>]) -> Sealed {
        let draft = self.draft();
        let claims: Vec<Descriptor> = layers.iter().map(|layer| claim(LAYER, layer)).collect();
        let config = b"{\"architecture\":\"amd64\",\"os\":\"linux\"}";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::IMAGE_MANIFEST,
            "config": claim("application/vnd.oci.image.config.v1+json", config),
            "layers": claims,
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        for bytes in layers.iter().map(Vec::as_slice).chain([&config[..], &manifest]) {
            take(&draft, &Digest::of(bytes), bytes);
        }
        draft.seal(&claim(media_type::IMAGE_MANIFEST, &manifest), &[], &|_| true).unwrap().0
    }
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn claim(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::compute(Algorithm::Sha256, bytes), bytes.len() as u64)
}

pub(crate) fn take(draft: &Draft, digest: &Digest, bytes: &[u8]) -> Taken {
    draft.take(digest, bytes.len() as u64, Source::Stream(&mut &bytes[..])).unwrap()
}

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
