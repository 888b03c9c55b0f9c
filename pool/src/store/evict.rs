//! Making room: which idle buffer goes, wherever it lies.
//!
//! The policy knows what lies in the shards. Before it chooses, what lies in threads' slots is moved there, so that
//! heat and age decide and not the place. Nobody pays for that but who would have to wait for the operating system anyway:
//! while nothing has to go, threads keep their caches.
//!
//! Each shard has its own bookkeeping, and who evicts looks at all of them: hot buffers are cooled where most of
//! them are, and the victim comes from the shard with the most that is not hot.

use std::sync::Arc;

use super::{Store, account::add, thread_number};
use crate::{block::Block, local, shard::Shard};

impl Store {
    /// Frees idle memory until at most `target` bytes are idle, what this thread holds privately last; returns the bytes freed.
    pub(crate) fn trim(self: &Arc<Self>, target: usize) -> usize {
        let mut freed = 0;
        while self.idle_bytes() > target
            && let Some(victim) = self.evict()
        {
            freed += victim.capacity();
            add(&self.tally.evictions, 1);
        }
        if self.idle_bytes() > target {
            freed += local::release_private(self);
        }
        if self.idle_bytes() > target {
            self.recall_private();
        }
        self.heed_attention();
        freed
    }

    /// Takes out the idle buffer that the policy wants least.
    pub(super) fn evict(&self) -> Option<Box<Block>> {
        self.gather_slots()
            .or_else(|| self.choose())
            .or_else(|| self.take_from_slots())
    }

    /// Moves what lies in threads' slots to the shards as long as these have room. So nothing is lost for lack of places:
    /// only a buffer whose place another thread took in this moment is given back.
    fn gather_slots(&self) -> Option<Box<Block>> {
        let threads = self.threads.read();
        let mut blocks = threads.live.iter().flat_map(|slots| slots.oldest_first());
        let mut left = None;
        while left.is_none() && self.any_has_room() {
            left = self.put_where_room(thread_number(), blocks.next()?);
        }
        left
    }

    /// Takes a buffer out of some thread's slots; for shards that may keep none.
    fn take_from_slots(&self) -> Option<Box<Block>> {
        let threads = self.threads.read();
        let mut blocks = threads.live.iter().flat_map(|slots| slots.oldest_first());
        blocks.next()
    }

    /// Takes the least wanted buffer out of the shards.
    fn choose(&self) -> Option<Box<Block>> {
        self.balance_heat();
        loop {
            let coldest = self.shard_with_most(Shard::cold_bytes);
            if let Some(victim) = coldest.and_then(Shard::evict_cold) {
                self.balance_ghosts();
                return Some(victim);
            }
            // What was not hot has turned hot, or there was nothing.
            if coldest.is_none() && !self.shard_with_most(Shard::hot_bytes)?.cool() {
                return None;
            }
        }
    }

    /// Cools hot buffers until they keep to their share.
    pub(super) fn balance_heat(&self) {
        self.balance.observe(self.shards().map(Shard::bytes).sum());
        while self.shards().map(Shard::hot_bytes).sum::<usize>() > self.balance.hot_target()
            && self
                .shard_with_most(Shard::hot_bytes)
                .is_some_and(Shard::cool)
        {}
    }

    /// Forgets evicted buffers until they are no more than memory could hold.
    pub(super) fn balance_ghosts(&self) {
        while self.shards().map(Shard::ghost_bytes).sum::<usize>() > self.balance.memory()
            && self
                .shard_with_most(Shard::ghost_bytes)
                .is_some_and(Shard::forget)
        {}
    }

    /// The shard with the most bytes of a kind, if any has some.
    fn shard_with_most(&self, bytes: impl Fn(&Shard) -> usize) -> Option<&Shard> {
        let most = self.shards().max_by_key(|shard| bytes(shard))?;
        (bytes(most) > 0).then_some(most)
    }
}
