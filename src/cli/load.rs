//! `ckload MODEL...`: loads, measures, reports.

use ckload::{ByteSize, Checkpoint, Loader, ReadPolicy};

use super::Error;
use super::options::{LoadOptions, OutputOptions, Sides};
use super::progress::Progress;
use super::report::{LoadReport, ModelReport, ModelSummary};
use super::runner::{Runner, Setup, Way};
use super::{report, savings};

/// Loads each model as often as asked, one model after the other, and prints the report.
pub(crate) fn run(options: &LoadOptions, output: &OutputOptions) -> Result<(), Error> {
    // A model that cannot be opened is to be known before minutes go into loading the others.
    let checkpoints = open_all(options)?;
    let bytes = checkpoints.iter().map(Checkpoint::bytes).sum();
    let progress = Progress::new(output, "loading", bytes);
    let setup = Setup {
        reading: options.reading,
        way: way(options, &checkpoints),
        pin: options.pin,
        observer: progress.observer(),
    };
    let mut runner = match options.sides {
        Sides::WithoutPool => Runner::without_pool(&setup),
        Sides::WithPool | Sides::Compare => Runner::with_pool(&setup),
    };
    let mut baseline = (options.sides == Sides::Compare).then(|| Runner::without_pool(&setup));

    let mut models = Vec::new();
    for checkpoint in &checkpoints {
        let mut model = ModelReport::new(ModelSummary::of(checkpoint));
        progress.name(model.model.file_name());
        for _ in 0..options.rounds.get() {
            if let Some(baseline) = &mut baseline {
                model.baseline_runs.push(baseline.run(checkpoint)?);
            }
            model.runs.push(runner.run(checkpoint)?);
        }
        models.push(model);
    }
    drop(progress);

    let savings = match options.sides {
        Sides::Compare => savings::measured(
            models
                .iter()
                .map(|model| (&model.baseline_runs[..], &model.runs[..])),
        ),
        Sides::WithPool | Sides::WithoutPool => {
            savings::estimated(models.iter().map(|model| &model.runs[..]))
        }
    };
    let report = LoadReport {
        models,
        savings,
        pool: runner.pool_summary(),
        peak_rss_bytes: ckload::usage::peak_rss_bytes(),
    };
    if output.json {
        output.write_json(&report)?;
    } else if !output.quiet {
        let loader = options.reading.loader();
        let policies: Vec<ReadPolicy> = checkpoints
            .iter()
            .map(|checkpoint| loader.policy(checkpoint))
            .collect();
        report::write_load(&mut output.stdout(), options, setup.way, &policies, &report)?;
    }
    Ok(())
}

/// Opens every model and narrows it to the tensors that are asked for.
pub(crate) fn open_all(options: &LoadOptions) -> Result<Vec<Checkpoint>, Error> {
    options
        .models
        .iter()
        .map(|path| {
            let whole = Checkpoint::open(path)?;
            let checkpoint = whole.select(&options.select)?;
            if checkpoint.tensors().is_empty() && !whole.tensors().is_empty() {
                return Err(Error::NothingSelected { path: path.clone() });
            }
            Ok(checkpoint)
        })
        .collect()
}

/// Resident, or streamed within the budget asked for, or within what the most demanding model needs.
pub(crate) fn way(options: &LoadOptions, checkpoints: &[Checkpoint]) -> Way {
    if options.resident {
        return Way::Resident;
    }
    let loader = Loader::new();
    let largest = || {
        checkpoints
            .iter()
            .map(|checkpoint| loader.default_budget(checkpoint))
            .max()
    };
    Way::Streamed {
        budget: options.budget.or_else(largest).unwrap_or(ByteSize::b(0)),
    }
}
