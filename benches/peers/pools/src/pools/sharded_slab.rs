//! sharded-slab: cleared objects keep their memory; one shard per thread.

use std::sync::Arc;

use sharded_slab::pool::{OwnedRefMut, RefMut};

use super::{Knobs, Peer, Pool, touch_spare};

/// `sharded_slab::Pool`; any vacant slot serves, and grows if it is too small.
pub struct ShardedSlab(sharded_slab::Pool<Vec<u8>>);

/// Clears its slot when it is dropped.
pub struct Guard<'p> {
    pool: &'p sharded_slab::Pool<Vec<u8>>,
    slot: Option<RefMut<'p, Vec<u8>>>,
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // In this order: clearing a slot that is still held waits for it.
        if let Some(slot) = self.slot.take() {
            let key = slot.key();
            drop(slot);
            self.pool.clear(key);
        }
    }
}

impl Pool for ShardedSlab {
    const PEER: Peer = Peer::ShardedSlab;
    type Buffer<'p> = Guard<'p>;

    fn new(_knobs: &Knobs) -> Self {
        Self(sharded_slab::Pool::new())
    }

    #[inline]
    fn get(&self, len: usize) -> Guard<'_> {
        let mut slot = self.0.create().expect("the slab is far from full");
        slot.reserve(len);
        Guard {
            pool: &self.0,
            slot: Some(slot),
        }
    }

    fn touch(buffer: &mut Guard<'_>, len: usize) {
        if let Some(slot) = &mut buffer.slot {
            touch_spare(&mut slot.spare_capacity_mut()[..len]);
        }
    }
}

/// `sharded_slab::Pool` with guards that can cross threads, which cost an atomic count.
pub struct OwnedShardedSlab(Arc<sharded_slab::Pool<Vec<u8>>>);

/// Clears its slot when it is dropped, on whichever thread.
pub struct OwnedGuard<'p> {
    pool: &'p sharded_slab::Pool<Vec<u8>>,
    slot: Option<OwnedRefMut<Vec<u8>>>,
}

impl Drop for OwnedGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let key = slot.key();
            drop(slot);
            self.pool.clear(key);
        }
    }
}

impl Pool for OwnedShardedSlab {
    const PEER: Peer = Peer::ShardedSlab;
    type Buffer<'p> = OwnedGuard<'p>;

    fn new(_knobs: &Knobs) -> Self {
        Self(Arc::default())
    }

    #[inline]
    fn get(&self, len: usize) -> OwnedGuard<'_> {
        let pool = Arc::clone(&self.0);
        let mut slot = pool.create_owned().expect("the slab is far from full");
        slot.reserve(len);
        OwnedGuard {
            pool: &self.0,
            slot: Some(slot),
        }
    }

    fn touch(buffer: &mut OwnedGuard<'_>, len: usize) {
        if let Some(slot) = &mut buffer.slot {
            touch_spare(&mut slot.spare_capacity_mut()[..len]);
        }
    }
}
