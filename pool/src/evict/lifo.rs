//! Last in, first out.

use std::collections::BTreeMap;

use super::{Key, Ticket};

/// Idle buffers in the order in which they came.
#[derive(Default)]
pub(crate) struct Lifo {
    /// By stamp, which only grows.
    stack: BTreeMap<u64, Key>,
}

impl Lifo {
    pub(crate) fn insert(&mut self, key: Key) -> Ticket {
        self.stack.insert(key.stamp, key);
        // The stamp already says where the buffer is.
        0
    }

    pub(crate) fn remove(&mut self, key: Key) {
        self.stack.remove(&key.stamp);
    }

    pub(crate) fn evict(&mut self) -> Option<Key> {
        self.stack.pop_last().map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_in_goes_first() {
        let mut lifo = Lifo::default();
        let keys = [5, 3, 9, 1].map(|stamp| Key {
            capacity: 4096,
            stamp,
        });
        for key in keys {
            lifo.insert(key);
        }
        lifo.remove(keys[2]);
        assert_eq!(lifo.evict(), Some(keys[0]));
        assert_eq!(lifo.evict(), Some(keys[1]));
        assert_eq!(lifo.evict(), Some(keys[3]));
        assert_eq!(lifo.evict(), None);
    }
}
