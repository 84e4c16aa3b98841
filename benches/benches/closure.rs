//! Walking a closure in memory: parsing, hashing and bookkeeping, one document and many. Knows no
//! disk.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion makes the functions public, and a bench that cannot go on says so"
)]

use std::collections::HashMap;
use std::time::Duration;

use cas::digest::Digest;
use cas::oci::{Closure, Descriptor, Limits, Refusal, media_type, walk};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;

/// Documents by digest.
type Documents = HashMap<Digest, Vec<u8>>;

fn add(documents: &mut Documents, media_type: &str, json: &serde_json::Value) -> Descriptor {
    let bytes = serde_json::to_vec(json).unwrap();
    let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
    documents.insert(descriptor.digest, bytes);
    descriptor
}

/// An image of `n` blobs; no other `first` has the same ones.
fn image(documents: &mut Documents, first: usize, n: usize) -> Descriptor {
    let blob = |i: usize, media_type: &str| {
        Descriptor::new(media_type, Digest::of(&(first + i).to_le_bytes()), 1000)
    };
    let layers: Vec<Descriptor> =
        (1..n).map(|i| blob(i, "application/vnd.oci.image.layer.v1.tar+gzip")).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::IMAGE_MANIFEST,
        "config": blob(0, "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    });
    add(documents, media_type::IMAGE_MANIFEST, &manifest)
}

/// An index of images of ten blobs each, `n` entries in all but a few.
fn index(documents: &mut Documents, n: usize) -> Descriptor {
    let images: Vec<Descriptor> = (0..n / 11).map(|i| image(documents, i * 10, 10)).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::IMAGE_INDEX,
        "manifests": images,
    });
    add(documents, media_type::IMAGE_INDEX, &index)
}

fn walk_all(root: &Descriptor, documents: &Documents) -> Closure {
    let limits = Limits::default();
    walk::<Refusal>(root, &limits, &mut |claim| Ok(documents[&claim.digest].clone())).unwrap()
}

fn walking(c: &mut Criterion) {
    for (what, make) in [
        ("one manifest", (|documents, n| image(documents, 0, n)) as fn(&mut Documents, usize) -> _),
        ("an index of images", index),
    ] {
        let mut group = c.benchmark_group(format!("closure/{what}"));
        for n in [1_000, 10_000] {
            let mut documents = Documents::new();
            let root = make(&mut documents, n);
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| walk_all(&root, &documents));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    // A minute for all of them.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = walking
}
criterion_main!(benches);
