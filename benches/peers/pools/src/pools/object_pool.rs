//! object-pool: a stack behind a lock; unbounded.

use object_pool::Reusable;

use super::{Knobs, Peer, Pool, touch_spare};

/// `object_pool::Pool` with guards that borrow it.
pub struct ObjectPool {
    pool: object_pool::Pool<Vec<u8>>,
    size: usize,
}

impl Pool for ObjectPool {
    const PEER: Peer = Peer::ObjectPool;
    type Buffer<'p> = Reusable<'p, Vec<u8>>;

    fn new(knobs: &Knobs) -> Self {
        Self {
            pool: object_pool::Pool::new(0, Vec::new),
            size: knobs.largest,
        }
    }

    #[inline]
    fn get(&self, _len: usize) -> Self::Buffer<'_> {
        self.pool.pull(|| Vec::with_capacity(self.size))
    }

    fn touch(buffer: &mut Self::Buffer<'_>, len: usize) {
        touch_spare(&mut buffer.spare_capacity_mut()[..len]);
    }
}
