//! What advice depends on, collected from a load.

use std::fs;
use std::io::{self, Write};

use anstyle::Style;
use ckload::{Checkpoint, Loader};

use crate::cli::options::{LoadOptions, Sides};
use crate::cli::runner::Way;
use crate::cli::style;

use super::advice::{Facts, advice};
use super::{LoadReport, ModelReport, labels, phases};

/// Writes the advice that is the most useful, if there is any.
pub(super) fn write_advice(
    out: &mut impl Write,
    options: &LoadOptions,
    way: Way,
    checkpoints: &[Checkpoint],
    report: &LoadReport,
) -> io::Result<()> {
    let usual_budget = || {
        let budgets = checkpoints
            .iter()
            .map(|one| Loader::new().default_budget(one));
        budgets.max().unwrap_or_default().as_u64()
    };
    let budget = match way {
        Way::Resident => None,
        Way::Streamed { budget } => Some((budget.as_u64(), usual_budget())),
    };
    let models = report.models.iter().zip(checkpoints);
    let facts: Vec<Facts> = models
        .map(|(model, checkpoint)| Facts::of(options, budget, checkpoint, model, report))
        .collect();
    match advice(&facts) {
        Some(advice) => {
            writeln!(out)?;
            labels::write_in(out, "Advice", style::ADVICE, &advice, Style::new())
        }
        None => Ok(()),
    }
}

impl Facts {
    /// `budget` is what a stream has, and what it would have.
    fn of(
        options: &LoadOptions,
        budget: Option<(u64, u64)>,
        checkpoint: &Checkpoint,
        model: &ModelReport,
        report: &LoadReport,
    ) -> Self {
        let first = model.runs.first().cloned().unwrap_or_default();
        let policy = Loader::new().policy(checkpoint);
        let reading = &options.reading;
        Self {
            budget: budget.map(|(budget, _)| budget),
            usual_budget: budget.map_or(0, |(_, usual)| usual),
            waiting: phases::waiting_part(&first),
            threads: reading.threads.map(Into::into),
            usual_threads: if first.io.direct_bytes > first.io.buffered_bytes {
                policy.waiting_threads
            } else {
                policy.threads
            },
            io: reading.io,
            drops_cache: reading.drop_cache,
            bytes: model.file_bytes,
            cached_bytes: model.cached_bytes,
            buffered_bytes: first.io.buffered_bytes,
            direct_bytes: first.io.direct_bytes,
            available_bytes: available_bytes(),
            lacks_pins: report.pool.last_pin_error.is_some(),
            rounds: options.rounds.get(),
            is_plain: report.models.len() == 1 && options.sides == Sides::WithPool,
            recycles: first.allocation.reused > 0,
        }
    }
}

/// What the kernel says that new programs may have.
fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
