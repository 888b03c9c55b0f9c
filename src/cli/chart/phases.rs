//! Where time went, phase by phase.

use std::fmt::Write;

use super::super::{page::escape_html, units};
use super::{Axis, legend};

/// The phases of a load, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases {
    pub(crate) label: String,
    /// Finding the files and reading their headers.
    pub(crate) open: f64,
    /// Getting memory.
    pub(crate) allocate: f64,
    pub(crate) read: f64,
    pub(crate) rest: f64,
}

const ROW: f64 = 46.0;
const AXIS: f64 = 26.0;

impl Phases {
    /// Class, name and time of each phase.
    fn parts(&self) -> [(&'static str, &'static str, f64); 4] {
        [
            ("open", "open", self.open),
            ("fresh-memory", "allocate", self.allocate),
            ("page-cache", "read", self.read),
            ("rest", "rest", self.rest),
        ]
    }

    fn seconds(&self) -> f64 {
        self.open + self.allocate + self.read + self.rest
    }
}

/// A bar for each, made of its phases, on one scale.
pub(crate) fn phases(rows: &[Phases]) -> String {
    let longest = rows.iter().map(Phases::seconds).fold(0.0, f64::max);
    let axis = Axis::up_to(longest);
    let bottom = ROW * rows.len() as f64;
    let mut drawn = axis.draw(0.0, bottom);
    for (number, row) in rows.iter().enumerate() {
        draw_row(&mut drawn, ROW * number as f64, row, &axis);
    }
    let entries = Phases::default()
        .parts()
        .map(|(class, name, _)| (class, name));
    format!(
        "{}<svg height=\"{}\" role=\"img\" aria-label=\"{}\">{drawn}</svg>",
        legend(&entries),
        bottom + AXIS,
        escape_html(&described(rows))
    )
}

fn draw_row(drawn: &mut String, top: f64, row: &Phases, axis: &Axis) {
    let (text_y, bar_y) = (top + 14.0, top + 21.0);
    let _ = write!(
        drawn,
        "<text x=\"0\" y=\"{text_y}\">{}</text>\
         <text class=\"faint\" x=\"100%\" y=\"{text_y}\" text-anchor=\"end\">{}</text>",
        escape_html(&row.label),
        units::seconds(row.seconds())
    );
    let mut at = 0.0;
    for (class, name, seconds) in row.parts() {
        if seconds > 0.0 {
            let (x, width) = (axis.x(at), axis.length(seconds));
            let time = units::seconds(seconds);
            let _ = write!(
                drawn,
                "<rect class=\"{class}\" x=\"{x:.3}%\" y=\"{bar_y}\" width=\"{width:.3}%\" height=\"18\">\
                 <title>{name}: {time}</title></rect>"
            );
            at += seconds;
        }
    }
    drawn.push('\n');
}

/// What the chart says, for who does not see it.
fn described(rows: &[Phases]) -> String {
    let each: Vec<String> = rows
        .iter()
        .map(|row| {
            let parts = row.parts();
            let parts =
                parts.map(|(_, name, seconds)| format!("{name} {}", units::seconds(seconds)));
            format!("{}: {}", row.label, parts.join(", "))
        })
        .collect();
    format!("Time by phase. {}.", each.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_stand_one_behind_the_other() {
        let row = Phases {
            label: "fresh & new".into(),
            open: 0.010,
            allocate: 0.050,
            read: 0.040,
            rest: 0.0,
        };
        let svg = phases(&[row]);
        for rect in [
            "class=\"open\" x=\"0.000%\" y=\"21\" width=\"10.000%\"",
            "class=\"fresh-memory\" x=\"10.000%\" y=\"21\" width=\"50.000%\"",
            "class=\"page-cache\" x=\"60.000%\" y=\"21\" width=\"40.000%\"",
        ] {
            assert!(svg.contains(rect), "{rect} in {svg}");
        }
        assert!(
            !svg.contains("<rect class=\"rest\""),
            "what took no time has no bar"
        );
        assert!(
            svg.contains("fresh &amp; new") && svg.contains(">100 ms</text>"),
            "{svg}"
        );
    }
}
