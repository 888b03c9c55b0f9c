//! A part of the shared idle buffers, behind its own lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    block::Block,
    evict::{Balance, EvictionPolicy, Evictor, Key, Ticket},
    fit::Fit,
    sync::{AtomicUsize, Mutex},
};

/// Idle buffers by capacity, and the eviction policy's view of them.
///
/// The sums beside the lock are written under it. Who reads them without it gets a hint.
pub(crate) struct Shard {
    len: AtomicUsize,
    bytes: AtomicUsize,
    hot_bytes: AtomicUsize,
    ghost_bytes: AtomicUsize,
    contents: Mutex<Contents>,
}

struct Contents {
    /// Best fit is the first key in a range; of one capacity the largest stamp was returned last.
    idle: BTreeMap<Key, (Box<Block>, Ticket)>,
    evictor: Evictor,
    bytes: usize,
    next_stamp: u64,
    hits: Hits,
}

/// What a shard served, and to whom.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hits {
    /// Leases by threads whose home this shard is.
    pub(crate) home: u64,
    /// Leases by other threads.
    pub(crate) stolen: u64,
    /// Capacity of both, in bytes.
    pub(crate) bytes: u64,
}

impl Shard {
    pub(crate) fn new(policy: EvictionPolicy, max_buffers: usize, balance: &Arc<Balance>) -> Self {
        Self {
            len: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            hot_bytes: AtomicUsize::new(0),
            ghost_bytes: AtomicUsize::new(0),
            contents: Mutex::new(Contents {
                idle: BTreeMap::new(),
                evictor: Evictor::new(policy, max_buffers, balance),
                bytes: 0,
                next_stamp: 0,
                hits: Hits::default(),
            }),
        }
    }

    /// Idle buffers; exact only while nobody changes them.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Idle bytes; exact only while nobody changes them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of the idle bytes, those in hot buffers; exact only while nobody changes them.
    pub(crate) fn hot_bytes(&self) -> usize {
        self.hot_bytes.load(Ordering::Relaxed)
    }

    /// Idle bytes in buffers that are not hot; exact only while nobody changes them.
    pub(crate) fn cold_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.hot_bytes())
    }

    /// Bytes that the remembered evicted buffers had; a hint.
    pub(crate) fn ghost_bytes(&self) -> usize {
        self.ghost_bytes.load(Ordering::Relaxed)
    }

    /// The idle buffers' capacities.
    pub(crate) fn capacities(&self) -> Vec<usize> {
        let contents = self.contents.lock();
        contents.idle.keys().map(|key| key.capacity).collect()
    }

    pub(crate) fn hits(&self) -> Hits {
        self.contents.lock().hits
    }

    /// Leases the best fitting buffer.
    pub(crate) fn take(&self, fit: &Fit, at_home: bool) -> Option<Box<Block>> {
        self.locked(|contents| {
            let key = contents.best_fit(fit)?;
            let block = contents.remove(key)?;
            let hits = &mut contents.hits;
            hits.bytes += block.capacity() as u64;
            *(if at_home {
                &mut hits.home
            } else {
                &mut hits.stolen
            }) += 1;
            Some(block)
        })
    }

    /// Puts a buffer in unless there are `max_buffers`; gives it back if so.
    pub(crate) fn put(&self, block: Box<Block>, max_buffers: usize) -> Option<Box<Block>> {
        self.locked(|contents| {
            if contents.idle.len() >= max_buffers {
                return Some(block);
            }
            contents.insert(block);
            None
        })
    }

    /// Puts a buffer in; gives back the one that the policy wants least, if that makes one more than `max_buffers`.
    pub(crate) fn put_evicting(&self, block: Box<Block>, max_buffers: usize) -> Option<Box<Block>> {
        self.locked(|contents| {
            contents.insert(block);
            (contents.idle.len() > max_buffers)
                .then(|| contents.evict())
                .flatten()
        })
    }

    /// Takes out the buffer that the policy wants least, but no hot one.
    pub(crate) fn evict_cold(&self) -> Option<Box<Block>> {
        self.locked(|contents| {
            let victim = contents.evictor.evict_cold()?;
            contents.evicted(victim)
        })
    }

    /// Makes a hot buffer cold; `false` if there is none.
    pub(crate) fn cool(&self) -> bool {
        self.locked(|contents| contents.evictor.cool())
    }

    /// Forgets an evicted buffer; `false` if none is remembered.
    pub(crate) fn forget(&self) -> bool {
        self.locked(|contents| contents.evictor.forget())
    }

    /// Whether a buffer that would have served `fit` was evicted a short while ago; asking forgets it.
    pub(crate) fn missed(&self, fit: &Fit) -> bool {
        self.locked(|contents| contents.evictor.missed(fit))
    }

    /// Takes out what came before the buffer stamped `stamp`; also returns the stamp that the next one gets.
    pub(crate) fn take_older(&self, stamp: u64) -> (impl Iterator<Item = Box<Block>>, u64) {
        self.locked(|contents| {
            let old: Vec<_> = contents
                .idle
                .keys()
                .filter(|key| key.stamp < stamp)
                .copied()
                .collect();
            let taken: Vec<_> = old
                .into_iter()
                .filter_map(|key| contents.remove(key))
                .collect();
            (taken.into_iter(), contents.next_stamp)
        })
    }

    /// Frees everything.
    pub(crate) fn clear(&self) {
        let freed = self.locked(|contents| {
            contents.bytes = 0;
            let idle = std::mem::take(&mut contents.idle);
            for (key, (_, ticket)) in &idle {
                contents.evictor.remove(*key, *ticket);
            }
            idle
        });
        // Unmapping takes its time, and nobody has to wait for it.
        drop(freed);
    }

    /// Forgets what was evicted, and gives unused bookkeeping memory back.
    pub(crate) fn shrink_to_fit(&self) {
        self.locked(|contents| contents.evictor.shrink_to_fit());
    }

    fn locked<T>(&self, change: impl FnOnce(&mut Contents) -> T) -> T {
        let mut contents = self.contents.lock();
        let result = change(&mut contents);
        self.hot_bytes
            .store(contents.evictor.hot_bytes(), Ordering::Relaxed);
        self.ghost_bytes
            .store(contents.evictor.ghost_bytes(), Ordering::Relaxed);
        self.len.store(contents.idle.len(), Ordering::Relaxed);
        self.bytes.store(contents.bytes, Ordering::Relaxed);
        result
    }
}

impl Contents {
    fn best_fit(&self, fit: &Fit) -> Option<Key> {
        let (least, most) = fit.capacities().into_inner();
        let from = |capacity| Key { capacity, stamp: 0 };
        let to = |capacity| Key {
            capacity,
            stamp: u64::MAX,
        };
        let (best, _) = self.idle.range(from(least)..=to(most)).next()?;
        let (last, _) = self.idle.range(*best..=to(best.capacity)).next_back()?;
        Some(*last)
    }

    fn insert(&mut self, mut block: Box<Block>) {
        let key = Key {
            capacity: block.capacity(),
            stamp: self.next_stamp,
        };
        self.next_stamp += 1;
        self.bytes += key.capacity;
        let referenced = std::mem::take(&mut block.referenced);
        let ticket = self.evictor.insert(key, block.heat, referenced);
        self.idle.insert(key, (block, ticket));
    }

    fn remove(&mut self, key: Key) -> Option<Box<Block>> {
        let (mut block, ticket) = self.idle.remove(&key)?;
        self.bytes -= key.capacity;
        block.heat = self.evictor.remove(key, ticket);
        Some(block)
    }

    fn evict(&mut self) -> Option<Box<Block>> {
        let victim = self.evictor.evict()?;
        self.evicted(victim)
    }

    /// Takes out what the policy has chosen and forgotten.
    fn evicted(&mut self, victim: Key) -> Option<Box<Block>> {
        let (block, _) = self.idle.remove(&victim)?;
        self.bytes -= victim.capacity;
        Some(block)
    }
}
