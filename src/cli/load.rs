//! `ckload MODEL...`: loads, measures, reports.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use ckload::{ByteSize, Checkpoint, Loader, Manifest, TensorDigest};

use super::Error;
use super::limit::{LEAST_LIMITED_BYTES, has_compressed};
use super::open::open;
use super::options::{LoadOptions, OutputOptions, Sides};
use super::progress::Progress;
use super::report::{Limit, LoadReport, ModelReport, ModelSummary};
use super::runner::{Runner, Setup, Way};
use super::timeline::Recording;
use super::unmatched::{none_left, unmatched};
use super::{limit, report, savings};

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
        progress.name(ModelSummary::of(checkpoint).file_name());
        if let Some(baseline) = &mut baseline {
            // What only the first of all loads pays, for the disk, is no side's doing.
            baseline.run(checkpoint)?;
        }
        let mut model = ModelReport::new(checkpoint);
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
    let recorded = match recording.as_ref().map(Recording::write) {
        Some(Err(Error::Interrupted)) => return Err(Error::Interrupted),
        recorded => recorded.unwrap_or(Ok(())),
    };

    let savings = match options.sides {
        Sides::Compare => savings::measured(
            models
                .iter()
                .map(|model| (&model.baseline_runs[..], &model.runs[..])),
        ),
        Sides::WithPool | Sides::WithoutPool => {
            let runs = models.iter().map(|model| &model.runs[..]);
            savings::estimated(runs.clone(), savings::fresh_price(runs.flatten()))
        }
    };
    let peak_rss_bytes = ckload::usage::peak_rss_bytes();
    let pool = runner.pool_summary();
    // The memory of the loads makes room for that of the limits.
    drop((runner, baseline));
    if !output.quiet {
        for (model, checkpoint) in models.iter_mut().zip(&checkpoints) {
            model.limit = limit_of(model, checkpoint, options);
        }
    }
    let report = LoadReport {
        models,
        verified: options.verify,
        mismatches,
        savings,
        pool,
        peak_rss_bytes,
    };
    let written = write(&report, options, setup.way, &checkpoints, output);
    // What is wrong with the model does not go under in a closed pipe or a full disk.
    if !report.mismatches.is_empty() {
        if let Err(error) = recorded {
            output.warn(&error.to_string())?;
        }
        return Err(Error::Mismatched(report.mismatches));
    }
    recorded.map_err(|error| Error::AfterResult(Box::new(error)))?;
    Ok(written?)
}

/// Writes the result to standard output.
fn write(
    report: &LoadReport,
    options: &LoadOptions,
    way: Way,
    checkpoints: &[Checkpoint],
    output: &OutputOptions,
) -> io::Result<()> {
    if output.json {
        return output.write_json(report);
    }
    if output.quiet {
        return Ok(());
    }
    let out = &mut io::BufWriter::new(output.stdout());
    report::write_load(out, options, way, checkpoints, report)?;
    out.flush()
}

/// What plain reads of the files reach in the state that the loads found; `None` where that says nothing about them.
fn limit_of(model: &ModelReport, checkpoint: &Checkpoint, options: &LoadOptions) -> Option<Limit> {
    let first = &model.runs.first()?.io;
    let was_cold = model
        .cached_bytes
        .is_some_and(|cached| cached < model.file_bytes / 2);
    // What was read once from the disk is in the page cache now.
    let is_only_load = model.runs.len() == 1 && model.baseline_runs.is_empty();
    let direct = first.direct_bytes > first.buffered_bytes || was_cold && is_only_load;
    let is_comparable = first.mmap_bytes == 0
        // Reading what is compressed is the least of the work.
        && !has_compressed(checkpoint)
        && checkpoint.bytes() >= LEAST_LIMITED_BYTES
        && (direct || !options.reading.drop_cache);
    if !is_comparable {
        return None;
    }
    let into = if options.resident {
        limit::Into::Memory
    } else {
        limit::Into::Cache
    };
    let bytes_per_second = limit::quick(checkpoint, into, direct, options.reading.threads)?;
    Some(Limit {
        bytes_per_second,
        direct,
    })
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
    let models = options.models.iter();
    let whole = models
        .map(|path| open(path, output))
        .collect::<Result<Vec<_>, _>>()?;
    let unmatched = unmatched(&options.patterns, &whole)?;
    let checkpoints = whole
        .iter()
        .map(|whole| whole.select(&options.select))
        .collect::<Result<Vec<_>, _>>()?;
    for (whole, checkpoint) in whole.iter().zip(&checkpoints) {
        if checkpoint.tensors().is_empty() && !whole.tensors().is_empty() {
            return Err(Error::NothingSelected {
                path: whole.path().to_owned(),
                reason: none_left(&options.patterns, whole)?,
            });
        }
    }
    for warning in unmatched {
        output.warn(&warning)?;
    }
    Ok(checkpoints)
}

/// Resident, or streamed within the budget asked for, or within what the most demanding model needs.
pub(crate) fn way(options: &LoadOptions, checkpoints: &[Checkpoint]) -> Way {
    if options.resident {
        return Way::Resident;
    }
    Way::Streamed {
        budget: options.budget.unwrap_or_else(|| usual_budget(checkpoints)),
    }
}

/// What a stream of the most demanding of the models needs.
pub(crate) fn usual_budget(checkpoints: &[Checkpoint]) -> ByteSize {
    let loader = Loader::new();
    let budgets = checkpoints.iter().map(|one| loader.default_budget(one));
    budgets.max().unwrap_or_default()
}
