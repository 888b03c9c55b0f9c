//! The account of what is held, and the counters of the slow paths.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Grant, Store};
use crate::fit::Fit;

/// What happened on the slow paths.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) fresh: AtomicU64,
    pub(crate) fresh_bytes: AtomicU64,
    pub(crate) fresh_nanos: AtomicU64,
    pub(crate) preallocated: AtomicU64,
    pub(crate) stolen: AtomicU64,
    pub(crate) stolen_bytes: AtomicU64,
    pub(crate) excess_bytes: AtomicU64,
    /// An estimate, from some searches that are timed.
    pub(crate) reuse_nanos: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) pin_failures: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) wait_nanos: AtomicU64,
}

/// Room for one block in the pool's account; dropping it gives the room back.
pub(crate) struct Claim {
    store: Arc<Store>,
    pub(super) bytes: usize,
    pinned: bool,
}

impl Store {
    /// Claims `bytes`, if the cap allows.
    pub(super) fn claim(self: &Arc<Self>, bytes: usize) -> Option<Claim> {
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

    /// Makes room for what `fit` asks for, freeing idle buffers if that is what it takes, and none if it would not help.
    ///
    /// A buffer that came back meanwhile and fits is not freed but leased.
    pub(super) fn make_room(self: &Arc<Self>, fit: &Fit, max_bytes: usize) -> Option<Grant> {
        loop {
            if let Some(claim) = self.claim(fit.fresh) {
                return Some(Grant::Room(claim));
            }
            let missing = self
                .held
                .load(Ordering::SeqCst)
                .saturating_sub(max_bytes - fit.fresh);
            if self.idle_bytes() < missing {
                return None;
            }
            // Moves what lies in slots to the shards, where it is found.
            let victim = self.evict()?;
            if let Some(block) = self.take_idle(fit, true) {
                self.put_in_shards(victim);
                return Some(Grant::Idle(block));
            }
            if fit.accepts(victim.capacity()) {
                return Some(Grant::Idle(self.stolen(victim)));
            }
            add(&self.tally.evictions, 1);
        }
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

/// Adds to a counter that nothing is ordered by.
pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
