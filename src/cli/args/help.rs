//! How help looks: its groups, its colors, its examples.

use std::fmt::Write;

use clap::builder::{StyledStr, Styles};

use crate::cli::style;

/// The groups that options stand in.
pub(super) mod group {
    pub(in crate::cli::args) const SELECTION: &str = "What is loaded";
    pub(in crate::cli::args) const MEMORY: &str = "Memory";
    pub(in crate::cli::args) const READING: &str = "Reading";
    pub(in crate::cli::args) const MEASURING: &str = "Measuring";
    pub(in crate::cli::args) const CHECKING: &str = "Checking";
    pub(in crate::cli::args) const WRITING: &str = "Writing";
    pub(in crate::cli::args) const OUTPUT: &str = "Output";
}

/// The colors of help and of what is said about wrong usage.
pub(super) const STYLES: Styles = Styles::styled()
    .header(style::HEADER)
    .usage(style::HEADER)
    .literal(style::LITERAL)
    .placeholder(style::PLACEHOLDER)
    .error(style::ERROR)
    .valid(style::LITERAL)
    .invalid(style::WARNING);

/// A command line, and what it does.
pub(crate) struct Example {
    pub(crate) line: &'static str,
    pub(crate) does: &'static str,
}

impl Example {
    pub(super) const fn new(line: &'static str, does: &'static str) -> Self {
        Self { line, does }
    }
}

/// What stands under a command's options: one example a line.
pub(super) fn examples(examples: &[Example]) -> StyledStr {
    let (header, literal) = (style::HEADER, style::LITERAL);
    let lines = examples.iter().map(|example| example.line.len());
    let width = lines.max().unwrap_or_default();
    let mut help = StyledStr::new();
    let mut write = || {
        write!(help, "{header}Examples:{header:#}")?;
        for Example { line, does } in examples {
            write!(help, "\n  {literal}{line:width$}{literal:#}  {does}")?;
        }
        Ok::<_, std::fmt::Error>(())
    };
    write().expect("a string takes what is written");
    help
}

/// `examples`, and a paragraph behind them.
pub(super) fn examples_and(list: &[Example], paragraph: &str) -> StyledStr {
    let mut help = examples(list);
    write!(help, "\n\n{paragraph}").expect("a string takes what is written");
    help
}
