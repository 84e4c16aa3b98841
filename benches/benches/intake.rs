//! Taking one blob into a draft: new bytes, which are written, and bytes that the store has, which
//! are compared. Nothing is sealed and so nothing is synced: that is for `compare`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion makes the functions public, and a bench that cannot go on says so"
)]

use std::time::Duration;

use cas::Draft;
use cas::digest::Digest;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use common::{Home, bytes, take};

mod common;

fn taking(c: &mut Criterion) {
    let home = Home::new();
    let mut group = c.benchmark_group("take");
    for size in [4 << 10, 1 << 20, 32 << 20] {
        let (fresh, present) = (bytes(1, size), bytes(2, size));
        home.seal(std::slice::from_ref(&present));
        group.throughput(Throughput::Bytes(size as u64));
        for (what, bytes) in [("fresh", fresh), ("present", present)] {
            let digest = Digest::of(&bytes);
            group.bench_with_input(BenchmarkId::new(what, size), &bytes, |b, bytes| {
                // The draft is made before the clock starts and dropped after it has stopped.
                let run = |draft: Draft| {
                    assert_eq!(take(&draft, &digest, bytes).size, size as u64);
                    draft
                };
                b.iter_batched(|| home.draft(), run, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // A minute for all of them.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = taking
}
criterion_main!(benches);
