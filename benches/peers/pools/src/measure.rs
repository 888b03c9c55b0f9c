//! The measuring core: rounds in which every pool runs once, in an order that rotates.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use ckload_peers_machine::Ticks;
use serde::Serialize;

use crate::pools::Peer;

/// A disturbed round is measured again up to so many times.
const PATIENCE: usize = 20;
/// Before that the others get some time to finish.
const PAUSE: Duration = Duration::from_millis(500);

/// How long to measure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Effort {
    /// Rounds; the table shows their medians.
    pub rounds: usize,
    /// The least time that one sample takes.
    pub sample: Duration,
    /// Whether rounds that other processes disturbed are measured again.
    pub undisturbed: bool,
}

/// A row of the table before it is measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is done.
    pub title: String,
    /// Operations that make up the unit in which the row is shown.
    pub unit_ops: u32,
    /// What ours is meant to reach.
    pub goals: Vec<Goal>,
}

/// What ours is meant to reach in a row.
#[derive(Clone, Debug)]
pub enum Goal {
    /// At most so many nanoseconds.
    Nanos(f64),
    /// At most so many times the bare stack of the same row.
    Floors(f64),
    /// Faster than another pool.
    AheadOf(Peer),
    /// At most so many times ours in the group's row of this index.
    OfRow(usize, f64),
}

/// Rows whose cases are measured in the same rounds, so that they compare well.
pub struct Group {
    /// The rows, as the table shows them.
    pub rows: Vec<Row>,
    /// Starts the pools.
    pub start: Box<dyn FnOnce() -> Vec<Case>>,
    /// By how much samples are longer than usual, where starting one costs something.
    pub patience: u32,
}

/// One pool doing one row's work, on a thread of its own.
pub struct Case {
    peer: Peer,
    /// The rows that the result goes into.
    rows: Vec<usize>,
    requests: Sender<u64>,
    replies: Receiver<Duration>,
    thread: JoinHandle<()>,
}

/// A case's end of the line.
pub struct Requests {
    requests: Receiver<u64>,
    replies: Sender<Duration>,
}

impl Requests {
    /// Answers with the time that so many operations take, until nobody asks any more.
    pub fn serve(self, mut timed: impl FnMut(u64) -> Duration) {
        for operations in self.requests {
            if self.replies.send(timed(operations)).is_err() {
                return;
            }
        }
    }
}

impl Case {
    /// Starts a case; `body` sets up on the case's thread and then [serves](Requests::serve).
    pub fn new(peer: Peer, rows: &[usize], body: impl FnOnce(Requests) + Send + 'static) -> Self {
        let (requests, asked) = mpsc::channel();
        let (answer, replies) = mpsc::channel();
        let thread = thread::spawn(move || {
            body(Requests {
                requests: asked,
                replies: answer,
            });
        });
        Self {
            peer,
            rows: rows.to_vec(),
            requests,
            replies,
            thread,
        }
    }

    /// Ends the case and frees what its pool holds.
    fn finish(self) {
        drop(self.requests);
        self.thread.join().expect("no case panics");
    }

    fn time(&self, operations: u64) -> Duration {
        self.requests
            .send(operations)
            .expect("the case's thread lives");
        self.replies.recv().expect("the case's thread answers")
    }

    /// Finds how many operations fill a sample; warms the pool up on the way.
    fn calibrate(&self, sample: Duration) -> u64 {
        let mut operations = 1;
        loop {
            // Whatever comes first may still be warming up: only a second sample of the same size counts.
            self.time(operations);
            let taken = self.time(operations);
            if taken >= sample {
                return operations;
            }
            // A tenth to spare, so that a faster round still fills the sample.
            let wanted = 1.1 * sample.as_secs_f64() / taken.as_secs_f64().max(1e-9);
            operations = (operations as f64 * wanted.clamp(1.3, 20.0)).ceil() as u64;
        }
    }
}

/// A measured row.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured.
    pub row: Row,
    /// One for each pool that took part, in the order of [`Peer::ALL`].
    pub cells: Vec<Cell>,
    /// Rounds that other processes disturbed and that were kept all the same.
    pub disturbed: usize,
}

impl Measured {
    /// A pool's samples.
    #[must_use]
    pub fn cell(&self, peer: Peer) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.pool == peer)
    }
}

/// A pool's samples in a row.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Whose.
    pub pool: Peer,
    /// Operations in each sample.
    pub operations: u64,
    /// Nanoseconds per operation, one for each round, in the order in which they were taken.
    pub nanos: Vec<f64>,
    /// The middle of these.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Cell {
    fn new(pool: Peer, operations: u64, nanos: Vec<f64>) -> Self {
        let mut sorted = nanos.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self {
            pool,
            operations,
            median,
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            nanos,
        }
    }
}

/// Measures all cases of a group, interleaved.
#[must_use]
pub fn measure(group: Group, effort: Effort) -> Vec<Measured> {
    let rows = group.rows;
    let sample = effort.sample * group.patience;
    let cases = (group.start)();
    let operations: Vec<_> = cases.iter().map(|case| case.calibrate(sample)).collect();
    let mut nanos = vec![Vec::with_capacity(effort.rounds); cases.len()];
    let mut patience = if effort.undisturbed { PATIENCE } else { 0 };
    let mut disturbed = 0;
    for number in 0..effort.rounds {
        let mut results = round(&cases, &operations, number);
        while results.disturbed && patience > 0 {
            patience -= 1;
            thread::sleep(PAUSE);
            results = round(&cases, &operations, number);
        }
        disturbed += usize::from(results.disturbed);
        for (nanos, result) in nanos.iter_mut().zip(results.nanos) {
            nanos.push(result);
        }
    }
    let cells: Vec<_> = cases
        .iter()
        .zip(operations)
        .zip(nanos)
        .map(|((case, operations), nanos)| Cell::new(case.peer, operations, nanos))
        .collect();
    let measured = rows
        .into_iter()
        .enumerate()
        .map(|(number, row)| {
            let mut cells: Vec<_> = cases
                .iter()
                .zip(&cells)
                .filter(|(case, _)| case.rows.contains(&number))
                .map(|(_, cell)| cell.clone())
                .collect();
            cells.sort_by_key(|cell| cell.pool);
            Measured {
                row,
                cells,
                disturbed,
            }
        })
        .collect();
    cases.into_iter().for_each(Case::finish);
    measured
}

/// What one round gave.
struct Round {
    /// Nanoseconds per operation, in the order of the cases.
    nanos: Vec<f64>,
    disturbed: bool,
}

/// Runs every case once; each round starts with another one.
fn round(cases: &[Case], operations: &[u64], number: usize) -> Round {
    let mut nanos = vec![0.0; cases.len()];
    let before = Ticks::now();
    for index in (0..cases.len()).map(|index| (index + number) % cases.len()) {
        let taken = cases[index].time(operations[index]);
        nanos[index] = taken.as_secs_f64() * 1e9 / operations[index] as f64;
    }
    Round {
        nanos,
        disturbed: Ticks::now().disturbed_since(before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_is_between_the_middle_ones() {
        let cell = Cell::new(Peer::Malloc, 1, vec![9.0, 1.0, 3.0, 4.0]);
        assert_eq!((cell.min, cell.median, cell.max), (1.0, 3.5, 9.0));
        assert_eq!(cell.nanos, [9.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn a_case_is_calibrated_and_measured_in_every_round() {
        let case = |peer, nanos| {
            Case::new(peer, &[0], move |requests| {
                requests.serve(|operations| Duration::from_nanos(operations * nanos));
            })
        };
        let group = Group {
            rows: vec![Row {
                title: String::new(),
                unit_ops: 1,
                goals: Vec::new(),
            }],
            start: Box::new(move || vec![case(Peer::Malloc, 20), case(Peer::Ckload, 10)]),
            patience: 1,
        };
        let effort = Effort {
            rounds: 3,
            sample: Duration::from_millis(5),
            undisturbed: false,
        };
        let measured = measure(group, effort);
        let medians: Vec<_> = measured[0].cells.iter().map(|cell| cell.median).collect();
        assert_eq!(medians.len(), 2);
        assert!((medians[0] - 10.0).abs() < 1e-6 && (medians[1] - 20.0).abs() < 1e-6);
        assert_eq!(measured[0].cells[0].pool, Peer::Ckload);
        assert!(
            measured[0]
                .cells
                .iter()
                .all(|cell| cell.nanos.len() == 3 && cell.operations >= 250_000)
        );
    }
}
