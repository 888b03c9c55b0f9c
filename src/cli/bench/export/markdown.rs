//! The tables, as Markdown.

use std::fmt::Write;

use super::super::results::{Results, StateResult};
use crate::cli::{style, units};

/// A section for each state.
pub(super) fn page(results: &Results) -> String {
    let model = &results.model;
    let mut page = format!(
        "# {}\n\n{}, {}, {}, {}. {}. {}.\n",
        escaped(&model.path),
        model.format,
        units::counted(model.files as u64, "file"),
        units::counted(model.tensors as u64, "tensor"),
        units::bytes(model.bytes),
        escaped(&results.machine.describe()),
        results.method(),
    );
    for result in &results.states {
        let _ = write!(page, "\n## {}\n\n", result.state.title());
        table(&mut page, result);
    }
    list(&mut page, "", &results.conclusions);
    list(&mut page, "Warning: ", &results.warnings);
    list(&mut page, "Note: ", &results.notes);
    page
}

fn table(page: &mut String, result: &StateResult) {
    *page += "| way | median | deviation | min | max | rate | × limit | page faults |\n";
    *page += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for way in &result.ways {
        let spread = way.spread();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} | {} | {} | {} |",
            way.way.name(),
            units::seconds(spread.median),
            units::seconds(spread.deviation),
            units::seconds(spread.min),
            units::seconds(spread.max),
            units::rate(way.bytes_per_second()),
            way.times_limit.map_or("-".into(), units::ratio),
            units::count(way.page_faults()),
        );
    }
}

fn list(page: &mut String, prefix: &str, sentences: &[String]) {
    if !sentences.is_empty() {
        page.push('\n');
    }
    for sentence in sentences {
        let _ = writeln!(page, "* {prefix}{}", escaped(sentence));
    }
}

/// `text` without what Markdown or a terminal would obey.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for character in style::escape(text).chars() {
        if matches!(
            character,
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '&'
        ) {
            safe.push('\\');
        }
        safe.push(character);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_markup() {
        assert_eq!(escaped("a_b|<c>\u{1b}"), r"a\_b\|\<c\>\\u{1b}");
        assert_eq!(escaped("a&lt;b"), r"a\&lt;b");
    }
}
