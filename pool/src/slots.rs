//! One thread's places for idle buffers that other threads reach, too.
//!
//! Each place is a pointer that is exchanged atomically: whoever swaps a buffer out owns it. Only the owning thread puts
//! buffers in. Next to the pointer stands a *tag*, which says what lies there without taking it:
//!
//! * The owner writes a tag after it has put a buffer in. Whoever empties the place sets the tag to zero, if it is
//!   still the one that was read before the swap; a tag is used once, so a newer buffer's tag survives.
//! * So a tag may say 'occupied' of an empty place, until the owner looks, but 'empty' of an occupied one only between the
//!   owner's two steps. What the owner finds tagged empty is empty, and a plain store puts a buffer in: no exchange.
//! * Whoever must not miss a buffer ([`Slots::drain`]) swaps without looking at tags. A store that this does not see yet is noticed by
//!   the owner, who asks for attention after it: an [`Asymmetric`](crate::asymmetric::Asymmetric) fence on both sides sees to that.
//!
//! The owner uses the places as a stack, so that it finds what it wants at the top without a search.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::{
    block::Block,
    fit::{Fit, SMALL_PAGE},
    sync::{BoxCell, Tag},
};

const SLOTS_PER_LINE: usize = 8;
const EMPTY: u64 = 0;
/// Low bits of a tag: capacity in small pages. The bits above count the owner's puts.
const PAGES_BITS: u32 = 36;

/// A thread's counters and slots for one pool, shared between that thread and the pool.
///
/// Padded, so that two threads never write to one cache line on their fast paths.
pub(crate) struct Slots {
    pub(crate) counters: CachePadded<Counters>,
    lines: Box<[CachePadded<[Slot; SLOTS_PER_LINE]>]>,
    len: usize,
}

#[derive(Default)]
struct Slot {
    tag: Tag,
    block: BoxCell<Block>,
}

/// Written by the owning thread alone, so a relaxed load and store make an increment.
#[derive(Default)]
pub(crate) struct Counters {
    /// Leases served from this thread's cache.
    hits: AtomicU64,
    /// Their capacity, bytes.
    reused_bytes: AtomicU64,
    /// What of that capacity was not asked for, bytes.
    excess_bytes: AtomicU64,
    /// Bytes that lie idle where only the owner reaches them.
    private_bytes: AtomicU64,
}

impl Counters {
    /// Counts a lease of `len` bytes; says how many that makes.
    #[inline(always)]
    pub(crate) fn hit(&self, capacity: usize, len: usize) -> u64 {
        let add = |counter: &AtomicU64, by: usize| {
            let sum = counter.load(Ordering::Relaxed) + by as u64;
            counter.store(sum, Ordering::Relaxed);
            sum
        };
        add(&self.reused_bytes, capacity);
        if capacity > len {
            add(&self.excess_bytes, capacity - len);
        }
        add(&self.hits, 1)
    }

    /// For the owner.
    #[inline]
    pub(crate) fn set_private_bytes(&self, bytes: usize) {
        self.private_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub(crate) fn reused_bytes(&self) -> u64 {
        self.reused_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn excess_bytes(&self) -> u64 {
        self.excess_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn private_bytes(&self) -> usize {
        self.private_bytes.load(Ordering::Relaxed) as usize
    }
}

impl Slot {
    /// Empties the slot; clears `tag`, which was read from it before.
    fn take(&self, tag: u64) -> Option<Box<Block>> {
        let block = self.block.take();
        if tag != EMPTY {
            // Lost if the owner has put another buffer in since: then its tag must stay.
            let _ = self
                .tag
                .compare_exchange(tag, EMPTY, Ordering::AcqRel, Ordering::Relaxed);
        }
        block
    }
}

fn tag(generation: u64, capacity: usize) -> u64 {
    generation << PAGES_BITS | (capacity / SMALL_PAGE) as u64
}

fn generation(tag: u64) -> u64 {
    tag >> PAGES_BITS
}

fn capacity(tag: u64) -> usize {
    (tag & ((1 << PAGES_BITS) - 1)) as usize * SMALL_PAGE
}

impl Slots {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            counters: CachePadded::default(),
            lines: (0..len.div_ceil(SLOTS_PER_LINE))
                .map(|_| CachePadded::default())
                .collect(),
            len,
        }
    }

    #[inline]
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.lines
            .iter()
            .flat_map(|line| line.iter())
            .take(self.len)
    }

    #[inline]
    fn slot(&self, index: usize) -> &Slot {
        &self.lines[index / SLOTS_PER_LINE][index % SLOTS_PER_LINE]
    }

    /// How many slots are occupied; at most too many, if this is the owner.
    pub(crate) fn occupied(&self) -> usize {
        self.slots()
            .filter(|slot| slot.tag.load(Ordering::Relaxed) != EMPTY)
            .count()
    }

    /// Bytes that lie in the slots; a hint.
    pub(crate) fn bytes(&self) -> usize {
        self.capacities().sum()
    }

    /// The capacities of what lies in the slots; a hint.
    pub(crate) fn capacities(&self) -> impl Iterator<Item = usize> {
        self.slots()
            .map(|slot| capacity(slot.tag.load(Ordering::Acquire)))
            .filter(|&capacity| capacity > 0)
    }

    /// For the owner: puts a buffer into an empty slot; gives it back if there is none.
    ///
    /// `generation` must be larger than in any put before. `top` is the place above the one used last.
    #[inline]
    pub(crate) fn put(
        &self,
        block: Box<Block>,
        generation: u64,
        top: &mut usize,
    ) -> Option<Box<Block>> {
        let is_empty = |index: usize| self.slot(index).tag.load(Ordering::Relaxed) == EMPTY;
        let index = if *top < self.len && is_empty(*top) {
            *top
        } else {
            match (0..self.len).find(|&index| is_empty(index)) {
                Some(index) => index,
                None => return Some(block),
            }
        };
        *top = index + 1;
        let slot = self.slot(index);
        let tag = tag(generation, block.capacity());
        slot.block.put(block);
        slot.tag.store(tag, Ordering::Release);
        None
    }

    /// For the owner: takes the best fitting buffer.
    #[inline]
    pub(crate) fn take(&self, fit: &Fit, top: &mut usize) -> Option<Box<Block>> {
        let index = match top.checked_sub(1) {
            Some(index) if self.capacity_at(index) == fit.fresh => index,
            _ => self.best(fit)?,
        };
        self.take_at(index, top)
            .or_else(|| self.take_another(fit, top))
    }

    /// For the owner, who lost a buffer to another thread just now: takes the next one that fits.
    #[cold]
    fn take_another(&self, fit: &Fit, top: &mut usize) -> Option<Box<Block>> {
        // Every turn empties a place, and nobody else fills any.
        loop {
            let index = self.best(fit)?;
            if let Some(block) = self.take_at(index, top) {
                return Some(block);
            }
        }
    }

    /// For the owner: empties a place.
    #[inline]
    fn take_at(&self, index: usize, top: &mut usize) -> Option<Box<Block>> {
        let slot = self.slot(index);
        let block = slot.block.take();
        // Nobody else ever makes a tag non-zero.
        slot.tag.store(EMPTY, Ordering::Release);
        *top = index;
        block
    }

    #[inline]
    fn capacity_at(&self, index: usize) -> usize {
        capacity(self.slot(index).tag.load(Ordering::Relaxed))
    }

    /// Where the best fitting buffer lies; of equals the highest.
    fn best(&self, fit: &Fit) -> Option<usize> {
        let places = || (0..self.len).rev();
        places()
            .find(|&index| self.capacity_at(index) == fit.fresh)
            .or_else(|| {
                places()
                    .filter(|&index| fit.accepts(self.capacity_at(index)))
                    .min_by_key(|&index| self.capacity_at(index))
            })
    }

    /// For the owner: takes the buffer that has lain longest.
    pub(crate) fn take_oldest(&self) -> Option<Box<Block>> {
        let (tag, slot) = self
            .slots()
            .map(|slot| (slot.tag.load(Ordering::Relaxed), slot))
            .filter(|&(tag, _)| tag != EMPTY)
            .min_by_key(|&(tag, _)| generation(tag))?;
        slot.take(tag)
    }

    /// For any thread: takes a buffer whose tag says that it fits. The buffer that comes may be another one.
    pub(crate) fn steal(&self, fit: &Fit) -> Option<Box<Block>> {
        self.slots().find_map(|slot| {
            let tag = slot.tag.load(Ordering::Acquire);
            (tag != EMPTY && fit.accepts(capacity(tag)))
                .then(|| slot.take(tag))
                .flatten()
        })
    }

    /// For any thread: takes out one after the other, tagged or not, what lay longest first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = Box<Block>> {
        let mut tagged: Vec<_> = self
            .slots()
            .map(|slot| (slot.tag.load(Ordering::Acquire), slot))
            .collect();
        tagged.sort_by_key(|&(tag, _)| generation(tag));
        tagged.into_iter().filter_map(|(tag, slot)| slot.take(tag))
    }

    /// The slots' tags, to be compared with later ones: a tag is used once.
    pub(crate) fn tags(&self) -> Vec<u64> {
        self.slots()
            .map(|slot| slot.tag.load(Ordering::Acquire))
            .collect()
    }

    /// For any thread: takes out what has lain there since [`tags`](Self::tags) were read.
    pub(crate) fn take_unchanged(&self, tags: &[u64]) -> impl Iterator<Item = Box<Block>> {
        self.slots().zip(tags).filter_map(|(slot, &tag)| {
            (tag != EMPTY && slot.tag.load(Ordering::Acquire) == tag)
                .then(|| slot.take(tag))
                .flatten()
        })
    }

    /// For any thread: takes everything out, tagged or not.
    pub(crate) fn drain(&self) -> impl Iterator<Item = Box<Block>> {
        self.slots()
            .filter_map(|slot| slot.take(slot.tag.load(Ordering::Acquire)))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.drain().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(pool_loom))]
    fn a_slot_is_one_word_exchanged_without_a_lock() {
        assert!(BoxCell::<Block>::is_lock_free());
        assert_eq!(size_of::<Slot>(), 16);
    }

    #[test]
    fn tags_hold_capacity_and_generation() {
        for bytes in [SMALL_PAGE, 2 << 20, 1 << 40] {
            let tag = tag(77, bytes);
            assert_eq!((capacity(tag), generation(tag)), (bytes, 77));
            assert_ne!(tag, EMPTY);
        }
    }
}
