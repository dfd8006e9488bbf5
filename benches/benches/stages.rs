//! How long each pure stage takes: ours beside what it wraps or could at best be.
//!
//! `cargo bench -p ringfence-benches [--bench stages -- FILTER]`

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringfence_benches::stages;

fn all(criterion: &mut Criterion) {
    for mut stage in stages::all() {
        let (group, who) = stage.name.rsplit_once('/').expect("a name in parts");
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Bytes(stage.bytes as u64));
        group.bench_function(who, |bencher| bencher.iter(|| (stage.run)()));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
