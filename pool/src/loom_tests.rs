//! The sharing core under loom: every order of steps, and every value that a load may see, up to a number of preemptions.
//!
//! `RUSTFLAGS="--cfg pool_loom" cargo test -p ckload-pool --release --lib loom`; `LOOM_MAX_PREEMPTIONS` says how many
//! (default: 3, or fewer where a model is large).
//!
//! Pools are whole, and their memory is real, one or two pages. What loom cannot see is told in [`sync`](crate::sync).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::loom::{model, sync::atomic::Ordering::SeqCst, thread};

use crate::{
    BufferPool, EvictionPolicy,
    asymmetric::Asymmetric,
    block::{Advised, Block},
    builder::Config,
    fit::{Fit, SMALL_PAGE as PAGE},
    gate::{Gate, Patience},
    local,
    slots::Slots,
    store::Store,
    sync::Held,
};

fn explore(run: impl Fn() + Sync + Send + 'static) {
    explore_up_to(3, run);
}

/// For models with many steps, whose orders with more preemptions take minutes or hours.
fn explore_up_to(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    model.max_branches = 10_000;
    model.check(run);
}

/// As small as can be: one slot for each thread, one shard.
fn config(max_bytes: Option<usize>) -> Config {
    Config {
        tls_cache_size: 1,
        min_buffer_size: 0,
        max_buffers_per_shard: 4,
        num_shards: 1,
        pinned_memory: false,
        pin_with: None,
        eviction_policy: EvictionPolicy::Lifo,
        max_bytes,
        zero_on_return: false,
        max_idle_age: None,
        advised: Advised {
            huge: false,
            dont_dump: false,
            dont_fork: false,
        },
        page: PAGE,
        asymmetric: Asymmetric::BySelf,
    }
}

fn pool(max_bytes: Option<usize>) -> BufferPool {
    BufferPool::with_config(config(max_bytes))
}

fn fit(len: usize) -> Fit {
    Fit::new(len, PAGE, None)
}

fn address(block: &Block) -> usize {
    block.bytes().as_ptr().addr()
}

/// Nobody holds a buffer: what is held is idle, and can be freed.
fn assert_all_is_idle(pool: &BufferPool) {
    let store = pool.store();
    // A tag may say more than there is, until somebody looks.
    assert!(store.idle_bytes() >= store.held_bytes());
    pool.clear();
    assert_eq!((store.idle_bytes(), store.held_bytes()), (0, 0));
}

#[test]
fn a_block_in_a_slot_goes_to_the_owner_or_to_the_thief() {
    explore(|| {
        let pool = pool(None);
        let blocks: Vec<Box<Block>> = (0..2).map(|_| pool.store().fresh(PAGE)).collect();
        let all: BTreeSet<usize> = blocks.iter().map(|block| address(block)).collect();
        let slots = Arc::new(Slots::new(2));
        let thief = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                let first = slots.steal(&fit(PAGE));
                let second = slots.oldest_first().next();
                [first, second]
            })
        };
        let (mut top, mut generation) = (0, 0);
        let mut kept = Vec::new();
        let mut put = |block, top: &mut usize| {
            generation += 1;
            slots.put(block, generation, top)
        };
        for block in blocks {
            kept.extend(put(block, &mut top));
        }
        assert!(kept.is_empty(), "there was a slot for each");
        if let Some(block) = slots.take(&fit(PAGE), &mut top) {
            kept.extend(put(block, &mut top));
        }
        assert!(kept.is_empty(), "the block's slot is free");
        kept.extend(slots.take_oldest());
        kept.extend(thief.join().expect("no panic").into_iter().flatten());
        kept.extend(slots.drain());
        let found: Vec<usize> = kept.iter().map(|block| address(block)).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all);
    });
}

#[test]
fn a_block_in_a_slot_goes_to_the_owner_or_is_drained() {
    explore(|| {
        let pool = pool(None);
        let block = pool.store().fresh(PAGE);
        let expected = address(&block);
        let slots = Arc::new(Slots::new(1));
        let drainer = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.drain().collect::<Vec<_>>())
        };
        let mut top = 0;
        let mut kept: Vec<Box<Block>> = slots.put(block, 1, &mut top).into_iter().collect();
        if let Some(block) = slots.take(&fit(PAGE), &mut top) {
            kept.extend(slots.put(block, 2, &mut top));
        }
        assert!(kept.is_empty(), "the only block has a slot");
        kept.extend(slots.take(&fit(PAGE), &mut top));
        kept.extend(drainer.join().expect("no panic"));
        kept.extend(slots.drain());
        let found: Vec<usize> = kept.iter().map(|block| address(block)).collect();
        assert_eq!(found, [expected]);
    });
}

/// Two threads lease and return; the one without a buffer of its own steals, or maps.
#[test]
fn what_two_threads_return_is_held_once() {
    explore(|| {
        let pool = pool(Some(2 * PAGE));
        let other = {
            let pool = pool.clone();
            thread::spawn(move || {
                drop(pool.get(PAGE));
                drop(pool.get(PAGE));
                local::end_thread();
            })
        };
        drop(pool.get(PAGE));
        let held = pool.get(PAGE);
        other.join().expect("no panic");
        drop(held);
        assert!(pool.held_bytes() <= 2 * PAGE);
        assert_all_is_idle(&pool);
    });
}

fn return_against(free: fn(&BufferPool)) {
    explore(move || {
        let pool = pool(Some(2 * PAGE));
        let (first, second) = (pool.get(PAGE), pool.get(PAGE));
        drop(first);
        let freeing = {
            let pool = pool.clone();
            thread::spawn(move || free(&pool))
        };
        drop(second);
        freeing.join().expect("no panic");
        assert_all_is_idle(&pool);
    });
}

#[test]
fn a_return_against_trim() {
    return_against(|pool| {
        pool.trim(0);
    });
}

#[test]
fn a_return_against_clear() {
    return_against(BufferPool::clear);
}

/// The owner's cache exists already, so its return is the plain store of the hot path; and it lives on, so that its end helps nobody.
fn a_return_against_a_waiting_request(asymmetric: Asymmetric) {
    explore(move || {
        let pool = BufferPool::with_config(Config {
            asymmetric,
            ..config(Some(PAGE))
        });
        drop(pool.get(PAGE));
        let held = pool.get(PAGE);
        let waiting = {
            let pool = pool.clone();
            thread::spawn(move || {
                drop(pool.get(PAGE));
                local::end_thread();
            })
        };
        drop(held);
        waiting.join().expect("no panic");
        assert_all_is_idle(&pool);
    });
}

#[test]
fn a_waiting_request_gets_what_is_returned() {
    a_return_against_a_waiting_request(Asymmetric::BySelf);
}

#[test]
#[should_panic = "deadlock"]
fn without_the_owner_s_fence_a_waiting_request_may_sleep_for_ever() {
    a_return_against_a_waiting_request(Asymmetric::LightForgotten);
}

#[test]
#[should_panic = "deadlock"]
fn without_the_waiter_s_fence_a_waiting_request_may_sleep_for_ever() {
    a_return_against_a_waiting_request(Asymmetric::HeavyForgotten);
}

/// The waiting request needs room, not the buffer.
#[test]
fn a_waiting_request_gets_room_from_what_is_returned_or_freed() {
    explore_up_to(1, || {
        let pool = pool(Some(2 * PAGE));
        drop(pool.get(PAGE));
        let held = pool.get(PAGE);
        let waiting = {
            let pool = pool.clone();
            thread::spawn(move || {
                drop(pool.get(2 * PAGE));
                local::end_thread();
            })
        };
        drop(held);
        pool.trim(0);
        waiting.join().expect("no panic");
        assert_all_is_idle(&pool);
    });
}

fn a_return_against_the_last_handle_s_drop(asymmetric: Asymmetric) {
    explore(move || {
        let pool = BufferPool::with_config(Config {
            asymmetric,
            ..config(Some(PAGE))
        });
        let store: Arc<Store> = Arc::clone(pool.store());
        drop(pool.get(PAGE));
        let held = pool.get(PAGE);
        let closing = thread::spawn(move || drop(pool));
        drop(held);
        closing.join().expect("no panic");
        assert_eq!(store.held_bytes(), 0);
    });
}

#[test]
fn nothing_remains_in_a_closed_pool() {
    a_return_against_the_last_handle_s_drop(Asymmetric::BySelf);
}

#[test]
#[should_panic = "left: 4096"]
fn without_the_owner_s_fence_a_block_may_remain_in_a_closed_pool() {
    a_return_against_the_last_handle_s_drop(Asymmetric::LightForgotten);
}

#[test]
#[should_panic = "left: 4096"]
fn without_the_closer_s_fence_a_block_may_remain_in_a_closed_pool() {
    a_return_against_the_last_handle_s_drop(Asymmetric::HeavyForgotten);
}

/// What is private goes back with the thread's next look, or its end; what it returned in a closed pool is freed at once.
#[test]
fn a_thread_s_end_against_the_last_handle_s_drop() {
    explore(|| {
        let pool = pool(None);
        let store: Arc<Store> = Arc::clone(pool.store());
        let other = pool.get(PAGE);
        let ending = thread::spawn(move || {
            drop(other);
            local::end_thread();
        });
        drop(pool.get(PAGE));
        drop(pool);
        ending.join().expect("no panic");
        assert_eq!(store.held_bytes(), 0);
    });
}

/// The buffer was leased elsewhere, so the ending thread keeps it in a slot, also without a cap.
#[test]
fn a_thread_s_end_against_a_thief() {
    explore(|| {
        let pool = pool(None);
        let lent = pool.get(PAGE);
        let ending = thread::spawn(move || {
            drop(lent);
            local::end_thread();
        });
        let held = pool.get(PAGE);
        ending.join().expect("no panic");
        drop(held);
        assert_all_is_idle(&pool);
    });
}

#[test]
fn a_thread_s_end_against_a_waiting_request() {
    explore(|| {
        let pool = pool(Some(PAGE));
        let lent = pool.get(PAGE);
        let ending = thread::spawn(move || {
            drop(lent);
            local::end_thread();
        });
        let held = pool.get(PAGE);
        ending.join().expect("no panic");
        drop(held);
        assert_all_is_idle(&pool);
    });
}

/// The slot's tag may be the small buffer's still when a thief takes the large one out, behind the back of a request that waits
/// for it. The thief cannot use it, and has to tell.
#[test]
fn a_theft_of_the_wrong_block_against_a_waiting_request() {
    explore_up_to(1, || {
        let pool = pool(Some(3 * PAGE));
        drop(pool.get(PAGE));
        let large = pool.get(2 * PAGE);
        let thief = {
            let pool = pool.clone();
            thread::spawn(move || pool.try_get(PAGE))
        };
        let waiting = {
            let pool = pool.clone();
            thread::spawn(move || pool.get(2 * PAGE))
        };
        drop(large);
        let taken = waiting.join().expect("no panic");
        drop(thief.join().expect("no panic"));
        drop(taken);
        assert_all_is_idle(&pool);
    });
}

/// The first in line may leave just when it is called; then the next one must be.
#[test]
fn who_leaves_the_line_passes_the_call_on() {
    explore_up_to(2, || {
        let pool = pool(Some(PAGE));
        drop(pool.get(PAGE));
        let held = pool.get(PAGE);
        let leaving = {
            let pool = pool.clone();
            thread::spawn(move || {
                drop(pool.get_timeout(PAGE, Duration::ZERO));
                local::end_thread();
            })
        };
        let staying = {
            let pool = pool.clone();
            thread::spawn(move || {
                drop(pool.get(PAGE));
                local::end_thread();
            })
        };
        drop(held);
        leaving.join().expect("no panic");
        staying.join().expect("no panic");
        assert_all_is_idle(&pool);
    });
}

/// What the requests in a line wait for, all held at the beginning, and who got some in turn.
#[derive(Default)]
struct Counter {
    gate: Gate,
    held: Held,
    served: Mutex<Vec<usize>>,
}

impl Counter {
    const ALL: usize = 3;

    fn new() -> Arc<Self> {
        let counter = Self::default();
        let _ = counter
            .held
            .fetch_update(SeqCst, SeqCst, |_| Some(Self::ALL));
        Arc::new(counter)
    }

    fn request(&self, number: usize, patience: Patience<'_>) -> bool {
        let (granted, _) = self.gate.pass(patience, |_| {
            self.held
                .fetch_update(SeqCst, SeqCst, |held| {
                    (held < Self::ALL).then_some(held + 1)
                })
                .ok()?;
            self.served.lock().expect("no panic").push(number);
            Some(())
        });
        granted.is_some()
    }

    fn free(&self) {
        self.held.fetch_sub(1, SeqCst);
        if self.gate.needs_attention() {
            self.gate.wake_next();
        }
    }

    fn await_line(&self, len: usize) {
        while self.gate.waiting() < len {
            thread::yield_now();
        }
    }
}

#[test]
fn the_line_is_served_in_order() {
    explore(|| {
        let counter = Counter::new();
        let requests: Vec<_> = (0..3)
            .map(|number| {
                let request = {
                    let counter = Arc::clone(&counter);
                    thread::spawn(move || counter.request(number, Patience::Endless))
                };
                counter.await_line(number + 1);
                request
            })
            .collect();
        (0..3).for_each(|_| counter.free());
        for request in requests {
            assert!(request.join().expect("no panic"));
        }
        assert_eq!(*counter.served.lock().expect("no panic"), [0, 1, 2]);
        assert!(!counter.gate.needs_attention());
    });
}

/// The second leaves whenever it likes, and gives back what it got.
#[test]
fn the_line_keeps_its_order_when_a_place_is_left() {
    explore(|| {
        let counter = Counter::new();
        let request = |number: usize, patience: Patience<'static>| {
            let counter = Arc::clone(&counter);
            thread::spawn(move || {
                if counter.request(number, patience) && number == 1 {
                    counter.free();
                }
            })
        };
        let first = request(0, Patience::Endless);
        counter.await_line(1);
        let leaving = request(1, Patience::for_at_most(Duration::ZERO));
        let last = request(2, Patience::Endless);
        counter.free();
        counter.free();
        for request in [first, leaving, last] {
            request.join().expect("no panic");
        }
        let served = counter.served.lock().expect("no panic");
        let stayed: Vec<usize> = served
            .iter()
            .copied()
            .filter(|&number| number != 1)
            .collect();
        assert_eq!(stayed, [0, 2]);
        assert!(!counter.gate.needs_attention());
    });
}
