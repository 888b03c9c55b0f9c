//! Columns that line up.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use crate::cli::style;
use crate::cli::width::cut_start;

/// Rows of cells under a header: the first column leans left, all others right.
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// However narrow the terminal, the first column is cut no shorter than this.
const MIN_COLUMNS: usize = 16;

/// Between columns.
const GAP: &str = "  ";

impl Table {
    pub(crate) fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as the header has.
    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        debug_assert_eq!(cells.len(), self.header.len());
        self.rows.push(cells);
    }

    /// Cuts the starts of what is in the first column, so that lines have no more than so many columns.
    pub(crate) fn fit(&mut self, columns: usize) {
        let others: usize = self.widths()[1..]
            .iter()
            .map(|width| GAP.len() + width)
            .sum();
        let room = columns.saturating_sub(others).max(MIN_COLUMNS);
        for row in &mut self.rows {
            if row[0].width() > room {
                row[0] = cut_start(&row[0], room);
            }
        }
    }

    /// Leaves out the last columns that have no room in lines of so many columns, but for the first two.
    pub(crate) fn drop_to_fit(&mut self, columns: usize) {
        let mut used = 0;
        let kept = self.widths().into_iter().take_while(|width| {
            used += width + GAP.len();
            used <= columns + GAP.len()
        });
        let kept = kept.count().max(2);
        for row in self.rows.iter_mut().chain([&mut self.header]) {
            row.truncate(kept);
        }
    }

    /// Columns of the longest line.
    pub(crate) fn columns(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1)
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![0; self.header.len()];
        for row in std::iter::once(&self.header).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        widths
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let widths = self.widths();
        let title = style::TITLE;
        writeln!(out, "{title}{}{title:#}", line(&self.header, &widths))?;
        for row in &self.rows {
            writeln!(out, "{}", line(row, &widths))?;
        }
        Ok(())
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - cell.width());
        if column == 0 {
            line.extend([cell.as_str(), &padding]);
        } else {
            line.extend([GAP, &padding, cell]);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_column_gives_way() {
        let mut table = Table::new(["name", "bytes"]);
        table.row(["model.layers.10.mlp.gate_proj.weight", "1,234"]);
        table.row(["short", "1"]);
        table.fit(30);
        let mut out = Vec::new();
        table
            .write(&mut anstream::StripStream::new(&mut out))
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "name                     bytes\n\
             …0.mlp.gate_proj.weight  1,234\n\
             short                        1\n"
        );
    }

    #[test]
    fn the_last_columns_give_way() {
        let table = |columns| {
            let mut table = Table::new(["", "time", "rate", "faults"]);
            table.row(["with", "1.00 ms", "2 GiB/s", "9"]);
            table.drop_to_fit(columns);
            table.rows[0].len()
        };
        assert_eq!([10, 21, 22, 29, 30].map(table), [2, 2, 3, 3, 4]);
    }

    #[test]
    fn columns_line_up_whatever_the_script() {
        let mut table = Table::new(["", "time", "faults"]);
        table.row(["with", "1.00 ms", "9"]);
        table.row(["重み", "2 s", ""]);
        let mut out = Vec::new();
        table
            .write(&mut anstream::StripStream::new(&mut out))
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "         time  faults\nwith  1.00 ms       9\n重み      2 s\n"
        );
    }
}
