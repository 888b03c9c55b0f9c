//! Memory that nobody wanted for long goes back by itself: as threads use the pool, one of them looks now and then.
//!
//! Idle buffers carry no time, since the paths that return them look at no clock. Instead each sweep notes what is
//! idle, and the next sweep, an age later, frees what has not moved since: so a buffer goes between one and two ages
//! after it became idle, or moved from a thread to the shards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    Store,
    account::{add, nanos},
};
use crate::slots::Slots;

/// When to sweep, and what the last sweep saw.
pub(super) struct Sweeper {
    since: Instant,
    /// Nanoseconds after `since`.
    due: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// For each shard, the stamp that the next buffer was to get.
    shards: Vec<u64>,
    threads: Vec<SeenThread>,
}

struct SeenThread {
    slots: Arc<Slots>,
    tags: Vec<u64>,
    /// Hits, and bytes in the private cache.
    private: (u64, usize),
    /// Whether the thread was asked for these private bytes.
    recalled: bool,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            due: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }
}

impl Store {
    /// Sweeps if it is time to. To be called now and then, but from no fast path: it looks at the clock.
    #[cold]
    pub(crate) fn tick(&self) {
        if let Some(age) = self.config.max_idle_age {
            self.tick_at(self.sweeper.since.elapsed(), age);
        }
    }

    /// Sweeps if it is time to, `now` after the pool was built; returns the bytes freed.
    fn tick_at(&self, now: Duration, age: Duration) -> usize {
        if nanos(now) < self.sweeper.due.load(Ordering::Relaxed) {
            return 0;
        }
        // One sweep at a time; who finds one going on has nothing to do.
        let Some(mut seen) = self.sweeper.seen.try_lock() else {
            return 0;
        };
        if nanos(now) < self.sweeper.due.load(Ordering::Relaxed) {
            return 0;
        }
        self.sweeper
            .due
            .store(nanos(now.saturating_add(age)), Ordering::Relaxed);
        let freed = self.sweep_shards(&mut seen.shards) + self.sweep_threads(&mut seen.threads);
        drop(seen);
        self.heed_attention();
        freed
    }

    fn sweep_shards(&self, seen: &mut Vec<u64>) -> usize {
        seen.resize(self.shards.len(), 0);
        let mut freed = 0;
        for (shard, stamp) in self.shards().zip(seen) {
            let (old, next) = shard.take_older(*stamp);
            *stamp = next;
            for block in old {
                freed += block.capacity();
                add(&self.tally.evictions, 1);
            }
        }
        freed
    }

    fn sweep_threads(&self, seen: &mut Vec<SeenThread>) -> usize {
        let live = self.threads.read().live.clone();
        seen.retain(|thread| live.iter().any(|slots| Arc::ptr_eq(slots, &thread.slots)));
        let (mut freed, mut recall) = (0, false);
        for slots in live {
            let counters = &slots.counters;
            let private = (counters.hits(), counters.private_bytes());
            match seen.iter_mut().find(|t| Arc::ptr_eq(&t.slots, &slots)) {
                Some(thread) => {
                    for block in slots.take_unchanged(&thread.tags) {
                        freed += block.capacity();
                        add(&self.tally.evictions, 1);
                    }
                    thread.tags = slots.tags();
                    let idle = private == thread.private && private.1 > 0;
                    // A thread that sleeps on is asked once, since all threads heed a recall.
                    recall |= idle && !thread.recalled;
                    thread.recalled = idle;
                    thread.private = private;
                }
                None => seen.push(SeenThread {
                    tags: slots.tags(),
                    private,
                    recalled: false,
                    slots,
                }),
            }
        }
        if recall {
            self.recall_private();
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::BufferPool;

    const MIB: usize = 1 << 20;
    const AGE: Duration = Duration::from_secs(60);

    // The pools have no age of their own, so that they never sweep by themselves: the tests tell the time.
    impl BufferPool {
        /// What a sweep frees, so many seconds after the pool was built.
        fn swept_after(&self, seconds: u64) -> usize {
            self.store().tick_at(Duration::from_secs(seconds), AGE)
        }
    }

    #[test]
    fn what_lies_in_shards_for_an_age_goes() {
        let pool = BufferPool::builder().tls_cache_size(0).build();
        drop((pool.get(3 * MIB), pool.get(4 * MIB)));
        assert_eq!(pool.swept_after(100), 0, "seen for the first time");
        drop(pool.get(4 * MIB));
        assert_eq!(pool.swept_after(159), 0, "not due");
        assert_eq!(pool.swept_after(160), 3 * MIB, "what was used stays");
        assert_eq!(pool.swept_after(219), 0, "not due");
        assert_eq!(pool.swept_after(220), 4 * MIB);
        assert_eq!((pool.held_bytes(), pool.stats().evictions), (0, 2));
    }

    #[test]
    fn what_lies_in_slots_for_an_age_goes() {
        let pool = BufferPool::builder()
            .tls_cache_size(4)
            .max_bytes(64 * MIB)
            .build();
        let (to_thread, orders) = mpsc::channel::<()>();
        let (to_test, returned) = mpsc::channel();
        thread::scope(|scope| {
            let sleeper = &pool;
            scope.spawn(move || {
                drop((sleeper.get(5 * MIB), sleeper.get(6 * MIB)));
                to_test.send(()).expect("the test waits");
                let _ = orders.recv();
            });
            returned.recv().expect("the thread works");
            drop((pool.get(3 * MIB), pool.get(4 * MIB)));
            assert_eq!(pool.swept_after(0), 0);
            drop(pool.get(3 * MIB));
            assert_eq!(pool.swept_after(60), (4 + 5 + 6) * MIB);
            assert_eq!(pool.swept_after(120), 3 * MIB);
            drop(to_thread);
        });
    }

    #[test]
    fn a_sleeping_thread_is_asked_once_for_what_is_private() {
        let pool = BufferPool::builder().tls_cache_size(4).build();
        drop(pool.get(2 * MIB));
        assert_eq!(pool.stats().private_bytes, 2 * MIB);
        let recalls = || pool.store().recalls();
        pool.swept_after(0);
        assert_eq!(recalls(), 0);
        pool.swept_after(60);
        pool.swept_after(120);
        pool.swept_after(180);
        assert_eq!(recalls(), 1);
        // The next use of the pool heeds it.
        drop(pool.get(32 * MIB));
        assert_eq!(pool.stats().private_bytes, 0);
        drop(pool.get(2 * MIB));
        pool.swept_after(240);
        drop(pool.get(2 * MIB));
        pool.swept_after(300);
        assert_eq!(recalls(), 1, "the thread is at work");
    }

    #[test]
    fn without_an_age_idle_memory_stays() {
        let pool = BufferPool::builder().tls_cache_size(0).build();
        drop(pool.get(3 * MIB));
        for _ in 0..3 {
            pool.store().tick();
        }
        assert_eq!(pool.held_bytes(), 3 * MIB);
    }
}
