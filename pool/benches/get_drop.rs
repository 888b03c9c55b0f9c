//! Hot lease and return: what a request costs when its buffer is there.

#![allow(missing_docs, reason = "criterion's macros define public items")]

use std::{
    cell::RefCell,
    hint::black_box,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use ckload_pool::BufferPool;
use criterion::{Criterion, criterion_group, criterion_main};

const MIB: usize = 1 << 20;

thread_local! {
    static STACK: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// The least that any pool has to do: a bare thread-local stack, without sizes, limits or counters.
fn bare_stack() {
    let buffer = STACK.with(|stack| stack.borrow_mut().pop());
    let buffer = black_box(buffer.unwrap_or_else(|| vec![0; MIB].into()));
    STACK.with(|stack| stack.borrow_mut().push(buffer));
}

/// A pool whose threads cache 8 buffers, whatever the machine.
fn pool(max_bytes: Option<usize>) -> BufferPool {
    let builder = BufferPool::builder().tls_cache_size(8);
    match max_bytes {
        Some(bytes) => builder.max_bytes(bytes).build(),
        None => builder.build(),
    }
}

fn one_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("get_drop");
    group.bench_function("bare_stack_1MiB", |b| b.iter(bare_stack));
    for (name, pool, len) in [
        ("private_1MiB", pool(None), MIB),
        ("slots_64MiB", pool(None), 64 * MIB),
        ("slots_capped_1MiB", pool(Some(256 * MIB)), MIB),
        ("slots_capped_64MiB", pool(Some(256 * MIB)), 64 * MIB),
    ] {
        group.bench_function(name, |b| b.iter(|| drop(black_box(pool.get(len)))));
    }
    let uncached = BufferPool::builder().tls_cache_size(0).build();
    group.bench_function("shards_1MiB", |b| {
        b.iter(|| drop(black_box(uncached.get(MIB))));
    });
    group.finish();
}

fn several_held(c: &mut Criterion) {
    let mut group = c.benchmark_group("held");
    let pool = pool(None);
    for count in [4, 8] {
        let mut held = Vec::with_capacity(count);
        group.bench_function(format!("{count}x1MiB"), |b| {
            b.iter(|| {
                held.extend((0..count).map(|_| pool.get(MIB)));
                black_box(&mut held).clear();
            });
        });
    }
    group.finish();
}

/// Wall time for operations that are divided among threads, which are started outside the timed part.
fn shared_among(threads: usize, operations: u64, operation: impl Fn() + Sync) -> Duration {
    let start = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    operation();
                    start.wait();
                    for _ in 0..operations / threads as u64 {
                        operation();
                    }
                })
            })
            .collect();
        start.wait();
        let begin = Instant::now();
        for worker in workers {
            worker.join().expect("operations do not panic");
        }
        begin.elapsed()
    })
}

fn threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("threads");
    for threads in [1, 2] {
        group.bench_function(format!("bare_stack_1MiB/{threads}"), |b| {
            b.iter_custom(|operations| shared_among(threads, operations, bare_stack));
        });
        for (name, pool, len) in [
            ("private_1MiB", pool(None), MIB),
            ("slots_capped_1MiB", pool(Some(256 * MIB)), MIB),
        ] {
            group.bench_function(format!("{name}/{threads}"), |b| {
                b.iter_custom(|operations| {
                    shared_among(threads, operations, || drop(black_box(pool.get(len))))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, one_thread, several_held, threads);
criterion_main!(benches);
