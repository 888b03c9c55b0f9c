//! Colors, and the streams that leave them out where they do not belong.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Stderr, Stdout, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::log;
use super::options::OutputOptions;

pub(crate) const TITLE: Style = Style::new().bold();
pub(crate) const GAIN: Style = AnsiColor::Green.on_default().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Width of text that is not shown on a terminal.
const USUAL_COLUMNS: usize = 100;

impl OutputOptions {
    /// For results.
    pub(crate) fn stdout(&self) -> AutoStream<Stdout> {
        AutoStream::new(io::stdout(), self.color)
    }

    /// For everything else.
    pub(crate) fn stderr(&self) -> AutoStream<Stderr> {
        AutoStream::new(io::stderr(), self.color)
    }

    /// Whether a bar may be drawn on standard error.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && !self.quiet && !log::is_on() && io::stderr().is_terminal()
    }

    /// Tells what is worth knowing and no failure, in one line on standard error.
    pub(crate) fn warn(&self, message: &str) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        let warning = WARNING;
        writeln!(
            self.stderr(),
            "{warning}warning{warning:#}: {}",
            escape(message)
        )
    }

    /// Prints one JSON object.
    pub(crate) fn write_json(&self, value: &impl Serialize) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        out.flush()
    }
}

/// Columns that a line on standard output may take.
pub(crate) fn columns() -> usize {
    terminal_size::terminal_size_of(io::stdout())
        .map_or(USUAL_COLUMNS, |(width, _)| usize::from(width.0))
}

/// `text` without characters that a terminal would obey.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, and those that change the direction in which their neighbours are shown.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_passes() {
        assert_eq!(escape("wte.weight"), "wte.weight");
        assert_eq!(escape("größe 重み"), "größe 重み");
        assert_eq!(escape("a\u{1b}[2Jb\n"), r"a\u{1b}[2Jb\n");
        assert_eq!(escape("a\u{9b}b\u{202e}c"), r"a\u{9b}b\u{202e}c");
    }
}
