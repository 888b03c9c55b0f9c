//! Runs in tables.

use ckload::Report;

use crate::cli::options::Sides;
use crate::cli::{savings, units};

use super::{ModelReport, Table, speed};

/// Columns of [`run_cells`].
pub(crate) const RUN_COLUMNS: [&str; 6] =
    ["time", "rate", "allocation", "fresh", "reused", "faults"];

/// In terminals narrower than this, columns have shorter names.
const NARROW_COLUMNS: usize = 50;

/// Medians of `runs`, as [`RUN_COLUMNS`].
pub(crate) fn run_cells(runs: &[Report]) -> [String; 6] {
    let count = |of: fn(&Report) -> u64| units::count(median(runs, of) as u64);
    [
        units::seconds(savings::median_seconds(runs)),
        units::rate(speed::rate(runs)),
        units::seconds(savings::median(runs.iter().map(|run| {
            run.allocation.fresh_seconds + run.allocation.reuse_seconds
        }))),
        count(|run| run.allocation.fresh),
        count(|run| run.allocation.reused),
        count(|run| run.page_faults),
    ]
}

pub(super) fn median(runs: &[Report], of: impl Fn(&Report) -> u64) -> f64 {
    savings::median(runs.iter().map(|run| of(run) as f64))
}

/// Loads without the pool and with it, beside each other.
pub(super) fn comparison(model: &ModelReport, columns: usize) -> Table {
    let (without, with) = if columns < NARROW_COLUMNS {
        ("without", "with")
    } else {
        ("without the pool", "with the pool")
    };
    let mut table = Table::new(["", without, with]);
    let sides = [&model.baseline_runs, &model.runs];
    let [without, with] = sides.map(|runs| side_cells(runs));
    for ((name, without), with) in SIDE_ROWS.into_iter().zip(without).zip(with) {
        table.row([name.to_owned(), without, with]);
    }
    table
}

const SIDE_ROWS: [&str; 6] = [
    "time",
    "rate",
    "allocation",
    "fresh",
    "recycled",
    "page faults",
];

fn side_cells(runs: &[Report]) -> [String; 6] {
    let [time, rate, allocation, _, _, faults] = run_cells(runs);
    let bytes = |of: fn(&Report) -> u64| units::bytes(median(runs, of) as u64);
    [
        time,
        rate,
        allocation,
        bytes(|run| run.allocation.fresh_bytes),
        bytes(|run| run.allocation.reused_bytes),
        faults,
    ]
}

/// Each run on its own, in the order in which they were made.
pub(super) fn each(model: &ModelReport, sides: Sides) -> Table {
    let mut table = Table::new(std::iter::once("run").chain(RUN_COLUMNS));
    let mut add = |name: String, run: &Report| {
        table.row(std::iter::once(name).chain(run_cells(std::slice::from_ref(run))));
    };
    for (index, run) in model.runs.iter().enumerate() {
        let number = index + 1;
        if let Some(baseline) = model.baseline_runs.get(index) {
            add(format!("{number}, without the pool"), baseline);
        }
        match sides {
            Sides::WithoutPool => add(format!("{number}, without the pool"), run),
            Sides::WithPool | Sides::Compare => add(format!("{number}, with the pool"), run),
        }
    }
    table
}
