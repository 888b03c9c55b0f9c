//! The chart: a lane for each thread.

use std::fmt::Write;

use super::super::chart::{Axis, legend};
use super::super::{page::escape_html, units};
use super::{Kind, Timeline, Worker};

/// Room for the threads' names, percent of the width.
const GUTTER: f64 = 11.0;

/// From one lane to the next, and a lane's own height, pixels.
const PITCH: f64 = 24.0;
const HEIGHT: f64 = 18.0;

const AXIS: f64 = 26.0;

/// The width of a lane in units of its own.
const WIDTH: f64 = 1000.0;

/// Of all lanes together: what is drawn stays small whatever the number of spans.
const MAX_BLOCKS: usize = 2000;
const MAX_CELLS: usize = 12_000;

/// Steps of height by which a column tells how much of its time something took.
const LEVELS: f64 = 16.0;

/// Neighbouring spans of one kind with next to nothing between them, drawn as one.
#[derive(Clone, Debug)]
struct Block {
    kind: Kind,
    start: f64,
    end: f64,
    /// Without what is between them.
    seconds: f64,
    bytes: u64,
    spans: u64,
}

/// A lane for each thread, coloured by what it did. Where too much happens in too little room, columns are filled to the height of its share.
pub(crate) fn chart(timeline: &Timeline) -> String {
    let lanes = timeline.workers.len();
    let bottom = PITCH * lanes as f64;
    let axis = Axis::up_to(timeline.seconds).right_of(GUTTER);
    let columns = (MAX_CELLS / lanes.max(1)).clamp(150, WIDTH as usize);
    let column = axis.seconds() / columns as f64;
    let blocks: Vec<Vec<Block>> = timeline
        .workers
        .iter()
        .map(|worker| joined(worker, column / 8.0))
        .collect();
    let least = least_shown(&blocks, column);
    let mut drawn = axis.draw(0.0, bottom);
    for (number, (worker, blocks)) in timeline.workers.iter().zip(&blocks).enumerate() {
        let top = PITCH * number as f64 + (PITCH - HEIGHT) / 2.0;
        let (large, small): (Vec<&Block>, Vec<&Block>) = blocks
            .iter()
            .partition(|block| block.end - block.start >= least);
        let _ = write!(
            drawn,
            "<text x=\"0\" y=\"{}\">{}</text>\
             <svg class=\"lane\" x=\"{GUTTER}%\" y=\"{top}\" width=\"{}%\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {LEVELS}\" preserveAspectRatio=\"none\">\
             <rect class=\"track\" width=\"{WIDTH}\" height=\"{LEVELS}\"/>",
            top + HEIGHT / 2.0 + 4.0,
            escape_html(&worker.name),
            100.0 - GUTTER
        );
        draw_small(&mut drawn, &small, columns, column);
        for block in large {
            draw_block(&mut drawn, block, axis.seconds());
        }
        drawn += "</svg>\n";
    }
    let present = kinds(timeline);
    let mut entries: Vec<(&str, &str)> = present
        .iter()
        .map(|(kind, _)| (kind.class(), kind.family()))
        .collect();
    entries.dedup();
    format!(
        "{}<div class=\"wide\"><svg height=\"{}\" role=\"img\" aria-label=\"{}\">\n{drawn}</svg></div>",
        legend(&entries),
        bottom + AXIS,
        escape_html(&described(timeline, &present))
    )
}

/// What occurs, with its time summed over the threads.
fn kinds(timeline: &Timeline) -> Vec<(Kind, f64)> {
    let seconds = |kind| {
        let spans = timeline.spans().filter(|span| span.kind == kind);
        spans.map(|span| span.seconds).reduce(|sum, one| sum + one)
    };
    Kind::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, seconds(kind)?)))
        .collect()
}

/// Joins neighbours of one kind that are no further apart than `gap` seconds.
fn joined(worker: &Worker, gap: f64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for span in &worker.spans {
        let end = span.start + span.seconds;
        match blocks.last_mut() {
            Some(last) if last.kind == span.kind && span.start - last.end <= gap => {
                last.end = last.end.max(end);
                last.seconds += span.seconds;
                last.bytes += span.bytes;
                last.spans += 1;
            }
            _ => blocks.push(Block {
                kind: span.kind,
                start: span.start,
                end,
                seconds: span.seconds,
                bytes: span.bytes,
                spans: 1,
            }),
        }
    }
    blocks
}

/// The length in seconds from which on a block is drawn by itself.
fn least_shown(lanes: &[Vec<Block>], column: f64) -> f64 {
    let mut least = column;
    let shown = |least| {
        let blocks = lanes.iter().flatten();
        blocks
            .filter(|block| block.end - block.start >= least)
            .count()
    };
    while shown(least) > MAX_BLOCKS {
        least *= 2.0;
    }
    least
}

fn draw_block(drawn: &mut String, block: &Block, seconds: f64) {
    let scale = WIDTH / seconds;
    let rate = if block.kind.is_read() && block.seconds > 0.0 {
        format!(", {}", units::rate(block.bytes as f64 / block.seconds))
    } else {
        String::new()
    };
    let number = match block.spans {
        1 => String::new(),
        spans => format!(" in {spans} parts"),
    };
    let _ = write!(
        drawn,
        "<rect class=\"{}\" x=\"{:.2}\" width=\"{:.2}\" height=\"{LEVELS}\">\
         <title>{}: {} from {}, {}{number}{rate}</title></rect>",
        block.kind.class(),
        block.start * scale,
        (block.end - block.start) * scale,
        block.kind.label(),
        units::seconds(block.seconds),
        units::seconds(block.start),
        units::bytes(block.bytes),
    );
}

/// Fills columns of a lane from below, each kind as high as its share of the column's time is.
fn draw_small(drawn: &mut String, blocks: &[&Block], columns: usize, column: f64) {
    let width = WIDTH / columns as f64;
    let cells = shares(blocks, columns, column);
    let heights: Vec<[u8; Kind::ALL.len()]> = cells
        .iter()
        .map(|cell| cell.map(|share| (share * LEVELS).round().min(LEVELS) as u8))
        .collect();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let mut path = String::new();
        let mut at = 0;
        for alike in heights.chunk_by(|one, next| one == next) {
            let height = alike[0][number];
            let below: u8 = alike[0][..number].iter().sum();
            if height > 0 {
                let y = LEVELS - f64::from(below) - f64::from(height);
                let x = round(at as f64 * width);
                let wide = round(alike.len() as f64 * width);
                let _ = write!(path, "M{x} {y}h{wide}v{height}h-{wide}z");
            }
            at += alike.len();
        }
        if path.is_empty() {
            continue;
        }
        let of_kind = || blocks.iter().filter(|block| block.kind == kind);
        let (spans, bytes) = of_kind().fold((0, 0), |(spans, bytes), block| {
            (spans + block.spans, bytes + block.bytes)
        });
        let seconds: f64 = of_kind().map(|block| block.seconds).sum();
        let _ = write!(
            drawn,
            "<path class=\"{}\" d=\"{path}\"><title>{}: {} short ones, {} in {}</title></path>",
            kind.class(),
            kind.label(),
            units::count(spans),
            units::bytes(bytes),
            units::seconds(seconds)
        );
    }
}

/// How much of each column's time each kind takes.
fn shares(blocks: &[&Block], columns: usize, column: f64) -> Vec<[f64; Kind::ALL.len()]> {
    let mut cells = vec![[0.0; Kind::ALL.len()]; columns];
    for block in blocks {
        let (start, end) = (block.start / column, block.end / column);
        let busy = block.seconds / (block.end - block.start).max(f64::MIN_POSITIVE);
        let mut at = start.max(0.0);
        while at < end && (at as usize) < columns {
            let next = (at.floor() + 1.0).min(end);
            cells[at as usize][block.kind as usize] += (next - at) * busy;
            at = next;
        }
    }
    cells
}

/// With two decimals at most.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// What the chart says, for who does not see it.
fn described(timeline: &Timeline, kinds: &[(Kind, f64)]) -> String {
    let each: Vec<String> = kinds
        .iter()
        .map(|(kind, seconds)| format!("{} {}", kind.label(), units::seconds(*seconds)))
        .collect();
    format!(
        "What {} did in {}. Summed over them: {}.",
        units::counted(timeline.workers.len() as u64, "thread"),
        units::seconds(timeline.seconds),
        each.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    fn span(kind: Kind, start: f64, seconds: f64) -> Span {
        Span {
            kind,
            start,
            seconds,
            bytes: 1 << 20,
            place: None,
        }
    }

    fn timeline(seconds: f64, spans: Vec<Vec<Span>>) -> Timeline {
        let worker = |(number, spans)| Worker {
            name: format!("ckload-{number}"),
            spans,
        };
        Timeline {
            seconds,
            open_seconds: 0.0,
            workers: spans.into_iter().enumerate().map(worker).collect(),
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_one_block() {
        let spans = vec![
            span(Kind::FreshMemory, 0.0, 0.1),
            span(Kind::PageCache, 0.2, 0.1),
            span(Kind::PageCache, 0.3, 0.1),
            span(Kind::PageCache, 0.7, 0.3),
        ];
        let svg = chart(&timeline(1.0, vec![spans]));
        for part in [
            "class=\"fresh-memory\" x=\"0.00\" width=\"100.00\"",
            "class=\"page-cache\" x=\"200.00\" width=\"200.00\"",
            "class=\"page-cache\" x=\"700.00\" width=\"300.00\"",
            "200 ms from 200 ms, 2.0 MiB in 2 parts, 10.0 MiB/s",
            "What 1 thread did in 1.00 s. Summed over them: read, page cache 500 ms; new memory 100 ms.",
            ">ckload-0</text>",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(
            !svg.contains("class=\"disk\""),
            "what does not occur is in no legend"
        );
    }

    #[test]
    fn what_is_too_short_to_be_seen_fills_its_share_of_a_column() {
        // A quarter of the time is reading, half of it leasing.
        let mut spans = Vec::new();
        for number in 0..40_000 {
            let start = f64::from(number) / 40_000.0;
            spans.push(span(Kind::PageCache, start, 0.25 / 40_000.0));
            spans.push(span(
                Kind::RecycledMemory,
                start + 0.25 / 40_000.0,
                0.5 / 40_000.0,
            ));
        }
        let svg = chart(&timeline(1.0, vec![spans]));
        assert!(
            svg.contains("class=\"page-cache\" d=\"M0 12h1000v4h-1000z\""),
            "{svg}"
        );
        assert!(
            svg.contains("class=\"recycled-memory\" d=\"M0 4h1000v8h-1000z\""),
            "{svg}"
        );
        assert!(svg.contains("40,000 short ones"));
    }

    #[test]
    fn a_chart_stays_small_whatever_the_number_of_spans() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut lane = |_| {
            let mut at = 0.0;
            let mut spans = Vec::new();
            while at < 1.0 {
                // Some of every length, so that nothing looks like its neighbour.
                let seconds = 10f64.powf(-2.0 - 4.0 * random.f64());
                spans.push(span(random.choice(Kind::ALL).unwrap(), at, seconds));
                at += seconds * (1.0 + random.f64());
            }
            spans
        };
        let many = timeline(1.0, (0..64).map(&mut lane).collect());
        assert!(many.spans().count() > 30_000);
        let svg = chart(&many);
        assert!(svg.len() < 900_000, "{} bytes", svg.len());
    }

    #[test]
    fn nothing_at_all_can_be_drawn() {
        let svg = chart(&Timeline::default());
        assert!(svg.contains("What 0 threads did in 0 s."), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
