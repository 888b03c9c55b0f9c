//! `ckload demo`: the same checkpoint, loaded in several ways in turn.

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anstyle::Style;
use ckload::{Checkpoint, Loader, Report, usage};
use safetensors::SafeTensors;

use super::options::{DemoOptions, OutputOptions, Pin};
use super::progress::Progress;
use super::report::{
    LoadReport, ModelReport, ModelSummary, PoolSummary, RUN_COLUMNS, Table, run_cells, write_pool,
    write_process, write_saved, write_text,
};
use super::runner::{Runner, Setup, Way};
use super::savings::{self, Savings, median};
use super::{Error, cache, style, units};

/// A load with `std::fs::read` and the safetensors crate.
struct UsualLoad {
    seconds: f64,
    bytes: u64,
    page_faults: u64,
}

/// What was measured, round by round.
struct Measurements {
    usual: Vec<UsualLoad>,
    without_pool: Vec<Report>,
    first: Vec<Report>,
    recycled: Vec<Report>,
    streamed: Vec<Report>,
    pool: PoolSummary,
}

/// Writes the checkpoint unless it is there, loads it in every way, and reports.
pub(crate) fn run(options: &DemoOptions, output: &OutputOptions) -> Result<(), Error> {
    let (checkpoint, written) = cache::checkpoint(options, output)?;
    let model = ModelSummary::of(&checkpoint);
    let explains = !output.json && !output.quiet;
    if explains {
        write_introduction(&mut output.stdout(), &model, written, options)?;
    }

    let measured = measure(&checkpoint, options, output)?;
    let savings = measured.savings();
    if explains {
        write_results(&mut output.stdout(), &measured, &savings)?;
    }
    if output.json {
        output.write_json(&measured.into_report(&checkpoint, savings))?;
    }
    Ok(())
}

/// Runs all ways in turn, so that what disturbs the machine disturbs all of them.
///
/// Each round has a pool of its own, so that a first load is measured as often as the others, and at most two copies
/// of the model are in memory at a time.
fn measure(
    checkpoint: &Checkpoint,
    options: &DemoOptions,
    output: &OutputOptions,
) -> Result<Measurements, Error> {
    let progress = Progress::new(output, "warming up", checkpoint.bytes());
    let resident = Setup {
        reading: options.reading,
        way: Way::Resident,
        pin: Pin::Auto,
        digests: false,
        observer: progress.observer(),
    };
    let streamed = Setup {
        way: Way::Streamed {
            budget: Loader::new().default_budget(checkpoint),
        },
        ..resident.clone()
    };
    let mut baseline = Runner::without_pool(&resident);
    let mut stream = Runner::with_pool(&streamed);
    let mut measured = Measurements::new(Runner::with_pool(&resident).pool_summary());

    // The first round brings the file into the page cache and memory into the machine; it does not count.
    for round in 0..=options.rounds.get() {
        if round > 0 {
            progress.name(format!("round {round} of {}", options.rounds));
        }
        let usual = usual_load(&checkpoint.files()[0].path)?;
        let without_pool = baseline.run(checkpoint)?;
        // A virtual machine may have given freed memory back to its host, and then pays for it again, at many times the price: a
        // load that does not count brings it back.
        Runner::with_pool(&resident).run(checkpoint)?;
        let mut pool = Runner::with_pool(&resident);
        let first = pool.run(checkpoint)?;
        let recycled = pool.run(checkpoint)?;
        measured.pool = pool.pool_summary();
        drop(pool);
        let streamed = stream.run(checkpoint)?;
        if round > 0 {
            measured.usual.push(usual);
            measured.without_pool.push(without_pool);
            measured.first.push(first);
            measured.recycled.push(recycled);
            measured.streamed.push(streamed);
        }
    }
    Ok(measured)
}

/// The whole file into a `Vec`, then views of its tensors.
fn usual_load(path: &Path) -> Result<UsualLoad, Error> {
    let read_error = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let faults_before = usage::page_faults();
    let start = Instant::now();
    let file = fs::read(path).map_err(read_error)?;
    let tensors =
        SafeTensors::deserialize(&file).map_err(|error| read_error(io::Error::other(error)))?;
    let bytes = tensors
        .iter()
        .map(|(_, tensor)| black_box(tensor.data()).len() as u64)
        .sum();
    Ok(UsualLoad {
        seconds: start.elapsed().as_secs_f64(),
        bytes,
        page_faults: usage::page_faults().saturating_sub(faults_before),
    })
}

impl Measurements {
    fn new(pool: PoolSummary) -> Self {
        Self {
            usual: Vec::new(),
            without_pool: Vec::new(),
            first: Vec::new(),
            recycled: Vec::new(),
            streamed: Vec::new(),
            pool,
        }
    }

    /// One pool's life: its first load, and as many recycled ones as there are loads without a pool.
    fn runs(&self) -> Vec<Report> {
        self.first
            .iter()
            .take(1)
            .chain(&self.recycled)
            .cloned()
            .collect()
    }

    fn savings(&self) -> Savings {
        savings::measured([(&self.without_pool[..], &self.runs()[..])])
    }

    fn into_report(self, checkpoint: &Checkpoint, savings: Savings) -> LoadReport {
        LoadReport {
            models: vec![ModelReport {
                runs: self.runs(),
                baseline_runs: self.without_pool,
                ..ModelReport::new(checkpoint)
            }],
            verified: false,
            mismatches: Vec::new(),
            savings,
            pool: self.pool,
            peak_rss_bytes: usage::peak_rss_bytes(),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(std::iter::once("").chain(RUN_COLUMNS));
        table.row(self.usual_cells());
        for (name, runs) in [
            ("without the pool", &self.without_pool),
            ("pool: first load", &self.first),
            ("pool: recycled", &self.recycled),
            ("pool: streamed", &self.streamed),
        ] {
            table.row(std::iter::once(name.to_owned()).chain(run_cells(runs)));
        }
        table
    }

    fn usual_cells(&self) -> [String; 7] {
        let seconds = median(self.usual.iter().map(|load| load.seconds));
        let bytes = median(self.usual.iter().map(|load| load.bytes as f64));
        let faults = median(self.usual.iter().map(|load| load.page_faults as f64));
        let unknown = || "-".to_owned();
        [
            "fs::read + SafeTensors".into(),
            units::seconds(seconds),
            units::rate(bytes / seconds.max(f64::MIN_POSITIVE)),
            unknown(),
            unknown(),
            unknown(),
            units::count(faults as u64),
        ]
    }
}

fn write_introduction(
    out: &mut impl Write,
    model: &ModelSummary,
    written: bool,
    options: &DemoOptions,
) -> io::Result<()> {
    let title = style::TITLE;
    writeln!(out, "{title}{}{title:#}", style::escape(&model.path))?;
    let origin = if written {
        "written now, kept for the next time"
    } else {
        "kept from an earlier demo"
    };
    for line in [
        format!(
            "{origin}: {} shaped like GPT-2's, {}",
            units::counted(model.tensors as u64, "tensor"),
            units::bytes(model.bytes),
        ),
        format!(
            "{} each, in turn, after one that warms up; medians",
            units::counted(options.rounds.get() as u64, "load"),
        ),
        "file in the page cache, fresh memory in use until just before".to_owned(),
        format!(
            "{}; allocation is summed over the threads that allocate at the same time",
            units::counted(options.reading.threads_or_cores() as u64, "thread"),
        ),
    ] {
        write_text(out, Style::new(), &line)?;
    }
    writeln!(out)
}

fn write_results(
    out: &mut impl Write,
    measured: &Measurements,
    savings: &Savings,
) -> io::Result<()> {
    let mut table = measured.table();
    table.drop_to_fit(style::columns());
    table.write(out)?;
    writeln!(out)?;
    write_pool(out, &measured.pool, Pin::Auto)?;
    write_process(out, usage::peak_rss_bytes())?;
    let source = format!(
        "measured: medians of {} without the pool, and {} with it",
        units::counted(measured.without_pool.len() as u64, "load"),
        measured.runs().len(),
    );
    write_saved(out, savings, "", &source)
}
