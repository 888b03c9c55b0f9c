//! `ckload --dry-run`: what a load would do.

use std::io::{self, Write};

use ckload::{Checkpoint, Plan};
use serde::Serialize;

use super::load::{open_all, way};
use super::options::{LoadOptions, OutputOptions};
use super::report::{ModelSummary, SCHEMA, Table};
use super::runner::Way;
use super::{Error, style, units};

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
    /// Bytes of each block of memory.
    slots: &'a [u64],
    reads: Vec<ReadEntry>,
    gathers: Vec<GatherEntry<'a>>,
}

#[derive(Serialize)]
struct ReadEntry {
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
    let checkpoints = open_all(options)?;
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
        output.write_json(&DryRun {
            schema: SCHEMA,
            models: checkpoints.iter().map(ModelSummary::of).collect(),
            budget,
            plans: checkpoints
                .iter()
                .zip(&plans)
                .map(|(checkpoint, plan)| PlanEntry::of(checkpoint, plan))
                .collect(),
        })?;
    } else if !output.quiet {
        let mut out = output.stdout();
        for (checkpoint, plan) in checkpoints.iter().zip(&plans) {
            write_plan(&mut out, checkpoint, plan, budget)?;
        }
    }
    Ok(())
}

impl<'a> PlanEntry<'a> {
    fn of(checkpoint: &'a Checkpoint, plan: &'a Plan) -> Self {
        let part = |part: &ckload::Part| PartEntry {
            slot: part.slot,
            offset: part.offset,
            len: part.len,
        };
        let reads = plan.reads().iter().map(|read| ReadEntry {
            file: read.file,
            offset: read.offset,
            len: read.len,
            span: read.span(),
            parts: read.parts.iter().map(part).collect(),
        });
        let gathers = plan.gathers().iter().map(|gather| GatherEntry {
            tensor: &checkpoint.tensors()[gather.tensor].name,
            part: PartEntry {
                slot: gather.slot,
                offset: gather.offset,
                len: gather.len,
            },
        });
        Self {
            slots: plan.slots(),
            reads: reads.collect(),
            gathers: gathers.collect(),
        }
    }
}

fn write_plan(
    out: &mut impl Write,
    checkpoint: &Checkpoint,
    plan: &Plan,
    budget: Option<u64>,
) -> io::Result<()> {
    let title = style::TITLE;
    let path = checkpoint.path().to_string_lossy();
    writeln!(out, "{title}{}{title:#}", style::escape(&path))?;
    writeln!(
        out,
        "a resident load: {} of {} into {} of {}",
        units::counted(plan.reads().len() as u64, "read"),
        units::bytes(plan.reads().iter().map(|read| read.len).sum()),
        units::counted(plan.slots().len() as u64, "block"),
        units::bytes(plan.slots().iter().sum()),
    )?;
    if !plan.gathers().is_empty() {
        writeln!(
            out,
            "{} whose elements are collected: {}",
            units::counted(plan.gathers().len() as u64, "tensor"),
            units::bytes(plan.gathers().iter().map(|gather| gather.len).sum()),
        )?;
    }
    if let Some(budget) = budget {
        writeln!(
            out,
            "a stream: no more than {} at a time",
            units::bytes(budget)
        )?;
    }
    writeln!(out)?;
    let mut table = Table::new(["read", "file", "offset", "bytes", "blocks"]);
    for (number, read) in plan.reads().iter().enumerate() {
        let mut slots: Vec<String> = read
            .parts
            .iter()
            .map(|part| part.slot.to_string())
            .collect();
        slots.dedup();
        table.row([
            number.to_string(),
            read.file.to_string(),
            units::count(read.offset),
            units::count(read.len),
            slots.join(" "),
        ]);
    }
    table.write(out)
}
