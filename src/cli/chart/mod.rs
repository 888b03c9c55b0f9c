//! Charts: SVG that the page's style sheet colours.
//!
//! Lengths along time are percentages of the chart's width and all others pixels, so that a chart fits its page and its text stays readable.

mod axis;
mod phases;
mod ways;

pub(crate) use super::timeline::chart as timeline;
pub(crate) use axis::Axis;
pub(crate) use phases::{Phases, phases};
pub(crate) use ways::{Bar, Limit, ways};

use super::page::escape_html;

/// Colours and their meaning, as a list before a chart: the class that has the colour, and what it stands for.
pub(crate) fn legend(entries: &[(&str, &str)]) -> String {
    let mut legend = String::from("<ul class=\"legend\">");
    for (class, label) in entries {
        let label = escape_html(label);
        legend += &format!("<li><i class=\"{class}\"></i>{label}</li>");
    }
    legend + "</ul>\n"
}
