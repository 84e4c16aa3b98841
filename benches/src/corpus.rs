//! What is put: images of random bytes as OCI layouts, made once and kept in a folder.
//!
//! Random, because neither a filesystem nor the machine below may get by with less than all bytes.
//! A layer begins as gzip does, so that a peer that compresses what is not compressed leaves it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cas::digest::{Algorithm, Digest, Hasher};
use cas::oci::media_type;
use serde_json::json;

use crate::measure::{Doing, Result};

/// The tag that the image has in its layout; oras and regctl want one.
pub const TAG: &str = "v1";

/// An image in a layout of its own.
pub struct Image {
    /// What the table calls it.
    pub name: &'static str,
    /// The layout.
    pub layout: PathBuf,
    /// The artifact digest.
    pub root: Digest,
    /// The layers.
    pub layers: Vec<Digest>,
    /// Bytes of one layer.
    pub layer_size: u64,
}

impl Image {
    /// Bytes of all layers.
    pub fn size(&self) -> u64 {
        self.layer_size * self.layers.len() as u64
    }

    /// The files of the layers.
    pub fn files(&self) -> Vec<PathBuf> {
        self.layers.iter().map(|layer| blob(&self.layout, layer)).collect()
    }
}

/// The header of a gzip member (RFC 1952).
const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Where a layout has a blob.
pub fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

/// What the bytes of a layer are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bytes {
    /// Random.
    Random,
    /// A hole: as large as is wanted, and nothing on disk.
    Hole,
}

/// An image with this many layers of this size, found in `dir` or made there.
pub fn image(
    dir: &Path,
    name: &'static str,
    n_layers: usize,
    layer_size: u64,
    bytes: Bytes,
) -> Result<Image> {
    let layout = dir.join(name.replace(' ', "-"));
    // Written last: a layout without it was not finished.
    let list = layout.with_extension("layers");
    if let Ok(text) = fs::read_to_string(&list) {
        let digests: Vec<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if let Some((root, layers)) = digests.split_last()
            && layers.len() == n_layers
            && layers.iter().all(|layer| {
                fs::metadata(blob(&layout, layer)).is_ok_and(|found| found.len() == layer_size)
            })
        {
            return Ok(Image { name, layout, root: *root, layers: layers.to_vec(), layer_size });
        }
    }
    eprintln!("  making {name} in {}", layout.display());
    let doing = || format!("making {}", layout.display());
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(layout.join("blobs/sha256")).doing(doing())?;
    let mut layers = Vec::new();
    for _ in 0..n_layers {
        layers.push(layer(&layout, layer_size, bytes).doing(doing())?);
    }
    let root = documents(&layout, &layers, layer_size).doing(doing())?;
    let lines: String = layers.iter().chain([&root]).map(|digest| format!("{digest}\n")).collect();
    fs::write(&list, lines).doing(doing())?;
    nix::unistd::sync();
    Ok(Image { name, layout, root, layers, layer_size })
}

fn layer(layout: &Path, size: u64, bytes: Bytes) -> std::io::Result<Digest> {
    let unnamed = layout.join("blobs/sha256/unnamed");
    let mut file = File::create_new(&unnamed)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut random = File::open("/dev/urandom")?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let step = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let part = &mut buffer[..step];
        if bytes == Bytes::Random {
            random.read_exact(part)?;
            if left == size {
                part[..GZIP.len()].copy_from_slice(&GZIP);
            }
            file.write_all(part)?;
        }
        hasher.update(part);
        left -= step as u64;
    }
    file.set_len(size)?;
    file.sync_all()?;
    let digest = hasher.finish();
    fs::rename(&unnamed, blob(layout, &digest))?;
    Ok(digest)
}

/// The config, the manifest and the files of the layout. Answers with the manifest's digest.
fn documents(layout: &Path, layers: &[Digest], layer_size: u64) -> std::io::Result<Digest> {
    let keep = |bytes: &[u8]| -> std::io::Result<Digest> {
        let digest = Digest::of(bytes);
        fs::write(blob(layout, &digest), bytes)?;
        Ok(digest)
    };
    let diff_ids: Vec<String> = layers.iter().map(Digest::to_string).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string();
    let layers: Vec<_> = layers
        .iter()
        .map(|digest| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest, "size": layer_size,
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": keep(config.as_bytes())?, "size": config.len(),
        },
        "layers": layers,
    });
    let manifest = manifest.to_string();
    let root = keep(manifest.as_bytes())?;
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX,
        "manifests": [{
            "mediaType": media_type::IMAGE_MANIFEST, "digest": root, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": TAG},
        }],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(root)
}

/// This many files of 4 KiB of random bytes, fresh ones each time, in memory.
pub fn small_files(n: usize) -> Result<Vec<bytes::Bytes>> {
    let mut all = vec![0; n * SMALL_SIZE];
    getrandom::fill(&mut all).doing("asking for random bytes")?;
    let all = bytes::Bytes::from(all);
    Ok((0..n).map(|i| all.slice(i * SMALL_SIZE..(i + 1) * SMALL_SIZE)).collect())
}

/// Bytes of a small file.
pub const SMALL_SIZE: usize = 4096;
