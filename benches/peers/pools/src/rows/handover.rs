//! Get on one thread, drop on another.

use std::{hint::black_box, thread, time::Instant};

use super::{KIB, MIB, Row, row, size};
use crate::{
    measure::{Case, Goal, Group},
    pools::{
        ArrayQueuePool, BytesMutArena, Ckload, Knobs, Malloc, ObjectPool, Opool, OwnedShardedSlab,
        Peer, Pool, Zeropool03, Zeropool07,
    },
};

/// Buffers that wait between the two threads.
const ON_THE_WAY: usize = 4;

/// Small buffers as they are, large ones written to as a reader would.
///
/// lifeguard's buffers cannot leave their thread, and the bare stack would only ever fill the other thread's.
pub(super) fn groups() -> impl Iterator<Item = Group> {
    [(64 * KIB, false), (MIB, false), (40 * MIB, true)]
        .into_iter()
        .map(|(len, touched)| {
            let how = if touched { ", touched" } else { "" };
            let title = format!("get here, drop on another thread: {}{how}", size(len));
            group(row(title, &[Goal::AheadOf(Peer::Opool)]), len, touched)
        })
}

fn group(row: Row, len: usize, touched: bool) -> Group {
    Group {
        rows: vec![row],
        start: Box::new(move || {
            vec![
                case::<Ckload>(len, touched),
                case::<Zeropool03>(len, touched),
                case::<Zeropool07>(len, touched),
                case::<Opool>(len, touched),
                case::<ObjectPool>(len, touched),
                case::<ArrayQueuePool>(len, touched),
                case::<BytesMutArena>(len, touched),
                case::<OwnedShardedSlab>(len, touched),
                case::<Malloc>(len, touched),
            ]
        }),
        patience: 4,
    }
}

fn case<P>(len: usize, touched: bool) -> Case
where
    P: Pool,
    for<'p> P::Buffer<'p>: Send,
{
    Case::new(P::PEER, &[0], move |requests| {
        let pool = P::new(&Knobs::up_to(len));
        let (give, given) = crossbeam_channel::bounded(ON_THE_WAY);
        let (report, reported) = crossbeam_channel::bounded(1);
        thread::scope(|scope| {
            scope.spawn(move || {
                for message in given {
                    match message {
                        Some(buffer) => drop::<P::Buffer<'_>>(buffer),
                        None => report.send(()).expect("the giver waits for it"),
                    }
                }
            });
            requests.serve(|times| {
                let start = Instant::now();
                for _ in 0..times {
                    let mut buffer = pool.get(black_box(len));
                    if touched {
                        P::touch(&mut buffer, len);
                    }
                    give.send(Some(buffer)).expect("the taker stays");
                }
                give.send(None).expect("the taker stays");
                reported.recv().expect("the taker answers");
                start.elapsed()
            });
            drop(give);
        });
    })
}
