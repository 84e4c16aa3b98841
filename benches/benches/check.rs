//! Checking what is sealed, with everything in the page cache: many small blobs, one large one.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion makes the functions public, and a bench that cannot go on says so"
)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use common::{Home, bytes};

mod common;

fn checking(c: &mut Criterion) {
    let home = Home::new();
    let mut group = c.benchmark_group("check");
    for (what, n, size) in
        [("1000 blobs of 4 KiB", 1000, 4 << 10), ("one blob of 64 MiB", 1, 64 << 20)]
    {
        let layers: Vec<Vec<u8>> = (0..n).map(|i| bytes(i + size as u64, size)).collect();
        let sealed = home.seal(&layers);
        group.throughput(Throughput::Bytes(n * size as u64));
        group.bench_function(what, |b| b.iter(|| sealed.check().unwrap().size()));
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
    targets = checking
}
criterion_main!(benches);
