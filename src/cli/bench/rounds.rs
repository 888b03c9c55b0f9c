//! Rounds in which every way runs once, in an order drawn anew: what disturbs the machine disturbs all of them, and no way always runs behind
//! the same one, whose traces a disk keeps for a while.

use std::io;

use ckload::{Checkpoint, Io};

use super::memory::{self, Room};
use super::noise::Ticks;
use super::ours::{self, Pools, Warm};
use super::plain;
use super::results::{LeftOut, Sample, StateResult, WayResult};
use super::state::{PageCache, State, Unready};
use super::ways::{Memory, Way};
use crate::cli::Error;
use crate::cli::limit::{Into, Limit, Loop, has_compressed};
use crate::cli::options::BenchOptions;
use crate::cli::progress::Progress;
use crate::cli::system_memory;
use crate::cli::timeline::{Recorder, Timeline};

/// What all measurements of a benchmark have in common.
pub(super) struct Bench<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) options: &'a BenchOptions,
    pub(super) runs: usize,
    /// Whether memory has to be brought back before it is handed out: see [`memory::touch_and_free`].
    pub(super) touches_memory: bool,
    /// Whether times can be put beside those of the limits.
    pub(super) compares: bool,
    pub(super) progress: &'a Progress,
}

/// Every benchmark of the same ways has the same orders.
const SEED: u64 = 0;

/// A way that is ready to be measured.
struct Lane {
    way: Way,
    work: Work,
    samples: Vec<Sample>,
    /// Why it cannot be measured after all.
    lack: Option<String>,
}

enum Work {
    Limit { limit: Limit, how: Loop },
    Plain(fn(&Checkpoint) -> Result<Sample, Error>),
    New,
    Warm(Warm),
}

impl From<Error> for Unready {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The numbers below `count`, as they take their turns in a round.
fn order(count: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    random.shuffle(&mut order);
    order
}

/// A result, or why one way alone has none: memory or threads that it takes are not to be had.
fn unless_lacking<T>(result: Result<T, Error>) -> Result<Result<T, String>, Error> {
    let lack = match &result {
        Err(Error::Load(
            error @ (ckload::Error::Memory { .. } | ckload::Error::Threads { .. }),
        )) => Some(error.to_string()),
        Err(Error::Read { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock
            ) =>
        {
            Some(source.to_string())
        }
        _ => None,
    };
    match lack {
        Some(reason) => Ok(Err(reason)),
        None => result.map(Ok),
    }
}

impl Bench<'_> {
    /// Measures all ways in one state; also tells which could not be.
    pub(super) fn measure(
        &self,
        state: State,
        cache: &mut PageCache,
    ) -> Result<(StateResult, Vec<LeftOut>), Unready> {
        let title = state.title();
        self.progress.name(format!("{title}: getting ready"));
        cache.prepare(state)?;
        let (mut lanes, mut left_out) = self.lanes(state, cache)?;
        let mut random = fastrand::Rng::with_seed(SEED);
        for _ in 0..self.options.warmup {
            self.progress.name(format!("{title}: warming up"));
            self.run_round(&mut lanes, &mut random, state, cache)?;
        }
        for lane in &mut lanes {
            lane.samples.clear();
        }
        let before = Ticks::now();
        for round in 0..self.runs {
            let number = round + 1;
            self.progress
                .name(format!("{title}: round {number} of {}", self.runs));
            self.run_round(&mut lanes, &mut random, state, cache)?;
        }
        let others_share = before
            .zip(Ticks::now())
            .map(|(before, after)| after.others_share_since(before));
        let timelines = if self.options.exports.html.is_some() {
            self.progress.name(format!("{title}: timelines"));
            self.timelines(&lanes, state, cache)?
        } else {
            Vec::new()
        };
        let (lanes, lacking): (Vec<Lane>, Vec<Lane>) =
            lanes.into_iter().partition(|lane| lane.lack.is_none());
        left_out.extend(lacking.into_iter().filter_map(|lane| {
            Some(LeftOut {
                state,
                way: Some(lane.way),
                reason: lane.lack?,
            })
        }));
        let mut result = StateResult {
            state,
            others_share,
            timelines,
            ways: lanes.into_iter().map(|lane| self.result(lane)).collect(),
        };
        if self.compares {
            result.compare_with_limits();
        }
        Ok((result, left_out))
    }

    /// Makes every way ready that there is memory for, and that the files and the file system allow.
    fn lanes(
        &self,
        state: State,
        cache: &mut PageCache,
    ) -> Result<(Vec<Lane>, Vec<LeftOut>), Unready> {
        let wanted = Way::chosen(&self.options.ways);
        let mut left_out: Vec<(Way, String)> = memory::left_out(&wanted, self.room(state));
        let has_room: Vec<Way> = wanted
            .into_iter()
            .filter(|way| left_out.iter().all(|(other, _)| other != way))
            .collect();
        let pools = Pools::of(self.checkpoint);
        let mut lanes = Vec::new();
        for way in has_room {
            match self.work(way, &pools, state, cache)? {
                Ok(work) => lanes.push(Lane {
                    way,
                    work,
                    samples: Vec::new(),
                    lack: None,
                }),
                Err(reason) => left_out.push((way, reason)),
            }
        }
        let left_out = left_out.into_iter().map(|(way, reason)| LeftOut {
            state,
            way: Some(way),
            reason,
        });
        Ok((lanes, left_out.collect()))
    }

    /// Makes a way ready, or says why it cannot be measured.
    fn work(
        &self,
        way: Way,
        pools: &Pools,
        state: State,
        cache: &mut PageCache,
    ) -> Result<Result<Work, String>, Unready> {
        Ok(match way {
            Way::Limit(into) => self.limit(into, state, cache)?,
            Way::Read => Ok(Work::Plain(plain::read)),
            Way::MmapCopy => match plain::no_mmap_copy(self.checkpoint) {
                Some(reason) => Err(reason),
                None => Ok(Work::Plain(plain::mmap_copy)),
            },
            Way::MmapTouch => Ok(Work::Plain(plain::mmap_touch)),
            Way::ResidentNew => Ok(Work::New),
            Way::Resident(io) | Way::Stream(io) => {
                let threads = self.options.threads;
                let warm = match way {
                    Way::Resident(_) => Warm::resident(io, threads, pools),
                    _ => Warm::stream(io, threads, pools),
                };
                cache.prepare(state)?;
                // Now the pool has its memory, whatever rounds warm up.
                match unless_lacking(warm.load(&self.options.model))? {
                    Err(reason) => Err(reason),
                    Ok((_, report))
                        if io == Io::Direct && report.io.direct_bytes == 0 && report.bytes > 0 =>
                    {
                        Err("nothing was read past the page cache: the file system cannot, or the model is too small".into())
                    }
                    Ok(_) => Ok(Work::Warm(warm)),
                }
            }
        })
    }

    /// The quickest plain loop in this state: past the page cache where that has nothing, if the file system can.
    fn limit(
        &self,
        into: Into,
        state: State,
        cache: &mut PageCache,
    ) -> Result<Result<Work, String>, Unready> {
        let mut unready = None;
        let work = Limit::new(self.checkpoint, into).and_then(|mut limit| {
            let mut best = |direct| {
                limit.best(direct, || {
                    cache.prepare(state).map_err(|reason| {
                        unready = Some(reason);
                        io::Error::other("the page cache is not ready")
                    })
                })
            };
            let how = match state {
                State::Warm => best(false),
                State::Cold => best(true).or_else(|_| best(false)),
            }?;
            Ok(Work::Limit { limit, how })
        });
        match (work, unready) {
            (Err(_), Some(reason)) => Err(reason),
            (work, _) => {
                let work = work.map_err(|source| self.limit_failed(source));
                Ok(unless_lacking(work)?)
            }
        }
    }

    /// Runs every way once, starting with another one each round.
    fn run_round(
        &self,
        lanes: &mut [Lane],
        random: &mut fastrand::Rng,
        state: State,
        cache: &mut PageCache,
    ) -> Result<(), Unready> {
        for number in order(lanes.len(), random) {
            let lane = &mut lanes[number];
            if lane.lack.is_none() {
                self.prepare(lane.way, state, cache)?;
                match unless_lacking(self.run(&mut lane.work))? {
                    Ok(sample) => lane.samples.push(sample),
                    Err(reason) => lane.lack = Some(reason),
                }
            }
            self.progress.moved(self.checkpoint.bytes());
        }
        Ok(())
    }

    /// Watches one more load of each way that can be watched.
    fn timelines(
        &self,
        lanes: &[Lane],
        state: State,
        cache: &mut PageCache,
    ) -> Result<Vec<(Way, Timeline)>, Unready> {
        let model = &self.options.model;
        let mut timelines = Vec::new();
        for lane in lanes.iter().filter(|lane| lane.lack.is_none()) {
            let recorder = Recorder::new();
            let loaded = match &lane.work {
                Work::Limit { .. } | Work::Plain(_) => continue,
                Work::New => {
                    self.prepare(lane.way, state, cache)?;
                    ours::load_new(model, self.options.threads, Some(recorder.clone())).map(drop)
                }
                Work::Warm(warm) => {
                    self.prepare(lane.way, state, cache)?;
                    warm.observed(recorder.clone()).load(model).map(drop)
                }
            };
            if unless_lacking(loaded)?.is_ok() {
                timelines.push((lane.way, recorder.timeline()));
            }
        }
        Ok(timelines)
    }

    /// Brings the page cache, and memory where it matters, into the state that a load is to find.
    fn prepare(&self, way: Way, state: State, cache: &mut PageCache) -> Result<(), Unready> {
        cache.prepare(state)?;
        if self.touches_memory && way.memory() == Memory::Fresh {
            memory::touch_and_free(self.checkpoint.bytes());
        }
        Ok(())
    }

    fn run(&self, work: &mut Work) -> Result<Sample, Error> {
        match work {
            Work::Limit { limit, how } => {
                ours::limit(limit, *how).map_err(|source| self.limit_failed(source))
            }
            Work::Plain(load) => load(self.checkpoint),
            Work::New => ours::load_new(&self.options.model, self.options.threads, None),
            Work::Warm(warm) => Ok(warm.load(&self.options.model)?.0),
        }
    }

    fn result(&self, lane: Lane) -> WayResult {
        WayResult {
            way: lane.way,
            bytes: match lane.way {
                Way::Limit(_) | Way::Read | Way::MmapTouch if has_compressed(self.checkpoint) => {
                    self.file_bytes()
                }
                _ => self.checkpoint.bytes(),
            },
            how: match lane.work {
                Work::Limit { how, .. } => Some(how),
                _ => None,
            },
            samples: lane.samples,
            times_limit: None,
        }
    }

    fn room(&self, state: State) -> Room {
        Room {
            available: system_memory::available().unwrap_or(u64::MAX),
            tensors: self.checkpoint.bytes(),
            streamed: ours::stream_bytes(self.checkpoint),
            cached: match state {
                State::Warm => self.file_bytes(),
                State::Cold => 0,
            },
        }
    }

    fn file_bytes(&self) -> u64 {
        let files = self.checkpoint.files().iter();
        files.map(|file| file.bytes).sum()
    }

    fn limit_failed(&self, source: io::Error) -> Error {
        let path = self.options.model.clone();
        Error::Read { path, source }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn only_what_is_not_to_be_had_leaves_out_a_way() {
        let read = |kind: io::ErrorKind| -> Result<(), Error> {
            Err(Error::Read {
                path: "m".into(),
                source: kind.into(),
            })
        };
        assert!(unless_lacking(Ok(1)).unwrap().is_ok());
        for kind in [io::ErrorKind::OutOfMemory, io::ErrorKind::WouldBlock] {
            assert!(unless_lacking(read(kind)).unwrap().is_err());
        }
        assert!(unless_lacking(read(io::ErrorKind::NotFound)).is_err());
        let pool = ckload::BufferPool::new();
        let source = pool.try_get(isize::MAX as usize / 2).unwrap_err();
        let error = Error::Read {
            path: "m".into(),
            source: io::Error::new(io::ErrorKind::OutOfMemory, source),
        };
        let reason = unless_lacking::<()>(Err(error)).unwrap().unwrap_err();
        assert!(reason.contains("refused"), "{reason}");
    }

    #[test]
    fn nobody_always_comes_behind_the_same_one() {
        for count in 2..=Way::ALL.len() {
            let mut random = fastrand::Rng::with_seed(SEED);
            let mut before = vec![HashSet::new(); count];
            for _ in 0..5 {
                let order = order(count, &mut random);
                let each: HashSet<usize> = order.iter().copied().collect();
                assert_eq!(each.len(), count);
                before[order[0]].insert(None);
                for pair in order.windows(2) {
                    before[pair[1]].insert(Some(pair[0]));
                }
            }
            assert!(before.iter().all(|others| others.len() > 1), "{before:?}");
        }
    }
}
