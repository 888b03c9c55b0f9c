//! One line of advice, where there is something that the user can do.
//!
//! The first of these that applies is given. What slows loads down and was asked for comes first, then why a figure may not be what it
//! seems, then what would change other figures than the speed:
//!
//! 1. a budget that is too small: threads wait for memory;
//! 2. fewer threads than would be taken without `--threads`;
//! 3. a file system without direct reading: a cold load fills the page cache;
//! 4. a page cache that did not have the file: it came from the disk;
//! 5. memory that could not be locked;
//! 6. a single load, which has nothing to recycle.

use ckload::Io;

use crate::cli::units;

/// Threads that wait for this part of the time want more memory than the budget.
const MUCH_WAITING: f64 = 0.25;

/// Of smaller models nothing is said about the page cache: reading their headers brings much of them there.
const LEAST_BYTES: u64 = 16 << 20;

/// Of a smaller part that the page cache lacked nothing is said.
const LEAST_MISSING: f64 = 0.1;

/// What advice about the loads of one model depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Asked for.
    pub(super) budget: Option<u64>,
    /// That is taken without one that is asked for.
    pub(super) usual_budget: u64,
    /// The part of the time in which threads did nothing that is counted.
    pub(super) waiting: f64,
    /// Asked for.
    pub(super) threads: Option<usize>,
    /// That are taken if none are asked for, in the state of the page cache that was found.
    pub(super) usual_threads: usize,
    /// More would not be busy.
    pub(super) enough_threads: usize,
    pub(super) io: Io,
    /// What was read was to leave the page cache as it was.
    pub(super) drops_cache: bool,
    /// Of the files.
    pub(super) bytes: u64,
    /// What the page cache had of them, if that is known.
    pub(super) cached_bytes: Option<u64>,
    /// Of the first load.
    pub(super) buffered_bytes: u64,
    /// Of the first load.
    pub(super) direct_bytes: u64,
    /// Memory that can be had without swapping, if that is known.
    pub(super) available_bytes: Option<u64>,
    /// Whether memory was to be locked, and the system refused.
    pub(super) lacks_pins: bool,
    /// Of every model.
    pub(super) rounds: usize,
    /// Whether there is one model, loaded with the pool alone.
    pub(super) is_plain: bool,
    /// Whether the pool was asked for memory: small tensors take none of it.
    pub(super) uses_pool: bool,
    /// Whether memory was used twice.
    pub(super) recycles: bool,
}

const RULES: [fn(&Facts) -> Option<String>; 6] = [
    small_budget,
    few_threads,
    no_direct_reading,
    cold_cache,
    not_pinned,
    single_load,
];

/// The first rule that applies to any of the models.
pub(super) fn advice(models: &[Facts]) -> Option<String> {
    RULES
        .into_iter()
        .find_map(|rule| models.iter().find_map(rule))
}

impl Facts {
    /// The part of the files that the page cache did not have, if that is worth a word.
    fn missing(&self) -> Option<f64> {
        let missing = self.bytes.saturating_sub(self.cached_bytes?);
        worth_a_word(self.bytes, missing as f64 / self.bytes as f64)
    }
}

/// The part of a model that was not cached, unless it is small, or the model is.
fn worth_a_word(bytes: u64, missing: f64) -> Option<f64> {
    (bytes >= LEAST_BYTES && missing >= LEAST_MISSING).then_some(missing)
}

fn small_budget(facts: &Facts) -> Option<String> {
    let budget = facts.budget?;
    let is_small = budget <= facts.usual_budget / 2;
    // The threads that the disk is read with are idle while others copy what the page cache has.
    let is_mixed = facts.buffered_bytes > 0 && facts.direct_bytes > 0;
    (is_small && !is_mixed && facts.waiting >= MUCH_WAITING).then(|| {
        format!(
            "threads wait for memory: without --budget a stream of this takes up to {} instead of {}",
            units::bytes(facts.usual_budget),
            units::bytes(budget),
        )
    })
}

fn few_threads(facts: &Facts) -> Option<String> {
    let threads = facts.threads?;
    (threads < facts.enough_threads).then(|| {
        format!(
            "more threads may help: without --threads there are {} instead of {threads}",
            facts.usual_threads
        )
    })
}

fn no_direct_reading(facts: &Facts) -> Option<String> {
    let reads_past = matches!(facts.io, Io::Auto | Io::Direct) && !facts.drops_cache;
    let is_cold = facts.missing()? > 0.9;
    let went_through = facts.buffered_bytes > 0 && facts.direct_bytes == 0;
    (reads_past && is_cold && went_through).then(|| {
        "this file system has no direct reading, so the load went through the page cache; --drop-cache leaves that as it was".into()
    })
}

fn cold_cache(facts: &Facts) -> Option<String> {
    let reads = facts.buffered_bytes + facts.direct_bytes;
    let missing = match facts.io {
        Io::Auto if facts.direct_bytes > 0 => {
            worth_a_word(facts.bytes, facts.direct_bytes as f64 / reads as f64)?
        }
        _ => facts.missing()?,
    };
    let fits = facts
        .available_bytes
        .is_some_and(|available| facts.bytes < available);
    if !fits || facts.drops_cache {
        return None;
    }
    let lack = format!("the page cache lacked {} of it", units::percent(missing));
    match (facts.io, facts.rounds) {
        (Io::Auto, _) if facts.direct_bytes > 0 => Some(format!(
            "{lack}; --io buffered would keep there for the next load what is read from the disk"
        )),
        (Io::Auto | Io::Buffered, 1) => Some(format!(
            "{lack}, and has it now: load again to see the difference"
        )),
        (Io::Auto | Io::Buffered, _) => Some(format!(
            "{lack} before the first load, and had it afterwards: -v shows each"
        )),
        _ => None,
    }
}

fn not_pinned(facts: &Facts) -> Option<String> {
    facts.lacks_pins.then(|| {
        "to pin all memory, raise the limit of locked memory (ulimit -l); --pin never does without"
            .into()
    })
}

fn single_load(facts: &Facts) -> Option<String> {
    (facts.is_plain && facts.rounds == 1 && facts.uses_pool && !facts.recycles).then(|| {
        "a single load has nothing to recycle: --repeat 5 shows what the next ones gain".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A warm, streamed load of 512 MiB that leaves nothing to be said.
    fn warm() -> Facts {
        Facts {
            budget: Some(256 * MIB),
            usual_budget: 256 * MIB,
            waiting: 0.1,
            threads: None,
            usual_threads: 8,
            enough_threads: 8,
            io: Io::Auto,
            drops_cache: false,
            bytes: 512 * MIB,
            cached_bytes: Some(512 * MIB),
            buffered_bytes: 512 * MIB,
            direct_bytes: 0,
            available_bytes: Some(4096 * MIB),
            lacks_pins: false,
            rounds: 1,
            is_plain: true,
            uses_pool: true,
            recycles: true,
        }
    }

    /// The same, from the disk.
    fn cold() -> Facts {
        Facts {
            cached_bytes: Some(0),
            buffered_bytes: 0,
            direct_bytes: 512 * MIB,
            ..warm()
        }
    }

    fn said(facts: Facts) -> String {
        advice(&[facts]).unwrap_or_default()
    }

    #[test]
    fn a_load_as_it_should_be_needs_none() {
        assert_eq!(said(warm()), "");
        assert_eq!(advice(&[]), None);
    }

    #[test]
    fn each_rule_says_what_to_do() {
        let buffered = Facts {
            io: Io::Buffered,
            buffered_bytes: 512 * MIB,
            direct_bytes: 0,
            ..cold()
        };
        let cases = [
            (
                Facts {
                    budget: Some(8 * MIB),
                    waiting: 0.5,
                    ..warm()
                },
                "threads wait for memory: without --budget a stream of this takes up to 256.0 MiB instead of 8.0 MiB",
            ),
            (
                Facts {
                    threads: Some(1),
                    ..warm()
                },
                "more threads may help: without --threads there are 8 instead of 1",
            ),
            (
                Facts {
                    buffered_bytes: 512 * MIB,
                    direct_bytes: 0,
                    ..cold()
                },
                "this file system has no direct reading, so the load went through the page cache; --drop-cache leaves that as it was",
            ),
            (
                cold(),
                "the page cache lacked 100 % of it; --io buffered would keep there for the next load what is read from the disk",
            ),
            (
                buffered.clone(),
                "the page cache lacked 100 % of it, and has it now: load again to see the difference",
            ),
            (
                Facts {
                    rounds: 5,
                    ..buffered
                },
                "the page cache lacked 100 % of it before the first load, and had it afterwards: -v shows each",
            ),
            (
                Facts {
                    lacks_pins: true,
                    ..warm()
                },
                "to pin all memory, raise the limit of locked memory (ulimit -l); --pin never does without",
            ),
            (
                Facts {
                    budget: None,
                    usual_budget: 0,
                    recycles: false,
                    ..warm()
                },
                "a single load has nothing to recycle: --repeat 5 shows what the next ones gain",
            ),
        ];
        for (facts, expected) in cases {
            assert_eq!(said(facts), expected);
        }
    }

    #[test]
    fn nothing_is_said_that_would_not_help_or_cannot_be_done() {
        for facts in [
            // A small budget is enough while nothing waits for it.
            Facts {
                budget: Some(8 * MIB),
                ..warm()
            },
            Facts {
                waiting: 0.9,
                ..warm()
            },
            // There are idle threads whatever the budget.
            Facts {
                budget: Some(200 * MIB),
                waiting: 0.9,
                ..warm()
            },
            Facts {
                budget: Some(8 * MIB),
                waiting: 0.9,
                buffered_bytes: 500 * MIB,
                direct_bytes: 12 * MIB,
                ..warm()
            },
            Facts {
                threads: Some(16),
                ..warm()
            },
            // More threads than cores copy nothing faster.
            Facts {
                threads: Some(2),
                enough_threads: 2,
                ..warm()
            },
            // Its page cache stays as it was because that was asked for, or because the file does not fit in.
            Facts {
                drops_cache: true,
                ..cold()
            },
            Facts {
                io: Io::Direct,
                ..cold()
            },
            Facts {
                io: Io::Mmap,
                direct_bytes: 0,
                ..cold()
            },
            Facts {
                available_bytes: Some(256 * MIB),
                ..cold()
            },
            Facts {
                available_bytes: None,
                ..cold()
            },
            Facts {
                io: Io::Buffered,
                cached_bytes: None,
                ..warm()
            },
            Facts {
                bytes: MIB,
                ..cold()
            },
            Facts {
                buffered_bytes: 500 * MIB,
                direct_bytes: 12 * MIB,
                ..cold()
            },
            Facts {
                recycles: false,
                rounds: 2,
                ..warm()
            },
            Facts {
                recycles: false,
                is_plain: false,
                ..warm()
            },
            Facts {
                recycles: false,
                uses_pool: false,
                ..warm()
            },
        ] {
            assert_eq!(advice(std::slice::from_ref(&facts)), None, "{facts:?}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_rules_whichever_model_they_are_of() {
        let everything = Facts {
            budget: Some(8 * MIB),
            waiting: 0.5,
            threads: Some(1),
            buffered_bytes: 512 * MIB,
            direct_bytes: 0,
            lacks_pins: true,
            recycles: false,
            ..cold()
        };
        let applying = RULES.into_iter().filter_map(|rule| rule(&everything));
        assert_eq!(applying.count(), RULES.len());
        assert!(said(everything.clone()).starts_with("threads wait"));

        let unpinned = Facts {
            lacks_pins: true,
            ..warm()
        };
        let advice = advice(&[unpinned, cold()]).unwrap();
        assert!(advice.starts_with("the page cache lacked"), "{advice}");
    }
}
