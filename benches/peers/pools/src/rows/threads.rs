//! Get and drop on several threads at once, which divide the operations among themselves.

use std::{
    hint::black_box,
    sync::{
        Barrier,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Instant,
};

use super::{MIB, Row};
use crate::{
    measure::{Case, Goal, Group, Requests},
    pools::{
        ArrayQueuePool, BytesMutArena, Ckload, Knobs, Lifeguard, Malloc, ObjectPool, Opool, Pool,
        ShardedSlab, Stack, Zeropool03, Zeropool07,
    },
};

const LEN: usize = MIB;
const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];

/// All thread counts in one group: that two threads take less time than one has to be seen in the same rounds.
pub(super) fn group() -> Group {
    let rows = COUNTS.map(|threads| Row {
        title: match threads {
            1 => "1 thread, 1,000 × get + drop of 1 MiB".to_owned(),
            _ => format!("{threads} threads, 1,000 × get + drop of 1 MiB between them"),
        },
        unit_ops: 1000,
        goals: match threads {
            2 => vec![Goal::OfRow(0, 0.6)],
            _ => Vec::new(),
        },
    });
    Group {
        rows: rows.into(),
        start: Box::new(|| {
            (0..COUNTS.len())
                .flat_map(|row| {
                    [
                        shared::<Ckload>(row),
                        shared::<Zeropool03>(row),
                        shared::<Zeropool07>(row),
                        shared::<Opool>(row),
                        shared::<ObjectPool>(row),
                        shared::<ArrayQueuePool>(row),
                        private::<Lifeguard>(row),
                        private::<BytesMutArena>(row),
                        shared::<ShardedSlab>(row),
                        shared::<Malloc>(row),
                        shared::<Stack>(row),
                    ]
                })
                .collect()
        }),
        // Waking the threads takes some tens of microseconds.
        patience: 4,
    }
}

/// One pool for all threads.
fn shared<P: Pool + Sync>(row: usize) -> Case {
    Case::new(P::PEER, &[row], move |requests| {
        let pool = P::new(&Knobs::up_to(LEN));
        divide(requests, COUNTS[row], |station| station.work(&pool));
    })
}

/// A pool for each thread, where the pool cannot be shared.
fn private<P: Pool>(row: usize) -> Case {
    Case::new(P::PEER, &[row], move |requests| {
        divide(requests, COUNTS[row], |station| {
            station.work(&P::new(&Knobs::up_to(LEN)));
        });
    })
}

/// A thread's place.
struct Station<'b> {
    orders: Receiver<u64>,
    start: &'b Barrier,
    spans: Sender<(Instant, Instant)>,
}

impl Station<'_> {
    fn work<P: Pool>(self, pool: &P) {
        for times in self.orders {
            self.start.wait();
            let begin = Instant::now();
            for _ in 0..times {
                let buffer = pool.get(black_box(LEN));
                black_box(&buffer);
            }
            let _ = self.spans.send((begin, Instant::now()));
        }
    }
}

/// Keeps threads at their stations; the time of a request is from the first one's begin to the last one's end.
fn divide(requests: Requests, threads: usize, work: impl Fn(Station<'_>) + Sync) {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let (spans, ended) = mpsc::channel();
        let orders: Vec<_> = (0..threads)
            .map(|_| {
                let (order, orders) = mpsc::channel();
                let station = Station {
                    orders,
                    start: &start,
                    spans: spans.clone(),
                };
                let work = &work;
                scope.spawn(move || work(station));
                order
            })
            .collect();
        requests.serve(|operations| {
            for order in &orders {
                order
                    .send(operations.div_ceil(threads as u64))
                    .expect("stations stay");
            }
            let (first, last) = ended
                .iter()
                .take(threads)
                .reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
                .expect("there are threads");
            last - first
        });
    });
}
