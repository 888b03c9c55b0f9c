//! Lines that begin with a label.

use std::io::{self, Write};

use anstyle::Style;

use crate::cli::style;
use crate::cli::width::wrap;

/// Columns of a label and the space behind it.
pub(super) const LABEL_COLUMNS: usize = 10;

/// Text is not broken into lines that are shorter than this, however narrow the terminal.
const LEAST_COLUMNS: usize = 20;

/// Writes `text` behind `label`, in as many lines as it needs.
pub(super) fn write(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    write_in(out, label, style::LABEL, text, Style::new())
}

/// The same in colors.
pub(super) fn write_in(
    out: &mut impl Write,
    label: &str,
    label_style: Style,
    text: &str,
    text_style: Style,
) -> io::Result<()> {
    let columns = style::text_columns().saturating_sub(LABEL_COLUMNS);
    for (number, line) in wrap(text, columns.max(LEAST_COLUMNS)).iter().enumerate() {
        if number == 0 && !label.is_empty() {
            let padding = " ".repeat(LABEL_COLUMNS - label.len());
            write!(out, "{label_style}{label}{label_style:#}{padding}")?;
        } else {
            write!(out, "{}", " ".repeat(LABEL_COLUMNS))?;
        }
        writeln!(out, "{text_style}{line}{text_style:#}")?;
    }
    Ok(())
}

/// Writes a sentence without a label.
pub(crate) fn write_text(out: &mut impl Write, text_style: Style, text: &str) -> io::Result<()> {
    for line in wrap(text, style::text_columns().max(LEAST_COLUMNS)) {
        writeln!(out, "{text_style}{line}{text_style:#}")?;
    }
    Ok(())
}
