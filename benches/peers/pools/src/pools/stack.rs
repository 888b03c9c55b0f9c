//! The floor: the least that a thread-safe pool has to do.

use std::{cell::RefCell, mem};

use super::{Knobs, Peer, Pool, touch_bytes};

thread_local! {
    static IDLE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A bare thread-local stack of buffers of one size, without bounds, counters or sharing.
///
/// The stack belongs to the thread, not to the value: a thread can have one.
pub struct Stack {
    size: usize,
}

/// Goes back on the stack of whichever thread drops it.
pub struct Guard(Box<[u8]>);

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        IDLE.with(|idle| idle.borrow_mut().push(mem::take(&mut self.0)));
    }
}

impl Pool for Stack {
    const PEER: Peer = Peer::Stack;
    type Buffer<'p> = Guard;

    fn new(knobs: &Knobs) -> Self {
        Self {
            size: knobs.largest,
        }
    }

    #[inline]
    fn get(&self, _len: usize) -> Guard {
        let idle = IDLE.with(|idle| idle.borrow_mut().pop());
        Guard(idle.unwrap_or_else(|| vec![0; self.size].into()))
    }

    fn touch(buffer: &mut Guard, len: usize) {
        touch_bytes(&mut buffer.0[..len]);
    }
}
