//! `ckload MODEL...`: loads, measures, reports.

use std::collections::HashMap;
use std::path::Path;

use ckload::{ByteSize, Checkpoint, Loader, Manifest, ReadPolicy, TensorDigest};

use super::Error;
use super::open::open;
use super::options::{LoadOptions, OutputOptions, Sides};
use super::progress::Progress;
use super::report::{LoadReport, ModelReport, ModelSummary};
use super::runner::{Runner, Setup, Way};
use super::timeline::Recording;
use super::{report, savings};

/// Loads each model as often as asked, one model after the other, and prints the report.
pub(crate) fn run(options: &LoadOptions, output: &OutputOptions) -> Result<(), Error> {
    // A model that cannot be opened is to be known before minutes go into loading the others.
    let checkpoints = open_all(options, output)?;
    let manifest = options.against.as_deref().map(read_manifest).transpose()?;
    let bytes = checkpoints.iter().map(Checkpoint::bytes).sum();
    let progress = Progress::new(output, "loading", bytes);
    let timeline = options.timeline.as_ref();
    let mut recording = timeline
        .map(|file| Recording::begin(file, progress.observer()))
        .transpose()?;
    let setup = Setup {
        reading: options.reading,
        way: way(options, &checkpoints),
        pin: options.pin,
        digests: options.verify,
        observer: match &recording {
            Some(recording) => Some(recording.observer()),
            None => progress.observer(),
        },
    };
    let mut runner = match options.sides {
        Sides::WithoutPool => Runner::without_pool(&setup),
        Sides::WithPool | Sides::Compare => Runner::with_pool(&setup),
    };
    let mut baseline = (options.sides == Sides::Compare).then(|| Runner::without_pool(&setup));

    let mut models = Vec::new();
    let mut mismatches = Vec::new();
    for checkpoint in &checkpoints {
        let mut model = ModelReport::new(ModelSummary::of(checkpoint));
        progress.name(model.model.file_name());
        for _ in 0..options.rounds.get() {
            if let Some(baseline) = &mut baseline {
                model.baseline_runs.push(baseline.run(checkpoint)?);
            }
            if let Some(recording) = &recording {
                recording.next_load();
            }
            model.runs.push(runner.run(checkpoint)?);
            if let Some(manifest) = &manifest
                && mismatches.is_empty()
            {
                mismatches = manifest.tensor_mismatches(runner.digests(), &options.select);
            }
        }
        if let Some(recording) = &mut recording {
            recording.keep(checkpoint, &model);
        }
        model.digests = in_file_order(checkpoint, runner.digests());
        models.push(model);
    }
    drop(progress);
    if let Some(recording) = &recording {
        recording.write()?;
    }

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
        verified: options.verify,
        mismatches,
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
    if report.mismatches.is_empty() {
        Ok(())
    } else {
        Err(Error::Mismatched(report.mismatches))
    }
}

/// Reads the digests that tensors are to have.
fn read_manifest(path: &Path) -> Result<Manifest, Error> {
    let manifest = Manifest::read(path)?;
    if manifest.has_tensors() {
        Ok(manifest)
    } else {
        let path = path.to_owned();
        Err(Error::NoTensorDigests { path })
    }
}

fn in_file_order(checkpoint: &Checkpoint, digests: &[TensorDigest]) -> Vec<TensorDigest> {
    let by_name: HashMap<&str, &TensorDigest> = digests
        .iter()
        .map(|digest| (digest.name.as_str(), digest))
        .collect();
    let infos = checkpoint.tensors().iter();
    infos
        .filter_map(|info| by_name.get(info.name.as_str()).copied().cloned())
        .collect()
}

/// Opens every model and narrows it to the tensors that are asked for.
pub(crate) fn open_all(
    options: &LoadOptions,
    output: &OutputOptions,
) -> Result<Vec<Checkpoint>, Error> {
    options
        .models
        .iter()
        .map(|path| {
            let whole = open(path, output)?;
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
