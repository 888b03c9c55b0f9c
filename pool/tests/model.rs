//! Random use against a simple model: what is leased, what is held, what was counted.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    sync::mpsc,
    thread,
    time::Duration,
};

use ckload_pool::{BufferPool, EvictionPolicy, Origin, PooledBuffer, Stats};
use fastrand::Rng;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A lease and the mark that its holder wrote: if another holder had the same memory, the mark would change.
struct Held {
    buffer: PooledBuffer,
    mark: u64,
}

impl Held {
    fn new(mut buffer: PooledBuffer, mark: u64) -> Self {
        let end = buffer.len();
        buffer[..8].copy_from_slice(&mark.to_ne_bytes());
        buffer[end - 8..].copy_from_slice(&mark.to_ne_bytes());
        Self { buffer, mark }
    }

    fn check(&self) {
        let mark = self.mark.to_ne_bytes();
        assert!(
            self.buffer.starts_with(&mark) && self.buffer.ends_with(&mark),
            "somebody else wrote here"
        );
    }
}

fn random_pool(random: &mut Rng) -> BufferPool {
    let mut builder = BufferPool::builder()
        .tls_cache_size(random.usize(0..6))
        .max_buffers_per_shard(random.usize(0..6))
        .min_buffer_size(random.choice([0, 64 * KIB, MIB]).unwrap_or(0))
        .huge_pages(random.bool())
        .zero_on_return(random.u8(..4) == 0)
        .pinned_memory(random.u8(..4) == 0);
    if random.bool() {
        builder = builder.max_bytes(random.usize(8 * MIB..40 * MIB));
    }
    if random.bool() {
        builder = builder.eviction_policy(EvictionPolicy::Lifo);
    }
    builder.build()
}

fn random_len(random: &mut Rng) -> usize {
    (2_f64.powf(random.f64() * 11.0) * 4.0 * KIB as f64) as usize
}

/// What was found where, and what is hidden in threads.
fn check_levels(pool: &BufferPool, stats: &Stats) {
    let elsewhere = stats.shard_hits + stats.stolen_hits;
    assert!(stats.thread_hits == 0 || pool.tls_cache_size() > 0);
    assert!(elsewhere == 0 || pool.max_idle_buffers() + pool.tls_cache_size() > 0);
    assert!(stats.reuse_time.is_zero() || elsewhere > 0);
    let most = match pool.max_bytes() {
        None if pool.tls_cache_size() > 0 => 8 * MIB,
        _ => 0,
    };
    assert!(stats.private_bytes <= stats.idle_bytes.min(most), "{stats}");
    let idle: usize = pool.idle_capacities().iter().sum();
    assert_eq!(idle + stats.private_bytes, stats.idle_bytes);
}

fn check_pinned(pool: &BufferPool, stats: &Stats, held: &[Held]) {
    let pinned: usize = held
        .iter()
        .filter(|held| held.buffer.is_pinned())
        .map(|held| held.buffer.capacity())
        .sum();
    assert!((pinned..=pool.held_bytes()).contains(&stats.pinned_bytes));
    assert_eq!(stats.pin_failures > 0, stats.last_pin_error.is_some());
    if !pool.is_pinned() {
        assert_eq!((stats.pinned_bytes, stats.pin_failures), (0, 0));
    } else if stats.pin_failures == 0 {
        assert_eq!(stats.pinned_bytes, pool.held_bytes());
    }
}

#[test]
fn one_thread_agrees_with_the_model() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..40 {
        let pool = random_pool(&mut random);
        let mut held: Vec<Held> = Vec::new();
        let (mut served, mut fresh) = (0, 0);
        let (mut reused_bytes, mut excess_bytes) = (0, 0);
        let (mut fresh_bytes, mut fresh_time) = (0, Duration::ZERO);
        let (mut preallocated, mut peak_bytes) = (0, 0);
        for step in 0..300 {
            match random.u8(..20) {
                0..9 => {
                    let len = random_len(&mut random);
                    let zeroed = random.u8(..4) == 0;
                    let listed = pool.idle_capacities();
                    let got = if zeroed && pool.max_bytes().is_none() {
                        Some(pool.get_zeroed(len))
                    } else if random.bool() && !listed.is_empty() {
                        let idle = pool.get_idle(listed[random.usize(..listed.len())]);
                        assert!(idle.is_some(), "nobody else takes it");
                        idle
                    } else {
                        pool.try_get(len).ok()
                    };
                    if let Some(buffer) = got {
                        let capacity = buffer.capacity() as u64;
                        served += 1;
                        excess_bytes += capacity - buffer.len() as u64;
                        match buffer.origin() {
                            Origin::Fresh { time } => {
                                fresh += 1;
                                fresh_bytes += capacity;
                                fresh_time += time;
                            }
                            _ => reused_bytes += capacity,
                        }
                        if pool.zero_on_return() || (zeroed && pool.max_bytes().is_none()) {
                            assert!(buffer.iter().all(|&byte| byte == 0));
                        }
                        held.push(Held::new(buffer, step));
                    }
                }
                9..17 if !held.is_empty() => {
                    held.swap_remove(random.usize(..held.len())).check();
                }
                17 => {
                    let len = random_len(&mut random);
                    let mapped = pool
                        .preallocate(random.usize(..4), len)
                        .expect("memory, and less than any cap");
                    preallocated += mapped as u64;
                    fresh_bytes += (mapped * pool.capacity_for(len)) as u64;
                }
                18 => {
                    let target = random.usize(..20 * MIB);
                    let before = pool.held_bytes();
                    let freed = pool.trim(target);
                    assert_eq!(before - freed, pool.held_bytes());
                    assert!(pool.stats().idle_bytes <= target);
                }
                19 if random.bool() => {
                    pool.clear();
                    assert_eq!(pool.stats().idle_bytes, 0);
                    pool.shrink_to_fit();
                }
                _ => {}
            }
            let stats = pool.stats();
            let leased: usize = held.iter().map(|held| held.buffer.capacity()).sum();
            assert_eq!(stats.leased_bytes, leased, "{stats}");
            assert_eq!(stats.leased_bytes + stats.idle_bytes, pool.held_bytes());
            assert_eq!((stats.gets, stats.fresh), (served, fresh));
            assert_eq!(stats.gets, stats.hits() + stats.fresh);
            assert_eq!(
                (stats.reused_bytes, stats.excess_bytes),
                (reused_bytes, excess_bytes)
            );
            assert_eq!(
                (stats.fresh_bytes, stats.preallocated),
                (fresh_bytes, preallocated)
            );
            assert!(stats.fresh_time >= fresh_time);
            assert!(stats.fresh_time == fresh_time || preallocated > 0);
            peak_bytes = pool.held_bytes().max(peak_bytes);
            assert_eq!(stats.peak_bytes, peak_bytes);
            assert!(pool.max_bytes().is_none_or(|max| peak_bytes <= max));
            let gone = fresh + preallocated - held.len() as u64;
            assert!(stats.evictions <= gone, "{stats}");
            assert_eq!((stats.waits, stats.waiting), (0, 0), "nobody waited");
            assert!(stats.wait_time.is_zero());
            check_levels(&pool, &stats);
            check_pinned(&pool, &stats, &held);
        }
        held.iter().for_each(Held::check);
        held.clear();
        pool.clear();
        assert_eq!((pool.held_bytes(), pool.stats().pinned_bytes), (0, 0));
    }
}

#[test]
fn many_threads_never_share_a_buffer() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for round in 0..12 {
        let pool = random_pool(&mut Rng::with_seed(seed + round));
        let served = AtomicU64::new(0);
        thread::scope(|scope| {
            let (to_others, from_others) = mpsc::channel::<Held>();
            // What one thread leases, another may return.
            let mut threads =
                vec![scope.spawn(move || from_others.iter().for_each(|held| held.check()))];
            for worker in 0..4 {
                let (pool, served, to_others) = (&pool, &served, to_others.clone());
                threads.push(scope.spawn(move || {
                    let mut random = Rng::with_seed(seed ^ (round << 8) ^ worker);
                    let mut held: Vec<Held> = Vec::new();
                    for step in 0..400 {
                        match random.u8(..32) {
                            0..16 => {
                                let len = random_len(&mut random);
                                let wait = Duration::from_micros(random.u64(..200));
                                if let Ok(buffer) = pool.get_timeout(len, wait) {
                                    served.fetch_add(1, Ordering::Relaxed);
                                    held.push(Held::new(buffer, worker << 32 | step));
                                }
                            }
                            16 => pool.clear(),
                            17 => drop(pool.trim(random.usize(..16 * MIB))),
                            18 => drop(pool.preallocate(1, random_len(&mut random))),
                            19 => drop(pool.stats()),
                            20..24 if !held.is_empty() => {
                                let one = held.swap_remove(random.usize(..held.len()));
                                to_others
                                    .send(one)
                                    .expect("the receiver lives as long as a sender");
                            }
                            _ if !held.is_empty() => {
                                held.swap_remove(random.usize(..held.len())).check();
                            }
                            _ => {}
                        }
                    }
                    held.iter().for_each(Held::check);
                }));
            }
            drop(to_others);
            // The scope's end would not wait for the threads' caches to be given back.
            for thread in threads {
                thread.join().expect("a thread");
            }
        });
        let stats = pool.stats();
        assert_eq!((stats.leased_bytes, stats.waiting), (0, 0), "{stats}");
        assert_eq!(stats.idle_bytes, pool.held_bytes());
        assert_eq!(stats.gets, served.load(Ordering::Relaxed));
        assert_eq!(stats.gets, stats.hits() + stats.fresh);
        assert!(stats.waits > 0 || stats.wait_time.is_zero());
        check_levels(&pool, &stats);
        check_pinned(&pool, &stats, &[]);
        assert!(pool.max_bytes().is_none_or(|max| stats.peak_bytes <= max));
        pool.clear();
        assert_eq!((pool.held_bytes(), pool.stats().pinned_bytes), (0, 0));
    }
}
