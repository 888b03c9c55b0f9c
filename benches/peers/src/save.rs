//! Raw results, kept for comparison, with what a reader must know of the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    measure::{Cell, Effort, Measured},
    report,
};

/// What ran the rows.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// How many CPUs the process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The system's setting for transparent huge pages.
    pub huge_pages: String,
}

impl Machine {
    /// This machine, as far as it says.
    #[must_use]
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.trim_end_matches(" kB").parse::<u64>().ok());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cpus: thread::available_parallelism().map_or(1, Into::into),
            memory: kib.unwrap_or(0) << 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        }
    }

    /// A short name for a folder: the processor's and the number of CPUs.
    fn slug(&self) -> String {
        let words = self.cpu.replace("(R)", " ").replace("(TM)", " ");
        let words = words
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && !["CPU", "Processor"].contains(word))
            .map(str::to_lowercase);
        let mut slug: Vec<_> = words.collect();
        slug.push(format!("{}cpu", self.cpus));
        slug.join("-")
    }
}

/// The value after `name :` in a file of `/proc`.
fn field(text: &str, name: &str) -> Option<String> {
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// The bracketed one of several words.
fn chosen(text: &str) -> String {
    let bracketed = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or("unknown", |(word, _)| word).to_owned()
}

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

/// Writes `peers.json` and `peers.md` into a folder for this date and machine; returns the folder.
///
/// # Errors
///
/// If the folder or a file in it cannot be written.
pub fn save(
    folder: &Path,
    machine: &Machine,
    effort: Effort,
    groups: &[Vec<Measured>],
) -> io::Result<PathBuf> {
    let date = OffsetDateTime::now_utc().date().to_string();
    let folder = folder.join(format!("{date}-{}", machine.slug()));
    fs::create_dir_all(&folder)?;
    let run = Run {
        schema: 1,
        date,
        machine,
        effort,
        rows: groups
            .iter()
            .flat_map(|group| group.iter().map(|row| saved(row, group)))
            .collect(),
    };
    let mut json = serde_json::to_string_pretty(&run)?;
    json.push('\n');
    fs::write(folder.join("peers.json"), json)?;
    fs::write(folder.join("peers.md"), report::markdown(groups))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_name_is_short_and_plain() {
        let machine = Machine {
            cpu: "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz".to_owned(),
            cpus: 4,
            memory: 0,
            kernel: String::new(),
            huge_pages: String::new(),
        };
        assert_eq!(machine.slug(), "intel-xeon-gold-6338-2-00ghz-4cpu");
    }

    #[test]
    fn proc_files_are_understood() {
        let text = "processor\t: 0\nmodel name\t: A B\nmodel name\t: C\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A B"));
        assert_eq!(field(text, "cache size"), None);
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen(""), "unknown");
    }
}
