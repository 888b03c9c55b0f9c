//! What a thread keeps for itself: the path that takes no lock.
//!
//! A thread has one cache for each pool that it returned a buffer to. A cache has two kinds of place:
//!
//! * a *private* stack, without any atomic exchange, for buffers that are small and cheap to lose sight of: up to
//!   [`PRIVATE_BUFFER`] each and [`PRIVATE_BYTES`] together, only if the pool has no cap to keep, and only if this
//!   thread leased them: what another thread leased, it may soon look for;
//! * [`Slots`], from which other threads can take, for everything else.
//!
//! What is private goes back when the thread next touches any pool after it was recalled, or when the thread ends.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    block::Block,
    fit::Fit,
    slots::Slots,
    store::{Store, thread_number},
};

/// Largest buffer, in bytes, that is kept on a private stack.
const PRIVATE_BUFFER: usize = 4 << 20;
/// Most bytes that a thread keeps on the private stack of one pool.
pub(crate) const PRIVATE_BYTES: usize = 8 << 20;

/// So many hits of a thread's cache pass until somebody looks at the clock.
const TICK_EVERY: u64 = 1024;

/// Moves when some pool recalls private buffers or is dropped, so that threads look after their caches.
///
/// Read on every operation and written almost never: its cache line stays shared.
static RECALLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CACHES: RefCell<Caches> = const { RefCell::new(Caches { recalls: 0, pools: Vec::new() }) };
}

/// Makes every thread look after its caches before its next operation.
pub(crate) fn recall() {
    RECALLS.fetch_add(1, Ordering::Release);
}

/// Leases a buffer from this thread's cache.
#[inline]
pub(crate) fn take(store: &Arc<Store>, fit: &Fit) -> Option<Box<Block>> {
    CACHES
        .try_with(|caches| caches.try_borrow_mut().ok()?.take(store, fit))
        .ok()
        .flatten()
}

/// Puts a buffer into this thread's cache; what must go to the shards instead comes back.
///
/// While a thread ends its caches may be gone already; then that is the buffer itself.
#[inline]
pub(crate) fn put(block: Box<Block>) -> Option<Box<Block>> {
    let mut left = Some(block);
    // An error means that the thread is ending.
    let _ = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut()
            && let Some(block) = left.take()
        {
            left = caches.put(block);
        }
    });
    left
}

/// Frees what this thread holds privately of a pool.
pub(crate) fn release_private(store: &Arc<Store>) -> usize {
    CACHES
        .try_with(|caches| {
            let mut caches = caches.try_borrow_mut().ok()?;
            let cache = caches.find(store)?;
            Some(cache.release_private())
        })
        .ok()
        .flatten()
        .unwrap_or(0)
}

/// Looks after this thread's caches: forgets those of pools that are gone.
pub(crate) fn tidy() {
    let _ = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut() {
            caches.tidy();
        }
    });
}

/// A thread's caches, one for each pool.
struct Caches {
    /// [`RECALLS`] when the caches were last looked after.
    recalls: usize,
    pools: Vec<Cache>,
}

impl Caches {
    #[inline]
    fn find(&mut self, store: &Arc<Store>) -> Option<&mut Cache> {
        self.pools
            .iter_mut()
            .find(|cache| Arc::ptr_eq(&cache.store, store))
    }

    #[inline]
    fn take(&mut self, store: &Arc<Store>, fit: &Fit) -> Option<Box<Block>> {
        self.heed_recalls();
        self.find(store)?.take(fit)
    }

    #[inline]
    fn put(&mut self, block: Box<Block>) -> Option<Box<Block>> {
        self.heed_recalls();
        match self.find(block.store()) {
            Some(cache) => cache.put(block),
            None => self.put_first(block),
        }
    }

    /// Puts the first buffer of a pool.
    #[cold]
    fn put_first(&mut self, block: Box<Block>) -> Option<Box<Block>> {
        let store = block.store();
        if !store.caches_in_threads(block.capacity()) {
            return Some(block);
        }
        let mut cache = Cache::new(Arc::clone(store));
        let left = cache.put(block);
        self.pools.push(cache);
        left
    }

    #[inline]
    fn heed_recalls(&mut self) {
        if RECALLS.load(Ordering::Relaxed) != self.recalls {
            self.tidy();
        }
    }

    #[cold]
    fn tidy(&mut self) {
        self.recalls = RECALLS.load(Ordering::Acquire);
        self.pools.retain_mut(|cache| {
            cache.heed_recall();
            !cache.store.is_closed()
        });
    }
}

/// A thread's cache for one pool.
struct Cache {
    store: Arc<Store>,
    slots: Arc<Slots>,
    /// Capacity and buffer, the last returned on top.
    private: Vec<(usize, Box<Block>)>,
    private_bytes: usize,
    /// Occupied slots; other threads may have emptied some.
    in_slots: usize,
    /// The slot that was used last.
    recent: usize,
    /// Most buffers on the stack and in the slots together.
    max_buffers: usize,
    max_private_bytes: usize,
    /// Number of puts into the slots.
    generation: u64,
    /// The pool's recalls that were heeded.
    recalls: usize,
    /// The thread's number.
    thread: usize,
}

impl Cache {
    fn new(store: Arc<Store>) -> Self {
        let max_buffers = store.config.tls_cache_size;
        Self {
            slots: store.add_thread(Slots::new(max_buffers)),
            private: Vec::with_capacity(max_buffers),
            private_bytes: 0,
            in_slots: 0,
            recent: 0,
            max_buffers,
            max_private_bytes: store.config.private_bytes(),
            generation: 0,
            recalls: store.recalls(),
            thread: thread_number(),
            store,
        }
    }

    #[inline]
    fn take(&mut self, fit: &Fit) -> Option<Box<Block>> {
        let block = match self.private.last() {
            Some(&(capacity, _)) if capacity == fit.fresh => self.pop(self.private.len() - 1),
            _ => self.search(fit),
        }?;
        self.slots.counters.hit(block.capacity());
        if self.slots.counters.hits().is_multiple_of(TICK_EVERY) {
            self.store.tick();
        }
        Some(block)
    }

    #[inline]
    fn search(&mut self, fit: &Fit) -> Option<Box<Block>> {
        let best = self
            .private
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, (capacity, _))| fit.accepts(*capacity))
            .min_by_key(|(_, (capacity, _))| *capacity);
        if let Some((index, _)) = best {
            return self.pop(index);
        }
        let mut block = self.slots.take(fit, &mut self.recent)?;
        self.in_slots = self.in_slots.saturating_sub(1);
        block.lessee = self.thread;
        Some(block)
    }

    #[inline]
    fn put(&mut self, block: Box<Block>) -> Option<Box<Block>> {
        let capacity = block.capacity();
        if capacity < self.store.config.min_buffer_size {
            return Some(block);
        }
        if self.is_private(&block) && self.private.len() + self.in_slots < self.max_buffers {
            self.push(capacity, block);
            return None;
        }
        self.put_shared(capacity, block)
    }

    /// Puts a buffer where others reach it, or makes room by giving the longest unused one away.
    fn put_shared(&mut self, capacity: usize, block: Box<Block>) -> Option<Box<Block>> {
        if self.store.needs_attention() {
            return Some(block);
        }
        let mut spilled = None;
        if self.private.len() + self.in_slots >= self.max_buffers {
            self.in_slots = self.slots.occupied();
        }
        if self.private.len() + self.in_slots >= self.max_buffers {
            spilled = self.make_room(capacity <= PRIVATE_BUFFER);
        }
        if self.is_private(&block) {
            self.push(capacity, block);
            return spilled;
        }
        self.generation += 1;
        self.in_slots += 1;
        let displaced = self.slots.put(block, self.generation, &mut self.recent);
        self.store.heed_attention();
        debug_assert!(displaced.is_none() || spilled.is_none());
        displaced.or(spilled)
    }

    /// Takes out the buffer that was not used for longest, of the wanted kind if there is one.
    fn make_room(&mut self, prefer_private: bool) -> Option<Box<Block>> {
        if !self.private.is_empty() && (prefer_private || self.in_slots == 0) {
            return self.pop(0);
        }
        self.in_slots = self.in_slots.saturating_sub(1);
        self.slots.take_oldest()
    }

    /// Whether a buffer goes on the private stack: it is small, and this is the thread that will want it again.
    ///
    /// What another thread leased stays where that thread reaches it.
    #[inline]
    fn is_private(&self, block: &Block) -> bool {
        let capacity = block.capacity();
        block.lessee == self.thread
            && capacity <= PRIVATE_BUFFER
            && self.private_bytes + capacity <= self.max_private_bytes
    }

    #[inline]
    fn push(&mut self, capacity: usize, block: Box<Block>) {
        self.private.push((capacity, block));
        self.set_private_bytes(self.private_bytes + capacity);
    }

    #[inline]
    fn pop(&mut self, index: usize) -> Option<Box<Block>> {
        let (capacity, block) = if index + 1 == self.private.len() {
            self.private.pop()?
        } else {
            self.private.remove(index)
        };
        self.set_private_bytes(self.private_bytes - capacity);
        Some(block)
    }

    #[inline]
    fn set_private_bytes(&mut self, bytes: usize) {
        self.private_bytes = bytes;
        self.slots.counters.set_private_bytes(bytes);
    }

    fn heed_recall(&mut self) {
        let recalls = self.store.recalls();
        if recalls != self.recalls {
            self.recalls = recalls;
            self.release_private();
        }
    }

    fn release_private(&mut self) -> usize {
        let released = self.private_bytes;
        self.private.clear();
        self.set_private_bytes(0);
        released
    }
}

impl Drop for Cache {
    /// The thread ends, or the pool is gone: what is left goes to the shards, which know what to do with it.
    fn drop(&mut self) {
        self.heed_recall();
        for (_, block) in self.private.drain(..) {
            self.store.put_in_shards(block);
        }
        self.slots.counters.set_private_bytes(0);
        self.store.remove_thread(&self.slots);
    }
}
