//! crossbeam's bounded lock-free queue, and the guard that anybody would write for it.

use std::mem;

use crossbeam_queue::ArrayQueue;

use super::{Knobs, Peer, Pool, touch_spare};

/// `crossbeam_queue::ArrayQueue` as a pool of buffers of one size.
pub struct ArrayQueuePool {
    queue: ArrayQueue<Vec<u8>>,
    size: usize,
}

/// Pushes its buffer when it is dropped.
pub struct Guard<'p> {
    queue: &'p ArrayQueue<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // A full queue hands the buffer back, to be freed.
        let _ = self.queue.push(mem::take(&mut self.buffer));
    }
}

impl Pool for ArrayQueuePool {
    const PEER: Peer = Peer::ArrayQueue;
    type Buffer<'p> = Guard<'p>;

    fn new(knobs: &Knobs) -> Self {
        Self {
            queue: ArrayQueue::new(knobs.shared),
            size: knobs.largest,
        }
    }

    #[inline]
    fn get(&self, _len: usize) -> Guard<'_> {
        Guard {
            queue: &self.queue,
            buffer: self
                .queue
                .pop()
                .unwrap_or_else(|| Vec::with_capacity(self.size)),
        }
    }

    fn touch(buffer: &mut Guard<'_>, len: usize) {
        touch_spare(&mut buffer.buffer.spare_capacity_mut()[..len]);
    }
}
