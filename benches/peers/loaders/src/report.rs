//! The tables: what each way took, and what ours is meant to reach.

use std::fmt::Write;

use ckload_peers_machine::Machine;
use serde::Serialize;

use crate::child::{Load, Process};
use crate::page_cache::State;
use crate::rounds::{Effort, Measured, Samples};

/// A run of the benchmark on one checkpoint.
#[derive(Serialize)]
pub(crate) struct Run<'a> {
    pub(crate) schema: u32,
    pub(crate) date: String,
    pub(crate) machine: &'a Machine,
    pub(crate) effort: Effort,
    /// The checkpoint's.
    pub(crate) name: &'a str,
    pub(crate) files: usize,
    pub(crate) tensors: usize,
    /// Of all tensors.
    pub(crate) bytes: u64,
    pub(crate) states: Vec<Measured>,
}

/// A run as a page of Markdown.
pub(crate) fn markdown(run: &Run<'_>) -> String {
    let mut page = String::new();
    let machine = run.machine;
    let _ = writeln!(
        page,
        "`{}`: {} tensors, {} bytes, {} files. {}; {} CPUs, {:.1} GiB of memory, Linux {}, transparent huge pages on `{}`.\n",
        run.name,
        run.tensors,
        run.bytes,
        run.files,
        machine.cpu,
        machine.cpus,
        machine.memory as f64 / f64::from(1 << 30),
        machine.kernel,
        machine.huge_pages,
    );
    for measured in &run.states {
        table(&mut page, measured, run);
        goals(&mut page, measured);
    }
    page
}

fn table(page: &mut String, measured: &Measured, run: &Run<'_>) {
    let state = match measured.state {
        State::Warm => "Page cache warm",
        State::Cold => "Page cache cold",
    };
    let _ = writeln!(page, "### {state}\n");
    let _ = writeln!(
        page,
        "| way | first ms | min to max | repeated ms | min to max | page faults | peak memory |"
    );
    let _ = writeln!(page, "|---|--:|--:|--:|--:|--:|--:|");
    for samples in &measured.ways {
        let first = Spread::of(samples.first());
        let repeated = Spread::of(samples.repeated());
        let faults = median(
            samples
                .processes
                .iter()
                .map(|process| process.first.page_faults as f64),
        );
        let _ = writeln!(
            page,
            "| {} | {:.1} | {:.1} to {:.1} | {:.1} | {:.1} to {:.1} | {:.0} | {:.2} × |",
            samples.way.name(),
            first.median,
            first.min,
            first.max,
            repeated.median,
            repeated.min,
            repeated.max,
            faults,
            samples.peak_bytes() / run.bytes as f64,
        );
    }
    let _ = writeln!(
        page,
        "\nMedians of {} processes each, in turn; page faults and peak memory (in sizes of the tensors) are the first load's.",
        run.effort.rounds
    );
    if measured.disturbed_rounds > 0 {
        let _ = writeln!(
            page,
            "Other processes disturbed {} rounds.",
            measured.disturbed_rounds
        );
    }
    page.push('\n');
}

/// Each way of ours beside each of the framework's own.
fn goals(page: &mut String, measured: &Measured) {
    let goal = match measured.state {
        State::Warm => 3.0,
        State::Cold => 2.0,
    };
    let _ = writeln!(
        page,
        "| ours | beside | first | repeated | goal | peak memory |"
    );
    let _ = writeln!(page, "|---|---|--:|--:|--:|---|");
    let speedup = |ours: Vec<f64>, theirs: Vec<f64>| {
        let ratio = Spread::of(theirs).median / Spread::of(ours).median;
        format!(
            "{ratio:.2} ×{}",
            if ratio < goal { " (missed)" } else { "" }
        )
    };
    for ours in measured.ways.iter().filter(|samples| samples.way.is_ours()) {
        let same = |samples: &&Samples| {
            !samples.way.is_ours() && samples.way.framework() == ours.way.framework()
        };
        for theirs in measured.ways.iter().filter(same) {
            let is_lower = ours.peak_bytes() < theirs.peak_bytes();
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {goal} × | {} |",
                ours.way.name(),
                theirs.way.name(),
                speedup(ours.first(), theirs.first()),
                speedup(ours.repeated(), theirs.repeated()),
                if is_lower {
                    "lower"
                } else {
                    "not lower (missed)"
                },
            );
        }
    }
    page.push('\n');
}

impl Samples {
    /// Milliseconds.
    fn first(&self) -> Vec<f64> {
        self.processes
            .iter()
            .map(|process| milliseconds(&process.first))
            .collect()
    }

    /// Milliseconds.
    fn repeated(&self) -> Vec<f64> {
        let of = |process: &Process| median(process.repeated.iter().map(milliseconds));
        self.processes.iter().map(of).collect()
    }

    fn peak_bytes(&self) -> f64 {
        median(
            self.processes
                .iter()
                .map(|process| process.peak_bytes as f64),
        )
    }
}

fn milliseconds(load: &Load) -> f64 {
    load.seconds * 1e3
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: Vec<f64>) -> Self {
        Self {
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(0.0, f64::max),
            median: median(values),
        }
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
