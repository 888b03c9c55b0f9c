//! Tensors one by one, within a budget.
//!
//! No thread waits for the budget. It is a number under a lock; a job takes the next batch of tensors if the budget admits it
//! and ends if not, and whoever gives bytes back (a consumer that drops a tensor, on whatever thread) starts a job again. So a slow
//! consumer blocks no worker, and several streams share one loader's threads.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use bytesize::ByteSize;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, never, unbounded};
use parking_lot::Mutex;
use rayon::ThreadPool;

use crate::memory::{Memory, SmallBuffer};
use crate::plan::{self, Plan};
use crate::read::{self, Files, Watch};
use crate::report::Meter;
use crate::{Checkpoint, Error, Loader, Report, Tensor};

/// Neighbouring tensors up to this many bytes together are one job, so that small ones share a read.
const BATCH_BYTES: u64 = 4 << 20;

/// The tensors of a checkpoint in the order in which they arrive, holding no more than a budget; see [`Loader::stream`].
///
/// An error ends the stream. Dropping it ends the load: reads that have begun are finished, no others begin.
pub struct Stream {
    shared: Arc<Shared>,
    arrivals: Receiver<Result<Tensor, Error>>,
    missing: usize,
    report: Option<Report>,
}

struct Shared {
    loader: Loader,
    workers: Arc<ThreadPool>,
    checkpoint: Checkpoint,
    files: Files,
    budget: ByteSize,
    meter: Meter,
    state: Mutex<State>,
    /// Nobody wants the rest: the stream was dropped, or has failed.
    cancelled: AtomicBool,
    arrivals: Sender<Result<Tensor, Error>>,
}

struct State {
    batches: VecDeque<Batch>,
    /// What is left of the budget, in bytes.
    available: u64,
    /// Jobs that are started and have not ended.
    jobs: usize,
}

/// Tensors that are read together, as a range of the checkpoint's.
struct Batch {
    tensors: Range<usize>,
    charge: u64,
}

/// A part of the budget; goes back when it is dropped.
struct Permit {
    stream: Weak<Shared>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.stream.upgrade() {
            shared.state.lock().available += self.bytes;
            shared.start_job();
        }
    }
}

/// A tensor's memory with its part of the budget. The memory goes first.
struct Charged {
    memory: Memory,
    _permit: Permit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref()
    }
}

impl Stream {
    pub(crate) fn new(
        loader: &Loader,
        checkpoint: &Checkpoint,
        files: Files,
        budget: ByteSize,
        workers: Arc<ThreadPool>,
    ) -> Self {
        let meter = Meter::start(checkpoint.open_time());
        let tensors = checkpoint.tensors();
        let batch_bytes = BATCH_BYTES.min(budget.as_u64() / (2 * loader.thread_count() as u64));
        let batches = plan::batches(tensors, batch_bytes)
            .into_iter()
            .map(|range| Batch {
                charge: tensors[range.clone()]
                    .iter()
                    .map(|info| loader.charge(info.bytes))
                    .sum(),
                tensors: range,
            })
            .collect();
        let (sender, arrivals) = unbounded();
        let shared = Arc::new(Shared {
            loader: loader.clone(),
            workers,
            checkpoint: checkpoint.clone(),
            files,
            budget,
            meter,
            state: Mutex::new(State {
                batches,
                available: budget.as_u64(),
                jobs: 0,
            }),
            cancelled: AtomicBool::new(false),
            arrivals: sender,
        });
        loader.announce(checkpoint);
        shared.start_job();
        Self {
            missing: tensors.len(),
            shared,
            arrivals,
            report: None,
        }
    }

    /// What the stream has done so far; final once it has ended.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report
            .clone()
            .unwrap_or_else(|| self.shared.meter.report())
    }

    /// The bytes that the stream may hold at once.
    #[must_use]
    pub fn budget(&self) -> ByteSize {
        self.shared.budget
    }

    fn next_arrival(&self) -> Result<Tensor, Error> {
        let patience = self.shared.loader.patience;
        let mut since = Instant::now();
        loop {
            match self.arrivals.recv_timeout(patience) {
                Ok(arrival) => return arrival,
                Err(RecvTimeoutError::Disconnected) => unreachable!("the stream keeps a sender"),
                Err(RecvTimeoutError::Timeout) => match self.shared.held_needed() {
                    Some((held, needed)) => {
                        return Err(Error::BudgetHeld {
                            held,
                            needed,
                            budget: self.shared.budget,
                            waited: since.elapsed(),
                        });
                    }
                    None => since = Instant::now(), // a read takes its time
                },
            }
        }
    }
}

impl Iterator for Stream {
    type Item = Result<Tensor, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.report.is_some() {
            return None;
        }
        let end = if self.missing == 0 {
            self.shared.files.check_unchanged()
        } else {
            match self.next_arrival() {
                Ok(tensor) => {
                    self.missing -= 1;
                    return Some(Ok(tensor));
                }
                Err(error) => Err(error),
            }
        };
        let report = self.shared.meter.report();
        self.shared.cancel();
        self.arrivals = never(); // what other workers still deliver is dropped
        let end = end.and_then(|()| {
            Error::catch(|| {
                self.shared.loader.observer.finished(&report);
                Ok(())
            })
        });
        self.report = Some(report);
        end.err().map(Err)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.cancel();
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("checkpoint", &self.shared.checkpoint.path())
            .field("budget", &self.shared.budget)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Starts a job if there is a thread for it and the budget admits its batch.
    fn start_job(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            if state.jobs >= self.loader.thread_count() || !state.admits_next() {
                return;
            }
            state.jobs += 1;
        }
        let shared = Arc::clone(self);
        self.workers.spawn(move || shared.run());
    }

    /// Reads batch after batch, as long as the budget admits the next.
    fn run(self: Arc<Self>) {
        while let Some(batch) = self.take_batch() {
            self.start_job(); // the budget may admit another one beside this
            if let Err(failure) = Error::catch(|| self.read(batch.tensors, batch.charge)) {
                self.cancel();
                self.deliver(Err(failure));
            }
        }
    }

    /// The next batch with its part of the budget, or `None` if the job has to end.
    fn take_batch(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        if !state.admits_next() {
            state.jobs -= 1;
            return None;
        }
        let batch = state.batches.pop_front()?;
        state.available -= batch.charge;
        Some(batch)
    }

    /// Reads the tensors of a batch, whose charge is taken, and delivers them.
    fn read(self: &Arc<Self>, range: Range<usize>, charge: u64) -> Result<(), Error> {
        let tensors = &self.checkpoint.tensors()[range.clone()];
        let mut rest = self.permit(charge);
        let mut memory = Vec::with_capacity(tensors.len());
        for info in tensors {
            memory.push(self.allocate(info.bytes, &mut rest)?);
        }
        let bytes: u64 = tensors.iter().map(|info| info.bytes).sum();
        let plan = Plan::separate(tensors, plan::read_bytes(bytes, self.loader.thread_count()));
        let slots = memory
            .iter_mut()
            .map(|charged| charged.memory.as_mut())
            .filter(|slot| !slot.is_empty())
            .collect();
        let watch = Watch {
            meter: &self.meter,
            observer: &*self.loader.observer,
            cancelled: &self.cancelled,
        };
        read::fill(&self.files, plan.reads(), slots, &watch)?;
        if self.cancelled.load(Relaxed) {
            return Ok(()); // a read may have been left out
        }
        for (index, charged) in range.zip(memory) {
            let info = &self.checkpoint.tensors()[index];
            self.meter.loaded(info.bytes);
            self.loader.observer.tensor(info);
            let bytes = if info.bytes == 0 {
                Bytes::new()
            } else {
                Bytes::from_owner(charged)
            };
            self.deliver(Ok(Tensor::new(&self.checkpoint, index, bytes)));
        }
        Ok(())
    }

    /// Takes memory for `bytes` and its charge out of `permit`.
    fn allocate(self: &Arc<Self>, bytes: u64, permit: &mut Permit) -> Result<Charged, Error> {
        let mut permit = permit.split(self.loader.charge(bytes));
        let small = self.loader.is_small(bytes).then(|| self.small(bytes));
        let memory = if let Some(buffer) = small.flatten() {
            Memory::Small(buffer)
        } else {
            // A recycled buffer may be an eighth larger, if the budget has room for that.
            let mut slack = self.reserve(bytes / 8);
            let buffer = self.loader.lease(bytes, slack.is_none(), &self.meter)?;
            if let Some(slack) = &mut slack {
                let excess = (buffer.capacity() as u64).saturating_sub(permit.bytes);
                permit.merge(slack.split(excess.min(slack.bytes)));
            }
            Memory::Pooled(buffer)
        };
        Ok(Charged {
            memory,
            _permit: permit,
        })
    }

    /// Memory of the allocator; if that has none, the pool can say why, or has some.
    fn small(&self, bytes: u64) -> Option<SmallBuffer> {
        let start = Instant::now();
        let buffer = SmallBuffer::new(bytes as usize)?;
        if bytes > 0 {
            self.meter.allocated(bytes as usize, start.elapsed());
        }
        Some(buffer)
    }

    /// A part of the budget, if there is as much.
    fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut state = self.state.lock();
        state.available = state.available.checked_sub(bytes)?;
        Some(self.permit(bytes))
    }

    fn permit(self: &Arc<Self>, bytes: u64) -> Permit {
        Permit {
            stream: Arc::downgrade(self),
            bytes,
        }
    }

    fn deliver(&self, arrival: Result<Tensor, Error>) {
        // It fails only if the stream was dropped; the tensor's memory then goes back here.
        let _ = self.arrivals.send(arrival);
    }

    /// Ends the load: no further batch is taken, no further read begins.
    fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
        self.state.lock().batches.clear();
    }

    /// If nothing can arrive any more because the consumer holds too much: the bytes held, and those that the next batch needs.
    fn held_needed(&self) -> Option<(u64, u64)> {
        let state = self.state.lock();
        let next = state.batches.front()?;
        let stalled = state.jobs == 0 && self.arrivals.is_empty() && !state.admits_next();
        stalled.then(|| (self.budget.as_u64() - state.available, next.charge))
    }
}

impl State {
    fn admits_next(&self) -> bool {
        self.batches
            .front()
            .is_some_and(|batch| batch.charge <= self.available)
    }
}

impl Permit {
    /// Cuts off `bytes` of it.
    fn split(&mut self, bytes: u64) -> Self {
        self.bytes -= bytes;
        Self {
            stream: Weak::clone(&self.stream),
            bytes,
        }
    }

    /// Adds what `other` has.
    fn merge(&mut self, mut other: Self) {
        self.bytes += mem::take(&mut other.bytes);
    }
}
