//! What a buffer costs until each of its pages has been written to.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{MIB, one_thread, row, size};
use crate::{
    measure::{Case, Group},
    pools::{
        ArrayQueuePool, BytesMutArena, Ckload, Knobs, Lifeguard, Malloc, ObjectPool, Opool, Pool,
        ShardedSlab, Zeropool03, Zeropool07,
    },
};

/// More than the C library's allocator ever keeps after `free`, so that fresh memory is fresh for every pool.
const LEN: usize = 64 * MIB;

pub(super) fn groups() -> [Group; 2] {
    let title = |kind| format!("get and touch a {kind} buffer of {}", size(LEN));
    let recycled = one_thread::Held {
        touched: true,
        ..one_thread::Held::of(1, LEN)
    };
    [
        Group {
            rows: vec![row(title("fresh"), &[])],
            start: Box::new(|| {
                vec![
                    fresh::<Ckload>(),
                    fresh::<Zeropool03>(),
                    fresh::<Zeropool07>(),
                    fresh::<Opool>(),
                    fresh::<ObjectPool>(),
                    fresh::<ArrayQueuePool>(),
                    fresh::<Lifeguard>(),
                    fresh::<BytesMutArena>(),
                    fresh::<ShardedSlab>(),
                    fresh::<Malloc>(),
                ]
            }),
            patience: 1,
        },
        one_thread::group(row(title("recycled"), &[]), recycled, Knobs::up_to(LEN)),
    ]
}

/// Each buffer is a new pool's first, on a new thread: some pools hand out what another pool of the same thread left.
///
/// Only getting and touching it is timed.
fn fresh<P: Pool>() -> Case {
    Case::new(P::PEER, &[0], move |requests| {
        requests.serve(|times| (0..times).map(|_| on_a_new_thread(first_touch::<P>)).sum());
    })
}

fn on_a_new_thread(work: fn() -> Duration) -> Duration {
    thread::spawn(work).join().expect("touching works")
}

fn first_touch<P: Pool>() -> Duration {
    let pool = P::new(&Knobs::up_to(LEN));
    let start = Instant::now();
    let mut buffer = pool.get(LEN);
    P::touch(&mut buffer, LEN);
    start.elapsed()
}
