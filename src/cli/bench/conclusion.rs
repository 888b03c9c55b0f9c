//! What a reader is to remember, in a sentence for each state.

use ckload::Io;

use super::results::{StateResult, WayResult};
use super::ways::Way;
use crate::cli::units;

/// Loads that the sentence may be about, the most telling first.
const SUBJECTS: [(Way, &str); 3] = [
    (Way::Resident(Io::Auto), "a recycled resident load"),
    (Way::Stream(Io::Auto), "a stream"),
    (Way::ResidentNew, "a resident load into new memory"),
];

/// What people do today.
const OTHERS: [(Way, &str); 3] = [
    (Way::Read, "fs::read"),
    (Way::MmapCopy, "mmap and copy"),
    (Way::MmapTouch, "touching a map"),
];

/// What was found in a state; `None` where no way of this project was measured.
pub(super) fn of(result: &StateResult) -> Option<String> {
    let (ours, subject) = first(result, &SUBJECTS)?;
    let mut parts = Vec::new();
    if let Some(times) = ours.times_limit {
        let times = units::ratio(times);
        parts.push(format!("takes {times} times as long as plain reads"));
    }
    if let Some((other, name)) = first(result, &OTHERS) {
        let faster = other.spread().median / ours.spread().median.max(f64::MIN_POSITIVE);
        parts.push(format!(
            "is {} times as fast as {name}",
            units::ratio(faster)
        ));
    }
    let title = result.state.title();
    (!parts.is_empty()).then(|| format!("{title}: {subject} {}", parts.join(", and ")))
}

fn first<'a>(
    result: &'a StateResult,
    ways: &[(Way, &'static str)],
) -> Option<(&'a WayResult, &'static str)> {
    let mut known = ways.iter();
    known.find_map(|&(way, name)| Some((result.way(way)?, name)))
}

#[cfg(test)]
mod tests {
    use super::super::results::Sample;
    use super::super::state::State;
    use super::*;

    fn measured(ways: &[(&str, f64)]) -> StateResult {
        let way = |&(name, seconds): &(&str, f64)| WayResult {
            way: name.parse().unwrap(),
            bytes: 1,
            how: None,
            samples: vec![Sample {
                seconds,
                phases: None,
                page_faults: 0,
            }],
            times_limit: None,
        };
        let mut result = StateResult {
            state: State::Cold,
            others_share: None,
            ways: ways.iter().map(way).collect(),
            timelines: Vec::new(),
        };
        result.compare_with_limits();
        result
    }

    #[test]
    fn the_most_telling_ways_are_compared() {
        for (ways, expected) in [
            (
                &[
                    ("limit", 1.0),
                    ("read", 9.0),
                    ("resident", 1.5),
                    ("stream", 0.5),
                ][..],
                Some(
                    "a recycled resident load takes 1.50 times as long as plain reads, and is 6.00 times as fast as fs::read",
                ),
            ),
            (
                &[("limit-stream", 2.0), ("stream", 3.0), ("mmap-touch", 1.5)],
                Some(
                    "a stream takes 1.50 times as long as plain reads, and is 0.50 times as fast as touching a map",
                ),
            ),
            (
                &[("resident-new", 1.0), ("read", 2.0)],
                Some("a resident load into new memory is 2.00 times as fast as fs::read"),
            ),
            (&[("limit", 1.0), ("read", 9.0)], None),
            (&[("stream", 1.0)], None),
        ] {
            let expected = expected.map(|text| format!("page cache cold: {text}"));
            assert_eq!(of(&measured(ways)), expected, "{ways:?}");
        }
    }
}
