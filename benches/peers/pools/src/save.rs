//! Raw results, kept for comparison, with what a reader must know of the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ckload_peers_machine::{self as machine, Machine};
use serde::Serialize;

use crate::{
    measure::{Cell, Effort, Measured},
    report,
};

#[derive(Serialize)]
struct Run<'a> {
    schema: u32,
    date: String,
    machine: &'a Machine,
    effort: Effort,
    rows: Vec<SavedRow<'a>>,
}

#[derive(Serialize)]
struct SavedRow<'a> {
    title: &'a str,
    /// Operations in the unit of the table; the samples are per operation.
    unit_ops: u32,
    best_other: Option<&'static str>,
    ratio: Option<f64>,
    best_shared: Option<&'static str>,
    ratio_to_shared: Option<f64>,
    goals: Vec<SavedGoal>,
    disturbed_rounds: usize,
    cells: &'a [Cell],
}

#[derive(Serialize)]
struct SavedGoal {
    goal: String,
    met: bool,
}

/// Writes `pools.json` and `pools.md` into a folder for this date and machine; returns the folder.
///
/// # Errors
///
/// If the folder or a file in it cannot be written.
pub fn save(
    folder: &Path,
    this: &Machine,
    effort: Effort,
    groups: &[Vec<Measured>],
) -> io::Result<PathBuf> {
    let date = machine::today();
    let folder = this.folder(folder, &date)?;
    let run = Run {
        schema: 1,
        date,
        machine: this,
        effort,
        rows: groups
            .iter()
            .flat_map(|group| group.iter().map(|row| saved(row, group)))
            .collect(),
    };
    let mut json = serde_json::to_string_pretty(&run)?;
    json.push('\n');
    fs::write(folder.join("pools.json"), json)?;
    fs::write(folder.join("pools.md"), report::markdown(groups))?;
    Ok(folder)
}

fn saved<'a>(row: &'a Measured, group: &[Measured]) -> SavedRow<'a> {
    let all = report::against_all(row);
    let shared = report::against_shared(row);
    SavedRow {
        title: &row.row.title,
        unit_ops: row.row.unit_ops,
        best_other: all.map(|verdict| verdict.best.name()),
        ratio: all.map(|verdict| verdict.ratio),
        best_shared: shared.map(|verdict| verdict.best.name()),
        ratio_to_shared: shared.map(|verdict| verdict.ratio),
        goals: row
            .row
            .goals
            .iter()
            .filter_map(|goal| report::check(goal, row, group))
            .map(|(goal, met)| SavedGoal { goal, met })
            .collect(),
        disturbed_rounds: row.disturbed,
        cells: &row.cells,
    }
}
