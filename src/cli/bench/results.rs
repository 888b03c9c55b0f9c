//! What was measured. Its JSON is a contract with scripts; `docs/bench.md` describes it.

use serde::{Serialize, Serializer};

use super::machine::Machine;
use super::state::State;
use super::statistics::Spread;
use super::ways::Way;
use crate::cli::limit::Loop;
use crate::cli::report::ModelSummary;
use crate::cli::savings::median;
use crate::cli::timeline::Timeline;

/// A benchmark of one checkpoint. Sizes are bytes, times are seconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) schema: u32,
    /// Of `ckload`.
    pub(crate) version: &'static str,
    pub(crate) model: ModelSummary,
    pub(crate) machine: Machine,
    /// Measured rounds in each state.
    pub(crate) runs: usize,
    /// Rounds before them that do not count.
    pub(crate) warmup: usize,
    /// Threads that read, where the user has said so.
    pub(crate) threads: Option<usize>,
    pub(crate) states: Vec<StateResult>,
    pub(crate) left_out: Vec<LeftOut>,
    /// What makes the figures doubtful.
    pub(crate) warnings: Vec<String>,
    /// What was done that a reader may not expect.
    pub(crate) notes: Vec<String>,
    /// A sentence for each state.
    pub(crate) conclusions: Vec<String>,
}

/// What every way took in one state of the page cache.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StateResult {
    pub(crate) state: State,
    /// The part of all cores' time that went to other processes; `None` where the system does not say.
    pub(crate) others_share: Option<f64>,
    pub(crate) ways: Vec<WayResult>,
    /// One more load of each way of this project, watched; only for who wants charts.
    #[serde(skip)]
    pub(crate) timelines: Vec<(Way, Timeline)>,
}

/// What one way took.
#[derive(Clone, Debug)]
pub(crate) struct WayResult {
    pub(crate) way: Way,
    /// The tensors', for rates; the files' if those are compressed and nobody inflates them.
    pub(crate) bytes: u64,
    /// Of a limit, the loop that was the quickest.
    pub(crate) how: Option<Loop>,
    pub(crate) samples: Vec<Sample>,
    /// The median over that of its limit; `None` for a limit, and where that says nothing.
    pub(crate) times_limit: Option<f64>,
}

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// With opening the files; without freeing the memory.
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) phases: Option<Phases>,
    /// Of the whole process, minor and major.
    pub(crate) page_faults: u64,
}

/// Where a load's time went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Phases {
    #[serde(rename = "open_seconds")]
    pub(crate) open: f64,
    #[serde(rename = "allocate_seconds")]
    pub(crate) allocate: f64,
    #[serde(rename = "read_seconds")]
    pub(crate) read: f64,
    #[serde(rename = "rest_seconds")]
    pub(crate) rest: f64,
}

/// What was not measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) state: State,
    /// All of them if none is named.
    pub(crate) way: Option<Way>,
    pub(crate) reason: String,
}

impl Phases {
    /// Of a load that took `seconds`: what is in no phase is the rest.
    pub(super) fn of(seconds: f64, open: f64, allocate: f64, read: f64) -> Self {
        Self {
            open,
            allocate,
            read,
            rest: (seconds - open - allocate - read).max(0.0),
        }
    }
}

impl WayResult {
    pub(super) fn seconds(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.seconds).collect()
    }

    pub(super) fn spread(&self) -> Spread {
        Spread::of(&self.seconds())
    }

    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.spread().median.max(f64::MIN_POSITIVE)
    }

    pub(super) fn page_faults(&self) -> u64 {
        median(self.samples.iter().map(|sample| sample.page_faults as f64)) as u64
    }

    /// The median of each phase, where phases are known.
    pub(super) fn phases(&self) -> Option<Phases> {
        let phases: Option<Vec<Phases>> = self.samples.iter().map(|sample| sample.phases).collect();
        let phases = phases.filter(|phases| !phases.is_empty())?;
        let of = |part: fn(&Phases) -> f64| median(phases.iter().map(part));
        Some(Phases {
            open: of(|phases| phases.open),
            allocate: of(|phases| phases.allocate),
            read: of(|phases| phases.read),
            rest: of(|phases| phases.rest),
        })
    }
}

/// A way's results as they are exported: with what follows from the samples.
#[derive(Serialize)]
struct Exported<'a> {
    way: Way,
    description: &'static str,
    limit: Option<Way>,
    #[serde(flatten)]
    spread: Spread,
    bytes_per_second: f64,
    times_limit: Option<f64>,
    page_faults: u64,
    phases: Option<Phases>,
    #[serde(rename = "loop")]
    how: Option<Loop>,
    samples: &'a [Sample],
}

impl Serialize for WayResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let exported = Exported {
            way: self.way,
            description: self.way.says(),
            limit: self.way.limit(),
            spread: self.spread(),
            bytes_per_second: self.bytes_per_second(),
            times_limit: self.times_limit,
            page_faults: self.page_faults(),
            phases: self.phases(),
            how: self.how,
            samples: &self.samples,
        };
        exported.serialize(serializer)
    }
}

impl StateResult {
    /// What was measured of `way`.
    pub(super) fn way(&self, way: Way) -> Option<&WayResult> {
        self.ways.iter().find(|result| result.way == way)
    }

    /// Whether ways are compared with limits.
    pub(super) fn has_ratios(&self) -> bool {
        self.ways.iter().any(|result| result.times_limit.is_some())
    }

    /// Puts each way beside its limit.
    pub(super) fn compare_with_limits(&mut self) {
        let medians: Vec<(Way, f64)> = self
            .ways
            .iter()
            .map(|result| (result.way, result.spread().median))
            .collect();
        let median_of = |way| medians.iter().find(|(other, _)| *other == way);
        for result in &mut self.ways {
            let limit = result.way.limit().and_then(median_of);
            let own = result.spread().median;
            result.times_limit = limit.map(|(_, limit)| own / limit.max(f64::MIN_POSITIVE));
        }
    }
}
