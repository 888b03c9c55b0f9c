//! The rows: what each pool has to do.

mod handover;
mod one_thread;
mod threads;
mod touch;

use crate::{
    measure::{Goal, Group, Row},
    pools::{Knobs, Peer},
};

use one_thread::{Held, InTurn, PingPong, SizesInTurn};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All rows, in the order of the table.
#[must_use]
pub fn all() -> Vec<Group> {
    let mut groups = vec![ping_pong()];
    groups.extend(hot_and_cold());
    groups.push(multi_size());
    groups.extend(held());
    groups.extend(eviction());
    groups.push(threads::group());
    groups.extend(handover::groups());
    groups.push(in_turn());
    groups.extend(sizes());
    groups.push(default_settings());
    groups.extend(touch::groups());
    groups
}

fn row(title: impl Into<String>, goals: &[Goal]) -> Row {
    Row {
        title: title.into(),
        unit_ops: 1,
        goals: goals.to_vec(),
    }
}

fn ping_pong() -> Group {
    let workload = PingPong {
        small: KIB,
        large: MIB,
        ahead: 20,
    };
    let knobs = Knobs {
        thread_cache: 10,
        ..Knobs::up_to(MIB)
    };
    one_thread::with_both_policies("ping-pong: 1 KiB and 1 MiB out together", workload, knobs)
}

fn hot_and_cold() -> impl Iterator<Item = Group> {
    [
        (0, "hot and cold: 3 of 10 buffers of 64 KiB"),
        (1000, "the same, each used 1,000 times"),
    ]
    .into_iter()
    .map(|(uses, title)| {
        let workload = Held {
            uses,
            ahead: 10,
            ..Held::of(3, 64 * KIB)
        };
        let knobs = Knobs {
            thread_cache: 10,
            ..Knobs::up_to(64 * KIB)
        };
        one_thread::group(row(title, &[]), workload, knobs)
    })
}

fn multi_size() -> Group {
    let workload = SizesInTurn(vec![4 * KIB, 64 * KIB, MIB]);
    let knobs = Knobs {
        thread_cache: 15,
        ..Knobs::up_to(MIB)
    };
    let title = "multi-size: 4 KiB, 64 KiB, 1 MiB one after another";
    one_thread::group(row(title, &[]), workload, knobs)
}

fn held() -> impl Iterator<Item = Group> {
    [(64 * KIB, 2), (64 * KIB, 4), (64 * KIB, 8)]
        .into_iter()
        .chain([(MIB, 2), (MIB, 4), (MIB, 8), (16 * MIB, 8)])
        .map(|(len, count)| {
            let title = format!("{count} held, {} each", size(len));
            let goals = match count {
                2 => vec![],
                _ => vec![Goal::AheadOf(Peer::Opool), Goal::AheadOf(Peer::ArrayQueue)],
            };
            let knobs = Knobs {
                thread_cache: 15,
                ..Knobs::up_to(len)
            };
            one_thread::group(row(title, &goals), Held::of(count, len), knobs)
        })
}

fn eviction() -> [Group; 2] {
    let roomy = Knobs {
        shared: 400,
        ..Knobs::up_to(64 * KIB)
    };
    let scarce = Knobs {
        thread_cache: 2,
        shared: 20,
        ..Knobs::up_to(64 * KIB)
    };
    let overflow = Held {
        touched: true,
        ..Held::of(40, 64 * KIB)
    };
    [
        one_thread::with_both_policies(
            "eviction pressure: 10 of 64 KiB, thread cache 8",
            Held::of(10, 64 * KIB),
            roomy,
        ),
        one_thread::with_both_policies(
            "overflow: 40 of 64 KiB, touched, room for about 20",
            overflow,
            scarce,
        ),
    ]
}

fn in_turn() -> Group {
    let title = "two pools in one thread: 1 MiB from each";
    one_thread::group(row(title, &[]), InTurn(MIB), Knobs::up_to(MIB))
}

fn sizes() -> impl Iterator<Item = Group> {
    [
        4 * KIB,
        16 * KIB,
        64 * KIB,
        256 * KIB,
        MIB,
        4 * MIB,
        16 * MIB,
        64 * MIB,
        256 * MIB,
    ]
    .into_iter()
    .map(|len| {
        let title = format!("hot get + drop, {}", size(len));
        let goals = if len <= 4 * MIB {
            vec![Goal::Nanos(10.0), Goal::Floors(2.5)]
        } else {
            vec![Goal::Nanos(20.0)]
        };
        one_thread::group(row(title, &goals), Held::of(1, len), Knobs::up_to(len))
    })
}

fn default_settings() -> Group {
    let knobs = Knobs {
        min_buffer_size: None,
        ..Knobs::up_to(64 * KIB)
    };
    let title = "default settings: hot get + drop, 64 KiB";
    one_thread::group(row(title, &[]), Held::of(1, 64 * KIB), knobs)
}

/// A size for a title.
fn size(len: usize) -> String {
    match len {
        0..MIB => format!("{} KiB", len / KIB),
        _ => format!("{} MiB", len / MIB),
    }
}
