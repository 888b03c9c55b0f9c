//! Colors and characters, and the streams that leave out what does not belong there.

use std::borrow::Cow;
use std::cell::Cell;
use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Stderr, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::log;
use super::options::OutputOptions;

pub(crate) const TITLE: Style = Style::new().bold();
pub(crate) const GAIN: Style = AnsiColor::Green.on_default().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const HEADER: Style = AnsiColor::Green.on_default().bold();
pub(crate) const LITERAL: Style = AnsiColor::Cyan.on_default().bold();
pub(crate) const PLACEHOLDER: Style = AnsiColor::Cyan.on_default();
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();

pub(crate) const LABEL: Style = Style::new().bold();
pub(crate) const ADVICE: Style = AnsiColor::Cyan.on_default().bold();

/// Width of text that is not shown on a terminal.
const USUAL_COLUMNS: usize = 100;

/// Sentences are harder to read in wider lines.
const TEXT_COLUMNS: usize = 80;

/// What is written where ASCII has no character for it.
pub(crate) struct Glyphs {
    /// In place of what was cut off.
    pub(crate) ellipsis: &'static str,
    /// A millionth.
    pub(crate) micro: &'static str,
    /// A column of a bar, filled more and more.
    pub(crate) fills: &'static [&'static str],
    /// Before what is a multiple.
    pub(crate) times: &'static str,
    /// What a value deviates by.
    pub(crate) plus_minus: &'static str,
    /// A bar that moves, from full to empty.
    pub(crate) progress: &'static str,
}

static UNICODE: Glyphs = Glyphs {
    ellipsis: "…",
    micro: "µ",
    times: "×",
    plus_minus: "±",
    fills: &["▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"],
    progress: "█▉▊▋▌▍▎▏ ",
};

static ASCII: Glyphs = Glyphs {
    ellipsis: "...",
    micro: "u",
    times: "x",
    plus_minus: "+-",
    fills: &["#"],
    progress: "=> ",
};

/// Whether the user's locale has no other characters than those of ASCII.
static ASCII_ONLY: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread writes what is not for the user's terminal.
    static IN_EVERY_LOCALE: Cell<bool> = const { Cell::new(false) };
}

/// Keeps to ASCII if the locale of the environment says so.
pub(crate) fn obey_locale() {
    let variables = ["LC_ALL", "LC_CTYPE", "LANG"].map(env::var_os);
    ASCII_ONLY.store(!has_unicode(variables), Relaxed);
}

/// The first variable that is set counts. Where none is, terminals of today are taken at their word: they show UTF-8.
fn has_unicode(variables: [Option<OsString>; 3]) -> bool {
    let mut set = variables.into_iter().flatten();
    let Some(locale) = set.find(|value| !value.is_empty()) else {
        return true;
    };
    let locale = locale.to_string_lossy().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Does `work` whatever the user's locale: what it writes is not for this terminal.
pub(crate) fn in_every_locale<T>(work: impl FnOnce() -> T) -> T {
    let before = IN_EVERY_LOCALE.replace(true);
    let done = work();
    IN_EVERY_LOCALE.set(before);
    done
}

fn is_ascii_only() -> bool {
    ASCII_ONLY.load(Relaxed) && !IN_EVERY_LOCALE.get()
}

/// The characters to write.
pub(crate) fn glyphs() -> &'static Glyphs {
    if is_ascii_only() { &ASCII } else { &UNICODE }
}

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
        // A dumb terminal cannot go back to the start of a line.
        let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
        !self.json && !self.quiet && !is_dumb && !log::is_on() && io::stderr().is_terminal()
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

/// Columns that a line of a sentence may take.
pub(crate) fn text_columns() -> usize {
    columns().min(TEXT_COLUMNS)
}

/// `text` without characters that a terminal would obey, or could not show.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_for(text, is_ascii_only())
}

fn escape_for(text: &str, ascii_only: bool) -> Cow<'_, str> {
    let is_bad = |character: char| is_unsafe(character) || ascii_only && !character.is_ascii();
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_bad(character) {
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

    #[test]
    fn what_an_ascii_terminal_cannot_show_is_spelled() {
        assert_eq!(escape_for("wte.weight", true), "wte.weight");
        assert_eq!(escape_for("größe", true), r"gr\u{f6}\u{df}e");
    }

    #[test]
    fn the_first_variable_that_is_set_says_what_is_shown() {
        for (variables, expected) in [
            ([None, None, None], true),
            ([Some(""), Some(""), Some("")], true),
            ([Some("C"), None, Some("en_US.UTF-8")], false),
            ([Some(""), Some("POSIX"), Some("en_US.UTF-8")], false),
            ([Some("en_US.UTF-8"), Some("C"), Some("C")], true),
            ([None, None, Some("C.UTF-8")], true),
            ([None, None, Some("de_DE.utf8")], true),
            ([None, Some("UTF-8"), None], true),
            ([None, None, Some("de_DE.ISO-8859-1")], false),
            ([None, None, Some("de_DE")], false),
        ] {
            let given = variables.map(|value| value.map(OsString::from));
            assert_eq!(has_unicode(given), expected, "{variables:?}");
        }
    }
}
