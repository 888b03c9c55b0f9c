//! `max_bytes` is hard, and who waits for room is served in turn.

use std::{
    panic,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ckload_pool::{BufferPool, EvictionPolicy, GetError, Origin};

const MIB: usize = 1 << 20;
/// Nothing here takes this long unless it hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

fn capped(bytes: usize) -> BufferPool {
    BufferPool::builder()
        .max_bytes(bytes)
        .tls_cache_size(4)
        .build()
}

/// Waits until a state is reached that another thread brings about.
fn until(what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < WATCHDOG, "hangs: {what}");
        thread::yield_now();
    }
}

fn until_waiting(pool: &BufferPool, count: usize) {
    until("a request in line", || pool.stats().waiting == count);
}

#[test]
fn the_cap_holds_at_every_moment() {
    const MAX: usize = 24 * MIB;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for policy in [EvictionPolicy::ClockPro, EvictionPolicy::Lifo] {
        let pool = BufferPool::builder()
            .max_bytes(MAX)
            .tls_cache_size(2)
            .eviction_policy(policy)
            .build();
        let running = AtomicBool::new(true);
        let served = AtomicUsize::new(0);
        thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                while running.load(Ordering::Relaxed) {
                    assert!(pool.held_bytes() <= MAX);
                    let stats = pool.stats();
                    assert!(stats.peak_bytes <= MAX);
                    thread::yield_now();
                }
            });
            let workers: Vec<_> = (0..6)
                .map(|worker| {
                    let (pool, served) = (&pool, &served);
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed + worker);
                        for _ in 0..400 {
                            let len = random.usize(1..=10 * MIB);
                            let buffer = match random.u8(..4) {
                                // One buffer at a time: whoever holds one never waits for another.
                                0 => Some(pool.get(len)),
                                1 => pool.try_get(len).ok(),
                                2 => {
                                    pool.preallocate(2, len).expect("memory");
                                    None
                                }
                                _ => pool
                                    .get_timeout(len, Duration::from_millis(random.u64(..3)))
                                    .ok(),
                            };
                            assert!(pool.held_bytes() <= MAX);
                            if let Some(mut buffer) = buffer {
                                buffer[len - 1] = 1;
                                served.fetch_add(1, Ordering::Relaxed);
                                thread::yield_now();
                            }
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.join().expect("a worker");
            }
            running.store(false, Ordering::Relaxed);
            sampler.join().expect("the sampler");
        });
        let stats = pool.stats();
        assert_eq!(stats.gets, served.load(Ordering::Relaxed) as u64);
        assert_eq!((stats.leased_bytes, stats.waiting), (0, 0));
        assert_eq!(stats.idle_bytes, pool.held_bytes());
        assert!(stats.peak_bytes <= MAX);
    }
}

#[test]
fn no_wake_up_is_lost() {
    // Room for one at a time, and many who want it: if one sleeps through its turn, all do.
    let pool = capped(4 * MIB);
    let turns = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let (pool, turns) = (&pool, &turns);
                scope.spawn(move || {
                    for turn in 0..250 {
                        // Sizes that do not serve each other, so that memory is freed and taken anew in between.
                        let _buffer = pool.get(if (turn + worker) % 3 == 0 {
                            4 * MIB
                        } else {
                            3 * MIB
                        });
                        turns.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let start = Instant::now();
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
                last = turns.load(Ordering::Relaxed).max(last);
                if start.elapsed() > WATCHDOG {
                    // The scope would wait for ever.
                    eprintln!("hangs after {last} turns: {}", pool.stats());
                    std::process::abort();
                }
            }
        });
        for worker in workers {
            worker.join().expect("a worker");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(turns.load(Ordering::Relaxed), 2000);
    assert!(pool.stats().peak_bytes <= 4 * MIB);
}

#[test]
fn a_buffer_put_into_a_slot_is_seen_by_who_begins_to_wait() {
    // The moment between a look at the slots and falling asleep is short, so it has to be tried often.
    let pool = capped(MIB);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                for turn in 0..100_000 {
                    let begin = Instant::now();
                    // At the end of its patience a request looks once more, so success alone proves nothing.
                    let buffer = pool.get_timeout(MIB, WATCHDOG);
                    let awake = buffer.is_ok() && begin.elapsed() < WATCHDOG;
                    assert!(awake, "slept through turn {turn}");
                }
            });
        }
    });
}

#[test]
fn requests_are_served_in_the_order_in_which_they_came() {
    let pool = capped(16 * MIB);
    let held = pool.get(16 * MIB);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        // The first is the hardest to serve.
        for (number, len) in [16, 1, 9, 2, 16].into_iter().enumerate() {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let buffer = pool.get(len * MIB);
                // Under the lock until the buffer is back, so that the next cannot be noted first.
                let mut order = order.lock().expect("no panic");
                order.push(number);
                drop(buffer);
            });
            until_waiting(pool, number + 1);
        }
        drop(held);
    });
    let order = order.into_inner().expect("no panic");
    assert_eq!(order[0], 0, "the large request first: {order:?}");
    assert_eq!(
        order[4], 4,
        "the last large request needs all others gone: {order:?}"
    );
}

#[test]
fn small_newcomers_do_not_overtake_a_large_request() {
    let pool = capped(8 * MIB);
    let (one, two) = (pool.get(4 * MIB), pool.get(4 * MIB));
    thread::scope(|scope| {
        let large = scope.spawn(|| pool.get(8 * MIB));
        until_waiting(&pool, 1);
        drop(one);
        // 4 MiB are idle, one of them in this thread's own cache; they are spoken for.
        let error = pool
            .try_get(4 * MIB)
            .expect_err("the large request is first");
        assert!(
            matches!(error, GetError::AtCapacity { idle, .. } if idle > 0),
            "{error}"
        );
        let small = scope.spawn(|| pool.get(MIB));
        until_waiting(&pool, 2);
        drop(two);
        let large = large.join().expect("served");
        assert_eq!(pool.stats().waiting, 1, "the small one comes after");
        drop(large);
        small.join().expect("served");
    });
}

#[test]
fn a_request_that_gives_up_lets_the_next_one_through() {
    let pool = capped(8 * MIB);
    let held = pool.get(6 * MIB);
    thread::scope(|scope| {
        let large = scope.spawn(|| pool.get_timeout(8 * MIB, Duration::from_millis(200)));
        until_waiting(&pool, 1);
        let small = scope.spawn(|| pool.get(2 * MIB));
        let error = large
            .join()
            .expect("no panic")
            .expect_err("6 of 8 MiB stay leased");
        assert!(matches!(error, GetError::AtCapacity { .. }));
        small.join().expect("served without any buffer coming back");
    });
    drop(held);
    assert_eq!(pool.stats().waiting, 0);
    assert_eq!(pool.get(8 * MIB).len(), 8 * MIB);
}

#[test]
fn a_request_whose_purpose_is_gone_lets_the_next_one_through() {
    let pool = capped(8 * MIB);
    let held = pool.get(6 * MIB);
    let over = AtomicBool::new(false);
    let is_over = || over.load(Ordering::Relaxed);
    let long = Duration::MAX;
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.request(4 * MIB).get_unless(long, &is_over));
        until_waiting(&pool, 1);
        let next = scope.spawn(|| pool.get_timeout(2 * MIB, WATCHDOG));
        until_waiting(&pool, 2);
        over.store(true, Ordering::Relaxed);
        let error = first.join().expect("no panic").expect_err("it was let go");
        assert!(matches!(error, GetError::AtCapacity { .. }), "{error}");
        assert!(next.join().expect("no panic").is_ok());

        // It is not asked where nothing has to be waited for.
        let at_once = pool.request(2 * MIB).get_unless(long, &|| unreachable!());
        assert!(at_once.is_ok());
        let turn = pool.take_turn(MIB, Duration::ZERO).expect("nobody has it");
        let error = pool.take_turn_unless(MIB, long, &|| true);
        assert!(error.is_err(), "one at a time");
        drop(turn);
    });
    drop(held);
}

#[test]
fn a_waiting_request_takes_what_a_sleeping_thread_caches() {
    // The other thread returns a buffer into its own cache and never touches the pool again.
    for wanted in [4 * MIB, 2 * MIB] {
        let pool = capped(4 * MIB);
        let (to_thread, orders) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (to_test, holding) = mpsc::channel();
            let sleeper = &pool;
            scope.spawn(move || {
                let buffer = sleeper.get(4 * MIB);
                to_test.send(()).expect("the test waits");
                until_waiting(sleeper, 1);
                drop(buffer);
                let _ = orders.recv();
            });
            holding.recv().expect("the thread works");
            let buffer = pool.get_timeout(wanted, WATCHDOG).expect("within reach");
            assert_eq!(buffer.len(), wanted);
            assert_eq!(pool.stats().waits, 1);
            drop(to_thread);
        });
    }
}

#[test]
fn a_request_takes_or_frees_what_a_sleeping_thread_caches() {
    for wanted in [4 * MIB, 2 * MIB] {
        let pool = capped(4 * MIB);
        let (to_thread, orders) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (to_test, returned) = mpsc::channel();
            let sleeper = &pool;
            scope.spawn(move || {
                drop(sleeper.get(4 * MIB));
                to_test.send(()).expect("the test waits");
                let _ = orders.recv();
            });
            returned.recv().expect("the thread works");
            assert_eq!(pool.stats().idle_bytes, 4 * MIB);
            let buffer = pool.try_get(wanted).expect("idle memory is within reach");
            assert_eq!(buffer.origin() == Origin::Recycled, wanted == 4 * MIB);
            drop(to_thread);
        });
    }
}

#[test]
fn errors_say_what_was_asked_held_and_allowed() {
    let pool = capped(8 * MIB);
    let _held = pool.get(5 * MIB);
    drop(pool.get(2 * MIB));
    let error = pool
        .get_timeout(7 * MIB, Duration::from_millis(30))
        .expect_err("5 of 8 MiB are leased");
    let GetError::AtCapacity {
        requested,
        leased,
        idle,
        max_bytes,
        waited,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (requested, leased, idle, max_bytes),
        (7 * MIB, 5 * MIB, 2 * MIB, 8 * MIB)
    );
    assert!(waited >= Duration::from_millis(30));
    assert_eq!(pool.held_bytes(), 7 * MIB, "nothing was freed in vain");

    let error = pool
        .try_get(9 * MIB)
        .expect_err("more than the pool may hold");
    assert!(
        matches!(error, GetError::ExceedsMax { requested, max_bytes, .. } if (requested, max_bytes) == (9 * MIB, 8 * MIB))
    );
    assert!(error.to_string().contains("raise max_bytes"), "{error}");
    assert!(matches!(
        pool.preallocate(1, 9 * MIB),
        Err(GetError::ExceedsMax { .. })
    ));
}

#[test]
fn get_panics_where_waiting_is_pointless() {
    let pool = capped(8 * MIB);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| pool.get(9 * MIB).len()));
    assert!(result.is_err());
    assert_eq!(pool.get(8 * MIB).len(), 8 * MIB, "the pool works on");
}

#[test]
fn memory_that_does_not_exist_is_an_error() {
    for len in [usize::MAX, isize::MAX as usize, 1 << 60] {
        let pool = BufferPool::new();
        let error = pool.try_get(len).expect_err("no machine has this");
        assert!(
            matches!(error, GetError::Refused { requested, .. } if requested == len),
            "{error}"
        );
        assert_eq!(pool.held_bytes(), 0);
        let roomy = BufferPool::builder().max_bytes(usize::MAX).build();
        assert!(roomy.try_get(len).is_err());
        assert_eq!(roomy.held_bytes(), 0);
    }
}

#[test]
fn a_full_pool_of_other_sizes_makes_room() {
    let pool = capped(32 * MIB);
    drop((1..=7).map(|size| pool.get(size * MIB)).collect::<Vec<_>>());
    let before = pool.held_bytes();
    assert_eq!(before, 28 * MIB);
    let buffer = pool.try_get(20 * MIB).expect("idle buffers make room");
    assert!(matches!(buffer.origin(), Origin::Fresh { .. }));
    assert!(pool.held_bytes() <= 32 * MIB);
    assert!(pool.stats().idle_bytes > 0, "no more was freed than needed");
}

#[test]
fn the_whole_cap_can_be_leased_at_once() {
    for max in [33 * MIB, 33 * MIB + 4096, 4096] {
        let pool = capped(max);
        assert_eq!(pool.get(max).capacity(), max);
    }
}

#[test]
fn preallocation_stops_at_the_cap_and_leaves_idle_buffers_alone() {
    let pool = capped(10 * MIB);
    drop(pool.get(3 * MIB));
    assert_eq!(pool.preallocate(9, 2 * MIB).expect("memory"), 3);
    assert_eq!(pool.held_bytes(), 9 * MIB);
    assert_eq!(pool.stats().preallocated, 3);
    assert_eq!(pool.get(2 * MIB).origin(), Origin::Recycled);
    assert_eq!(pool.get(3 * MIB).origin(), Origin::Recycled);
}

#[test]
fn a_pool_is_dropped_while_others_return_its_buffers() {
    for _ in 0..200 {
        let pool = Arc::new(capped(64 * MIB));
        let buffers: Vec<_> = (0..4).map(|_| pool.get(MIB)).collect();
        let threads: Vec<_> = buffers
            .into_iter()
            .map(|buffer| thread::spawn(move || drop(buffer)))
            .collect();
        drop(pool);
        for thread in threads {
            thread.join().expect("returning never panics");
        }
    }
}

#[test]
fn a_full_pool_of_one_size_maps_nothing_again() {
    const LEN: usize = 256 << 10;
    let pool = BufferPool::builder()
        .min_buffer_size(64 << 10)
        .max_bytes(3 * LEN)
        .build();
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    drop(pool.get(LEN));
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.fresh <= 3, "{stats}");
    assert_eq!((stats.gets, stats.evictions), (10_000, 0), "{stats}");
}
