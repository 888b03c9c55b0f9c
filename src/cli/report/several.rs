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
    let note = match (options.rounds.get(), options.sides) {
        (1, _) => "recycled: of the memory of the load",
        (_, Sides::Compare) => "recycled: of the memory of the first load; saved: medians",
        (_, _) => "recycled: of the memory of the first load; saved: the mean of all loads",
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

/// What the pool saved in one load, measured if it was, else estimated; `None` without a price. Those of all models add up to the whole.
fn saved(model: &ModelReport, price: Option<f64>) -> Option<f64> {
    let savings: Savings = if model.baseline_runs.is_empty() {
        savings::estimated([&model.runs[..]], Some(price?))
    } else {
        savings::measured([(&model.baseline_runs[..], &model.runs[..])])
    };
    Some(savings.seconds)
}

#[cfg(test)]
mod tests {
    use ckload::synth::Gpt2;
    use ckload::{Checkpoint, Report};

    use super::*;

    /// A model that was loaded once for each of these, into memory that was used before or not.
    fn model(checkpoint: &Checkpoint, recycled: &[bool]) -> ModelReport {
        let run = |&recycled: &bool| {
            let mut run = Report::default();
            run.seconds = 4.0;
            run.allocation.threads = 1;
            if recycled {
                run.allocation.reused_bytes = 100;
            } else {
                run.allocation.fresh_bytes = 100;
                run.allocation.fresh_seconds = 2.0;
            }
            run
        };
        ModelReport {
            runs: recycled.iter().map(run).collect(),
            ..ModelReport::new(checkpoint)
        }
    }

    #[test]
    fn what_each_model_saved_adds_up_to_what_all_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let models = [
            model(&checkpoint, &[false, true]),
            model(&checkpoint, &[true, true]),
        ];
        let runs = || models.iter().map(|model| &model.runs[..]);
        let price = savings::fresh_price(runs().flatten());
        let each = models.each_ref().map(|model| saved(model, price));
        assert_eq!(each, [Some(1.0), Some(2.0)]);
        assert_eq!(savings::estimated(runs(), price).seconds, 3.0);
    }
}
