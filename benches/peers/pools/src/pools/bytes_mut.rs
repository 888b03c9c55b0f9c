//! bytes: no pool, but a `BytesMut` takes its memory back once nobody else holds any of it.

use std::cell::RefCell;

use bytes::BytesMut;

use super::{Knobs, Peer, Pool, touch_spare};

/// One `BytesMut` that hands out its whole capacity. While that is out, the next request allocates.
pub struct BytesMutArena(RefCell<BytesMut>);

impl Pool for BytesMutArena {
    const PEER: Peer = Peer::BytesMut;
    type Buffer<'p> = BytesMut;

    fn new(knobs: &Knobs) -> Self {
        Self(RefCell::new(BytesMut::with_capacity(knobs.largest)))
    }

    #[inline]
    fn get(&self, len: usize) -> BytesMut {
        let mut arena = self.0.borrow_mut();
        arena.reserve(len);
        arena.split_off(0)
    }

    fn touch(buffer: &mut BytesMut, len: usize) {
        touch_spare(&mut buffer.spare_capacity_mut()[..len]);
    }
}
