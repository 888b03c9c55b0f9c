//! One HTML page that needs nothing else: no network, no script, no font.

use std::fmt::Write;

/// Colours, in both schemes, and the layout.
const STYLE: &str = include_str!("page.css");

/// A self-contained page.
pub(crate) struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with this title, which is its first heading as well.
    pub(crate) fn new(title: &str) -> Self {
        let title = escape_html(title);
        Self {
            body: format!("<h1>{title}</h1>\n"),
            title,
        }
    }

    /// A heading of the second level.
    pub(crate) fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    /// Figures worth knowing at once, each with what it is.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) {
        self.body += "<dl class=\"facts\">\n";
        for (name, value) in facts {
            let (name, value) = (escape_html(name), escape_html(value));
            let _ = writeln!(self.body, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        self.body += "</dl>\n";
    }

    /// A chart, which is markup already, and a sentence on it.
    pub(crate) fn figure(&mut self, chart: &str, caption: &str) {
        let caption = escape_html(caption);
        let _ = writeln!(
            self.body,
            "<figure>\n{chart}\n<figcaption>{caption}</figcaption>\n</figure>"
        );
    }

    /// A table; columns but the first are aligned to the right if all their cells start with a digit.
    pub(crate) fn table(&mut self, header: &[String], rows: &[Vec<String>]) {
        let is_number = |column: usize| {
            let mut cells = rows.iter().filter_map(|row| row.get(column));
            column > 0 && cells.all(|cell| cell.is_empty() || cell.starts_with(starts_number))
        };
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let columns = columns.max(header.len());
        let classes: Vec<&str> = (0..columns)
            .map(|column| {
                if is_number(column) {
                    " class=\"number\""
                } else {
                    ""
                }
            })
            .collect();
        let line = |tag: &str, cells: &[String]| {
            let mut line = String::from("<tr>");
            for (cell, class) in cells.iter().zip(&classes) {
                let _ = write!(line, "<{tag}{class}>{}</{tag}>", escape_html(cell));
            }
            line + "</tr>\n"
        };
        self.body += "<div class=\"wide\"><table>\n<thead>\n";
        self.body += &line("th", header);
        self.body += "</thead>\n<tbody>\n";
        for row in rows {
            self.body += &line("td", row);
        }
        self.body += "</tbody>\n</table></div>\n";
    }

    pub(crate) fn to_html(&self) -> String {
        let Self { title, body } = self;
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "<!doctype html>\n\
             <html lang=\"en\">\n\
             <head>\n\
             <meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta name=\"generator\" content=\"ckload {version}\">\n\
             <title>{title}</title>\n\
             <style>\n{STYLE}</style>\n\
             </head>\n\
             <body>\n<main>\n{body}</main>\n\
             <footer>Written by ckload {version}.</footer>\n\
             </body>\n\
             </html>\n"
        )
    }

    fn element(&mut self, tag: &str, text: &str) {
        let text = escape_html(text);
        let _ = writeln!(self.body, "<{tag}>{text}</{tag}>");
    }
}

fn starts_number(character: char) -> bool {
    character.is_ascii_digit() || matches!(character, '-' | '+' | '–' | '×')
}

/// `text` without characters that mean something in HTML or SVG, or nothing at all.
pub(crate) fn escape_html(text: &str) -> String {
    let text = super::style::escape(text);
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            character => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_hold_is_no_markup() {
        let name = "<script>alert(\"x\")</script> & 'more'\u{202e}\n";
        let safe = escape_html(name);
        assert!(
            !safe.contains(['<', '>', '"', '\'', '\n', '\u{202e}']),
            "{safe}"
        );
        let mut page = Page::new(name);
        page.heading(name);
        page.paragraph(name);
        page.facts(&[(name, name.to_owned())]);
        page.figure("<svg></svg>", name);
        page.table(&[name.to_owned()], &[vec![name.to_owned()]]);
        let html = page.to_html();
        assert!(
            !html.contains("<script") && !html.contains('\u{202e}'),
            "{html}"
        );
        assert!(html.contains("<svg></svg>"), "a chart is markup");
        assert_eq!(html.matches("&lt;script&gt;").count(), 9);
    }

    #[test]
    fn columns_of_numbers_are_aligned_to_the_right() {
        let cells =
            |row: &[&str]| -> Vec<String> { row.iter().map(|&cell| cell.to_owned()).collect() };
        let mut page = Page::new("a table");
        page.table(
            &cells(&["way", "median", "note"]),
            &[cells(&["1 read", "54.3 ms", "x"]), cells(&["2", "", "3"])],
        );
        let html = page.to_html();
        assert!(html.contains("<th>way</th><th class=\"number\">median</th><th>note</th>"));
        assert!(html.contains("<td>2</td><td class=\"number\"></td><td>3</td>"));
    }
}
