//! The page that shows timelines.

use ckload::Report;

use super::super::chart::{self, Bar, ways};
use super::super::page::Page;
use super::super::savings::median_seconds;
use super::super::units;
use super::recording::Recorded;
use super::{Kind, Timeline};

/// A page on loads, one for each model.
pub(super) fn page(loads: &[Recorded]) -> String {
    let mut page = Page::new(&match loads {
        [load] => format!("Load of {}", load.name),
        _ => format!("Loads of {}", units::counted(loads.len() as u64, "model")),
    });
    for load in loads {
        if loads.len() > 1 {
            page.heading(&load.name);
        }
        show(&mut page, load);
    }
    page.to_html()
}

fn show(page: &mut Page, load: &Recorded) {
    let timeline = &load.timeline;
    page.facts(&facts(load));
    page.figure(
        &chart::timeline(timeline),
        "What each thread did, from the start of the load on. Where much happens in little room, a column is filled as high as its \
         share of the time. Point at a part for its size and rate.",
    );
    page.table(&TABLE_HEADER.map(str::to_owned), &kinds(timeline));
    if load.runs.len() + load.baseline_runs.len() > 1 {
        page.figure(
            &ways(&sides(load), &[]),
            "Medians of the loads that were made, their range, and a dot for each. The timeline is of the last one with the pool.",
        );
    }
}

fn facts(load: &Recorded) -> [(&'static str, String); 6] {
    let tensors = load.checkpoint.tensors().len() as u64;
    let (bytes, seconds) = (load.checkpoint.bytes(), load.timeline.seconds);
    let rate = bytes as f64 / seconds.max(f64::MIN_POSITIVE);
    [
        ("Loaded in", units::seconds(seconds)),
        (
            "Opened in, before",
            units::seconds(load.timeline.open_seconds),
        ),
        ("Rate", units::rate(rate)),
        ("Size", units::bytes(bytes)),
        ("Tensors", units::count(tensors)),
        ("Threads", units::count(load.timeline.workers.len() as u64)),
    ]
}

const TABLE_HEADER: [&str; 6] = [
    "What the threads did",
    "Time",
    "Share",
    "Bytes",
    "Rate of each",
    "Number",
];

/// What the threads' time went into, summed over them.
fn kinds(timeline: &Timeline) -> Vec<Vec<String>> {
    let whole = timeline.seconds * timeline.workers.len() as f64;
    let share = |seconds: f64| format!("{:.0} %", 100.0 * seconds / whole.max(f64::MIN_POSITIVE));
    let mut rows = Vec::new();
    let mut rest = whole;
    for kind in Kind::ALL {
        let (mut number, mut seconds, mut bytes) = (0, 0.0, 0);
        for span in timeline.spans().filter(|span| span.kind == kind) {
            number += 1;
            seconds += span.seconds;
            bytes += span.bytes;
        }
        if number == 0 {
            continue;
        }
        rest -= seconds;
        let rate = match kind {
            // Taking memory that is there, or is touched later, moves nothing.
            Kind::FreshMemory | Kind::Lock | Kind::RecycledMemory => String::new(),
            _ if seconds > 0.0 => units::rate(bytes as f64 / seconds),
            _ => String::new(),
        };
        rows.push(vec![
            kind.label().to_owned(),
            units::seconds(seconds),
            share(seconds),
            units::bytes(bytes),
            rate,
            units::count(number),
        ]);
    }
    let rest = rest.max(0.0);
    let mut row = vec![
        "waiting, or other work".to_owned(),
        units::seconds(rest),
        share(rest),
    ];
    row.resize(TABLE_HEADER.len(), String::new());
    rows.push(row);
    rows
}

/// The loads with the pool beside those without it.
fn sides(load: &Recorded) -> Vec<Bar> {
    let sides = [
        ("without the pool", &load.baseline_runs),
        ("with the pool", &load.runs),
    ];
    let measured = sides.into_iter().filter(|(_, runs)| !runs.is_empty());
    measured
        .map(|(label, runs)| bar(label, runs, load.checkpoint.bytes()))
        .collect()
}

fn bar(label: &str, runs: &[Report], bytes: u64) -> Bar {
    let samples: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    let median = median_seconds(runs);
    Bar {
        label: label.to_owned(),
        group: String::new(),
        median,
        min: samples.iter().copied().fold(f64::INFINITY, f64::min),
        max: samples.iter().copied().fold(0.0, f64::max),
        samples,
        note: units::rate(bytes as f64 / median.max(f64::MIN_POSITIVE)),
    }
}
