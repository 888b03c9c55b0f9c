//! What advice depends on, collected from a load.

use std::io::{self, Write};

use anstyle::Style;
use ckload::{Checkpoint, Io, Loader};

use crate::cli::load::usual_budget;
use crate::cli::options::{LoadOptions, Sides};
use crate::cli::runner::Way;
use crate::cli::{style, system_memory};

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
    let budget = match way {
        Way::Resident => None,
        Way::Streamed { budget } => Some((budget.as_u64(), usual_budget(checkpoints).as_u64())),
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
        let was_cold = model
            .cached_bytes
            .is_some_and(|cached| cached < model.file_bytes / 2);
        let waits = was_cold || first.io.direct_bytes > first.io.buffered_bytes;
        // Who asks for a way of reading is taken to wait.
        let takes_all = waits || reading.io != Io::Auto;
        let threads = |all| {
            if all {
                policy.waiting_threads
            } else {
                policy.threads
            }
        };
        Self {
            budget: budget.map(|(budget, _)| budget),
            usual_budget: budget.map_or(0, |(_, usual)| usual),
            waiting: phases::waiting_part(&first),
            threads: reading.threads.map(Into::into),
            usual_threads: threads(takes_all),
            enough_threads: threads(waits),
            io: reading.io,
            drops_cache: reading.drop_cache,
            bytes: model.file_bytes,
            cached_bytes: model.cached_bytes,
            buffered_bytes: first.io.buffered_bytes,
            direct_bytes: first.io.direct_bytes,
            available_bytes: system_memory::available(),
            lacks_pins: report.pool.last_pin_error.is_some(),
            rounds: options.rounds.get(),
            is_plain: report.models.len() == 1 && options.sides == Sides::WithPool,
            uses_pool: first.peak_pool_bytes > 0,
            recycles: first.allocation.reused > 0,
        }
    }
}
