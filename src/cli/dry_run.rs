//! `ckload --dry-run`: what a load would do.

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::Style;
use ckload::{Checkpoint, Gather, Part, Place, Plan, Read};
use serde::Serialize;

use super::load::{open_all, way};
use super::open::file_labels;
use super::options::{LoadOptions, OutputOptions};
use super::report::{ModelSummary, SCHEMA, Table, write_text};
use super::runner::Way;
use super::width::cut_start;
use super::{Error, style, units};

/// So many rows of a table are shown, unless all are asked for.
const SHOWN_ROWS: usize = 20;

/// File names are cut no shorter than this.
const MIN_NAME_COLUMNS: usize = 16;

/// The plans of all models, as JSON.
#[derive(Serialize)]
struct DryRun<'a> {
    schema: u32,
    models: Vec<ModelSummary>,
    /// Of a stream; a resident load has none.
    budget: Option<u64>,
    plans: Vec<PlanEntry<'a>>,
}

#[derive(Serialize)]
struct PlanEntry<'a> {
    files: Vec<Cow<'a, str>>,
    /// Bytes of each block of memory.
    slots: &'a [u64],
    places: Vec<PlaceEntry<'a>>,
    reads: Vec<ReadEntry>,
    gathers: Vec<GatherEntry<'a>>,
}

/// Where a tensor will lie.
#[derive(Serialize)]
struct PlaceEntry<'a> {
    tensor: &'a str,
    slot: usize,
    offset: u64,
    len: u64,
}

#[derive(Serialize)]
struct ReadEntry {
    /// Index into `files`.
    file: usize,
    offset: u64,
    len: u64,
    /// Bytes of the file from the first to the last: more than `len` if some between them are left out.
    span: u64,
    parts: Vec<PartEntry>,
}

/// A tensor whose elements do not lie one behind the other.
#[derive(Serialize)]
struct GatherEntry<'a> {
    tensor: &'a str,
    #[serde(flatten)]
    part: PartEntry,
}

#[derive(Serialize)]
struct PartEntry {
    slot: usize,
    offset: u64,
    len: u64,
}

/// Prints the plan of each model. Reads headers only.
pub(crate) fn run(options: &LoadOptions, output: &OutputOptions) -> Result<(), Error> {
    let checkpoints = open_all(options, output)?;
    let loader = options.reading.loader();
    let plans: Vec<Plan> = checkpoints
        .iter()
        .map(|checkpoint| loader.plan(checkpoint))
        .collect();
    let budget = match way(options, &checkpoints) {
        Way::Resident => None,
        Way::Streamed { budget } => Some(budget.as_u64()),
    };
    if output.json {
        let plans = checkpoints.iter().zip(&plans);
        output.write_json(&DryRun {
            schema: SCHEMA,
            models: checkpoints.iter().map(ModelSummary::of).collect(),
            budget,
            plans: plans
                .map(|(checkpoint, plan)| PlanEntry::of(checkpoint, plan))
                .collect(),
        })?;
    } else if !output.quiet {
        let mut out = io::BufWriter::new(output.stdout());
        let rows = if options.verbose {
            usize::MAX
        } else {
            SHOWN_ROWS
        };
        for (checkpoint, plan) in checkpoints.iter().zip(&plans) {
            write_plan(&mut out, checkpoint, plan, budget, rows)?;
        }
        out.flush()?;
    }
    Ok(())
}

impl<'a> PlanEntry<'a> {
    fn of(checkpoint: &'a Checkpoint, plan: &'a Plan) -> Self {
        let files = checkpoint.files().iter();
        let place = |place: &Place| {
            let tensor = &checkpoint.tensors()[place.tensor];
            PlaceEntry {
                tensor: &tensor.name,
                slot: place.slot,
                offset: place.offset,
                len: tensor.bytes,
            }
        };
        let gather = |gather: &'a Gather| GatherEntry {
            tensor: &checkpoint.tensors()[gather.tensor].name,
            part: PartEntry {
                slot: gather.slot,
                offset: gather.offset,
                len: gather.len,
            },
        };
        Self {
            files: files.map(|file| file.path.to_string_lossy()).collect(),
            slots: plan.slots(),
            places: plan.places().iter().map(place).collect(),
            reads: plan.reads().iter().map(ReadEntry::of).collect(),
            gathers: plan.gathers().iter().map(gather).collect(),
        }
    }
}

impl ReadEntry {
    fn of(read: &Read) -> Self {
        let part = |part: &Part| PartEntry {
            slot: part.slot,
            offset: part.offset,
            len: part.len,
        };
        Self {
            file: read.file,
            offset: read.offset,
            len: read.len,
            span: read.span(),
            parts: read.parts.iter().map(part).collect(),
        }
    }
}

fn write_plan(
    out: &mut impl Write,
    checkpoint: &Checkpoint,
    plan: &Plan,
    budget: Option<u64>,
    rows: usize,
) -> io::Result<()> {
    let title = style::TITLE;
    let path = checkpoint.path().to_string_lossy();
    writeln!(out, "{title}{}{title:#}", style::escape(&path))?;
    let load = format!(
        "a resident load: {} of {} into {} of {}",
        units::counted(plan.reads().len() as u64, "read"),
        units::bytes(plan.reads().iter().map(|read| read.len).sum()),
        units::counted(plan.slots().len() as u64, "block"),
        units::bytes(plan.slots().iter().sum()),
    );
    write_text(out, Style::new(), &load)?;
    if !plan.gathers().is_empty() {
        let collected = format!(
            "{} whose elements are collected: {}",
            units::counted(plan.gathers().len() as u64, "tensor"),
            units::bytes(plan.gathers().iter().map(|gather| gather.len).sum()),
        );
        write_text(out, Style::new(), &collected)?;
    }
    if let Some(budget) = budget {
        let stream = format!("a stream: no more than {} at a time", units::bytes(budget));
        write_text(out, Style::new(), &stream)?;
    }
    let columns = style::columns();
    for (table, all) in [
        (file_table(checkpoint, plan, rows), checkpoint.files().len()),
        (block_table(plan, rows), plan.slots().len()),
        (place_table(checkpoint, plan, rows), plan.places().len()),
        (
            read_table(checkpoint, plan, rows, columns),
            plan.reads().len(),
        ),
    ] {
        let mut table = table;
        table.fit(columns);
        writeln!(out)?;
        table.write(out)?;
        let left = all.saturating_sub(rows);
        if left > 0 {
            let left = units::count(left as u64);
            let ellipsis = style::glyphs().ellipsis;
            writeln!(out, "{ellipsis} and {left} more; -v shows all")?;
        }
    }
    Ok(())
}

/// What is read from each file.
fn file_table(checkpoint: &Checkpoint, plan: &Plan, rows: usize) -> Table {
    // Per file: reads, bytes.
    let mut totals = vec![[0; 2]; checkpoint.files().len()];
    for read in plan.reads() {
        let [reads, bytes] = &mut totals[read.file];
        *reads += 1;
        *bytes += read.len;
    }
    let mut table = Table::new(["file", "reads", "bytes"]);
    for (label, total) in file_labels(checkpoint).into_iter().zip(totals).take(rows) {
        table.row(std::iter::once(label).chain(total.map(units::count)));
    }
    table
}

/// How large each block of memory is, and how many tensors share it.
fn block_table(plan: &Plan, rows: usize) -> Table {
    let mut tensors = vec![0; plan.slots().len()];
    for place in plan.places() {
        tensors[place.slot] += 1;
    }
    let mut table = Table::new(["block", "tensors", "bytes"]);
    for (slot, (&bytes, tensors)) in plan.slots().iter().zip(tensors).enumerate().take(rows) {
        table.row([slot.to_string(), units::count(tensors), units::count(bytes)]);
    }
    table
}

/// Where each tensor will lie.
fn place_table(checkpoint: &Checkpoint, plan: &Plan, rows: usize) -> Table {
    let mut table = Table::new(["tensor", "block", "offset", "bytes"]);
    for place in plan.places().iter().take(rows) {
        let tensor = &checkpoint.tensors()[place.tensor];
        table.row([
            style::escape(&tensor.name).into_owned(),
            place.slot.to_string(),
            units::count(place.offset),
            units::count(tensor.bytes),
        ]);
    }
    table
}

/// What each read reads, and where it goes.
fn read_table(checkpoint: &Checkpoint, plan: &Plan, rows: usize, columns: usize) -> Table {
    let labels = file_labels(checkpoint);
    let label_columns = MIN_NAME_COLUMNS.max(columns / 3);
    let mut table = Table::new(["read", "file", "offset", "bytes", "blocks"]);
    for (number, read) in plan.reads().iter().enumerate().take(rows) {
        table.row([
            number.to_string(),
            cut_start(&labels[read.file], label_columns),
            units::count(read.offset),
            units::count(read.len),
            blocks(read),
        ]);
    }
    table
}

/// `0`, or `3 to 17`: a read fills blocks that follow one another.
fn blocks(read: &Read) -> String {
    let slots = read.parts.iter().map(|part| part.slot);
    match (slots.clone().min(), slots.max()) {
        (Some(first), Some(last)) if first < last => format!("{first} to {last}"),
        (Some(only), _) => only.to_string(),
        (None, _) => String::new(),
    }
}
