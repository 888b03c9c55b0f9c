//! Several models that were loaded one after another: what the later ones gained from the earlier ones.

use std::io::{self, Write};

use crate::cli::options::{LoadOptions, Sides};
use crate::cli::savings::{self, Savings};
use crate::cli::{style, units};

use super::memory::recycled_part;
use super::{LoadReport, ModelReport, Table, labels, speed};

/// In place of a number that nobody measured.
const UNKNOWN: &str = "-";

/// Writes a line for each model.
pub(super) fn write(
    out: &mut impl Write,
    report: &LoadReport,
    options: &LoadOptions,
) -> io::Result<()> {
    let columns = style::columns();
    let mut table = match options.sides {
        Sides::WithoutPool => without_pool(&report.models),
        Sides::WithPool | Sides::Compare => with_pool(&report.models),
    };
    table.fit(columns);
    table.drop_to_fit(columns);
    table.write(out)?;
    if options.sides == Sides::WithoutPool {
        return Ok(());
    }
    let note = if options.rounds.get() > 1 {
        "recycled: of the memory of the first load"
    } else {
        "recycled: of the memory of the load"
    };
    labels::write_text(out, style::FAINT, note)
}

/// What comes first is kept in a narrow terminal.
fn with_pool(models: &[ModelReport]) -> Table {
    let price = savings::fresh_price(models.iter().flat_map(|model| &model.runs));
    let mut table = Table::new(["model", "time", "recycled", "saved", "rate", "size"]);
    for model in models {
        let first = model.runs.first();
        let part = first.and_then(|run| recycled_part(&run.allocation));
        let [name, time, rate, size] = cells(model);
        table.row([
            name,
            time,
            part.map_or_else(|| UNKNOWN.to_owned(), units::percent),
            saved(model, price).map_or_else(|| UNKNOWN.to_owned(), units::seconds),
            rate,
            size,
        ]);
    }
    table
}

fn without_pool(models: &[ModelReport]) -> Table {
    let mut table = Table::new(["model", "time", "rate", "size"]);
    for model in models {
        table.row(cells(model));
    }
    table
}

/// Name, time, rate and size.
fn cells(model: &ModelReport) -> [String; 4] {
    [
        model.model.file_name(),
        units::seconds(savings::median_seconds(&model.runs)),
        units::rate(speed::rate(&model.runs)),
        units::bytes(model.model.bytes),
    ]
}

/// What the pool saved in one load, measured if it was, else in the first load, estimated; `None` without a price.
fn saved(model: &ModelReport, price: Option<f64>) -> Option<f64> {
    let savings: Savings = if model.baseline_runs.is_empty() {
        savings::estimated([model.runs.get(..1)?], Some(price?))
    } else {
        savings::measured([(&model.baseline_runs[..], &model.runs[..])])
    };
    Some(savings.seconds)
}
