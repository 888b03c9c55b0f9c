//! The report of a load, for people.

use std::io::{self, Write};

use anstyle::Style;
use ckload::{Checkpoint, ReadPolicy, Report};

use crate::cli::options::{LoadOptions, Pin, Sides};
use crate::cli::runner::Way;
use crate::cli::{savings, style, units};

use super::{
    LoadReport, ModelReport, ModelSummary, PoolSummary, facts, labels, memory, mismatches, phases,
    runs, several, speed,
};

/// Writes what was loaded, how fast, where the time went, what pooling saved, and what would be better.
pub(crate) fn write_load(
    out: &mut impl Write,
    options: &LoadOptions,
    way: Way,
    checkpoints: &[Checkpoint],
    report: &LoadReport,
) -> io::Result<()> {
    if options.verbose {
        write_settings(out, options, way, &report.pool)?;
    }
    for (number, (model, checkpoint)) in report.models.iter().zip(checkpoints).enumerate() {
        write_model(out, &model.model)?;
        if options.verbose {
            write_policy(out, &options.reading.loader().policy(checkpoint))?;
        }
        write_how(out, options, way)?;
        writeln!(out)?;
        write_costs(out, options, model, number)?;
    }
    if let Some(path) = &options.against {
        mismatches::write_comparison(out, path, &report.mismatches)?;
        writeln!(out)?;
    }
    if report.models.len() > 1 {
        several::write(out, report, options)?;
        writeln!(out)?;
    }
    if options.sides != Sides::WithoutPool {
        memory::write_pool(out, &report.pool, options.pin)?;
    }
    memory::write_process(out, report.peak_rss_bytes)?;
    if options.sides != Sides::WithoutPool {
        memory::write_savings(out, &report.savings, options)?;
    }
    facts::write_advice(out, options, way, checkpoints, report)
}

/// Writes what the loads of one model took, the first one or a later one.
fn write_costs(
    out: &mut impl Write,
    options: &LoadOptions,
    model: &ModelReport,
    number: usize,
) -> io::Result<()> {
    speed::write(out, model)?;
    if options.sides == Sides::Compare {
        writeln!(out)?;
        runs::comparison(model, style::columns()).write(out)?;
    }
    writeln!(out)?;
    phases::write(out, &model.runs)?;
    writeln!(out)?;
    if number > 0 && options.sides != Sides::WithoutPool {
        memory::write_memory_of_first(out, model)?;
    } else {
        memory::write_memory(out, model)?;
    }
    write_digest_cost(out, model)?;
    if options.verbose {
        let mut table = runs::each(model, options.sides);
        table.drop_to_fit(style::columns());
        writeln!(out)?;
        table.write(out)?;
    }
    if options.models.len() > 1 || options.verbose || options.against.is_some() {
        writeln!(out)?;
    }
    Ok(())
}

fn write_settings(
    out: &mut impl Write,
    options: &LoadOptions,
    way: Way,
    pool: &PoolSummary,
) -> io::Result<()> {
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
    let settings = format!(
        "settings: {}, io {}, {budget}, {pool_kind}, pin {pin}",
        units::counted(pool.threads as u64, "thread"),
        options.reading.io,
    );
    labels::write_text(out, style::FAINT, &settings)
}

fn write_policy(out: &mut impl Write, policy: &ReadPolicy) -> io::Result<()> {
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
    let policy = format!(
        "{place}: reads of up to {}, {threads} from the page cache{more}",
        units::bytes(policy.read_bytes),
    );
    labels::write_text(out, style::FAINT, &policy)
}

/// Writes what a checkpoint is.
pub(crate) fn write_model(out: &mut impl Write, model: &ModelSummary) -> io::Result<()> {
    let title = style::TITLE;
    writeln!(out, "{title}{}{title:#}", style::escape(&model.path))?;
    let what = format!(
        "{}, {}, {}, {}",
        model.format,
        units::counted(model.files as u64, "file"),
        units::counted(model.tensors as u64, "tensor"),
        units::bytes(model.bytes),
    );
    labels::write_text(out, Style::new(), &what)
}

fn write_how(out: &mut impl Write, options: &LoadOptions, way: Way) -> io::Result<()> {
    let verb = match way {
        Way::Resident => "loaded into memory".to_owned(),
        Way::Streamed { budget } => {
            format!("streamed through {} at most", units::bytes(budget.as_u64()))
        }
    };
    let how = match (options.rounds.get() as u64, options.sides) {
        (1, Sides::Compare) => format!("{verb}, without and with the pool, after a warm-up"),
        (1, _) => format!("{verb}, once"),
        (rounds, Sides::Compare) => {
            let rounds = units::counted(rounds, "interleaved round");
            format!("{verb}, {rounds} and a warm-up; medians")
        }
        (rounds, _) => format!("{verb}, {}; medians", units::counted(rounds, "time")),
    };
    labels::write_text(out, Style::new(), &how)
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
    let cost = format!(
        "SHA-256 of {} took {}, summed over threads ({} for each)",
        units::counted(model.digests.len() as u64, "tensor"),
        units::seconds(seconds),
        units::rate(savings::median(rates)),
    );
    labels::write(out, "Hashing", &cost)
}
