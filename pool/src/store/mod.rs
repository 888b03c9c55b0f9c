//! What all handles of a pool, all its buffers and all threads share: how a request is served, and who has to be told.

mod account;
mod age;
mod evict;
mod idle;

use std::{
    error::Error,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

pub(crate) use self::account::Claim;
pub(crate) use self::idle::thread_number;
use self::{
    account::{Tally, add, nanos},
    age::Sweeper,
};
use crate::{
    GetError, Origin, PooledBuffer, Turn,
    block::{Block, Memory, NOWHERE},
    builder::Config,
    evict::{Balance, Heat},
    fit::Fit,
    gate::{Gate, LOOK_EVERY, Patience},
    local,
    pool_id::PoolId,
    shard::Shard,
    slots::Slots,
    sync::{AtomicUsize, Held, RwLock},
};

/// The shared part of a pool. Every block holds it alive; the last public handle closes it.
///
/// Padding keeps what fast paths only read, the configuration and the gate's word, apart from what is written.
pub(crate) struct Store {
    pub(crate) config: CachePadded<Config>,
    id: PoolId,
    shards: Box<[CachePadded<Shard>]>,
    balance: Arc<Balance>,
    gate: Gate,
    /// How often threads were asked to give back what they hold privately.
    recalls: CachePadded<AtomicUsize>,
    /// Bytes of all blocks. Changes only when memory is taken from the operating system or given back to it.
    held: CachePadded<Held>,
    peak: AtomicUsize,
    pinned: AtomicUsize,
    pub(crate) tally: Tally,
    last_pin_error: Mutex<Option<String>>,
    threads: RwLock<Threads>,
    sweeper: Sweeper,
    /// Held by whoever takes several buffers that are of no use one by one.
    turns: Mutex<()>,
}

/// The threads that cache buffers of this pool.
#[derive(Default)]
pub(crate) struct Threads {
    pub(crate) live: Vec<Arc<Slots>>,
    /// Leases that threads served from their caches before they ended, the capacity of these, and what of it was not asked for, in bytes.
    pub(crate) past_hits: u64,
    pub(crate) past_reused_bytes: u64,
    pub(crate) past_excess_bytes: u64,
}

/// What a request gets from the gate.
enum Grant {
    Idle(Box<Block>),
    Room(Claim),
}

/// Ends a lease of `len` bytes.
#[inline]
pub(crate) fn give_back(mut block: Box<Block>, len: usize) {
    if block.zero_on_return {
        block.zero(len);
    }
    if let Some(block) = local::put(block) {
        give_to_shards(block);
    }
}

/// Ends a lease on a thread that caches nothing of the pool.
#[cold]
fn give_to_shards(block: Box<Block>) {
    // The block may be the last to hold the store, and may be freed here.
    let store = Arc::clone(block.store());
    store.give_to_shards(block);
}

impl Store {
    pub(crate) fn new(config: Config) -> Self {
        let balance = Arc::default();
        let new_shard = |_| {
            Shard::new(
                config.eviction_policy,
                config.max_buffers_per_shard,
                &balance,
            )
        };
        Self {
            id: PoolId::new(),
            shards: (0..config.num_shards)
                .map(|number| new_shard(number).into())
                .collect(),
            balance,
            config: config.into(),
            gate: Gate::default(),
            recalls: CachePadded::default(),
            held: CachePadded::default(),
            peak: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
            tally: Tally::default(),
            last_pin_error: Mutex::default(),
            threads: RwLock::default(),
            sweeper: Sweeper::default(),
            turns: Mutex::default(),
        }
    }

    /// Keeps what comes back in the shards, or frees it, and tells those who wait for it.
    pub(crate) fn give_to_shards(&self, block: Box<Block>) {
        self.put_in_shards(block);
        self.heed_attention();
        self.tick();
    }

    /// What a request of `len` bytes accepts.
    #[inline]
    pub(crate) fn fit(&self, len: usize) -> Fit {
        Fit::new(len, self.config.page, self.config.max_bytes)
    }

    /// Leases what `fit` asks for.
    #[inline]
    pub(crate) fn lease(
        self: &Arc<Self>,
        fit: Fit,
        patience: Patience<'_>,
    ) -> Result<PooledBuffer, GetError> {
        if fit.len == 0 {
            return Ok(PooledBuffer::empty());
        }
        let mut block = match local::take(self, &fit) {
            Some(block) => block,
            None => self.lease_shared(&fit, patience)?,
        };
        if fit.populated {
            // It may have come back from who asked for it untouched, and never said that it was.
            block.pin();
        }
        Ok(PooledBuffer::new(block, fit.len))
    }

    /// Leases an idle buffer of this capacity, if there is one and nobody waits for it.
    pub(crate) fn lease_idle(self: &Arc<Self>, capacity: usize) -> Option<PooledBuffer> {
        if capacity == 0 || self.is_wanted() {
            return None;
        }
        let fit = Fit::of_capacity(capacity);
        let block = local::take(self, &fit).or_else(|| {
            let idle = self.take_idle(&fit, false);
            // As in `admit`.
            self.heed_attention();
            let mut block = idle?;
            self.count_excess(&block, &fit);
            block.recycle();
            block.home = self.home_of(capacity);
            Some(block)
        })?;
        Some(PooledBuffer::new(block, capacity))
    }

    /// Leases what this thread has not cached.
    #[cold]
    fn lease_shared(
        self: &Arc<Self>,
        fit: &Fit,
        patience: Patience<'_>,
    ) -> Result<Box<Block>, GetError> {
        let mut block = self.find_or_map(fit, patience)?;
        self.count_excess(&block, fit);
        block.home = self.home_of(block.capacity());
        self.tick();
        Ok(block)
    }

    fn count_excess(&self, block: &Block, fit: &Fit) {
        add(
            &self.tally.excess_bytes,
            (block.capacity() - fit.len) as u64,
        );
    }

    fn find_or_map(
        self: &Arc<Self>,
        fit: &Fit,
        patience: Patience<'_>,
    ) -> Result<Box<Block>, GetError> {
        let room = match self.config.max_bytes {
            None => {
                if let Some(mut block) = self.take_idle(fit, false) {
                    block.recycle();
                    return Ok(block);
                }
                self.claim(fit.fresh).ok_or_else(|| GetError::Refused {
                    requested: fit.len,
                    source: io::ErrorKind::OutOfMemory.into(),
                })?
            }
            Some(max_bytes) => match self.admit(fit, max_bytes, patience)? {
                Grant::Idle(mut block) => {
                    block.recycle();
                    return Ok(block);
                }
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
        patience: Patience<'_>,
    ) -> Result<Grant, GetError> {
        if fit.fresh > max_bytes {
            return Err(GetError::ExceedsMax {
                requested: fit.len,
                max_bytes,
            });
        }
        if !self.gate.needs_attention() {
            let idle = self.take_idle(fit, false);
            // A buffer may have moved from a slot to a shard behind the back of somebody who now waits.
            self.heed_attention();
            if let Some(block) = idle {
                return Ok(Grant::Idle(block));
            }
        }
        let mut announced = false;
        let (grant, waited) = self.gate.pass(patience, |in_line| {
            if in_line && !std::mem::replace(&mut announced, true) {
                self.await_stores();
            }
            let idle = if in_line {
                self.gather(fit).or_else(|| self.take_idle(fit, true))
            } else {
                self.take_idle(fit, false)
            };
            match idle {
                Some(block) => Some(Grant::Idle(block)),
                None => self.make_room(fit, max_bytes),
            }
        });
        if let Some(waited) = waited {
            add(&self.tally.waits, 1);
            add(&self.tally.wait_nanos, nanos(waited));
        }
        grant.ok_or_else(|| self.at_capacity(fit.len, max_bytes, waited.unwrap_or_default()))
    }

    fn at_capacity(&self, requested: usize, max_bytes: usize, waited: Duration) -> GetError {
        let idle = self.idle_bytes();
        GetError::AtCapacity {
            requested,
            leased: self.held_bytes().saturating_sub(idle),
            idle,
            max_bytes,
            waited,
        }
    }

    /// Waits for a turn at gathering `bytes` in several buffers.
    pub(crate) fn take_turn(
        &self,
        bytes: usize,
        timeout: Duration,
        is_over: Option<&dyn Fn() -> bool>,
    ) -> Result<Turn<'_>, GetError> {
        let max_bytes = self.config.max_bytes.unwrap_or(usize::MAX);
        if bytes > max_bytes {
            return Err(GetError::ExceedsMax {
                requested: bytes,
                max_bytes,
            });
        }
        let since = Instant::now();
        loop {
            let left = timeout.saturating_sub(since.elapsed());
            // Who need not look keeps the place in line.
            let wait = is_over.map_or(left, |_| left.min(LOOK_EVERY));
            if let Some(_guard) = self.turns.try_lock_for(wait) {
                return Ok(Turn { _guard });
            }
            if left <= wait || is_over.is_some_and(|is_over| is_over()) {
                return Err(self.at_capacity(bytes, max_bytes, since.elapsed()));
            }
        }
    }

    /// Takes memory from the operating system.
    fn map(&self, room: Claim, fit: &Fit, heat: Heat) -> Result<Box<Block>, GetError> {
        let start = Instant::now();
        let mapped = Memory::map(room.bytes, self.config.advised).and_then(|mut memory| {
            if fit.populated {
                memory.populate()?;
            }
            Ok(memory)
        });
        let memory = match mapped {
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
        let mut block = Block::new(memory, room, Origin::Recycled, heat);
        if fit.populated {
            block.pin();
        }
        let time = start.elapsed();
        block.origin = Origin::Fresh { time };
        add(&self.tally.fresh_bytes, block.capacity() as u64);
        add(&self.tally.fresh_nanos, nanos(time));
        Ok(Box::new(block))
    }

    /// Counts memory that could not be pinned.
    pub(crate) fn pin_failed(&self, error: &dyn Error) {
        add(&self.tally.pin_failures, 1);
        *self.last_pin_error.lock() = Some(error.to_string());
    }

    /// A block that nobody asked for.
    #[cfg(all(test, pool_loom))]
    pub(crate) fn fresh(self: &Arc<Self>, bytes: usize) -> Box<Block> {
        let room = self.claim(bytes).expect("room");
        self.map(room, &self.fit(bytes), Heat::NEW)
            .expect("a small map")
    }

    /// After a change of the gate's word: whatever a thread put into a slot without noticing the change is visible afterwards.
    fn await_stores(&self) {
        if !self.threads.read().live.is_empty() {
            self.config.asymmetric.heavy();
        }
    }

    /// The last handle is gone: frees what is idle, and everything that comes back from now on.
    pub(crate) fn close(&self) {
        self.gate.close();
        self.await_stores();
        self.recall_private();
        self.drain();
        local::tidy();
    }

    pub(crate) fn id(&self) -> usize {
        self.id.number()
    }

    /// The home of a buffer of this capacity that the calling thread leases.
    pub(crate) fn home_of(&self, capacity: usize) -> usize {
        if self.config.keeps_privately(capacity) {
            thread_number()
        } else {
            NOWHERE
        }
    }

    /// Whether requests wait for memory that lies idle.
    pub(crate) fn is_wanted(&self) -> bool {
        self.config.max_bytes.is_some() && self.gate.needs_attention()
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

    /// As [`heed_attention`](Self::heed_attention), where a buffer became idle by a plain store.
    #[inline]
    pub(crate) fn heed_attention_after_store(&self) {
        self.config.asymmetric.light();
        self.heed_attention();
    }

    #[cold]
    fn attend(&self) {
        if self.gate.is_closed() {
            self.drain();
        } else {
            self.gate.wake_next();
        }
    }

    /// How many requests wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.gate.is_closed()
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
}
