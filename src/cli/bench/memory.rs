//! Whether there is memory for a way of loading, and memory that is ready to be handed out.

use std::hint::black_box;

use ckload::BufferPool;

use super::ways::{Memory, Way};
use crate::cli::units;

/// Memory that stays free for everything else, in bytes.
const MARGIN: u64 = 256 << 20;

/// The memory of the machine, as far as this benchmark is concerned; bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What may be taken; what the page cache has counts as free.
    pub(super) available: u64,
    /// What the tensors take.
    pub(super) tensors: u64,
    /// What streams share.
    pub(super) streamed: u64,
    /// What the page cache is to keep.
    pub(super) cached: u64,
}

/// The ways for which there is no room, each with the reason, in the order of `ways`.
pub(super) fn left_out(ways: &[Way], room: Room) -> Vec<(Way, String)> {
    let mut kept: Vec<Way> = ways.to_vec();
    // Who needs new memory needs it beside what the limit and the pool keep; a way without its limit is of little use.
    for kinds in [&[Memory::Fresh][..], &[Memory::Pool, Memory::Limit]] {
        if needed(&kept, room) > room.available {
            kept.retain(|way| !kinds.contains(&way.memory()));
        }
    }
    let reason = format!(
        "needs more memory: all ways together take {}, and {} are available",
        units::bytes(needed(ways, room)),
        units::bytes(room.available)
    );
    let gone = ways.iter().filter(|way| !kept.contains(way));
    gone.map(|&way| (way, reason.clone())).collect()
}

fn needed(ways: &[Way], room: Room) -> u64 {
    let kinds = [Memory::Limit, Memory::Pool, Memory::Fresh];
    let is_needed = |kind: &Memory| ways.iter().any(|way| way.memory() == *kind);
    let copies = kinds.iter().filter(|kind| is_needed(kind)).count() as u64;
    let streams = ways.iter().any(|way| matches!(way, Way::Stream(_)));
    let streamed = if streams { room.streamed } else { 0 };
    if copies == 0 {
        return streamed;
    }
    // Buffers that tensors share are up to an eighth larger.
    copies
        .saturating_mul(room.tensors + room.tensors / 8)
        .saturating_add(streamed)
        .saturating_add(room.cached)
        .saturating_add(MARGIN)
}

/// Has a virtual machine ready to hand out `bytes` of memory.
///
/// Its host may have taken back memory that was free for some seconds, and gives it again page by page: a first touch then costs up to
/// 20 times as much. That is no loader's doing, so each way that takes fresh memory finds it just touched.
pub(super) fn touch_and_free(bytes: u64) {
    let keeps_nothing = BufferPool::builder()
        .tls_cache_size(0)
        .max_buffers_per_shard(0);
    let pool = keeps_nothing.build();
    // Where there is no room for that, there is none for the way either.
    drop(black_box(pool.try_get(bytes as usize)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn left_out_names(available: u64, ways: &[Way]) -> String {
        let room = Room {
            available,
            tensors: 4 * GIB,
            streamed: GIB / 4,
            cached: 4 * GIB,
        };
        let names = left_out(ways, room).into_iter().map(|(way, _)| way.name());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let fresh = "read mmap-copy resident-new";
        let all = "limit read mmap-copy resident-new resident resident-buffered resident-direct";
        for (available, expected) in [(18 * GIB, ""), (15 * GIB, fresh), (12 * GIB, all), (0, all)]
        {
            assert_eq!(
                left_out_names(available, &Way::ALL),
                expected,
                "{available}"
            );
        }
    }

    #[test]
    fn what_was_not_chosen_takes_no_memory() {
        let chosen = |names: &str| {
            let wanted: Vec<Way> = names.split(' ').map(|name| name.parse().unwrap()).collect();
            Way::chosen(&wanted)
        };
        assert_eq!(left_out_names(9 * GIB, &chosen("stream")), "");
        assert_eq!(left_out_names(14 * GIB, &chosen("resident")), "");
        assert_eq!(left_out_names(9 * GIB, &chosen("mmap-touch limit")), "");
        assert_eq!(left_out_names(11 * GIB, &chosen("read mmap-touch")), "read");
    }
}
