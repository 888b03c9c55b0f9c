//! opool: a bounded lock-free queue with guards.

use opool::{PoolAllocator, RefGuard};

use super::{Knobs, Peer, Pool, touch_spare};

/// `opool::Pool` with guards that borrow it.
pub struct Opool(opool::Pool<OfSize, Vec<u8>>);

/// Makes buffers of one size.
pub struct OfSize(usize);

impl PoolAllocator<Vec<u8>> for OfSize {
    fn allocate(&self) -> Vec<u8> {
        Vec::with_capacity(self.0)
    }
}

impl Pool for Opool {
    const PEER: Peer = Peer::Opool;
    type Buffer<'p> = RefGuard<'p, OfSize, Vec<u8>>;

    fn new(knobs: &Knobs) -> Self {
        Self(opool::Pool::new(knobs.shared, OfSize(knobs.largest)))
    }

    #[inline]
    fn get(&self, _len: usize) -> Self::Buffer<'_> {
        self.0.get()
    }

    fn touch(buffer: &mut Self::Buffer<'_>, len: usize) {
        touch_spare(&mut buffer.spare_capacity_mut()[..len]);
    }
}
