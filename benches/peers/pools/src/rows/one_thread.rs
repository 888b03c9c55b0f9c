//! Work of one thread alone.

use std::{hint::black_box, time::Instant};

use crate::{
    measure::{Case, Group, Row},
    pools::{
        ArrayQueuePool, BytesMutArena, Ckload, Knobs, Lifeguard, Malloc, ObjectPool, Opool, Policy,
        Pool, ShardedSlab, Stack, Zeropool03, Zeropool07,
    },
};

/// What a thread does with its pools.
pub(super) trait Workload: Clone + Send + 'static {
    /// How many pools it uses.
    const POOLS: usize = 1;

    /// What comes before everything that is timed.
    fn prepare<P: Pool>(&self, _pools: &[P]) {}

    /// Does the work so many times.
    fn run<P: Pool>(&self, pools: &[P], times: u64);
}

/// One row, all pools.
pub(super) fn group<W: Workload>(row: Row, workload: W, knobs: Knobs) -> Group {
    Group {
        rows: vec![row],
        start: Box::new(move || {
            let mut cases = with_policy(&workload, &knobs, &[0]);
            cases.extend(others(&workload, &knobs, &[0]));
            // The thread has one bare stack only.
            if W::POOLS == 1 {
                cases.push(case::<Stack, W>(&workload, &knobs, &[0]));
            }
            cases
        }),
        patience: 1,
    }
}

/// A row for each policy; pools that have none are measured once and stand in both.
pub(super) fn with_both_policies<W: Workload>(title: &str, workload: W, knobs: Knobs) -> Group {
    let lifo = Knobs {
        policy: Policy::Lifo,
        ..knobs.clone()
    };
    Group {
        rows: ["CLOCK-Pro", "LIFO"]
            .map(|policy| super::row(format!("{title}, {policy}"), &[]))
            .into(),
        start: Box::new(move || {
            let mut cases = with_policy(&workload, &knobs, &[0]);
            cases.extend(with_policy(&workload, &lifo, &[1]));
            cases.extend(others(&workload, &knobs, &[0, 1]));
            cases.push(case::<Stack, W>(&workload, &knobs, &[0, 1]));
            cases
        }),
        patience: 1,
    }
}

/// The pools that have an eviction policy.
fn with_policy<W: Workload>(workload: &W, knobs: &Knobs, rows: &[usize]) -> Vec<Case> {
    vec![
        case::<Ckload, W>(workload, knobs, rows),
        case::<Zeropool03, W>(workload, knobs, rows),
    ]
}

/// The pools that have none.
fn others<W: Workload>(workload: &W, knobs: &Knobs, rows: &[usize]) -> Vec<Case> {
    vec![
        case::<Zeropool07, W>(workload, knobs, rows),
        case::<Opool, W>(workload, knobs, rows),
        case::<ObjectPool, W>(workload, knobs, rows),
        case::<ArrayQueuePool, W>(workload, knobs, rows),
        case::<Lifeguard, W>(workload, knobs, rows),
        case::<BytesMutArena, W>(workload, knobs, rows),
        case::<ShardedSlab, W>(workload, knobs, rows),
        case::<Malloc, W>(workload, knobs, rows),
    ]
}

fn case<P: Pool, W: Workload>(workload: &W, knobs: &Knobs, rows: &[usize]) -> Case {
    let (workload, knobs) = (workload.clone(), knobs.clone());
    Case::new(P::PEER, rows, move |requests| {
        let pools: Vec<P> = (0..W::POOLS).map(|_| P::new(&knobs)).collect();
        workload.prepare(&pools);
        requests.serve(|times| {
            let start = Instant::now();
            workload.run(&pools, times);
            start.elapsed()
        });
    })
}

/// Has `count` buffers in the pool before the start.
fn preallocate<P: Pool>(pool: &P, count: usize, len: usize) {
    drop((0..count).map(|_| pool.get(len)).collect::<Vec<_>>());
}

/// A small and a large buffer are out together.
#[derive(Clone)]
pub(super) struct PingPong {
    pub(super) small: usize,
    pub(super) large: usize,
    /// Large buffers that are there from the start.
    pub(super) ahead: usize,
}

impl Workload for PingPong {
    fn prepare<P: Pool>(&self, pools: &[P]) {
        preallocate(&pools[0], self.ahead, self.large);
    }

    fn run<P: Pool>(&self, pools: &[P], times: u64) {
        let pool = &pools[0];
        for _ in 0..times {
            let small = pool.get(black_box(self.small));
            let large = pool.get(black_box(self.large));
            black_box((&small, &large));
            drop(small);
            drop(large);
        }
    }
}

/// Some buffers of one size are out together, and come back in the order in which they went.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) count: usize,
    pub(super) len: usize,
    /// How often each is looked at while it is out.
    pub(super) uses: usize,
    /// Whether each page is written to.
    pub(super) touched: bool,
    /// Buffers that are there from the start.
    pub(super) ahead: usize,
}

impl Held {
    pub(super) fn of(count: usize, len: usize) -> Self {
        Self {
            count,
            len,
            uses: 0,
            touched: false,
            ahead: 0,
        }
    }
}

impl Workload for Held {
    fn prepare<P: Pool>(&self, pools: &[P]) {
        preallocate(&pools[0], self.ahead, self.len);
    }

    fn run<P: Pool>(&self, pools: &[P], times: u64) {
        let pool = &pools[0];
        if self.count == 1 {
            for _ in 0..times {
                let mut buffer = pool.get(black_box(self.len));
                if self.touched {
                    P::touch(&mut buffer, self.len);
                }
                black_box(&buffer);
            }
            return;
        }
        let mut held = Vec::with_capacity(self.count);
        for _ in 0..times {
            held.extend((0..self.count).map(|_| pool.get(black_box(self.len))));
            if self.touched {
                for buffer in &mut held {
                    P::touch(buffer, self.len);
                }
            }
            black_box(&held);
            for _ in 0..self.uses {
                for buffer in &held {
                    black_box(buffer);
                }
            }
            held.clear();
        }
    }
}

/// One buffer at a time, of one size after another.
#[derive(Clone)]
pub(super) struct SizesInTurn(pub(super) Vec<usize>);

impl Workload for SizesInTurn {
    fn run<P: Pool>(&self, pools: &[P], times: u64) {
        let pool = &pools[0];
        for _ in 0..times {
            for len in &self.0 {
                let buffer = pool.get(black_box(*len));
                black_box(&buffer);
            }
        }
    }
}

/// One buffer at a time, from one pool after another.
#[derive(Clone)]
pub(super) struct InTurn(pub(super) usize);

impl Workload for InTurn {
    const POOLS: usize = 2;

    fn run<P: Pool>(&self, pools: &[P], times: u64) {
        for _ in 0..times {
            for pool in pools {
                let buffer = pool.get(black_box(self.0));
                black_box(&buffer);
            }
        }
    }
}
