//! The idle buffers: where they are put, found, taken from and freed.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::{
    Store,
    account::{add, nanos},
};
use crate::{
    GetError, Origin, block::Block, evict::Heat, fit::Fit, local, shard::Shard, slots::Slots,
    sync::per_thread,
};

/// Of as many searches one is timed: reading the clock takes as long as a search.
const TIMED_ONE_IN: u32 = 64;

per_thread! {
    /// The thread's number, which chooses its home shard. Without a destructor, so it works while the thread ends.
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

thread_local! {
    /// How often the thread looked for idle buffers outside its caches.
    static SEARCHES: Cell<u32> = const { Cell::new(TIMED_ONE_IN / 2) };
}

/// This thread's number: threads are numbered as they come, so neighbours spread over the shards.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.try_with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    });
    // Without a destructor it is there to the end; only loom takes it away.
    number.unwrap_or_default()
}

impl Store {
    /// Maps up to `count` buffers of `len` bytes into the shards, as long as there is room; returns how many.
    pub(crate) fn preallocate(
        self: &Arc<Self>,
        count: usize,
        len: usize,
    ) -> Result<usize, GetError> {
        let fit = self.fit(len);
        if let Some(max_bytes) = self.config.max_bytes
            && fit.fresh > max_bytes
        {
            return Err(GetError::ExceedsMax {
                requested: len,
                max_bytes,
            });
        }
        if len == 0 || fit.fresh < self.config.min_buffer_size {
            return Ok(0);
        }
        for done in 0..count {
            // Room goes to those who wait for it.
            if self.gate.needs_attention() || !self.any_has_room() {
                return Ok(done);
            }
            let Some(room) = self.claim(fit.fresh) else {
                return Ok(done);
            };
            let mut block = self.map(room, &fit, Heat::NEW)?;
            block.origin = Origin::Recycled;
            let left = self.put_where_room(thread_number() + done, block);
            let kept = left.is_none();
            drop(left);
            self.heed_attention();
            if !kept {
                return Ok(done);
            }
            add(&self.tally.preallocated, 1);
        }
        Ok(count)
    }

    /// Whether a thread may keep a buffer of this capacity.
    pub(crate) fn caches_in_threads(&self, capacity: usize) -> bool {
        self.config.tls_cache_size > 0
            && capacity >= self.config.min_buffer_size
            && !self.is_closed()
    }

    /// Keeps a buffer where all threads find it, or frees it or a less wanted one.
    ///
    /// When every shard is full, the policy chooses within the home shard alone: only there would be a place then.
    ///
    /// The caller has to [heed attention](Self::heed_attention) afterwards.
    pub(crate) fn put_in_shards(&self, block: Box<Block>) {
        let max_buffers = self.config.max_buffers_per_shard;
        if self.is_closed() || block.capacity() < self.config.min_buffer_size || max_buffers == 0 {
            return;
        }
        let home = thread_number();
        if let Some(block) = self.put_where_room(home, block) {
            self.balance_heat();
            if let Some(victim) = self.shard(home).put_evicting(block, max_buffers) {
                add(&self.tally.evictions, 1);
                drop(victim);
            }
            self.balance_ghosts();
        }
    }

    /// Puts a buffer into the first shard with room, from number `first` on.
    pub(super) fn put_where_room(&self, first: usize, mut block: Box<Block>) -> Option<Box<Block>> {
        for number in first..first + self.shards.len() {
            let shard = self.shard(number);
            if self.has_room(shard) {
                block = shard.put(block, self.config.max_buffers_per_shard)?;
            }
        }
        Some(block)
    }

    pub(super) fn any_has_room(&self) -> bool {
        self.shards().any(|shard| self.has_room(shard))
    }

    fn has_room(&self, shard: &Shard) -> bool {
        shard.len() < self.config.max_buffers_per_shard
    }

    /// The shard for a number; any number will do.
    fn shard(&self, number: usize) -> &Shard {
        &self.shards[number & (self.shards.len() - 1)]
    }

    /// Leases what lies idle outside this thread's cache.
    ///
    /// A `thorough` look takes every lock. Otherwise shards that seem empty are passed over.
    pub(super) fn take_idle(&self, fit: &Fit, thorough: bool) -> Option<Box<Block>> {
        let searches = SEARCHES.replace(SEARCHES.get().wrapping_add(1));
        let start = searches.is_multiple_of(TIMED_ONE_IN).then(Instant::now);
        let block = self.find_idle(fit, thorough)?;
        if let Some(start) = start {
            let time = nanos(start.elapsed()).saturating_mul(TIMED_ONE_IN.into());
            add(&self.tally.reuse_nanos, time);
        }
        Some(block)
    }

    fn find_idle(&self, fit: &Fit, thorough: bool) -> Option<Box<Block>> {
        let home = thread_number();
        for number in home..home + self.shards.len() {
            let shard = self.shard(number);
            if (thorough || shard.len() > 0)
                && let Some(block) = shard.take(fit, number == home)
            {
                return Some(block);
            }
        }
        self.steal(fit)
    }

    /// Takes a fitting buffer out of some thread's slots.
    fn steal(&self, fit: &Fit) -> Option<Box<Block>> {
        for slots in &self.threads.read().live {
            let Some(block) = slots.steal(fit) else {
                continue;
            };
            if fit.accepts(block.capacity()) {
                return Some(self.stolen(block));
            }
            // The owner had exchanged it meanwhile.
            self.put_in_shards(block);
        }
        None
    }

    /// Moves what lies in threads' slots to the shards, so that nothing is overlooked; leases what fits first.
    pub(super) fn gather(&self, fit: &Fit) -> Option<Box<Block>> {
        let mut found = None;
        for slots in &self.threads.read().live {
            for block in slots.drain() {
                if found.is_none() && fit.accepts(block.capacity()) {
                    found = Some(self.stolen(block));
                } else {
                    self.put_in_shards(block);
                }
            }
        }
        found
    }

    pub(super) fn stolen(&self, block: Box<Block>) -> Box<Block> {
        add(&self.tally.stolen, 1);
        add(&self.tally.stolen_bytes, block.capacity() as u64);
        block
    }

    /// Whether a buffer of this size was evicted a short while ago.
    pub(super) fn was_evicted_early(&self, fit: &Fit) -> bool {
        self.shards
            .iter()
            .any(|shard| shard.ghost_bytes() > 0 && shard.missed(fit))
    }

    /// Frees all idle memory within reach, and asks the other threads for what they hold privately.
    pub(crate) fn clear(self: &Arc<Self>) {
        local::release_private(self);
        self.recall_private();
        self.drain();
        self.heed_attention();
    }

    pub(crate) fn shrink_to_fit(&self) {
        for shard in &self.shards {
            shard.shrink_to_fit();
        }
        self.balance.reset(self.shards().map(Shard::bytes).sum());
        self.threads.write().live.shrink_to_fit();
        self.gate.shrink_to_fit();
    }

    pub(super) fn recall_private(&self) {
        self.recalls.fetch_add(1, Ordering::Release);
        local::recall();
    }

    /// Frees what lies in shards and slots.
    pub(super) fn drain(&self) {
        for slots in &self.threads.read().live {
            slots.drain().for_each(drop);
        }
        for shard in &self.shards {
            shard.clear();
        }
    }

    /// How often private buffers were recalled.
    pub(crate) fn recalls(&self) -> usize {
        self.recalls.load(Ordering::Acquire)
    }

    /// Makes a thread's slots known to the other threads.
    pub(crate) fn add_thread(&self, slots: Slots) -> Arc<Slots> {
        let slots = Arc::new(slots);
        self.threads.write().live.push(Arc::clone(&slots));
        slots
    }

    /// A thread ends, or lets go of the pool: what it cached goes to the shards, its counters are kept.
    pub(crate) fn remove_thread(&self, slots: &Arc<Slots>) {
        {
            let mut threads = self.threads.write();
            threads.live.retain(|other| !Arc::ptr_eq(other, slots));
            threads.past_hits += slots.counters.hits();
            threads.past_reused_bytes += slots.counters.reused_bytes();
            threads.past_excess_bytes += slots.counters.excess_bytes();
        }
        for block in slots.drain() {
            self.put_in_shards(block);
        }
        self.heed_attention();
    }

    /// The capacities of what lies in shards and slots, largest first.
    pub(crate) fn idle_capacities(&self) -> Vec<usize> {
        let mut capacities: Vec<usize> = self.shards().flat_map(Shard::capacities).collect();
        self.with_threads(|threads| {
            capacities.extend(threads.live.iter().flat_map(|slots| slots.capacities()));
        });
        capacities.sort_unstable_by(|a, b| b.cmp(a));
        capacities
    }

    /// Bytes that lie idle, wherever.
    pub(crate) fn idle_bytes(&self) -> usize {
        let in_shards: usize = self.shards().map(Shard::bytes).sum();
        self.with_threads(|threads| {
            let in_threads = threads
                .live
                .iter()
                .map(|slots| slots.bytes() + slots.counters.private_bytes());
            in_shards + in_threads.sum::<usize>()
        })
    }
}
