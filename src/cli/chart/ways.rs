//! Ways of doing the same, side by side.

use std::fmt::Write;

use super::super::{page::escape_html, units};
use super::Axis;

/// How long one way took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bar {
    pub(crate) label: String,
    /// Bars of one group stand under its name and share a scale.
    pub(crate) group: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Of single runs; they may be left out.
    pub(crate) samples: Vec<f64>,
    /// What stands beside the median.
    pub(crate) note: String,
}

/// What plain reads take, for the bars of a group.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) group: String,
    pub(crate) label: String,
    pub(crate) seconds: f64,
}

const ROW: f64 = 44.0;
const GROUP: f64 = 30.0;
const AXIS: f64 = 34.0;

/// Bars of medians with the range of the runs and a dot for each, groups one below the other in the order in which they come.
pub(crate) fn ways(bars: &[Bar], limits: &[Limit]) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for bar in bars {
        if !groups.contains(&bar.group.as_str()) {
            groups.push(&bar.group);
        }
    }
    let mut drawn = String::new();
    let mut y = 0.0;
    for group in groups {
        let members: Vec<&Bar> = bars.iter().filter(|bar| bar.group == group).collect();
        let limit = limits.iter().find(|limit| limit.group == group);
        y = draw_group(&mut drawn, y, group, &members, limit);
    }
    format!(
        "<svg height=\"{y}\" role=\"img\" aria-label=\"{}\">{drawn}</svg>",
        escape_html(&described(bars))
    )
}

/// Draws one group from `top` on; says where it ends.
fn draw_group(
    drawn: &mut String,
    top: f64,
    group: &str,
    bars: &[&Bar],
    limit: Option<&Limit>,
) -> f64 {
    let mut y = top;
    if !group.is_empty() {
        let name = escape_html(group);
        let _ = write!(
            drawn,
            "<text class=\"strong\" x=\"0\" y=\"{}\">{name}</text>",
            y + 14.0
        );
        y += GROUP;
    }
    // The limit's name stands above the first bar's label.
    let plot_top = y;
    if limit.is_some() {
        y += 20.0;
    }
    let longest = bars
        .iter()
        .flat_map(|bar| [bar.median, bar.max])
        .chain(limit.map(|limit| limit.seconds))
        .fold(0.0, f64::max);
    let axis = Axis::up_to(longest).roomy();
    let bottom = y + ROW * bars.len() as f64;
    *drawn += &axis.draw(y, bottom);
    // The limit is to be seen before the bars, and what is written before the limit.
    let rows = || (0..).map(|number| y + ROW * f64::from(number)).zip(bars);
    for (top, bar) in rows() {
        let _ = write!(
            drawn,
            "<rect class=\"bar\" x=\"0\" y=\"{}\" width=\"{:.3}%\" height=\"14\" rx=\"2\"/>",
            top + 21.0,
            axis.length(bar.median)
        );
    }
    if let Some(limit) = limit {
        draw_limit(drawn, limit, &axis, plot_top, bottom);
    }
    for (top, bar) in rows() {
        label_bar(drawn, top, bar, &axis);
    }
    bottom + AXIS
}

/// What stands above a bar, and its runs in it.
fn label_bar(drawn: &mut String, top: f64, bar: &Bar, axis: &Axis) {
    let label = escape_html(&bar.label);
    let median = units::seconds(bar.median);
    let note = escape_html(&bar.note);
    let range = format!("{} to {}", units::seconds(bar.min), units::seconds(bar.max));
    let runs = match bar.samples.len() {
        0 => String::new(),
        runs => format!(" in {}", units::counted(runs as u64, "run")),
    };
    let (text_y, middle) = (top + 14.0, top + 28.0);
    let value = if note.is_empty() {
        median.clone()
    } else {
        format!("{median} · {note}")
    };
    let _ = write!(
        drawn,
        "<g><title>{label}: median {median}, {range}{runs}</title>\
         <rect width=\"100%\" y=\"{top}\" height=\"{ROW}\" fill=\"none\" pointer-events=\"all\"/>\
         <text x=\"0\" y=\"{text_y}\">{label}</text>\
         <text class=\"faint\" x=\"100%\" y=\"{text_y}\" text-anchor=\"end\">{value}</text>"
    );
    let (from, to) = (axis.x(bar.min), axis.x(bar.max));
    let (cap_top, cap_bottom) = (middle - 4.0, middle + 4.0);
    let _ = write!(
        drawn,
        "<line class=\"whisker\" x1=\"{from:.3}%\" x2=\"{to:.3}%\" y1=\"{middle}\" y2=\"{middle}\"/>"
    );
    for x in [from, to] {
        let _ = write!(
            drawn,
            "<line class=\"whisker\" x1=\"{x:.3}%\" x2=\"{x:.3}%\" y1=\"{cap_top}\" y2=\"{cap_bottom}\"/>"
        );
    }
    for &sample in &bar.samples {
        let x = axis.x(sample);
        let _ = write!(
            drawn,
            "<circle class=\"dot\" cx=\"{x:.3}%\" cy=\"{middle}\" r=\"2.5\"/>"
        );
    }
    *drawn += "</g>\n";
}

fn draw_limit(drawn: &mut String, limit: &Limit, axis: &Axis, top: f64, bottom: f64) {
    let x = axis.x(limit.seconds);
    let anchor = if x > 50.0 { "end" } else { "start" };
    let label = escape_html(&limit.label);
    let time = units::seconds(limit.seconds);
    let _ = writeln!(
        drawn,
        "<g><title>{label}: {time}</title>\
         <line class=\"limit\" x1=\"{x:.3}%\" x2=\"{x:.3}%\" y1=\"{}\" y2=\"{bottom}\"/>\
         <text class=\"limit-name\" x=\"{x:.3}%\" y=\"{}\" text-anchor=\"{anchor}\">{label} {time}</text></g>",
        top + 16.0,
        top + 11.0
    );
}

/// What the chart says, for who does not see it.
fn described(bars: &[Bar]) -> String {
    let each: Vec<String> = bars
        .iter()
        .map(|bar| {
            let label = [bar.group.as_str(), &bar.label].join(" ");
            format!("{} {}", label.trim(), units::seconds(bar.median))
        })
        .collect();
    format!("Median times. {}.", each.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, group: &str, samples: &[f64]) -> Bar {
        Bar {
            label: label.into(),
            group: group.into(),
            median: samples[0],
            min: samples.iter().copied().fold(f64::MAX, f64::min),
            max: samples.iter().copied().fold(0.0, f64::max),
            samples: samples.to_vec(),
            note: String::new(),
        }
    }

    #[test]
    fn each_run_has_a_dot_and_each_group_its_scale() {
        let bars = [
            bar("a <b>", "warm", &[0.040, 0.050, 0.030]),
            bar("c", "cold", &[0.4, 0.5]),
        ];
        let limit = Limit {
            group: "warm".into(),
            label: "limit".into(),
            seconds: 0.025,
        };
        let svg = ways(&bars, &[limit]);
        assert_eq!(svg.matches("<circle").count(), 5);
        assert_eq!(svg.matches("class=\"limit\"").count(), 1);
        assert!(svg.contains("a &lt;b&gt;") && !svg.contains("<b>"), "{svg}");
        assert!(
            svg.contains("20 ms</text>") && svg.contains("200 ms</text>"),
            "{svg}"
        );
        // The medians are four fifths of the longest runs in both groups, which leave an eighth of room.
        let width = 100.0 * 0.8 / 1.125;
        assert_eq!(
            svg.matches(&format!("width=\"{width:.3}%\"")).count(),
            2,
            "{svg}"
        );
        assert!(
            svg.contains("aria-label=\"Median times. warm a &lt;b&gt; 40.0 ms; cold c 400 ms.\"")
        );
    }
}
