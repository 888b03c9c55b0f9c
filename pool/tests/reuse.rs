//! What comes back is found again: by the same thread, by others, and within bounds of size.

use std::{collections::HashSet, sync::mpsc, thread};

use ckload_pool::{BufferPool, EvictionPolicy, Origin, PooledBuffer};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn addresses(buffers: &[PooledBuffer]) -> HashSet<usize> {
    buffers
        .iter()
        .map(|buffer| buffer.as_ptr().addr())
        .collect()
}

/// Runs to the thread's very end: a scope alone would not wait until its cache is given back.
fn in_a_thread(run: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
}

#[test]
fn the_last_returned_buffer_comes_first() {
    for len in [MIB, 64 * MIB] {
        let pool = BufferPool::builder().tls_cache_size(4).build();
        let first = pool.get(len).as_ptr().addr();
        assert_eq!(pool.get(len).as_ptr().addr(), first);
        let stats = pool.stats();
        assert_eq!((stats.thread_hits, stats.fresh), (1, 1));
        assert_eq!(
            (stats.fresh_bytes, stats.reused_bytes),
            (len as u64, len as u64)
        );
    }
}

#[test]
fn batches_are_recycled_whole() {
    for (tls_cache_size, count) in [(0, 30), (2, 10), (8, 8), (4, 50)] {
        let pool = BufferPool::builder().tls_cache_size(tls_cache_size).build();
        let batch = || (0..count).map(|_| pool.get(MIB)).collect::<Vec<_>>();
        let before = addresses(&batch());
        assert_eq!(before.len(), count);
        assert_eq!(addresses(&batch()), before);
        let stats = pool.stats();
        assert_eq!(
            (stats.fresh, stats.hits(), stats.evictions),
            (count as u64, count as u64, 0)
        );
    }
}

#[test]
fn several_pools_in_one_thread_all_hit() {
    let pools: Vec<_> = (0..5).map(|_| BufferPool::new()).collect();
    let turn = || {
        let one_of_each = pools
            .iter()
            .flat_map(|pool| [pool.get(MIB), pool.get(20 * MIB)]);
        addresses(&one_of_each.collect::<Vec<_>>())
    };
    let first = turn();
    assert_eq!(first.len(), 10, "no pool hands out another's buffer");
    for _ in 0..20 {
        assert_eq!(turn(), first);
    }
    for pool in &pools {
        let stats = pool.stats();
        assert_eq!((stats.fresh, stats.thread_hits), (2, 40));
    }
}

#[test]
fn a_producer_reuses_what_a_consumer_drops() {
    let pool = BufferPool::new();
    let (to_consumer, buffers) = mpsc::sync_channel::<PooledBuffer>(0);
    let (to_producer, dropped) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for buffer in buffers {
                drop(buffer);
                to_producer.send(()).expect("the producer waits");
            }
        });
        for _ in 0..100 {
            to_consumer
                .send(pool.get(40 * MIB))
                .expect("the consumer works");
            dropped.recv().expect("the consumer works");
        }
        drop(to_consumer);
    });
    let stats = pool.stats();
    assert_eq!((stats.fresh, stats.stolen_hits), (1, 99), "{stats}");
}

#[test]
fn what_a_thread_cached_is_there_after_its_end() {
    let pool = BufferPool::builder().tls_cache_size(4).build();
    in_a_thread(|| drop((pool.get(MIB), pool.get(3 * MIB), pool.get(20 * MIB))));
    let before = pool.held_bytes();
    assert_eq!(pool.stats().idle_bytes, before);
    for len in [MIB, 3 * MIB, 20 * MIB] {
        assert_eq!(pool.get(len).origin(), Origin::Recycled, "{len}");
    }
    let stats = pool.stats();
    assert_eq!((stats.gets, stats.fresh, pool.held_bytes()), (6, 3, before));
}

#[test]
fn counters_outlive_their_threads() {
    let pool = BufferPool::new();
    for _ in 0..10 {
        in_a_thread(|| (0..10).for_each(|_| drop(pool.get(MIB))));
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.gets, stats.fresh, stats.reused_bytes),
        (100, 1, 99 * MIB as u64)
    );
}

#[test]
fn preallocated_buffers_serve_all_threads() {
    let pool = BufferPool::builder().num_shards(8).build();
    assert_eq!(pool.preallocate(12, 5 * MIB).expect("memory"), 12);
    assert_eq!((pool.stats().idle_bytes, pool.stats().gets), (60 * MIB, 0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let held: Vec<_> = (0..4).map(|_| pool.get(5 * MIB)).collect();
                assert!(
                    held.iter()
                        .all(|buffer| buffer.origin() == Origin::Recycled)
                );
                // Keeps the buffers from the other threads.
                std::mem::forget(held);
            });
        }
    });
    assert_eq!(pool.stats().fresh, 0);
}

#[test]
fn a_recycled_buffer_is_at_most_an_eighth_too_large() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let pool = BufferPool::builder()
        .min_buffer_size(0)
        .tls_cache_size(8)
        .build();
    let mut held = Vec::new();
    for _ in 0..3000 {
        // Sizes spread evenly over orders of magnitude.
        let len = (2_f64.powf(random.f64() * 13.0) * 4.0 * KIB as f64) as usize;
        let buffer = pool.get(len);
        let most = len.next_multiple_of(4 * KIB).max(len + len / 8);
        assert!((len..=most).contains(&buffer.capacity()), "{buffer:?}");
        held.push(buffer);
        while held.len() > 6 {
            held.swap_remove(random.usize(..held.len()));
        }
    }
    assert!(pool.stats().hits() > 300, "{}", pool.stats());
}

#[test]
fn a_tiny_request_does_not_take_a_large_buffer() {
    let pool = BufferPool::new();
    drop(pool.get(64 * MIB));
    let tiny = pool.get(16);
    assert_eq!(tiny.capacity(), 4 * KIB);
    assert_eq!(pool.get(64 * MIB).origin(), Origin::Recycled);
}

#[test]
fn the_best_fit_is_taken() {
    for tls_cache_size in [0, 8] {
        let pool = BufferPool::builder().tls_cache_size(tls_cache_size).build();
        drop([108, 104, 100, 112].map(|size| pool.get(size * MIB)));
        for size in [104, 100, 112, 108] {
            let buffer = pool.get((size - 1) * MIB);
            assert_eq!(buffer.capacity(), size * MIB, "{buffer:?}");
        }
    }
}

#[test]
fn clock_pro_keeps_what_is_reused_through_a_scan() {
    let pool = BufferPool::builder()
        .tls_cache_size(0)
        .max_bytes(64 * MIB)
        .build();
    let reused = || drop([4, 4, 5, 6].map(|size| pool.get(size * MIB)));
    reused();
    reused();
    let mut scanned = 0;
    for round in 0..10 {
        // Sizes that do not serve each other, and come again only after more than the pool may hold.
        for size in [18, 21, 24, 28, 32, 37] {
            let before = pool.stats().fresh;
            drop(pool.get(size * MIB));
            scanned += pool.stats().fresh - before;
            reused();
        }
        assert_eq!(pool.stats().fresh, 4 + scanned, "round {round}");
    }
    assert!(pool.stats().evictions > 50, "the scan did press");
}

#[test]
fn a_full_lifo_pool_keeps_what_it_has() {
    let pool = BufferPool::builder()
        .tls_cache_size(0)
        .num_shards(4)
        .max_buffers_per_shard(2)
        .eviction_policy(EvictionPolicy::Lifo)
        .build();
    let first = addresses(&(0..8).map(|_| pool.get(MIB)).collect::<Vec<_>>());
    drop(
        (0..8)
            .map(|size| pool.get((10 + 3 * size) * MIB))
            .collect::<Vec<_>>(),
    );
    let again: Vec<_> = (0..8).map(|_| pool.get(MIB)).collect();
    assert_eq!(addresses(&again), first);
    assert_eq!(pool.stats().evictions, 8);
}

#[test]
fn idle_buffers_of_any_size_can_be_asked_for_and_taken_whole() {
    let sizes = [9 * MIB, 48 * MIB, 20 * MIB, 6 * MIB];
    for pool in [
        BufferPool::builder().max_bytes(128 * MIB).build(),
        BufferPool::builder().tls_cache_size(0).build(),
        BufferPool::new(),
    ] {
        assert!(pool.idle_capacities().is_empty());
        // What a thread that sleeps caches is listed, too.
        in_thread_that_sleeps(&pool, &sizes[..2], || {
            let held: Vec<_> = sizes[2..].iter().map(|&len| pool.get(len)).collect();
            drop(held);
            assert_eq!(
                pool.idle_capacities(),
                [48 * MIB, 20 * MIB, 9 * MIB, 6 * MIB]
            );
            let fresh = pool.stats().fresh;
            let mut taken = pool.get_idle(48 * MIB).expect("it was listed");
            assert_eq!((taken.len(), taken.capacity()), (48 * MIB, 48 * MIB));
            assert_eq!(taken.origin(), Origin::Recycled);
            taken[48 * MIB - 1] = 1;
            assert!(pool.get_idle(48 * MIB).is_none(), "it is out");
            assert!(pool.get_idle(19 * MIB).is_none(), "no such capacity");
            assert!(pool.get_idle(0).is_none());
            assert_eq!(pool.idle_capacities(), [20 * MIB, 9 * MIB, 6 * MIB]);
            assert_eq!(pool.stats().fresh, fresh, "nothing was mapped");
            drop(taken);
            assert_eq!(pool.idle_capacities().len(), 4);
        });
    }
}

/// Returns buffers of these lengths on a thread that then sleeps while `run` runs.
fn in_thread_that_sleeps(pool: &BufferPool, lengths: &[usize], run: impl FnOnce()) {
    let (returned, wait) = mpsc::channel();
    let (done, sleep) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let held: Vec<_> = lengths.iter().map(|&len| pool.get(len)).collect();
            drop(held);
            returned.send(()).expect("the test waits");
            // Ends when the test is through, or has failed.
            let _ = sleep.recv();
        });
        wait.recv().expect("the thread returns what it took");
        run();
        drop(done);
    });
}
