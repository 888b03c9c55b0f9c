//! Which idle buffer goes when one has to.

mod clock_pro;
mod lifo;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use clock_pro::ClockPro;
use lifo::Lifo;

use crate::fit::Fit;

/// Which idle buffer goes when a shard overflows, when `max_bytes` needs room, and when the pool is trimmed.
///
/// Both policies hand buffers *out* in the same way: the best fitting capacity, and of equal ones the last returned,
/// whose bytes are likeliest to be in a CPU cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// CLOCK-Pro (Jiang, Chen and Zhang, USENIX ATC 2005): buffers that are reused at short distances stay, those that
    /// were wanted once go first, and the balance between the two adapts to what was evicted too early.
    #[default]
    ClockPro,
    /// Last in, first out: the buffer that was returned last goes first, so a full pool keeps what it has. The least
    /// bookkeeping; best where all buffers have one size.
    Lifo,
}

/// An idle buffer within one shard: equal capacities are told apart by when they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) capacity: usize,
    pub(crate) stamp: u64,
}

/// What CLOCK-Pro knows of a buffer; it travels with the buffer while that is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heat {
    Hot,
    Cold { in_test: bool },
}

impl Heat {
    /// A buffer seen for the first time is on probation.
    pub(crate) const NEW: Self = Self::Cold { in_test: true };
}

/// What the shards' clocks have in common. Changes only while something is evicted, or was missed that had been.
#[derive(Default)]
pub(crate) struct Balance {
    /// The most bytes that were idle at once when something had to go.
    memory: AtomicUsize,
    /// Bytes that cold buffers should have; hot ones get the rest.
    cold_target: AtomicUsize,
}

impl Balance {
    /// Something has to go while `idle` bytes are idle.
    pub(crate) fn observe(&self, idle: usize) {
        self.memory.fetch_max(idle, Ordering::Relaxed);
    }

    /// Starts over with `idle` bytes.
    pub(crate) fn reset(&self, idle: usize) {
        self.memory.store(idle, Ordering::Relaxed);
        self.cold_target.fetch_min(idle, Ordering::Relaxed);
    }

    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    pub(crate) fn cold_target(&self) -> usize {
        self.cold_target.load(Ordering::Relaxed)
    }

    /// Bytes that hot buffers may have.
    pub(crate) fn hot_target(&self) -> usize {
        self.memory().saturating_sub(self.cold_target())
    }

    fn grow_cold_target(&self, bytes: usize) {
        self.adapt(|target| target.saturating_add(bytes).min(self.memory()));
    }

    fn shrink_cold_target(&self, bytes: usize) {
        self.adapt(|target| target.saturating_sub(bytes));
    }

    fn adapt(&self, change: impl Fn(usize) -> usize) {
        // A shard's lock is held, not all of them: another shard may adapt at the same time.
        let _ = self
            .cold_target
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |target| {
                Some(change(target))
            });
    }
}

/// A policy's bookkeeping for one shard.
pub(crate) enum Evictor {
    ClockPro(ClockPro),
    Lifo(Lifo),
}

/// Where a policy keeps a buffer, so that it need not be searched.
pub(crate) type Ticket = usize;

impl Evictor {
    /// Bookkeeping for a shard of at most `max_buffers`.
    pub(crate) fn new(policy: EvictionPolicy, max_buffers: usize, balance: &Arc<Balance>) -> Self {
        match policy {
            EvictionPolicy::ClockPro => {
                Self::ClockPro(ClockPro::new(max_buffers, Arc::clone(balance)))
            }
            EvictionPolicy::Lifo => Self::Lifo(Lifo::default()),
        }
    }

    /// A buffer comes in; `referenced` says that it was reused since it was last seen.
    pub(crate) fn insert(&mut self, key: Key, heat: Heat, referenced: bool) -> Ticket {
        match self {
            Self::ClockPro(clock) => clock.insert(key, heat, referenced),
            Self::Lifo(lifo) => lifo.insert(key),
        }
    }

    /// A buffer leaves without being evicted: it was leased.
    pub(crate) fn remove(&mut self, key: Key, ticket: Ticket) -> Heat {
        match self {
            Self::ClockPro(clock) => clock.remove(ticket),
            Self::Lifo(lifo) => {
                lifo.remove(key);
                Heat::NEW
            }
        }
    }

    /// Chooses the buffer to free and forgets it.
    pub(crate) fn evict(&mut self) -> Option<Key> {
        match self {
            Self::ClockPro(clock) => clock.evict(),
            Self::Lifo(lifo) => lifo.evict(),
        }
    }

    /// Chooses and forgets a buffer that is not hot, if there is one.
    pub(crate) fn evict_cold(&mut self) -> Option<Key> {
        match self {
            Self::ClockPro(clock) => clock.evict_cold(),
            Self::Lifo(lifo) => lifo.evict(),
        }
    }

    /// Makes a hot buffer cold; `false` if there is none.
    pub(crate) fn cool(&mut self) -> bool {
        match self {
            Self::ClockPro(clock) => clock.cool(),
            Self::Lifo(_) => false,
        }
    }

    /// Forgets an evicted buffer; `false` if none is remembered.
    pub(crate) fn forget(&mut self) -> bool {
        match self {
            Self::ClockPro(clock) => clock.forget(),
            Self::Lifo(_) => false,
        }
    }

    /// A request found nothing idle: was what it needed evicted a short while ago? Then the new buffer starts hot.
    pub(crate) fn missed(&mut self, fit: &Fit) -> bool {
        match self {
            Self::ClockPro(clock) => clock.missed(fit),
            Self::Lifo(_) => false,
        }
    }

    /// Bytes of hot buffers.
    pub(crate) fn hot_bytes(&self) -> usize {
        match self {
            Self::ClockPro(clock) => clock.hot_bytes(),
            Self::Lifo(_) => 0,
        }
    }

    /// Bytes that the remembered evicted buffers had.
    pub(crate) fn ghost_bytes(&self) -> usize {
        match self {
            Self::ClockPro(clock) => clock.ghost_bytes(),
            Self::Lifo(_) => 0,
        }
    }

    /// Forgets what was evicted, and gives unused bookkeeping memory back.
    pub(crate) fn shrink_to_fit(&mut self) {
        match self {
            Self::ClockPro(clock) => clock.shrink_to_fit(),
            Self::Lifo(_) => {}
        }
    }
}
