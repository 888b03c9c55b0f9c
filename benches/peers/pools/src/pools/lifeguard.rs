//! lifeguard: a stack behind a `RefCell`; it cannot leave its thread.

use lifeguard::{MaxSize, Recycled, StartingSize, Supplier};

use super::{Knobs, Peer, Pool, touch_spare};

/// `lifeguard::Pool`.
pub struct Lifeguard(lifeguard::Pool<Vec<u8>>);

impl Pool for Lifeguard {
    const PEER: Peer = Peer::Lifeguard;
    type Buffer<'p> = Recycled<'p, Vec<u8>>;

    fn new(knobs: &Knobs) -> Self {
        let size = knobs.largest;
        Self(
            lifeguard::pool()
                .with(StartingSize(0))
                .with(MaxSize(knobs.shared))
                .with(Supplier(move || Vec::with_capacity(size)))
                .build(),
        )
    }

    #[inline]
    fn get(&self, _len: usize) -> Self::Buffer<'_> {
        self.0.new()
    }

    fn touch(buffer: &mut Self::Buffer<'_>, len: usize) {
        touch_spare(&mut buffer.spare_capacity_mut()[..len]);
    }
}
