//! Numbers that tell pools apart.

use parking_lot::Mutex;

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers {
    next: 0,
    free: Vec::new(),
});

struct Numbers {
    /// All below were given out.
    next: usize,
    free: Vec<usize>,
}

/// A pool's number, by which threads find what they cache of it.
///
/// It is small, since the number of a pool that is gone is given to a new one: that nothing refers to the old one any more is
/// the owner's to see to.
#[derive(Debug)]
pub(crate) struct PoolId(usize);

impl PoolId {
    pub(crate) fn new() -> Self {
        let mut numbers = NUMBERS.lock();
        let number = numbers.free.pop().unwrap_or(numbers.next);
        numbers.next = numbers.next.max(number + 1);
        Self(number)
    }

    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.0
    }
}

impl Drop for PoolId {
    fn drop(&mut self) {
        NUMBERS.lock().free.push(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn living_numbers_differ_and_dead_ones_come_back() {
        let ids: Vec<PoolId> = (0..100).map(|_| PoolId::new()).collect();
        let numbers: HashSet<usize> = ids.iter().map(PoolId::number).collect();
        assert_eq!(numbers.len(), 100);
        drop(ids);
        for _ in 0..1000 {
            // Other tests build pools at the same time.
            assert!(PoolId::new().number() < 10_000);
        }
    }
}
