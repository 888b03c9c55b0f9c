//! `ckload bench`: every way of loading a checkpoint, side by side and beside the limit of the machine.

mod conclusion;
mod export;
mod machine;
mod memory;
mod noise;
mod ours;
mod plain;
mod results;
mod rounds;
mod state;
mod statistics;
mod table;
mod ways;

use std::num::NonZeroUsize;

use ckload::Checkpoint;

pub(crate) use self::state::State;
pub(crate) use self::ways::Way;

use self::machine::Machine;
use self::results::{LeftOut, Results};
use self::rounds::Bench;
use self::state::{PageCache, Unready};
use super::limit::{LEAST_LIMITED_BYTES, has_compressed};
use super::open::open;
use super::options::{BenchOptions, OutputOptions};
use super::progress::Progress;
use super::report::{ModelSummary, SCHEMA};
use super::{Error, style, units};

/// Rounds, unless `--runs` says otherwise: the larger the checkpoint, the longer each takes, and the less they differ.
const USUAL_RUNS: [(u64, usize); 3] = [(2 << 30, 10), (16 << 30, 5), (u64::MAX, 3)];

/// Measures, prints, exports.
pub(crate) fn run(options: &BenchOptions, output: &OutputOptions) -> Result<(), Error> {
    // What cannot be written is to be known before minutes go into measuring it.
    export::check(&options.exports)?;
    let checkpoint = open(&options.model, output)?;
    let results = measure(&checkpoint, options, output)?;
    if output.json {
        output.write_json(&results)?;
    } else if !output.quiet {
        table::write(&mut output.stdout(), &results, style::columns())?;
    }
    for warning in &results.warnings {
        output.warn(warning)?;
    }
    export::write(&options.exports, &results)
}

fn measure(
    checkpoint: &Checkpoint,
    options: &BenchOptions,
    output: &OutputOptions,
) -> Result<Results, Error> {
    let machine = Machine::this();
    let runs = options
        .runs
        .map_or_else(|| usual_runs(checkpoint.bytes()), NonZeroUsize::get);
    let rounds = options.warmup.saturating_add(runs) as u64;
    let each_round = (options.states.len() * Way::chosen(&options.ways).len()) as u64;
    let bytes = checkpoint
        .bytes()
        .saturating_mul(each_round)
        .saturating_mul(rounds);
    let progress = Progress::new(output, "getting ready", bytes);
    let incomparable = incomparable(checkpoint);
    let bench = Bench {
        checkpoint,
        options,
        runs,
        // Where nobody says that it is virtual, touching memory does no harm.
        touches_memory: machine.is_virtual != Some(false),
        compares: incomparable.is_none(),
        progress: &progress,
    };
    let mut cache = PageCache::of(checkpoint)?;
    let mut states = Vec::new();
    let mut left_out = Vec::new();
    for &state in &options.states {
        match bench.measure(state, &mut cache) {
            Ok((result, without)) => {
                left_out.extend(without);
                if !result.ways.is_empty() {
                    states.push(result);
                }
            }
            Err(Unready::LeftOut(reason)) => left_out.push(LeftOut {
                state,
                way: None,
                reason,
            }),
            Err(Unready::Failed(error)) => return Err(error),
        }
    }
    drop(progress);
    if states.is_empty() {
        return Err(Error::NothingMeasured {
            path: options.model.clone(),
            reasons: warnings_of(&left_out).join("; "),
        });
    }
    let mut warnings = warnings_of(&left_out);
    warnings.extend(states.iter().flat_map(noise::warnings));
    let mut notes = cache.notes();
    let of_machine = match machine.is_virtual {
        Some(true) => Some("a virtual machine"),
        Some(false) => None,
        None => Some("perhaps a virtual machine"),
    };
    notes.extend(of_machine.map(|machine| {
        format!("{machine}: fresh memory was in use until just before it was taken")
    }));
    let conclusions = match incomparable {
        None => states.iter().filter_map(conclusion::of).collect(),
        Some(_) => Vec::new(),
    };
    notes.extend(incomparable);
    Ok(Results {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        model: ModelSummary::of(checkpoint),
        machine,
        runs,
        warmup: options.warmup,
        threads: options.threads.map(NonZeroUsize::get),
        conclusions,
        states,
        left_out,
        warnings,
        notes,
    })
}

/// Why the ways are not compared, if so: what they take is not reading alone.
fn incomparable(checkpoint: &Checkpoint) -> Option<String> {
    if has_compressed(checkpoint) {
        return Some(
            "tensors are compressed, and most of the time goes into inflating them: nothing is compared with plain reads"
                .into(),
        );
    }
    (checkpoint.bytes() < LEAST_LIMITED_BYTES).then(|| {
        format!(
            "less than {}, of which loads take more time for other things than for reading: nothing is compared with plain reads",
            units::bytes(LEAST_LIMITED_BYTES)
        )
    })
}

fn usual_runs(bytes: u64) -> usize {
    let rule = USUAL_RUNS.iter().find(|(most, _)| bytes <= *most);
    rule.map_or(1, |(_, runs)| *runs)
}

/// What was left out and why; ways with one reason together.
fn warnings_of(left_out: &[LeftOut]) -> Vec<String> {
    let mut warnings = Vec::new();
    for group in
        left_out.chunk_by(|one, other| one.state == other.state && one.reason == other.reason)
    {
        let title = group[0].state.title();
        let names: Vec<&str> = group
            .iter()
            .filter_map(|one| Some(one.way?.name()))
            .collect();
        let reason = &group[0].reason;
        warnings.push(match names.is_empty() {
            true => format!("{title}: not measured, since {reason}"),
            false => format!("{title}: {} not measured: {reason}", names.join(", ")),
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_checkpoints_are_loaded_fewer_times() {
        for (gib, runs) in [(0, 10), (2, 10), (3, 5), (17, 3), (1000, 3)] {
            assert_eq!(usual_runs(gib << 30), runs, "{gib} GiB");
        }
    }

    #[test]
    fn what_was_left_out_for_one_reason_is_told_once() {
        let without = |way: Option<&str>, reason: &str| LeftOut {
            state: State::Warm,
            way: way.map(|name| name.parse().unwrap()),
            reason: reason.into(),
        };
        let warnings = warnings_of(&[
            without(Some("read"), "too large"),
            without(Some("resident"), "too large"),
            without(Some("mmap-copy"), "compressed"),
            without(None, "it rains"),
        ]);
        assert_eq!(
            warnings,
            [
                "page cache warm: read, resident not measured: too large",
                "page cache warm: mmap-copy not measured: compressed",
                "page cache warm: not measured, since it rains",
            ]
        );
    }
}
