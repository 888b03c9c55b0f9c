//! No pool: the allocator of the C library.

use super::{Knobs, Peer, Pool, touch_spare};

/// `Vec::with_capacity`, dropped: the allocator's cost without zeroing.
pub struct Malloc;

impl Pool for Malloc {
    const PEER: Peer = Peer::Malloc;
    type Buffer<'p> = Vec<u8>;

    fn new(_knobs: &Knobs) -> Self {
        Self
    }

    #[inline]
    fn get(&self, len: usize) -> Vec<u8> {
        Vec::with_capacity(len)
    }

    fn touch(buffer: &mut Vec<u8>, len: usize) {
        touch_spare(&mut buffer.spare_capacity_mut()[..len]);
    }
}
