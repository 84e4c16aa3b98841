//! Hashing in memory: what a digest costs and nothing else. Knows no disk.

#![allow(missing_docs, reason = "criterion makes the functions public")]

use std::hint::black_box;
use std::time::Duration;

use cas::digest::{Algorithm, Hasher};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// One read of the store.
const STEP: usize = 256 << 10;

fn hashing(c: &mut Criterion) {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let mut group = c.benchmark_group(algorithm.name());
        for size in [4 << 10, 256 << 10, 16 << 20] {
            let bytes = vec![0x5a; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &bytes, |b, bytes| {
                b.iter(|| {
                    let mut hasher = Hasher::new(algorithm);
                    black_box(bytes).chunks(STEP).for_each(|step| hasher.update(step));
                    hasher.finish()
                });
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
    targets = hashing
}
criterion_main!(benches);
