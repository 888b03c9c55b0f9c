//! The result as a page with charts.

use std::path::Path;

use super::super::results::{Results, StateResult, WayResult};
use super::super::ways::Way;
use crate::cli::chart::{self, Bar, Limit, Phases};
use crate::cli::limit::{Into, Loop};
use crate::cli::open::file_name;
use crate::cli::page::Page;
use crate::cli::units;

/// A page of everything that was found.
pub(super) fn page(results: &Results) -> String {
    let model = &results.model;
    let mut page = Page::new(&format!(
        "Ways to load {}",
        file_name(Path::new(&model.path))
    ));
    page.facts(&[
        ("Size", units::bytes(model.bytes)),
        ("Tensors", units::count(model.tensors as u64)),
        ("Files", units::count(model.files as u64)),
        ("Format", model.format.clone()),
        ("Runs of each way", units::count(results.runs as u64)),
    ]);
    for conclusion in &results.conclusions {
        page.paragraph(&format!("{}.", capitalized(conclusion)));
    }
    if !results.warnings.is_empty() {
        let warnings = results.warnings.iter().map(|text| capitalized(text));
        let warnings: Vec<String> = warnings.collect();
        page.paragraph(&format!("Warnings: {}.", warnings.join(". ")));
    }
    for result in &results.states {
        state(&mut page, result);
    }
    page.heading("How it was measured");
    page.paragraph(&format!("{}: {}.", model.path, results.machine.describe()));
    method(&mut page, results);
    page.to_html()
}

fn state(page: &mut Page, result: &StateResult) {
    page.heading(&capitalized(result.state.title()));
    let (bars, limits) = (bars(result), limits(result));
    if !bars.is_empty() {
        let mut caption = String::from(
            "Time of each way: the bar is the median, the line goes from the quickest run to the slowest, each dot is a run.",
        );
        if !limits.is_empty() {
            caption += " The vertical line is the limit, the best plain loop of reads.";
        }
        page.figure(&chart::ways(&bars, &limits), &caption);
    }
    let phases = phases(result);
    if !phases.is_empty() {
        page.figure(
            &chart::phases(&phases),
            "Where the time went, medians: opening the files, getting memory, reading, and all else. \
             New memory of read and mmap-copy comes while they read. Times of threads that worked \
             side by side are divided by their number.",
        );
    }
    for (way, timeline) in &result.timelines {
        page.figure(
            &chart::timeline(timeline),
            &format!(
                "{}: what each thread did in one more run, which the recording slowed a little.",
                described(*way)
            ),
        );
    }
    table(page, result);
}

fn bars(result: &StateResult) -> Vec<Bar> {
    let is_limit = |way| matches!(way, Way::Limit(_));
    let ways = result.ways.iter().filter(|result| !is_limit(result.way));
    let bar = |result: &WayResult| {
        let spread = result.spread();
        Bar {
            label: result.way.name().into(),
            group: group(result.way).into(),
            median: spread.median,
            min: spread.min,
            max: spread.max,
            samples: result.seconds(),
            note: result.times_limit.map_or_else(String::new, |times| {
                format!("{} × limit", units::ratio(times))
            }),
        }
    };
    ways.map(bar).collect()
}

/// None where nothing is compared with them.
fn limits(result: &StateResult) -> Vec<Limit> {
    if !result.has_ratios() {
        return Vec::new();
    }
    let limit = |result: &WayResult| {
        Some(Limit {
            group: group(result.way).into(),
            label: "limit".into(),
            seconds: matches!(result.way, Way::Limit(_)).then(|| result.spread().median)?,
        })
    };
    result.ways.iter().filter_map(limit).collect()
}

/// Ways with one limit share a scale.
fn group(way: Way) -> &'static str {
    match way.limit().unwrap_or(way) {
        Way::Limit(Into::Cache) => "Tensor by tensor",
        _ => "All tensors in memory",
    }
}

fn phases(result: &StateResult) -> Vec<Phases> {
    let row = |result: &WayResult| {
        let phases = result.phases()?;
        Some(Phases {
            label: result.way.name().into(),
            open: phases.open,
            allocate: phases.allocate,
            read: phases.read,
            rest: phases.rest,
        })
    };
    result.ways.iter().filter_map(row).collect()
}

fn table(page: &mut Page, result: &StateResult) {
    let header = [
        "way",
        "median",
        "deviation",
        "min",
        "max",
        "rate",
        "× limit",
        "page faults",
        "what it does",
    ];
    let row = |result: &WayResult| {
        let spread = result.spread();
        vec![
            result.way.name().to_owned(),
            units::seconds(spread.median),
            units::seconds(spread.deviation),
            units::seconds(spread.min),
            units::seconds(spread.max),
            units::rate(result.bytes_per_second()),
            result.times_limit.map_or_else(String::new, units::ratio),
            units::count(result.page_faults()),
            match result.how {
                Some(how) => format!("{}: {}", result.way.says(), loop_says(how)),
                None => result.way.says().to_owned(),
            },
        ]
    };
    let rows: Vec<Vec<String>> = result.ways.iter().map(row).collect();
    page.table(&header.map(str::to_owned), &rows);
}

fn loop_says(how: Loop) -> String {
    format!(
        "{}, pieces of {}{}",
        units::counted(how.threads as u64, "thread"),
        units::bytes(how.piece_bytes as u64),
        if how.direct {
            ", past the page cache"
        } else {
            ""
        }
    )
}

fn method(page: &mut Page, results: &Results) {
    page.paragraph(&format!(
        "{}: each round runs every way once, in an order drawn anew, so that what disturbs the machine disturbs all of them. \
         Before each load the page cache is brought into its state, and the kernel is asked whether it is there. \
         A limit is the quickest of some plain loops of reads into memory that is in use already; it is chosen anew in each state, and then \
         takes its turn like the others.",
        capitalized(&results.method())
    ));
    for note in &results.notes {
        page.paragraph(&format!("{}.", capitalized(note)));
    }
}

fn described(way: Way) -> String {
    format!("{} ({})", way.name(), way.says())
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_begin_with_a_capital_letter() {
        assert_eq!(capitalized("page cache warm"), "Page cache warm");
        assert_eq!(capitalized(""), "");
    }

    #[test]
    fn ways_stand_beside_their_limits() {
        for way in Way::ALL {
            let is_stream = way.name().contains("stream");
            assert_eq!(group(way) == "Tensor by tensor", is_stream, "{way:?}");
        }
    }
}
