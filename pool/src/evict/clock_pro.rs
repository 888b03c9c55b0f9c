//! CLOCK-Pro, fitted to buffers.
//!
//! Song Jiang, Feng Chen and Xiaodong Zhang: "CLOCK-Pro: an effective improvement of the CLOCK replacement", USENIX ATC 2005.
//! Pages lie on one circular list, hot or cold by the distance between their last two accesses. A cold page is *in
//! test* for a while after it came; if it is accessed in that time its distance is short, and it turns hot. An evicted
//! page that is in test leaves a non-resident entry behind, so that the access is still noticed. Three hands sweep
//! the list: the cold hand looks for a victim, the hot hand cools what is no longer used, and the test hand bounds how
//! many non-resident entries there are. The share of cold pages grows when a test is passed and falls when one runs out.
//!
//! What is different for buffers:
//!
//! * A page is an idle buffer; an access is a lease. A leased buffer cannot be evicted and is not on the list: it takes
//!   its status with it, and comes back at the list's head with its reference bit set. So a reuse moves a buffer to the head.
//! * Pages have identities, but buffers of one size are interchangeable. A non-resident entry therefore stands for
//!   a size: a request that finds nothing idle and would have accepted it is the access.
//! * Pages have one size, but buffers have many: what the paper counts in pages is counted in bytes here.
//! * Memory is not always full: its size is the most that was idle at once when something had to go.
//! * Each shard has a clock, but memory is one: the size of memory and the cold share are common to all clocks
//!   ([`Balance`]), and whoever evicts compares the shards and says which hand of which clock turns.

use std::sync::Arc;

use super::{Balance, Heat, Key, Ticket};
use crate::fit::Fit;

/// No node.
const NONE: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resident(Heat),
    /// Evicted during its test; only the size is remembered.
    Ghost,
    /// On no list; free for use.
    Vacant,
}

#[derive(Clone, Debug)]
struct Node {
    state: State,
    key: Key,
    referenced: bool,
    next: usize,
    previous: usize,
}

/// The clock.
pub(crate) struct ClockPro {
    nodes: Vec<Node>,
    vacant: Vec<usize>,
    /// The list's tail; new entries go in just before it, which is the head.
    hand_hot: usize,
    hand_cold: usize,
    hand_test: usize,
    hot_bytes: usize,
    cold_bytes: usize,
    ghost_bytes: usize,
    resident: usize,
    hot: usize,
    ghosts: usize,
    max_ghosts: usize,
    balance: Arc<Balance>,
}

impl ClockPro {
    /// A clock that remembers at most as many evicted buffers as may be resident.
    pub(crate) fn new(max_buffers: usize, balance: Arc<Balance>) -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            hand_hot: NONE,
            hand_cold: NONE,
            hand_test: NONE,
            hot_bytes: 0,
            cold_bytes: 0,
            ghost_bytes: 0,
            resident: 0,
            hot: 0,
            ghosts: 0,
            max_ghosts: max_buffers,
            balance,
        }
    }

    pub(crate) fn insert(&mut self, key: Key, heat: Heat, referenced: bool) -> Ticket {
        self.link(Node {
            state: State::Resident(heat),
            key,
            referenced,
            next: NONE,
            previous: NONE,
        })
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Heat {
        let State::Resident(heat) = self.nodes[ticket].state else {
            unreachable!("a ticket is given for a resident buffer and is good until that leaves")
        };
        self.unlink(ticket);
        heat
    }

    /// Evicts a buffer, a hot one that has to be cooled for it if there is no other.
    pub(crate) fn evict(&mut self) -> Option<Key> {
        loop {
            let victim = self.evict_cold();
            if victim.is_some() || !self.cool() {
                return victim;
            }
        }
    }

    /// The cold hand: looks for a cold buffer that was not reused. The reused ones that it meets turn hot, or are tested again.
    pub(crate) fn evict_cold(&mut self) -> Option<Key> {
        // Each turn clears a reference bit or ends the loop.
        while self.resident > self.hot {
            let (index, in_test) = self.next_cold();
            let node = &mut self.nodes[index];
            let key = node.key;
            if !node.referenced {
                if in_test {
                    self.remember(index);
                } else {
                    self.unlink(index);
                }
                return Some(key);
            }
            node.referenced = false;
            let heat = if in_test {
                self.balance.grow_cold_target(key.capacity);
                Heat::Hot
            } else {
                Heat::Cold { in_test: true }
            };
            self.unlink(index);
            self.insert_again(index, key, heat);
        }
        None
    }

    /// Turns the hot hand until one buffer is cold; `false` if there is no hot one.
    pub(crate) fn cool(&mut self) -> bool {
        let any = self.hot > 0;
        if any {
            self.run_hot_hand();
        }
        any
    }

    /// Turns the test hand until one evicted buffer is forgotten; `false` if none is remembered.
    pub(crate) fn forget(&mut self) -> bool {
        let any = self.ghosts > 0;
        if any {
            self.run_test_hand();
        }
        any
    }

    pub(crate) fn missed(&mut self, fit: &Fit) -> bool {
        let found = (0..self.nodes.len()).find(|&index| {
            let node = &self.nodes[index];
            node.state == State::Ghost && fit.accepts(node.key.capacity)
        });
        if let Some(index) = found {
            self.balance
                .grow_cold_target(self.nodes[index].key.capacity);
            self.unlink(index);
        }
        found.is_some()
    }

    pub(crate) fn hot_bytes(&self) -> usize {
        self.hot_bytes
    }

    pub(crate) fn ghost_bytes(&self) -> usize {
        self.ghost_bytes
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].state == State::Ghost {
                self.unlink(index);
            }
        }
        // Tickets are indices: only vacant nodes at the end can go.
        while self
            .nodes
            .last()
            .is_some_and(|node| node.state == State::Vacant)
        {
            self.nodes.pop();
        }
        self.vacant.retain(|&index| index < self.nodes.len());
        self.nodes.shrink_to_fit();
        self.vacant.shrink_to_fit();
    }

    /// The hot hand: cools the next hot buffer that was not reused, and ends the tests that it passes.
    fn run_hot_hand(&mut self) {
        debug_assert!(self.hot > 0);
        loop {
            let index = self.hand_hot;
            self.hand_hot = self.nodes[index].next;
            match self.nodes[index].state {
                State::Resident(Heat::Hot) if self.nodes[index].referenced => {
                    self.nodes[index].referenced = false;
                }
                State::Resident(Heat::Hot) => {
                    self.set_heat(index, Heat::Cold { in_test: false });
                    return;
                }
                _ => {
                    self.end_test(index);
                }
            }
        }
    }

    /// The test hand: forgets the next evicted buffer, and ends the tests that it passes.
    fn run_test_hand(&mut self) {
        debug_assert!(self.ghosts > 0);
        let before = self.ghosts;
        while self.ghosts == before {
            let index = self.hand_test;
            self.hand_test = self.nodes[index].next;
            self.end_test(index);
        }
    }

    /// A test runs out unused: there was more room for cold buffers than they are worth.
    fn end_test(&mut self, index: usize) {
        let node = &self.nodes[index];
        let bytes = node.key.capacity;
        match node.state {
            State::Ghost => {
                self.balance.shrink_cold_target(bytes);
                self.unlink(index);
            }
            // A reused one has passed: the cold hand will find out.
            State::Resident(Heat::Cold { in_test: true }) if !node.referenced => {
                self.balance.shrink_cold_target(bytes);
                self.set_heat(index, Heat::Cold { in_test: false });
            }
            _ => {}
        }
    }

    /// Moves the cold hand past the next cold resident buffer; there is one.
    fn next_cold(&mut self) -> (usize, bool) {
        loop {
            let index = self.hand_cold;
            self.hand_cold = self.nodes[index].next;
            if let State::Resident(Heat::Cold { in_test }) = self.nodes[index].state {
                return (index, in_test);
            }
        }
    }

    /// Turns a buffer evicted during its test into a non-resident entry, where it is.
    fn remember(&mut self, index: usize) {
        self.set_state(index, State::Ghost);
        while self.ghosts > self.max_ghosts {
            self.run_test_hand();
        }
    }

    /// Puts the buffer whose node was just unlinked at the head, under the ticket that its owner knows.
    fn insert_again(&mut self, index: usize, key: Key, heat: Heat) {
        let again = self.insert(key, heat, false);
        debug_assert_eq!(again, index, "the node vacated last is used first");
    }

    fn set_heat(&mut self, index: usize, heat: Heat) {
        self.set_state(index, State::Resident(heat));
    }

    fn set_state(&mut self, index: usize, state: State) {
        self.count(index, false);
        self.nodes[index].state = state;
        self.count(index, true);
    }

    /// Adds a node to the sums, or takes it out.
    fn count(&mut self, index: usize, add: bool) {
        let node = &self.nodes[index];
        let (bytes, buffers) = match node.state {
            State::Resident(Heat::Hot) => (&mut self.hot_bytes, &mut self.hot),
            State::Resident(Heat::Cold { .. }) => (&mut self.cold_bytes, &mut self.resident),
            State::Ghost => (&mut self.ghost_bytes, &mut self.ghosts),
            State::Vacant => return,
        };
        let hot = node.state == State::Resident(Heat::Hot);
        if add {
            *bytes += node.key.capacity;
            *buffers += 1;
            self.resident += usize::from(hot);
        } else {
            *bytes -= node.key.capacity;
            *buffers -= 1;
            self.resident -= usize::from(hot);
        }
    }

    /// Puts a node at the list's head.
    fn link(&mut self, node: Node) -> usize {
        let index = match self.vacant.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        if self.hand_hot == NONE {
            self.nodes[index].next = index;
            self.nodes[index].previous = index;
            self.hand_hot = index;
            self.hand_cold = index;
            self.hand_test = index;
        } else {
            let next = self.hand_hot;
            let previous = self.nodes[next].previous;
            self.nodes[index].next = next;
            self.nodes[index].previous = previous;
            self.nodes[previous].next = index;
            self.nodes[next].previous = index;
        }
        self.count(index, true);
        index
    }

    fn unlink(&mut self, index: usize) {
        self.count(index, false);
        let Node { next, previous, .. } = self.nodes[index];
        self.nodes[previous].next = next;
        self.nodes[next].previous = previous;
        let after = if next == index { NONE } else { next };
        for hand in [&mut self.hand_hot, &mut self.hand_cold, &mut self.hand_test] {
            if *hand == index {
                *hand = after;
            }
        }
        self.nodes[index].state = State::Vacant;
        self.vacant.push(index);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::fit::SMALL_PAGE;

    const MIB: usize = 1 << 20;

    fn key(capacity: usize, stamp: u64) -> Key {
        Key { capacity, stamp }
    }

    fn fit(len: usize) -> Fit {
        Fit::new(len, SMALL_PAGE, None)
    }

    fn clock(max_buffers: usize) -> ClockPro {
        ClockPro::new(max_buffers, Arc::default())
    }

    /// Evicts as a store with one shard does.
    fn evict(clock: &mut ClockPro) -> Option<Key> {
        clock.balance.observe(clock.hot_bytes + clock.cold_bytes);
        while clock.hot_bytes > clock.balance.hot_target() {
            clock.cool();
        }
        let victim = clock.evict();
        while clock.ghost_bytes > clock.balance.memory() {
            clock.forget();
        }
        victim
    }

    /// Inserts as a shard does a buffer that is new.
    fn fresh(clock: &mut ClockPro, capacity: usize, stamp: u64) -> Ticket {
        clock.insert(key(capacity, stamp), Heat::NEW, false)
    }

    fn heat(clock: &ClockPro, ticket: Ticket) -> State {
        clock.nodes[ticket].state
    }

    #[test]
    fn untouched_buffers_go_in_the_order_in_which_they_came() {
        let mut clock = clock(16);
        for stamp in 0..4 {
            fresh(&mut clock, MIB, stamp);
        }
        for stamp in 0..4 {
            assert_eq!(evict(&mut clock), Some(key(MIB, stamp)));
        }
        assert_eq!(evict(&mut clock), None);
    }

    #[test]
    fn a_buffer_reused_during_its_test_turns_hot_and_outlives_a_scan() {
        let mut clock = clock(64);
        let first = fresh(&mut clock, MIB, 0);
        let kept = clock.remove(first);
        let ticket = clock.insert(key(MIB, 1), kept, true);
        let mut victims = Vec::new();
        for stamp in 2..50 {
            fresh(&mut clock, 3 * MIB, stamp);
            if stamp > 4 {
                victims.extend(evict(&mut clock));
            }
        }
        assert!(
            victims.iter().all(|victim| victim.capacity == 3 * MIB),
            "{victims:?}"
        );
        assert_eq!(heat(&clock, ticket), State::Resident(Heat::Hot));
    }

    #[test]
    fn a_miss_of_an_evicted_size_is_the_second_access() {
        let mut clock = clock(16);
        fresh(&mut clock, 8 * MIB, 0);
        fresh(&mut clock, MIB, 1);
        assert_eq!(evict(&mut clock), Some(key(8 * MIB, 0)));
        assert_eq!((clock.ghosts, clock.balance.cold_target()), (1, 0));
        assert!(
            !clock.missed(&fit(4 * MIB)),
            "half the size is another buffer"
        );
        assert!(clock.missed(&fit(8 * MIB - 5)));
        assert_eq!((clock.ghosts, clock.balance.cold_target()), (0, 8 * MIB));
        assert!(
            !clock.missed(&fit(8 * MIB)),
            "one eviction answers for one miss"
        );
    }

    #[test]
    fn hot_buffers_that_nobody_uses_any_more_give_way() {
        let mut clock = clock(16);
        for stamp in 0..4 {
            clock.insert(key(MIB, stamp), Heat::Hot, false);
        }
        // The new phase's size misses, was evicted a moment ago, and so comes in hot.
        fresh(&mut clock, 4 * MIB, 4);
        assert_eq!(evict(&mut clock), Some(key(4 * MIB, 4)));
        assert!(clock.missed(&fit(4 * MIB)));
        clock.insert(key(4 * MIB, 5), Heat::Hot, true);
        for stamp in 0..4 {
            assert_eq!(evict(&mut clock), Some(key(MIB, stamp)));
        }
        assert_eq!(evict(&mut clock), Some(key(4 * MIB, 5)));
    }

    #[test]
    fn tests_that_run_out_lower_the_cold_target() {
        let mut clock = clock(2);
        for stamp in 0..3 {
            fresh(&mut clock, MIB, stamp);
        }
        clock.balance.observe(3 * MIB);
        clock.balance.grow_cold_target(2 * MIB);
        for _ in 0..3 {
            evict(&mut clock);
        }
        assert_eq!(clock.ghosts, 2, "no more than may be resident");
        assert!(clock.balance.cold_target() < 2 * MIB);
    }

    #[test]
    fn shrinking_forgets_ghosts_and_keeps_tickets() {
        let mut clock = clock(16);
        for stamp in 0..8 {
            fresh(&mut clock, MIB, stamp);
        }
        let ticket = fresh(&mut clock, 2 * MIB, 8);
        for _ in 0..8 {
            evict(&mut clock);
        }
        clock.shrink_to_fit();
        assert_eq!(clock.ghosts, 0);
        assert_eq!(clock.remove(ticket), Heat::NEW);
        clock.shrink_to_fit();
        assert!(clock.nodes.is_empty() && clock.vacant.is_empty());
    }

    #[test]
    fn sums_and_tickets_hold_under_random_use() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut clock = clock(20);
        let mut resident: HashMap<Key, Ticket> = HashMap::new();
        let mut away: Vec<(usize, Heat)> = Vec::new();
        for stamp in 0..20_000 {
            match random.u8(..8) {
                0..3 => {
                    let key = key(SMALL_PAGE * random.usize(1..40), stamp);
                    let heat = if clock.missed(&fit(key.capacity)) {
                        Heat::Hot
                    } else {
                        Heat::NEW
                    };
                    resident.insert(key, clock.insert(key, heat, false));
                }
                3..5 => {
                    if let Some((&key, &ticket)) = resident.iter().next() {
                        resident.remove(&key);
                        away.push((key.capacity, clock.remove(ticket)));
                    }
                }
                5..7 => {
                    if let Some((capacity, heat)) = away.pop() {
                        let key = key(capacity, stamp);
                        resident.insert(key, clock.insert(key, heat, random.bool()));
                    }
                }
                _ => {
                    let victim = evict(&mut clock);
                    assert_eq!(victim.is_none(), resident.is_empty());
                    if let Some(victim) = victim {
                        assert!(
                            resident.remove(&victim).is_some(),
                            "{victim:?} was not there"
                        );
                    }
                }
            }
            assert_eq!(clock.resident, resident.len());
            let bytes: usize = resident.keys().map(|key| key.capacity).sum();
            assert_eq!(clock.hot_bytes + clock.cold_bytes, bytes);
            assert!(
                clock.balance.cold_target() <= clock.balance.memory()
                    && clock.ghost_bytes <= clock.balance.memory()
            );
            assert!(clock.ghosts <= 20 && clock.hot <= clock.resident);
            for (key, &ticket) in &resident {
                assert_eq!(clock.nodes[ticket].key, *key);
            }
        }
    }
}
