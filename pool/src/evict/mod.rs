//! Which idle buffer goes when one has to.

mod clock_pro;
mod lifo;

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

/// A policy's bookkeeping for one shard.
pub(crate) enum Evictor {
    ClockPro(ClockPro),
    Lifo(Lifo),
}

/// Where a policy keeps a buffer, so that it need not be searched.
pub(crate) type Ticket = usize;

impl Evictor {
    /// Bookkeeping for a shard of at most `max_buffers`.
    pub(crate) fn new(policy: EvictionPolicy, max_buffers: usize) -> Self {
        match policy {
            EvictionPolicy::ClockPro => Self::ClockPro(ClockPro::new(max_buffers)),
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

    /// A request found nothing idle: was what it needed evicted a short while ago? Then the new buffer starts hot.
    pub(crate) fn missed(&mut self, fit: &Fit) -> bool {
        match self {
            Self::ClockPro(clock) => clock.missed(fit),
            Self::Lifo(_) => false,
        }
    }

    /// How many evicted buffers are remembered.
    pub(crate) fn ghosts(&self) -> usize {
        match self {
            Self::ClockPro(clock) => clock.ghosts(),
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
