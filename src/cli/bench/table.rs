//! The result for people: a table for each state, no wider than a terminal.

use std::io::{self, Write};

use super::results::{Results, StateResult, WayResult};
use crate::cli::report::{Table, write_model};
use crate::cli::width::wrap;
use crate::cli::{style, units};

/// What a column is called, and what it says of a way.
type Column = (fn() -> String, fn(&WayResult) -> String);

/// In the order in which they are shown.
const COLUMNS: [Column; 8] = [
    (|| "way".into(), |result| result.way.name().to_owned()),
    (
        || "median".into(),
        |result| units::seconds(result.spread().median),
    ),
    (
        || style::glyphs().plus_minus.into(),
        |result| percent(result.spread().relative_deviation()),
    ),
    (
        || "min".into(),
        |result| units::seconds(result.spread().min),
    ),
    (
        || "max".into(),
        |result| units::seconds(result.spread().max),
    ),
    (
        || "rate".into(),
        |result| units::rate(result.bytes_per_second()),
    ),
    (|| format!("{} limit", style::glyphs().times), times_limit),
    (
        || "faults".into(),
        |result| units::count(result.page_faults()),
    ),
];

/// The column of what is compared, by number.
const TIMES_LIMIT: usize = 6;

/// The columns, by number, that go when there is no room, one after the other.
const EXPENDABLE: [usize; 5] = [2, 7, 4, 3, 5];

/// Lines are no longer, however wide the terminal.
const WIDEST: usize = 80;

/// Writes everything that was found.
pub(super) fn write(out: &mut impl Write, results: &Results, columns: usize) -> io::Result<()> {
    let columns = columns.min(WIDEST);
    write_model(out, &results.model)?;
    write_wrapped(out, &results.machine.describe(), columns)?;
    write_wrapped(out, &results.method(), columns)?;
    for (result, table) in results
        .states
        .iter()
        .zip(fitting_tables(&results.states, columns)?)
    {
        let title = style::TITLE;
        writeln!(out, "\n{title}{}{title:#}", result.state.title())?;
        out.write_all(&table)?;
    }
    writeln!(out)?;
    let faint = style::FAINT;
    for note in &results.notes {
        write!(out, "{faint}")?;
        write_wrapped(out, note, columns)?;
        write!(out, "{faint:#}")?;
    }
    for conclusion in &results.conclusions {
        write_wrapped(out, conclusion, columns)?;
    }
    Ok(())
}

/// A table for each state, without the columns for which there is no room in one of them.
fn fitting_tables(results: &[StateResult], columns: usize) -> io::Result<Vec<Vec<u8>>> {
    let has_ratios = results.iter().any(StateResult::has_ratios);
    let mut shown: Vec<usize> = (0..COLUMNS.len())
        .filter(|&column| has_ratios || column != TIMES_LIMIT)
        .collect();
    let mut expendable = EXPENDABLE.into_iter();
    loop {
        let mut tables = Vec::new();
        for result in results {
            let mut text = Vec::new();
            table(result, &shown).write(&mut text)?;
            tables.push(text);
        }
        if tables.iter().all(|text| width(text) <= columns) {
            return Ok(tables);
        }
        let Some(gone) = expendable.next() else {
            return Ok(tables);
        };
        shown.retain(|&column| column != gone);
    }
}

fn table(result: &StateResult, shown: &[usize]) -> Table {
    let mut table = Table::new(shown.iter().map(|&column| COLUMNS[column].0()));
    for way in &result.ways {
        table.row(shown.iter().map(|&column| COLUMNS[column].1(way)));
    }
    table
}

/// The columns of the widest line.
fn width(text: &[u8]) -> usize {
    let plain = anstream::adapter::strip_bytes(text).into_vec();
    let plain = String::from_utf8_lossy(&plain);
    let widths = plain.lines().map(|line| line.chars().count());
    widths.max().unwrap_or(0)
}

fn times_limit(result: &WayResult) -> String {
    result.times_limit.map_or("-".into(), units::ratio)
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// Writes `text` in lines of no more than `columns`, unless a word is longer.
fn write_wrapped(out: &mut impl Write, text: &str, columns: usize) -> io::Result<()> {
    for line in wrap(&style::escape(text), columns) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

impl Results {
    /// How it was measured, in a sentence.
    pub(super) fn method(&self) -> String {
        format!(
            "{} of every way in turn, after {}; medians",
            units::counted(self.runs as u64, "round"),
            match self.warmup {
                1 => "one that warms up".to_owned(),
                warmup => format!("{warmup} that warm up"),
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Sample;
    use super::super::state::State;
    use super::super::ways::Way;
    use super::*;

    fn result() -> StateResult {
        let way = |way| WayResult {
            way,
            bytes: 548_105_171,
            how: None,
            samples: vec![
                Sample {
                    seconds: 0.254,
                    phases: None,
                    page_faults: 133_816,
                };
                3
            ],
            times_limit: Some(10.5),
        };
        StateResult {
            state: State::Warm,
            others_share: None,
            ways: Way::ALL.map(way).to_vec(),
            timelines: Vec::new(),
        }
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        for (columns, header) in [
            (
                80,
                "way                median      ±     min     max       rate  × limit   faults",
            ),
            (
                76,
                "way                median     min     max       rate  × limit   faults",
            ),
            (
                61,
                "way                median     min     max       rate  × limit",
            ),
            (45, "way                median       rate  × limit"),
            (1, "way                median  × limit"),
        ] {
            let tables = fitting_tables(&[result()], columns).unwrap();
            let plain = anstream::adapter::strip_bytes(&tables[0]).into_vec();
            let plain = String::from_utf8(plain).unwrap();
            assert_eq!(plain.lines().next(), Some(header), "{columns}");
            assert_eq!(plain.lines().count(), 13);
        }
    }

    #[test]
    fn what_is_not_compared_has_no_column() {
        let mut result = result();
        for way in &mut result.ways {
            way.times_limit = None;
        }
        let tables = fitting_tables(&[result], 80).unwrap();
        let plain = anstream::adapter::strip_bytes(&tables[0]).into_vec();
        assert!(!String::from_utf8(plain).unwrap().contains("× limit"));
    }
}
