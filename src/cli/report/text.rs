//! The report of a load, for people.

use std::io::{self, Write};
use std::path::Path;

use ckload::{Mismatch, ReadPolicy, Report};

use crate::cli::options::{LoadOptions, Pin, Sides};
use crate::cli::runner::Way;
use crate::cli::savings::{self, Method, Savings};
use crate::cli::{style, units};

use super::{LoadReport, ModelReport, ModelSummary, PoolSummary, Table};

/// Columns of [`run_cells`].
pub(crate) const RUN_COLUMNS: [&str; 6] =
    ["time", "rate", "allocation", "fresh", "reused", "faults"];

/// In place of a number that nobody measured.
const UNKNOWN: &str = "-";

/// Writes what was loaded, what it took, and what pooling saved.
pub(crate) fn write_load(
    out: &mut impl Write,
    options: &LoadOptions,
    way: Way,
    policies: &[ReadPolicy],
    report: &LoadReport,
) -> io::Result<()> {
    if options.verbose {
        write_settings(out, options, way, &report.pool)?;
    }
    for (model, policy) in report.models.iter().zip(policies) {
        write_model(out, &model.model)?;
        if options.verbose {
            write_policy(out, policy)?;
        }
        write_how(out, options, way)?;
        writeln!(out)?;
        allocation_table(model, options.sides).write(out)?;
        writeln!(out)?;
        write_digest_cost(out, model)?;
        if options.verbose {
            run_table(model, options.sides).write(out)?;
            writeln!(out)?;
        }
    }
    if let Some(path) = &options.against {
        write_comparison(out, path, &report.mismatches)?;
    }
    write_memory(out, &report.pool, report.peak_rss_bytes)?;
    if options.sides != Sides::WithoutPool {
        write_savings(out, &report.savings, options)?;
    }
    Ok(())
}

fn write_settings(
    out: &mut impl Write,
    options: &LoadOptions,
    way: Way,
    pool: &PoolSummary,
) -> io::Result<()> {
    let faint = style::FAINT;
    let budget = match way {
        Way::Resident => "no budget (resident)".to_owned(),
        Way::Streamed { budget } => format!("budget {}", units::bytes(budget.as_u64())),
    };
    let pool_kind = match options.sides {
        Sides::WithoutPool => "no pool",
        Sides::WithPool | Sides::Compare if pool.huge_pages => "pool of huge pages",
        Sides::WithPool | Sides::Compare => "pool of small pages",
    };
    let pin = match options.pin {
        Pin::Auto => "auto",
        Pin::Always => "always",
        Pin::Never => "never",
    };
    writeln!(
        out,
        "{faint}settings: {}, io {}, {budget}, {pool_kind}, pin {pin}{faint:#}",
        units::counted(pool.threads as u64, "thread"),
        options.reading.io,
    )
}

fn write_policy(out: &mut impl Write, policy: &ReadPolicy) -> io::Result<()> {
    let faint = style::FAINT;
    let place = if policy.is_remote {
        "network file system"
    } else {
        "local file system"
    };
    let threads = units::counted(policy.threads as u64, "thread");
    let more = if policy.waiting_threads == policy.threads {
        String::new()
    } else {
        format!(", {} where it lacks them", policy.waiting_threads)
    };
    writeln!(
        out,
        "{faint}{place}: reads of up to {}, {threads} from the page cache{more}{faint:#}",
        units::bytes(policy.read_bytes),
    )
}

/// Writes what a checkpoint is.
pub(crate) fn write_model(out: &mut impl Write, model: &ModelSummary) -> io::Result<()> {
    let title = style::TITLE;
    writeln!(out, "{title}{}{title:#}", style::escape(&model.path))?;
    writeln!(
        out,
        "{}, {}, {}, {}",
        model.format,
        units::counted(model.files as u64, "file"),
        units::counted(model.tensors as u64, "tensor"),
        units::bytes(model.bytes),
    )
}

fn write_how(out: &mut impl Write, options: &LoadOptions, way: Way) -> io::Result<()> {
    let verb = match way {
        Way::Resident => "loaded into memory".to_owned(),
        Way::Streamed { budget } => {
            format!("streamed through {} at most", units::bytes(budget.as_u64()))
        }
    };
    match (options.rounds.get() as u64, options.sides) {
        (1, _) => writeln!(out, "{verb}, once"),
        (rounds, Sides::Compare) => writeln!(
            out,
            "{verb}, {}; medians",
            units::counted(rounds, "interleaved round")
        ),
        (rounds, _) => writeln!(out, "{verb}, {}; medians", units::counted(rounds, "time")),
    }
}

/// What one model's loads took, with the sides beside each other.
fn allocation_table(model: &ModelReport, sides: Sides) -> Table {
    let runs = side_cells(&model.runs);
    match sides {
        Sides::WithoutPool => columns("without the pool", runs, None),
        Sides::Compare => columns(
            "without the pool",
            side_cells(&model.baseline_runs),
            Some(runs),
        ),
        Sides::WithPool => match estimated_cells(&model.runs) {
            Some(estimate) => columns("without (estimated)", estimate, Some(runs)),
            None => columns("with the pool", runs, None),
        },
    }
}

const SIDE_ROWS: [&str; 7] = [
    "time",
    "rate",
    "allocation",
    "buffers, fresh",
    "buffers, reused",
    "page faults",
    "pool memory, peak",
];

fn columns(first: &str, first_cells: [String; 7], with_pool: Option<[String; 7]>) -> Table {
    match with_pool {
        None => {
            let mut table = Table::new(["", first]);
            for (name, cell) in SIDE_ROWS.into_iter().zip(first_cells) {
                table.row([name.to_owned(), cell]);
            }
            table
        }
        Some(second_cells) => {
            let mut table = Table::new(["", first, "with the pool"]);
            for ((name, first), second) in SIDE_ROWS.into_iter().zip(first_cells).zip(second_cells)
            {
                table.row([name.to_owned(), first, second]);
            }
            table
        }
    }
}

fn side_cells(runs: &[Report]) -> [String; 7] {
    let [time, rate, allocation, fresh, reused, faults] = run_cells(runs);
    let peak = runs
        .iter()
        .map(|run| run.peak_pool_bytes)
        .max()
        .unwrap_or(0);
    [
        time,
        rate,
        allocation,
        fresh,
        reused,
        faults,
        units::bytes(peak),
    ]
}

/// What the runs would have taken if all their memory had been fresh; `None` if it was, or without a price for it.
fn estimated_cells(runs: &[Report]) -> Option<[String; 7]> {
    if runs.iter().all(|run| run.allocation.reused == 0) {
        return None;
    }
    let price = savings::fresh_price(runs)?;
    let saved = savings::estimated([runs]).seconds;
    let seconds = savings::median_seconds(runs) + saved;
    let bytes = median(runs, |run| run.bytes);
    let buffers = median(runs, |run| run.allocation.fresh + run.allocation.reused);
    let allocated = median(runs, |run| {
        run.allocation.fresh_bytes + run.allocation.reused_bytes
    });
    Some([
        units::seconds(seconds),
        units::rate(bytes / seconds.max(f64::MIN_POSITIVE)),
        units::seconds(price * allocated),
        units::count(buffers as u64),
        units::count(0),
        UNKNOWN.into(),
        UNKNOWN.into(),
    ])
}

/// Medians of `runs`, as [`RUN_COLUMNS`].
pub(crate) fn run_cells(runs: &[Report]) -> [String; 6] {
    let count = |of: fn(&Report) -> u64| units::count(median(runs, of) as u64);
    [
        units::seconds(savings::median_seconds(runs)),
        units::rate(savings::median(runs.iter().map(|run| run.bytes_per_second))),
        units::seconds(savings::median(runs.iter().map(|run| {
            run.allocation.fresh_seconds + run.allocation.reuse_seconds
        }))),
        count(|run| run.allocation.fresh),
        count(|run| run.allocation.reused),
        count(|run| run.page_faults),
    ]
}

fn median(runs: &[Report], of: impl Fn(&Report) -> u64) -> f64 {
    savings::median(runs.iter().map(|run| of(run) as f64))
}

/// Each run on its own, in the order in which they were made.
fn run_table(model: &ModelReport, sides: Sides) -> Table {
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

/// Writes what hashing took, if tensors were hashed.
fn write_digest_cost(out: &mut impl Write, model: &ModelReport) -> io::Result<()> {
    let hashed = |run: &Report| Some((run.digest_seconds?, run.bytes));
    let costs: Vec<(f64, u64)> = model.runs.iter().filter_map(hashed).collect();
    if costs.is_empty() {
        return Ok(());
    }
    let seconds = savings::median(costs.iter().map(|(seconds, _)| *seconds));
    let rates = costs
        .iter()
        .map(|&(seconds, bytes)| bytes as f64 / seconds.max(f64::MIN_POSITIVE));
    writeln!(
        out,
        "SHA-256 of {} took {} of that, summed over threads ({} for each)\n",
        units::counted(model.digests.len() as u64, "tensor"),
        units::seconds(seconds),
        units::rate(savings::median(rates)),
    )
}

/// Writes how what was found compares with what is recorded at `path`.
fn write_comparison(out: &mut impl Write, path: &Path, mismatches: &[Mismatch]) -> io::Result<()> {
    if !mismatches.is_empty() {
        return write_mismatches(out, mismatches);
    }
    let (gain, path) = (style::GAIN, path.to_string_lossy());
    writeln!(
        out,
        "{gain}Everything is as recorded in {}.{gain:#}",
        style::escape(&path)
    )
}

/// Writes what is not as it should be, in brief; sentences about it go to standard error.
pub(crate) fn write_mismatches(out: &mut impl Write, mismatches: &[Mismatch]) -> io::Result<()> {
    let mut table = Table::new(["not as it should be", ""]);
    for mismatch in mismatches {
        let name = match (mismatch.tensor(), mismatch.file()) {
            (Some(name), _) => style::escape(name).into_owned(),
            (None, Some(path)) => style::escape(&path.to_string_lossy()).into_owned(),
            (None, None) => String::new(),
        };
        table.row([name, in_brief(mismatch)]);
    }
    table.write(out)?;
    writeln!(out)
}

fn in_brief(mismatch: &Mismatch) -> String {
    let brief = match mismatch {
        Mismatch::BlobName { .. } => "file's SHA-256 is not its name in the cache",
        Mismatch::FileDigest { .. } => "file's SHA-256 differs",
        Mismatch::FileBytes { .. } => "file's size differs",
        Mismatch::FileMissing { .. } => "file is missing",
        Mismatch::FileExtra { .. } => "file is not recorded",
        Mismatch::TensorDigest { .. } => "tensor's SHA-256 differs",
        Mismatch::TensorDtype { .. } => "tensor's dtype differs",
        Mismatch::TensorShape { .. } => "tensor's shape differs",
        Mismatch::TensorMissing { .. } => "tensor is missing",
        Mismatch::TensorExtra { .. } => "tensor is not recorded",
        Mismatch::NotFinite { nan, infinite, .. } => {
            let (nan, infinite) = (units::count(*nan), units::count(*infinite));
            return format!("{nan} NaN, {infinite} infinite");
        }
        other => return other.to_string(),
    };
    brief.to_owned()
}

/// Writes how much memory was locked, or why not, and how much was used in all.
pub(crate) fn write_memory(
    out: &mut impl Write,
    pool: &PoolSummary,
    peak_rss_bytes: Option<u64>,
) -> io::Result<()> {
    let pinned = units::bytes(pool.pinned_bytes);
    match (&pool.last_pin_error, pool.pins) {
        (_, false) => writeln!(out, "Pinned: nothing, not asked for.")?,
        (None, true) => writeln!(out, "Pinned: {pinned}.")?,
        (Some(reason), true) => writeln!(
            out,
            "Pinned: {pinned}; more was refused ({}).",
            style::escape(reason)
        )?,
    }
    match peak_rss_bytes {
        Some(bytes) => writeln!(out, "Peak memory of the process: {}.", units::bytes(bytes)),
        None => Ok(()),
    }
}

fn write_savings(out: &mut impl Write, savings: &Savings, options: &LoadOptions) -> io::Result<()> {
    let models = if options.models.len() == 1 {
        ""
    } else {
        " of all models"
    };
    write_gain(out, savings, models)?;
    match savings.method {
        Method::Measured => {
            let rounds = units::counted(options.rounds.get() as u64, "round");
            writeln!(out, "(measured: medians of {rounds})")
        }
        Method::Estimated => writeln!(out, "(estimated; run with --compare to measure)"),
    }
}

/// Writes what pooling saved in a load `of` something, whether or not it is something to be proud of.
pub(crate) fn write_gain(out: &mut impl Write, savings: &Savings, of: &str) -> io::Result<()> {
    let gain = style::GAIN;
    if savings.seconds > 0.0 {
        let seconds = units::seconds(savings.seconds);
        let ratio = units::ratio(savings.ratio);
        writeln!(
            out,
            "{gain}Pooling saved {seconds} a load{of}, {ratio} times as fast.{gain:#}"
        )
    } else if savings.seconds < 0.0 {
        let seconds = units::seconds(-savings.seconds);
        writeln!(
            out,
            "Pooling saved nothing: a load{of} took {seconds} more."
        )
    } else {
        writeln!(out, "Pooling saved nothing: no memory was used twice.")
    }
}
