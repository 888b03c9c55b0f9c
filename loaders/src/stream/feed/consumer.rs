//! The consumers' end of a feed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use bytesize::ByteSize;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Crew, Feed, LEAST_WAIT, SHARED_BYTES, Setting, State, Work};
use crate::cancel::{Cancel, LOOK_EVERY};
use crate::report::Meter;
use crate::{Checkpoint, Error, Report};

/// The consumers' end of a feed; any number of threads may take from it.
pub(in crate::stream) struct Consumer<W: Work> {
    feed: Arc<Feed<W>>,
}

impl<W: Work> Consumer<W> {
    /// Starts a feed that delivers `items`.
    pub(in crate::stream) fn start(setting: Setting<'_>, work: VecDeque<W>, items: usize) -> Self {
        let meter = Meter::start(setting.checkpoint.open_time());
        let loader = setting.loader;
        let tensors = setting.checkpoint.tensors();
        let shared = tensors.iter().filter(|info| !loader.is_small(info.bytes));
        let shared = shared.map(|info| info.bytes + info.step());
        let shared = shared.filter(|&len| len <= SHARED_BYTES).max();
        let shared_capacity = shared.map_or(0, |len| loader.capacity_for(len));
        let budget = setting.budget.as_u64();
        let needed = work.iter().map(W::charge).fold(0, u64::saturating_add);
        // Who keeps what fits the budget without excess is not to be told that it does not.
        let spare = budget.checked_sub(needed).unwrap_or(budget);
        let end = Cancel::new();
        let feed = Arc::new(Feed {
            loader: loader.clone().cancel_with(&end),
            workers: setting.workers,
            checkpoint: setting.checkpoint.clone(),
            files: setting.files,
            budget: setting.budget,
            shared_capacity,
            most_excess: spare.min(budget / 8),
            meter,
            state: Mutex::new(State {
                work,
                available: budget,
                excess: 0,
                jobs: 0,
                arrivals: VecDeque::new(),
                is_closed: false,
                unclaimed: items,
                missing: items,
                report: None,
            }),
            arrived: Condvar::new(),
            holds: tensors.iter().map(|_| AtomicU32::new(0)).collect(),
            end,
            cancels: loader.cancels.clone(),
        });
        loader.announce(setting.checkpoint);
        feed.start_job();
        Self { feed }
    }

    pub(in crate::stream) fn checkpoint(&self) -> &Checkpoint {
        &self.feed.checkpoint
    }

    pub(in crate::stream) fn budget(&self) -> ByteSize {
        self.feed.budget
    }

    pub(in crate::stream) fn report(&self) -> Report {
        let state = self.feed.state.lock();
        let ended = state.report.clone();
        ended.unwrap_or_else(|| self.feed.meter.report())
    }

    /// Waits for the next arrival. `None` if there is none for this thread any more; what others wait for may still come to them.
    pub(in crate::stream) fn next(&self) -> Option<Result<W::Item, Error>> {
        let mut state = self.feed.state.lock();
        if state.unclaimed == 0 {
            drop(state);
            return self.check().err().map(Err);
        }
        state.unclaimed -= 1;
        let arrival = self.receive(state)?;
        if arrival.is_err() {
            self.finish();
        }
        Some(arrival)
    }

    /// What has arrived already; waits for nothing, and reads nothing.
    pub(in crate::stream) fn try_next(&self) -> Option<Result<W::Item, Error>> {
        let mut state = self.feed.state.lock();
        if state.is_closed || state.unclaimed == 0 {
            return None;
        }
        let arrival = state.arrivals.pop_front()?;
        state.unclaimed -= 1;
        state.note(&arrival);
        drop(state);
        if arrival.is_err() {
            self.finish();
        }
        Some(arrival)
    }

    /// `None` if another thread met an error.
    fn receive<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<W>>,
    ) -> Option<Result<W::Item, Error>> {
        let feed = &self.feed;
        let mut since = None;
        // Since when nothing has arrived, for anyone.
        let mut silent_since = None;
        loop {
            if state.is_closed {
                return None;
            }
            if let Err(error) = feed.cancels.check() {
                let cancelled = Err(error);
                state.note(&cancelled);
                return Some(cancelled);
            }
            if let Some(arrival) = state.arrivals.pop_front() {
                state.note(&arrival);
                return Some(arrival);
            }
            if let Some((work, permit)) = feed.take_work_of_consumer(&mut state) {
                drop(state);
                feed.carry_out(work, permit, Crew::Consumer);
                feed.end_job();
                state = feed.state.lock();
                continue;
            }
            let begin = *since.get_or_insert_with(Instant::now);
            let patience = feed.loader.patience.max(LEAST_WAIT);
            let wait = if feed.cancels.is_empty() {
                patience
            } else {
                patience.min(LOOK_EVERY)
            };
            let silent = *silent_since.get_or_insert_with(Instant::now);
            let in_vain = feed.arrived.wait_for(&mut state, wait).timed_out();
            if !in_vain {
                silent_since = None;
            } else if !state.is_closed && silent.elapsed() >= patience {
                match feed.held(&state, begin) {
                    Some(error) => {
                        let failed = Err(error);
                        state.note(&failed);
                        return Some(failed);
                    }
                    None => (since, silent_since) = (None, None), // a read takes its time
                }
            }
        }
    }

    /// Once everything has arrived: refuses it if a file changed, and closes the books.
    fn check(&self) -> Result<(), Error> {
        let state = self.feed.state.lock();
        if state.missing > 0 || state.report.is_some() {
            return Ok(());
        }
        drop(state);
        let unchanged = self.feed.files.check_unchanged();
        let Some(report) = self.finish() else {
            return Ok(()); // another thread has closed them meanwhile
        };
        unchanged?;
        Error::catch(|| {
            self.feed.loader.observer.finished(&report);
            Ok(())
        })
    }

    /// Ends the load; the final report is for the first who does.
    fn finish(&self) -> Option<Report> {
        let mut state = self.feed.state.lock();
        let is_first = state.report.is_none();
        let report = state.report.get_or_insert_with(|| self.feed.meter.report());
        let report = is_first.then(|| report.clone());
        drop(state);
        self.feed.cancel();
        report
    }
}

impl<W: Work> fmt::Debug for Consumer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("checkpoint", &self.feed.checkpoint.path())
            .field("budget", &self.feed.budget)
            .field("missing", &self.feed.state.lock().missing)
            .finish_non_exhaustive()
    }
}

impl<W: Work> Drop for Consumer<W> {
    fn drop(&mut self) {
        self.feed.cancel();
    }
}
