//! What a buffer and a pool are to their users, whatever the memory behind them does.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
    time::Duration,
};

use ckload_pool::{BufferPool, Origin, PooledBuffer, Stats};

const MIB: usize = 1 << 20;

/// A pool and a thread of its own, so that no other test's thread cache is in the way.
fn in_new_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn types_cross_threads_and_outlive_scopes() {
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<BufferPool>();
    assert_shared::<PooledBuffer>();
    assert_shared::<Stats>();
    assert_shared::<ckload_pool::GetError>();
}

#[test]
fn a_buffer_is_two_words() {
    assert_eq!(size_of::<PooledBuffer>(), 2 * size_of::<usize>());
}

#[test]
fn a_buffer_has_exactly_the_length_asked_for() {
    let pool = BufferPool::builder().min_buffer_size(0).build();
    for len in [1, 4095, 4096, 4097, MIB + 1, 17 * MIB + 3] {
        let mut buffer = pool.get(len);
        assert_eq!((buffer.len(), buffer.is_empty()), (len, false));
        assert_eq!(buffer.as_ref().len(), len);
        assert_eq!(buffer.as_mut().len(), len);
        assert!(buffer.capacity() >= len);
        buffer[len - 1] = 1;
    }
}

#[test]
fn an_empty_buffer_takes_no_memory() {
    let pool = BufferPool::builder().max_bytes(0).build();
    let mut buffer = pool.get(0);
    assert!(buffer.is_empty() && buffer.iter_mut().next().is_none());
    assert_eq!((buffer.capacity(), buffer.is_pinned()), (0, false));
    assert_eq!(pool.held_bytes(), 0);
    drop(buffer);
    assert_eq!(pool.stats().gets, 0);
}

#[test]
fn fresh_memory_is_zero_and_says_what_it_cost() {
    let pool = BufferPool::new();
    let buffer = pool.get(5 * MIB);
    assert!(buffer.iter().all(|&byte| byte == 0));
    let Origin::Fresh { time } = buffer.origin() else {
        panic!("nothing was there to recycle");
    };
    let stats = pool.stats();
    assert_eq!(stats.fresh_time, time);
    assert_eq!(stats.fresh_bytes, 5 * MIB as u64);
}

#[test]
fn a_buffer_is_dropped_once() {
    let pool = BufferPool::new();
    let (one, two) = (pool.get(MIB), pool.get(MIB));
    assert_ne!(one.as_ptr(), two.as_ptr());
    assert_eq!(pool.stats().leased_bytes, 2 * MIB);
    drop(one);
    assert_eq!(pool.stats().leased_bytes, MIB);
    drop(two);
    let stats = pool.stats();
    assert_eq!((stats.leased_bytes, stats.idle_bytes), (0, 2 * MIB));
    assert_eq!(pool.held_bytes(), 2 * MIB);
}

#[test]
fn debug_shows_no_contents() {
    let pool = BufferPool::new();
    let mut buffer = pool.get(MIB);
    buffer.fill(171);
    let shown = format!("{buffer:?} {pool:?}");
    assert!(
        shown.contains("len: 1048576") && !shown.contains("171"),
        "{shown}"
    );
}

#[test]
fn a_panic_returns_what_it_held() {
    let pool = BufferPool::new();
    let result = thread::spawn({
        let pool = pool.clone();
        move || {
            let _held = (pool.get(2 * MIB), pool.get(32 * MIB));
            panic!("on purpose");
        }
    })
    .join();
    assert!(result.is_err());
    let stats = pool.stats();
    assert_eq!((stats.leased_bytes, stats.idle_bytes), (0, 34 * MIB));
    assert_eq!(pool.get(32 * MIB).origin(), Origin::Recycled);
}

#[test]
fn a_caught_panic_leaves_the_thread_s_cache_in_use() {
    in_new_thread(|| {
        let pool = BufferPool::new();
        for _ in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let _held = pool.get(2 * MIB);
                panic!("on purpose");
            }));
            assert!(result.is_err());
        }
        assert_eq!((pool.stats().fresh, pool.stats().thread_hits), (1, 2));
    });
}

#[test]
fn who_waits_is_served_by_a_thread_that_dies() {
    let pool = BufferPool::builder().max_bytes(8 * MIB).build();
    thread::scope(|scope| {
        for in_thread_local in [false, true] {
            let (to_test, holding) = mpsc::channel();
            let pool = &pool;
            let holder = scope.spawn(move || {
                let held = pool.get(8 * MIB);
                to_test.send(()).expect("the test waits");
                while pool.stats().waiting == 0 {
                    thread::yield_now();
                }
                if in_thread_local {
                    // Dropped after the thread's last line.
                    LATE.with(|late| late.borrow_mut().push(held));
                } else {
                    panic!("on purpose");
                }
            });
            holding.recv().expect("the thread works");
            let buffer = pool.get_timeout(8 * MIB, Duration::from_secs(60));
            assert_eq!(buffer.expect("the dead return it").len(), 8 * MIB);
            assert_eq!(holder.join().is_ok(), in_thread_local);
        }
    });
}

#[test]
fn threads_that_come_and_go_take_no_memory_along() {
    let pool = BufferPool::new();
    for _ in 0..200 {
        let worker = pool.clone();
        thread::spawn(move || drop((worker.get(MIB), worker.get(32 * MIB))))
            .join()
            .expect("no panic");
    }
    let stats = pool.stats();
    assert_eq!((stats.gets, stats.fresh, stats.private_bytes), (400, 2, 0));
    assert_eq!(pool.held_bytes(), 33 * MIB);
}

thread_local! {
    static EARLY: RefCell<Vec<PooledBuffer>> = const { RefCell::new(Vec::new()) };
    static LATE: RefCell<Vec<PooledBuffer>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn buffers_in_thread_locals_come_back_when_the_thread_ends() {
    let pool = BufferPool::new();
    thread::spawn({
        let pool = pool.clone();
        move || {
            // One is set up before the pool's own thread-local, one after: they are torn down in either order.
            EARLY.with(|early| early.borrow_mut().push(pool.get(MIB)));
            drop(pool.get(MIB));
            LATE.with(|late| {
                late.borrow_mut()
                    .extend([pool.get(MIB), pool.get(40 * MIB)]);
            });
            EARLY.with(|early| early.borrow_mut().push(pool.get(24 * MIB)));
        }
    })
    .join()
    .expect("ending a thread never panics");
    let stats = pool.stats();
    assert_eq!(
        (stats.leased_bytes, stats.idle_bytes),
        (0, pool.held_bytes())
    );
    for len in [MIB, MIB, 24 * MIB, 40 * MIB] {
        assert_eq!(pool.get(len).origin(), Origin::Recycled, "{len}");
    }
}

#[test]
fn buffers_in_thread_locals_may_outlive_their_pool() {
    thread::spawn(|| {
        let pool = BufferPool::new();
        EARLY.with(|early| early.borrow_mut().push(pool.get(MIB)));
        drop(pool.get(8 * MIB));
        LATE.with(|late| late.borrow_mut().push(pool.get(40 * MIB)));
    })
    .join()
    .expect("ending a thread never panics");
}

#[test]
fn a_pool_in_a_thread_local_may_end_with_its_thread() {
    thread_local! {
        static POOL: RefCell<Option<BufferPool>> = const { RefCell::new(None) };
    }
    for pool_first in [true, false] {
        let kept = thread::spawn(move || {
            let pool = BufferPool::new();
            let kept = pool.get(40 * MIB);
            if pool_first {
                // Set up before the pool's own thread-local, and so torn down after it.
                POOL.set(Some(pool.clone()));
            }
            drop((pool.get(MIB), pool.get(24 * MIB)));
            LATE.with(|late| late.borrow_mut().push(pool.get(MIB)));
            POOL.set(Some(pool));
            kept
        })
        .join()
        .expect("ending a thread never panics");
        assert!(kept.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_buffer_outlives_its_pool() {
    let pool = BufferPool::new();
    let mut buffer = pool.get(3 * MIB);
    buffer.fill(9);
    drop(pool);
    assert!(buffer.iter().all(|&byte| byte == 9));
    let elsewhere = thread::spawn(move || buffer[MIB]).join();
    assert_eq!(elsewhere.expect("reading does not panic"), 9);
}

#[test]
fn clones_share_one_pool() {
    let pool = BufferPool::new();
    let other = pool.clone();
    drop(other.get(MIB));
    drop(other);
    assert_eq!(pool.get(MIB).origin(), Origin::Recycled);
}

#[test]
fn recycled_bytes_are_the_last_holder_s_unless_zeros_are_wanted() {
    let pool = BufferPool::new();
    pool.get(MIB).fill(7);
    assert!(pool.get(MIB).iter().all(|&byte| byte == 7));
    assert!(pool.get_zeroed(MIB).iter().all(|&byte| byte == 0));
    assert!(pool.get_zeroed(5 * MIB).iter().all(|&byte| byte == 0));
}

#[test]
fn zero_on_return_hides_what_was_there_from_longer_leases_too() {
    let pool = BufferPool::builder().zero_on_return(true).build();
    assert!(pool.zero_on_return());
    for len in [40 * MIB, 36 * MIB, 39 * MIB, 40 * MIB] {
        let mut buffer = pool.get(len);
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer.fill(255);
    }
    assert_eq!(pool.stats().fresh, 1, "one block served all four");
    assert!(pool.get_zeroed(40 * MIB).iter().all(|&byte| byte == 0));
}

#[test]
fn a_pool_may_keep_nothing() {
    for builder in [
        BufferPool::builder()
            .tls_cache_size(0)
            .max_buffers_per_shard(0),
        BufferPool::builder().min_buffer_size(usize::MAX),
    ] {
        let pool = builder.build();
        for len in [1, MIB, 20 * MIB] {
            drop(pool.get(len));
            assert_eq!(pool.held_bytes(), 0);
        }
        assert_eq!(pool.preallocate(3, MIB).expect("not an error"), 0);
        assert_eq!(
            (
                pool.stats().fresh,
                pool.stats().hits(),
                pool.stats().idle_bytes
            ),
            (3, 0, 0)
        );
    }
}

#[test]
fn small_buffers_are_kept_nowhere() {
    in_new_thread(|| {
        let pool = BufferPool::builder()
            .tls_cache_size(4)
            .min_buffer_size(2 * MIB)
            .build();
        drop((pool.get(MIB), pool.get(16), pool.get(2 * MIB)));
        assert_eq!(pool.held_bytes(), 2 * MIB);
        assert_eq!(pool.preallocate(4, MIB).expect("not an error"), 0);
        assert_eq!(pool.held_bytes(), 2 * MIB);
    });
}

#[test]
fn a_shard_keeps_no_more_than_it_may() {
    in_new_thread(|| {
        let pool = BufferPool::builder()
            .tls_cache_size(3)
            .num_shards(4)
            .max_buffers_per_shard(2)
            .build();
        assert_eq!(pool.max_idle_buffers(), 8);
        assert_eq!(pool.preallocate(50, MIB).expect("memory"), 8);
        let many: Vec<_> = (0..50).map(|_| pool.get(MIB)).collect();
        drop(many);
        // Three more in this thread's cache.
        assert_eq!(pool.held_bytes(), 11 * MIB);
        assert_eq!(pool.stats().evictions, 50 - 11);
    });
}

#[test]
fn defaults_can_be_asked_for() {
    let pool = BufferPool::default();
    assert_eq!(pool.max_bytes(), None);
    assert_eq!(pool.min_buffer_size(), MIB);
    assert!(pool.huge_pages() && !pool.is_pinned() && !pool.zero_on_return());
    assert!(pool.num_shards().is_power_of_two() && (2..=8).contains(&pool.tls_cache_size()));
    assert_eq!(
        pool.eviction_policy(),
        ckload_pool::EvictionPolicy::ClockPro
    );
    assert_eq!(BufferPool::builder().num_shards(9).build().num_shards(), 16);
}

#[test]
fn shrinking_bookkeeping_frees_no_buffer() {
    let pool = BufferPool::builder().max_bytes(64 * MIB).build();
    for round in 0..20 {
        let held: Vec<_> = (1..8)
            .map(|size| pool.get((size + round % 3) * MIB))
            .collect();
        drop(held);
    }
    let held = pool.held_bytes();
    pool.shrink_to_fit();
    assert_eq!(pool.held_bytes(), held);
    assert_eq!(pool.stats().idle_bytes, held);
    drop((pool.get(8 * MIB), pool.get(30 * MIB)));
}

#[test]
fn private_buffers_of_a_cleared_pool_go_at_the_thread_s_next_operation() {
    let pool = BufferPool::builder().tls_cache_size(8).build();
    let (to_thread, orders) = mpsc::channel::<()>();
    let (to_test, done) = mpsc::channel();
    thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(move || {
            drop((pool.get(MIB), pool.get(2 * MIB), pool.get(32 * MIB)));
            to_test.send(()).expect("the test waits");
            for () in orders {
                // Any pool will do.
                drop(BufferPool::new().get(MIB));
                to_test.send(()).expect("the test waits");
            }
        });
        done.recv().expect("the thread works");
        let stats = pool.stats();
        assert_eq!((stats.idle_bytes, stats.private_bytes), (35 * MIB, 3 * MIB));
        pool.clear();
        assert_eq!(
            pool.held_bytes(),
            3 * MIB,
            "all but what only the thread reaches"
        );
        to_thread.send(()).expect("the thread works");
        done.recv().expect("the thread works");
        assert_eq!(pool.held_bytes(), 0);
        drop(to_thread);
    });
}
