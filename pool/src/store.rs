//! What all handles of a pool, all its buffers and all threads share: the account of bytes and the idle buffers.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, RwLock};

use crate::{
    GetError, Origin, PooledBuffer,
    block::{Block, Memory},
    builder::Config,
    evict::Heat,
    fit::Fit,
    gate::{Gate, Patience},
    local,
    shard::Shard,
    slots::Slots,
};

/// The shared part of a pool. Every block holds it alive; the last public handle closes it.
///
/// The first fields are only read once the pool is built, so that fast paths share their cache lines.
pub(crate) struct Store {
    pub(crate) config: Config,
    shards: Box<[CachePadded<Shard>]>,
    gate: Gate,
    /// How often threads were asked to give back what they hold privately.
    recalls: CachePadded<AtomicUsize>,
    /// Bytes of all blocks. Changes only when memory is taken from the operating system or given back to it.
    held: CachePadded<AtomicUsize>,
    peak: AtomicUsize,
    pinned: AtomicUsize,
    pub(crate) tally: Tally,
    last_pin_error: Mutex<Option<String>>,
    threads: RwLock<Threads>,
}

/// What happened on the slow paths.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) fresh: AtomicU64,
    pub(crate) fresh_bytes: AtomicU64,
    pub(crate) fresh_nanos: AtomicU64,
    pub(crate) preallocated: AtomicU64,
    pub(crate) stolen: AtomicU64,
    pub(crate) stolen_bytes: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) pin_failures: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) wait_nanos: AtomicU64,
}

/// The threads that cache buffers of this pool.
#[derive(Default)]
pub(crate) struct Threads {
    pub(crate) live: Vec<Arc<Slots>>,
    /// Leases that threads served from their caches before they ended, and the capacity of these, in bytes.
    pub(crate) past_hits: u64,
    pub(crate) past_reused_bytes: u64,
}

/// Room for one block in the pool's account; dropping it gives the room back.
pub(crate) struct Claim {
    store: Arc<Store>,
    bytes: usize,
    pinned: bool,
}

/// What a request gets from the gate.
enum Grant {
    Idle(Box<Block>),
    Room(Claim),
}

thread_local! {
    /// The thread's number, which chooses its home shard. Without a destructor, so it works while the thread ends.
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// This thread's number: threads are numbered as they come, so neighbours spread over the shards.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Adds to a counter that nothing is ordered by.
fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Ends a lease of `len` bytes.
#[inline]
pub(crate) fn give_back(mut block: Box<Block>, len: usize) {
    if block.store().config.zero_on_return {
        block.bytes_mut()[..len].fill(0);
    }
    block.retire_lease();
    if let Some(block) = local::put(block) {
        give_to_shards(block);
    }
}

#[cold]
fn give_to_shards(block: Box<Block>) {
    let store = Arc::clone(block.store());
    store.put_in_shards(block);
    store.heed_attention();
}

impl Store {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            shards: (0..config.num_shards)
                .map(|_| Shard::new(config.eviction_policy, config.max_buffers_per_shard).into())
                .collect(),
            config,
            gate: Gate::default(),
            recalls: CachePadded::default(),
            held: CachePadded::default(),
            peak: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
            tally: Tally::default(),
            last_pin_error: Mutex::default(),
            threads: RwLock::default(),
        }
    }

    /// Leases `len` bytes.
    #[inline]
    pub(crate) fn lease(
        self: &Arc<Self>,
        len: usize,
        patience: Patience,
    ) -> Result<PooledBuffer, GetError> {
        if len == 0 {
            return Ok(PooledBuffer::empty());
        }
        let fit = Fit::new(len, self.config.page, self.config.max_bytes);
        // Whoever waits for room comes first, also before what this thread has cached.
        let overtaking = self.config.max_bytes.is_some() && self.gate.needs_attention();
        let cached = if overtaking {
            None
        } else {
            local::take(self, &fit)
        };
        let block = match cached {
            Some(block) => block,
            None => self.lease_shared(&fit, patience)?,
        };
        Ok(PooledBuffer::new(block, len))
    }

    #[cold]
    fn lease_shared(
        self: &Arc<Self>,
        fit: &Fit,
        patience: Patience,
    ) -> Result<Box<Block>, GetError> {
        let room = match self.config.max_bytes {
            None => {
                if let Some(block) = self.take_idle(fit, false) {
                    return Ok(block);
                }
                self.claim(fit.fresh).ok_or_else(|| GetError::Refused {
                    requested: fit.len,
                    source: io::ErrorKind::OutOfMemory.into(),
                })?
            }
            Some(max_bytes) => match self.admit(fit, max_bytes, patience)? {
                Grant::Idle(block) => return Ok(block),
                Grant::Room(room) => room,
            },
        };
        let heat = if self.was_evicted_early(fit) {
            Heat::Hot
        } else {
            Heat::NEW
        };
        let block = self.map(room, fit, heat)?;
        add(&self.tally.fresh, 1);
        Ok(block)
    }

    /// Finds an idle buffer or room for a new one in a capped pool.
    fn admit(
        self: &Arc<Self>,
        fit: &Fit,
        max_bytes: usize,
        patience: Patience,
    ) -> Result<Grant, GetError> {
        if fit.fresh > max_bytes {
            return Err(GetError::ExceedsMax {
                requested: fit.len,
                max_bytes,
            });
        }
        if !self.gate.needs_attention()
            && let Some(block) = self.take_idle(fit, false)
        {
            return Ok(Grant::Idle(block));
        }
        let (grant, waited) = self.gate.pass(patience, |in_line| {
            let idle = if in_line {
                self.gather(fit).or_else(|| self.take_idle(fit, true))
            } else {
                self.take_idle(fit, false)
            };
            match idle {
                Some(block) => Some(Grant::Idle(block)),
                None => self.make_room(fit.fresh, max_bytes).map(Grant::Room),
            }
        });
        if let Some(waited) = waited {
            add(&self.tally.waits, 1);
            add(&self.tally.wait_nanos, nanos(waited));
        }
        grant.ok_or_else(|| {
            let idle = self.idle_bytes();
            GetError::AtCapacity {
                requested: fit.len,
                leased: self.held_bytes().saturating_sub(idle),
                idle,
                max_bytes,
                waited: waited.unwrap_or_default(),
            }
        })
    }

    /// Claims `bytes`, if the cap allows.
    fn claim(self: &Arc<Self>, bytes: usize) -> Option<Claim> {
        let max = self.config.max_bytes.unwrap_or(isize::MAX as usize);
        let before = self
            .held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| {
                held.checked_add(bytes).filter(|&sum| sum <= max)
            })
            .ok()?;
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Some(Claim {
            store: Arc::clone(self),
            bytes,
            pinned: false,
        })
    }

    /// Claims `bytes`, freeing idle buffers if that is what it takes, and none if it would not help.
    fn make_room(self: &Arc<Self>, bytes: usize, max_bytes: usize) -> Option<Claim> {
        loop {
            if let Some(claim) = self.claim(bytes) {
                return Some(claim);
            }
            let missing = self
                .held
                .load(Ordering::SeqCst)
                .saturating_sub(max_bytes - bytes);
            if self.idle_bytes() < missing {
                return None;
            }
            drop(self.evict()?);
        }
    }

    /// Takes memory from the operating system.
    fn map(&self, room: Claim, fit: &Fit, heat: Heat) -> Result<Box<Block>, GetError> {
        let start = Instant::now();
        let mut memory = match Memory::map(room.bytes, self.config.huge_pages) {
            Ok(memory) => memory,
            Err(source) => {
                // The room is free again: the next in line may use it.
                drop(room);
                self.heed_attention();
                return Err(GetError::Refused {
                    requested: fit.len,
                    source,
                });
            }
        };
        if self.config.pinned_memory
            && let Err(error) = memory.lock()
        {
            add(&self.tally.pin_failures, 1);
            *self.last_pin_error.lock() = Some(error.to_string());
        }
        let seconds = start.elapsed();
        add(&self.tally.fresh_bytes, room.bytes as u64);
        add(&self.tally.fresh_nanos, nanos(seconds));
        Ok(Box::new(Block::new(
            memory,
            room,
            Origin::Fresh { seconds },
            heat,
        )))
    }

    /// Maps up to `count` buffers of `len` bytes into the shards, as long as there is room; returns how many.
    pub(crate) fn preallocate(
        self: &Arc<Self>,
        count: usize,
        len: usize,
    ) -> Result<usize, GetError> {
        let fit = Fit::new(len, self.config.page, self.config.max_bytes);
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
            if self.gate.needs_attention() || !self.shards.iter().any(|shard| self.has_room(shard))
            {
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
    /// The caller has to [heed attention](Self::heed_attention) afterwards.
    pub(crate) fn put_in_shards(&self, block: Box<Block>) {
        let max_buffers = self.config.max_buffers_per_shard;
        if self.is_closed() || block.capacity() < self.config.min_buffer_size || max_buffers == 0 {
            return;
        }
        let home = thread_number();
        if let Some(block) = self.put_where_room(home, block)
            && let Some(victim) = self.shard(home).put_evicting(block, max_buffers)
        {
            add(&self.tally.evictions, 1);
            drop(victim);
        }
    }

    /// Puts a buffer into the first shard with room, from number `first` on.
    fn put_where_room(&self, first: usize, mut block: Box<Block>) -> Option<Box<Block>> {
        for number in first..first + self.shards.len() {
            let shard = self.shard(number);
            if self.has_room(shard) {
                block = shard.put(block, self.config.max_buffers_per_shard)?;
            }
        }
        Some(block)
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
    fn take_idle(&self, fit: &Fit, thorough: bool) -> Option<Box<Block>> {
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
    fn gather(&self, fit: &Fit) -> Option<Box<Block>> {
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

    fn stolen(&self, block: Box<Block>) -> Box<Block> {
        add(&self.tally.stolen, 1);
        add(&self.tally.stolen_bytes, block.capacity() as u64);
        block
    }

    /// Takes out the idle buffer that is wanted least: by the policy from the fullest shard, else from a thread's slots.
    fn evict(&self) -> Option<Box<Block>> {
        let victim = self
            .shards
            .iter()
            .max_by_key(|shard| shard.bytes())
            .and_then(|shard| shard.evict())
            .or_else(|| {
                self.threads
                    .read()
                    .live
                    .iter()
                    .find_map(|slots| slots.steal_any())
            })?;
        add(&self.tally.evictions, 1);
        Some(victim)
    }

    /// Whether a buffer of this size was evicted a short while ago.
    fn was_evicted_early(&self, fit: &Fit) -> bool {
        self.shards
            .iter()
            .any(|shard| shard.has_ghosts() && shard.missed(fit))
    }

    /// Frees all idle memory within reach, and asks the other threads for what they hold privately.
    pub(crate) fn clear(self: &Arc<Self>) {
        local::release_private(self);
        self.recall_private();
        self.drain();
        self.heed_attention();
    }

    /// Frees idle memory until at most `target` bytes are idle; returns the bytes freed.
    pub(crate) fn trim(self: &Arc<Self>, target: usize) -> usize {
        let mut freed = 0;
        while self.idle_bytes() > target
            && let Some(victim) = self.evict()
        {
            freed += victim.capacity();
        }
        if self.idle_bytes() > target {
            freed += local::release_private(self);
        }
        if self.idle_bytes() > target {
            self.recall_private();
        }
        self.heed_attention();
        freed
    }

    pub(crate) fn shrink_to_fit(&self) {
        for shard in &self.shards {
            shard.shrink_to_fit();
        }
        self.threads.write().live.shrink_to_fit();
        self.gate.shrink_to_fit();
    }

    /// The last handle is gone: frees what is idle, and everything that comes back from now on.
    pub(crate) fn close(&self) {
        self.gate.close();
        self.recall_private();
        self.drain();
        local::tidy();
    }

    fn recall_private(&self) {
        self.recalls.fetch_add(1, Ordering::Release);
        local::recall();
    }

    /// Frees what lies in shards and slots.
    fn drain(&self) {
        for slots in &self.threads.read().live {
            slots.drain().for_each(drop);
        }
        for shard in &self.shards {
            shard.clear();
        }
    }

    /// Whether somebody waits, or the pool is closed.
    pub(crate) fn needs_attention(&self) -> bool {
        self.gate.needs_attention()
    }

    /// To be called after a buffer became idle or memory was freed.
    #[inline]
    pub(crate) fn heed_attention(&self) {
        if self.gate.needs_attention() {
            self.attend();
        }
    }

    #[cold]
    fn attend(&self) {
        if self.gate.is_closed() {
            self.drain();
        } else {
            self.gate.wake_next();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.gate.is_closed()
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
        }
        for block in slots.drain() {
            self.put_in_shards(block);
        }
        self.heed_attention();
    }

    /// Bytes leased and idle.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn pinned_bytes(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(crate) fn last_pin_error(&self) -> Option<String> {
        self.last_pin_error.lock().clone()
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().map(|shard| &**shard)
    }

    pub(crate) fn with_threads<T>(&self, look: impl FnOnce(&Threads) -> T) -> T {
        look(&self.threads.read())
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

impl Claim {
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Counts the bytes as locked from now on.
    pub(crate) fn mark_pinned(&mut self) {
        debug_assert!(!self.pinned);
        self.pinned = true;
        self.store.pinned.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.pinned {
            self.store.pinned.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.store.held.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
