//! Whether the machine did other things meanwhile.

use std::fs;

use super::results::StateResult;
use super::statistics::first_is_outlier;
use super::ways::Way;

/// Others may take this part of all cores' time.
const OTHERS_SHARE: f64 = 0.05;

/// The times of a limit may deviate by this part of their median.
const LIMIT_DEVIATION: f64 = 0.1;

/// CPU time since the system's start, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    /// Of all CPUs, doing anything; also time that the hypervisor gave to others.
    busy: u64,
    /// Of all CPUs, doing nothing.
    idle: u64,
    /// Of this process.
    own: u64,
}

impl Ticks {
    /// Now; `None` where the system does not say.
    pub(super) fn now() -> Option<Self> {
        let read = |path| fs::read_to_string(path).ok();
        Self::parse(&read("/proc/stat")?, &read("/proc/self/stat")?)
    }

    fn parse(system: &str, process: &str) -> Option<Self> {
        let numbers = |text: &str| -> Option<Vec<u64>> {
            let words = text.split_whitespace();
            words.map(|word| word.parse().ok()).collect()
        };
        let ticks = numbers(system.lines().next()?.strip_prefix("cpu ")?)?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these already.
        let idle = ticks.get(3..5)?.iter().sum();
        let all: u64 = ticks.get(..8)?.iter().sum();
        // The command's name stands in brackets and may hold anything; 11 fields further on come user and system time.
        let (_, fields) = process.rsplit_once(')')?;
        let own: Vec<&str> = fields.split_whitespace().skip(11).take(2).collect();
        Some(Self {
            busy: all - idle,
            idle,
            own: numbers(&own.join(" "))?.iter().sum(),
        })
    }

    /// The part of all CPUs' time between `earlier` and now that went to others.
    pub(super) fn others_share_since(self, earlier: Self) -> f64 {
        let busy = self.busy.saturating_sub(earlier.busy);
        let idle = self.idle.saturating_sub(earlier.idle);
        let own = self.own.saturating_sub(earlier.own);
        busy.saturating_sub(own) as f64 / (busy + idle).max(1) as f64
    }
}

/// What makes the figures of a state doubtful.
pub(super) fn warnings(result: &StateResult) -> Vec<String> {
    let title = result.state.title();
    let mut warnings = Vec::new();
    if let Some(share) = result.others_share
        && share > OTHERS_SHARE
    {
        warnings.push(format!(
            "{title}: other processes took {:.0} % of all cores' time; measure again on a quiet machine",
            share * 100.0
        ));
    }
    let rough: Vec<(&str, f64)> = result
        .ways
        .iter()
        .filter(|limit| result.has_ratios() && is_limit(limit.way))
        .map(|limit| (limit.way.name(), limit.spread().relative_deviation()))
        .filter(|(_, deviation)| *deviation > LIMIT_DEVIATION)
        .collect();
    if !rough.is_empty() {
        let names: Vec<&str> = rough.iter().map(|(name, _)| *name).collect();
        let most = rough.iter().map(|(_, deviation)| *deviation);
        warnings.push(format!(
            "{title}: the times of {} deviate by {:.0} %, so ratios to them are rough; measure again, or with more --runs",
            names.join(" and "),
            most.fold(0.0, f64::max) * 100.0
        ));
    }
    let first: Vec<&str> = result
        .ways
        .iter()
        .filter(|result| first_is_outlier(&result.seconds()))
        .map(|result| result.way.name())
        .collect();
    if !first.is_empty() {
        warnings.push(format!(
            "{title}: the first run of {} took far longer than the others; use a larger --warmup",
            first.join(", ")
        ));
    }
    warnings
}

fn is_limit(way: Way) -> bool {
    matches!(way, Way::Limit(_))
}

#[cfg(test)]
mod tests {
    use super::super::results::{Sample, WayResult};
    use super::super::state::State;
    use super::*;

    const STAT: &str = "cpu  100 1 50 1000 10 2 3 4 7 0\ncpu0 1 1 1\n";

    #[test]
    fn the_kernel_s_figures_are_understood() {
        let process = "17 (a) b (c) S 1 1 1 0 -1 0 5 0 0 0 30 12 7 3 20 0";
        let ticks = Ticks::parse(STAT, process).unwrap();
        assert_eq!((ticks.busy, ticks.idle, ticks.own), (160, 1010, 42));
        assert!(Ticks::parse("", process).is_none());
        assert!(Ticks::now().is_some() || !cfg!(target_os = "linux"));
    }

    #[test]
    fn own_time_is_not_others() {
        let ticks = |busy, idle, own| Ticks { busy, idle, own };
        let start = ticks(1000, 1000, 10);
        assert_eq!(ticks(1100, 1100, 110).others_share_since(start), 0.0);
        assert_eq!(ticks(1150, 1050, 60).others_share_since(start), 0.5);
        assert_eq!(start.others_share_since(start), 0.0);
    }

    fn measured(others_share: f64, ways: &[(&str, &[f64])]) -> StateResult {
        let sample = |&seconds: &f64| Sample {
            seconds,
            phases: None,
            page_faults: 0,
        };
        let way = |(name, seconds): &(&str, &[f64])| WayResult {
            way: name.parse().unwrap(),
            bytes: 1,
            how: None,
            samples: seconds.iter().map(sample).collect(),
            times_limit: Some(1.0),
        };
        StateResult {
            state: State::Warm,
            others_share: Some(others_share),
            ways: ways.iter().map(way).collect(),
            timelines: Vec::new(),
        }
    }

    #[test]
    fn warnings_name_what_was_noisy() {
        const STEADY: &[f64] = &[1.0, 1.01, 0.99, 1.0, 1.02];
        const SLOW_START: &[f64] = &[9.0, 1.01, 0.99, 1.0, 1.02];
        const WILD: &[f64] = &[1.0, 2.0, 3.0, 1.5, 2.5];
        for (others, ways, expected) in [
            (0.01, &[("limit", STEADY), ("read", STEADY)][..], &[][..]),
            (0.2, &[("limit", STEADY)], &["other processes took 20 %"]),
            (
                0.0,
                &[("limit", WILD), ("limit-stream", WILD)],
                &["the times of limit and limit-stream deviate by 37 %"],
            ),
            (0.0, &[("limit", STEADY), ("read", WILD)], &[]),
            (
                0.0,
                &[("limit", STEADY), ("read", SLOW_START)],
                &["the first run of read took"],
            ),
        ] {
            let found = warnings(&measured(others, ways));
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (warning, part) in found.iter().zip(expected) {
                assert!(warning.contains(part), "{warning}");
            }
        }
    }
}
