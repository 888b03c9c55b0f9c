//! Whether other processes were at work: a round that they disturbed is measured again.

use std::fs;

/// Clock ticks that are put down to rounding, and to what the kernel does for us in the background.
const SLACK: u64 = 2;

/// CPU time since the system's start, in clock ticks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ticks {
    /// Of all CPUs, doing anything; also time that the hypervisor gave to others.
    busy: u64,
    /// Of all CPUs, doing nothing.
    idle: u64,
    /// Of this process, and of those that it started and waited for.
    own: u64,
}

impl Ticks {
    /// Now; all zero where the system does not say, so that nothing ever seems disturbed.
    #[must_use]
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/stat"), &read("/proc/self/stat")).unwrap_or_default()
    }

    fn parse(system: &str, process: &str) -> Option<Self> {
        let total = system.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = total
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these already.
        let idle = ticks.get(3..5)?.iter().sum();
        let all: u64 = ticks.get(..8)?.iter().sum();
        // The command's name stands in brackets and may hold anything; 11 fields further on come user and system time, and both again of
        // the processes that it waited for.
        let (_, fields) = process.rsplit_once(')')?;
        let own = fields
            .split_whitespace()
            .skip(11)
            .take(4)
            .map(str::parse::<u64>)
            .sum::<Result<_, _>>()
            .ok()?;
        Some(Self {
            busy: all - idle,
            idle,
            own,
        })
    }

    /// Whether others took more than a twentieth of the CPUs' time between `earlier` and now.
    #[must_use]
    pub fn disturbed_since(self, earlier: Self) -> bool {
        let passed = |of: fn(&Self) -> u64| of(&self).saturating_sub(of(&earlier));
        let (busy, own) = (passed(|ticks| ticks.busy), passed(|ticks| ticks.own));
        let all = busy + passed(|ticks| ticks.idle);
        busy.saturating_sub(own) > SLACK + all / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 1 50 1000 10 2 3 4 7 0\ncpu0 1 1 1\n";

    #[test]
    fn the_kernel_s_figures_are_understood() {
        let process = "17 (a) b (c) S 1 1 1 0 -1 0 5 0 0 0 30 12 7 3 20 0";
        let ticks = Ticks::parse(STAT, process).expect("two files as the kernel writes them");
        assert_eq!((ticks.busy, ticks.idle, ticks.own), (160, 1010, 52));
        assert!(Ticks::parse("", process).is_none());
    }

    #[test]
    fn only_others_disturb() {
        let start = Ticks::default();
        let after = |busy, idle, own| Ticks { busy, idle, own };
        assert!(!after(100, 100, 98).disturbed_since(start));
        assert!(after(150, 50, 100).disturbed_since(start));
        assert!(!start.disturbed_since(start));
    }
}
