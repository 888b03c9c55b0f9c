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
    iter, mem,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    block::Block,
    fit::Fit,
    slots::Slots,
    store::{Store, thread_number},
    sync::{AtomicUsize, global, per_thread},
};

/// Largest buffer, in bytes, that is kept on a private stack.
pub(crate) const PRIVATE_BUFFER: usize = 4 << 20;
/// Most bytes that a thread keeps on the private stack of one pool.
pub(crate) const PRIVATE_BYTES: usize = 8 << 20;

/// So many hits of a thread's cache pass until somebody looks at the clock.
const TICK_EVERY: u64 = 1024;

global! {
    /// Moves when some pool recalls private buffers or is dropped, so that threads look after their caches.
    ///
    /// Read on every operation and written almost never: its cache line stays shared.
    static RECALLS: AtomicUsize = AtomicUsize::new(0);
}

per_thread! {
    static CACHES: RefCell<Caches> = const { RefCell::new(Caches::new()) };
}

/// Makes every thread look after its caches before its next operation.
pub(crate) fn recall() {
    RECALLS.fetch_add(1, Ordering::Release);
}

/// Leases a buffer from this thread's cache.
#[inline(always)]
pub(crate) fn take(store: &Store, fit: &Fit) -> Option<Box<Block>> {
    CACHES
        .try_with(|caches| caches.try_borrow_mut().ok()?.take(store, fit))
        .ok()
        .flatten()
}

/// Puts a buffer into this thread's cache; what must go to the shards instead comes back.
///
/// While a thread ends its caches may be gone already; then that is the buffer itself.
#[inline(always)]
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
            let cache = caches.of_pool(store.id())?;
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

/// What the end of a thread does, at a moment that a model can wait for.
#[cfg(all(test, pool_loom))]
pub(crate) fn end_thread() {
    let caches = CACHES.with(|caches| caches.replace(Caches::new()));
    drop(caches);
}

/// A thread's caches, one for each pool.
struct Caches {
    /// [`RECALLS`] when the caches were last looked after.
    recalls: usize,
    /// The number of the pool that was used last. A cache keeps its pool, and so the number, alive.
    recent_number: usize,
    /// That pool's cache, apart from the others: where it lies follows from nothing that a lease has to read first, and so
    /// neither does what the next lease finds in it.
    recent: Option<Box<Cache>>,
    /// The other pools' caches, by number.
    others: Vec<Option<Box<Cache>>>,
}

impl Caches {
    const fn new() -> Self {
        Self {
            recalls: 0,
            recent_number: 0,
            recent: None,
            others: Vec::new(),
        }
    }

    #[inline(always)]
    fn of_pool(&mut self, number: usize) -> Option<&mut Cache> {
        if number != self.recent_number {
            self.select(number);
        }
        self.recent.as_deref_mut()
    }

    /// Makes a pool the one that was used last, whether it has a cache or not.
    #[inline(never)]
    fn select(&mut self, number: usize) {
        let most = number.max(self.recent_number);
        if self.others.len() <= most {
            self.others.resize_with(most + 1, || None);
        }
        self.others[self.recent_number] = self.recent.take();
        self.recent = self.others[number].take();
        self.recent_number = number;
    }

    #[inline(always)]
    fn take(&mut self, store: &Store, fit: &Fit) -> Option<Box<Block>> {
        self.heed_recalls();
        self.of_pool(store.id())?.take(fit)
    }

    #[inline(always)]
    fn put(&mut self, block: Box<Block>) -> Option<Box<Block>> {
        self.heed_recalls();
        match self.of_pool(block.pool) {
            Some(cache) => {
                cache.put(block);
                None
            }
            None => self.put_first(block),
        }
    }

    /// Puts the first buffer of the pool that was just selected.
    #[cold]
    fn put_first(&mut self, block: Box<Block>) -> Option<Box<Block>> {
        let store = block.store();
        if !store.caches_in_threads(block.capacity()) {
            return Some(block);
        }
        let mut cache = Box::new(Cache::new(Arc::clone(store)));
        cache.put(block);
        self.recent = Some(cache);
        None
    }

    #[inline(always)]
    fn heed_recalls(&mut self) {
        if RECALLS.load(Ordering::Relaxed) != self.recalls {
            self.tidy();
        }
    }

    #[cold]
    fn tidy(&mut self) {
        self.recalls = RECALLS.load(Ordering::Acquire);
        for place in iter::once(&mut self.recent).chain(&mut self.others) {
            if let Some(cache) = place {
                cache.heed_recall();
                if cache.store.is_closed() {
                    *place = None;
                }
            }
        }
    }
}

/// A thread's cache for one pool.
struct Cache {
    store: Arc<Store>,
    slots: Arc<Slots>,
    /// The last returned on top.
    #[expect(clippy::vec_box, reason = "a lease moves one word, not a block")]
    private: Vec<Box<Block>>,
    /// Most buffers on the stack: what the slots leave of the thread's number.
    max_private: usize,
    max_private_bytes: usize,
    /// Occupied slots; other threads may have emptied some.
    in_slots: usize,
    /// The place above the slot that was used last.
    top: usize,
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
            max_private: max_buffers,
            max_private_bytes: store.config.private_bytes(),
            in_slots: 0,
            top: 0,
            generation: 0,
            recalls: store.recalls(),
            thread: thread_number(),
            store,
        }
    }

    #[inline(always)]
    fn take(&mut self, fit: &Fit) -> Option<Box<Block>> {
        let top = self.private.pop_if(|block| block.capacity() == fit.fresh);
        let mut block = match top {
            Some(block) => {
                self.private_bytes_changed(|bytes| bytes - fit.fresh);
                block
            }
            None => self.search(fit)?,
        };
        let hits = self.slots.counters.hit(block.capacity(), fit.len);
        if hits.is_multiple_of(TICK_EVERY) {
            self.store.tick();
        }
        block.recycle();
        Some(block)
    }

    #[inline(never)]
    fn search(&mut self, fit: &Fit) -> Option<Box<Block>> {
        if fit.len <= PRIVATE_BUFFER
            && let Some(index) = self.best_private(fit)
        {
            return self.remove(index);
        }
        // Whoever waits for room comes first; what is private, nobody waits for.
        if self.store.is_wanted() {
            return None;
        }
        if self.in_slots == 0 {
            return None;
        }
        let mut block = self.slots.take(fit, &mut self.top)?;
        self.set_in_slots(self.in_slots.saturating_sub(1));
        block.home = self.store.home_of(block.capacity());
        Some(block)
    }

    /// Where the best fitting private buffer lies; of equals the last returned.
    fn best_private(&self, fit: &Fit) -> Option<usize> {
        let mut best = None;
        for (index, block) in self.private.iter().enumerate().rev() {
            let capacity = block.capacity();
            if capacity == fit.fresh {
                return Some(index);
            }
            if fit.accepts(capacity) && best.is_none_or(|(least, _)| capacity < least) {
                best = Some((capacity, index));
            }
        }
        best.map(|(_, index)| index)
    }

    #[inline(always)]
    fn put(&mut self, block: Box<Block>) {
        if self.private.len() < self.max_private && self.is_private(&block) {
            self.push(block);
        } else {
            self.put_shared(block);
        }
    }

    /// Puts a buffer where others reach it, or makes room by giving the longest unused one away.
    #[inline(never)]
    fn put_shared(&mut self, block: Box<Block>) {
        if let Some(left) = self.place(block) {
            self.store.give_to_shards(left);
        }
    }

    /// Puts a buffer into a slot or, once there is room, on the private stack; what has to go elsewhere comes back.
    fn place(&mut self, block: Box<Block>) -> Option<Box<Block>> {
        let capacity = block.capacity();
        if capacity < self.store.config.min_buffer_size || self.store.needs_attention() {
            return Some(block);
        }
        let mut spilled = None;
        if self.is_full() {
            self.set_in_slots(self.slots.occupied());
        }
        if self.is_full() {
            spilled = self.make_room(capacity <= PRIVATE_BUFFER);
        }
        if self.is_private(&block) {
            self.push(block);
            return spilled;
        }
        self.generation += 1;
        self.set_in_slots(self.in_slots + 1);
        let left = self.slots.put(block, self.generation, &mut self.top);
        self.store.heed_attention_after_store();
        debug_assert!(left.is_none() || spilled.is_none());
        left.or(spilled)
    }

    /// Takes out the buffer that was not used for longest, of the wanted kind if there is one.
    fn make_room(&mut self, prefer_private: bool) -> Option<Box<Block>> {
        if !self.private.is_empty() && (prefer_private || self.in_slots == 0) {
            return self.remove(0);
        }
        self.set_in_slots(self.in_slots.saturating_sub(1));
        self.slots.take_oldest()
    }

    /// Whether there are as many buffers as the thread may keep.
    fn is_full(&self) -> bool {
        self.private.len() >= self.max_private
    }

    fn set_in_slots(&mut self, buffers: usize) {
        self.in_slots = buffers;
        self.max_private = self.store.config.tls_cache_size.saturating_sub(buffers);
    }

    /// Whether a buffer goes on the private stack: it is small, and this is the thread that will want it again.
    ///
    /// What another thread leased stays where that thread reaches it.
    #[inline(always)]
    fn is_private(&self, block: &Block) -> bool {
        block.home == self.thread
            && self.slots.counters.private_bytes() + block.capacity() <= self.max_private_bytes
    }

    #[inline(always)]
    fn push(&mut self, block: Box<Block>) {
        let capacity = block.capacity();
        self.private.push(block);
        self.private_bytes_changed(|bytes| bytes + capacity);
    }

    /// Takes a buffer out of the private stack; what lies above moves down, so the order of return is kept.
    fn remove(&mut self, index: usize) -> Option<Box<Block>> {
        let mut block = self.private.pop()?;
        // There are few, and a call that moves memory would read in one piece what was just written in several.
        for above in self.private[index..].iter_mut().rev() {
            mem::swap(&mut block, above);
        }
        let capacity = block.capacity();
        self.private_bytes_changed(|bytes| bytes - capacity);
        Some(block)
    }

    #[inline(always)]
    fn private_bytes_changed(&self, change: impl FnOnce(usize) -> usize) {
        let counters = &self.slots.counters;
        counters.set_private_bytes(change(counters.private_bytes()));
    }

    fn heed_recall(&mut self) {
        let recalls = self.store.recalls();
        if recalls != self.recalls {
            self.recalls = recalls;
            self.release_private();
        }
    }

    fn release_private(&mut self) -> usize {
        let released = self.slots.counters.private_bytes();
        self.private.clear();
        self.slots.counters.set_private_bytes(0);
        released
    }
}

impl Drop for Cache {
    /// The thread ends, or the pool is gone: what is left goes to the shards, which know what to do with it.
    fn drop(&mut self) {
        self.heed_recall();
        for block in self.private.drain(..) {
            self.store.put_in_shards(block);
        }
        self.slots.counters.set_private_bytes(0);
        self.store.remove_thread(&self.slots);
    }
}
