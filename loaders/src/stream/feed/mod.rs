//! Work within a budget of bytes, on a loader's threads.
//!
//! No thread waits for the budget. It is a number under a lock; a job takes the next piece of work if the budget admits it
//! and ends if not, and whoever gives bytes back (a consumer that drops a tensor, on whatever thread) starts a job again. So a slow
//! consumer blocks no worker, and several streams share one loader's threads.
//!
//! As long as the page cache has what is read, a core is all that a read needs. A consumer for whom nothing has arrived then does a
//! piece of work itself, instead of sleeping beside one thread too many: what it reads is still in its core's cache when it
//! looks at it, and so is the buffer when the next read takes it.

mod consumer;

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use ckload_pool::{Origin, PooledBuffer};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rayon::ThreadPool;

pub(super) use self::consumer::Consumer;
use crate::cancel::{Cancel, Cancels};
use crate::memory::{Memory, SmallBuffer};
use crate::observer::Leased;
use crate::plan::Plan;
use crate::read::{self, Files, Slot, Watch};
use crate::report::Meter;
use crate::{Checkpoint, Error, Loader, Report, TensorInfo};

/// Of the tensors that a consumer holds too long, an error names as many.
const NAMED: usize = 5;

/// What is cached, and no larger than this many bytes, one thread reads alone; others have other tensors to read.
const ALONE_BYTES: u64 = 16 << 20;

/// Tensors up to this many bytes share buffers of one size, so that a tensor finds memory that another, of another size, has
/// just left in the CPU's cache.
const SHARED_BYTES: u64 = 16 << 20;

/// A consumer looks no more often than this whether it waits in vain, however little patience it has.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// A piece of work: it reads some tensors, or a part of one, and delivers them.
pub(super) trait Work: Send + Sync + Sized + 'static {
    /// What consumers get.
    type Item: Send + 'static;

    /// The bytes of the budget that it takes.
    fn charge(&self) -> u64;

    /// Does it, with its part of the budget.
    fn carry_out(self, feed: &Arc<Feed<Self>>, permit: Permit, crew: Crew) -> Result<(), Error>;
}

/// Who carries out a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crew {
    /// A thread of the loader; others of them may help.
    Workers,
    /// A consumer, alone.
    Consumer,
}

/// Pieces of work in their order, the budget, and the way to the consumers.
pub(super) struct Feed<W: Work> {
    pub(super) loader: Loader,
    workers: Arc<ThreadPool>,
    pub(super) checkpoint: Checkpoint,
    pub(super) files: Files,
    budget: ByteSize,
    /// The capacity that tensors up to [`SHARED_BYTES`] share.
    shared_capacity: u64,
    /// The most of the budget, in bytes, that is lent in excess: an eighth, but nothing that all tensors together need.
    most_excess: u64,
    pub(super) meter: Meter,
    state: Mutex<State<W>>,
    /// Something has arrived, or nothing will any more.
    arrived: Condvar,
    /// How many parts of the budget each tensor holds.
    holds: Box<[AtomicU32]>,
    /// One of the loader's handles: nobody wants the rest, since the stream was dropped, or has failed.
    end: Cancel,
    /// The others: by these the consumers' side may end the load.
    cancels: Cancels,
}

struct State<W: Work> {
    work: VecDeque<W>,
    /// What is left of the budget, in bytes.
    available: u64,
    /// Bytes of the budget that are lent in excess, for the sake of sharing buffers.
    excess: u64,
    /// Pieces of work, and jobs of the loader's threads, that are under way.
    jobs: usize,
    arrivals: VecDeque<Result<W::Item, Error>>,
    /// Nobody wants what arrives any more.
    is_closed: bool,
    /// What no consumer has begun to wait for yet.
    unclaimed: usize,
    /// What no consumer has been given yet.
    missing: usize,
    /// Of a load that has ended.
    report: Option<Report>,
}

/// What a stream is set up with.
pub(crate) struct Setting<'a> {
    pub(crate) loader: &'a Loader,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) files: Files,
    pub(crate) budget: ByteSize,
    pub(crate) workers: Arc<ThreadPool>,
}

/// Who keeps the account of a budget.
trait Account: Send + Sync {
    fn give_back(self: Arc<Self>, part: &Permit);
}

/// A part of the budget; goes back when it is dropped.
pub(super) struct Permit {
    account: Weak<dyn Account>,
    bytes: u64,
    /// Of these, what was added for the sake of sharing buffers.
    excess: u64,
    /// Whose memory it is for.
    tensor: Option<usize>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(account) = self.account.upgrade() {
            account.give_back(self);
        }
    }
}

impl Permit {
    /// Cuts off `bytes` of it; what is in excess first.
    fn split(&mut self, bytes: u64) -> Self {
        let excess = self.excess.min(bytes);
        self.bytes -= bytes;
        self.excess -= excess;
        Self {
            account: Weak::clone(&self.account),
            bytes,
            excess,
            tensor: None,
        }
    }

    /// Adds what `other` has.
    fn merge(&mut self, mut other: Self) {
        self.bytes += mem::take(&mut other.bytes);
        self.excess += mem::take(&mut other.excess);
    }
}

/// Memory with its part of the budget. The memory goes first.
pub(super) struct Charged {
    memory: Memory,
    /// Where the tensor's bytes begin: as far from a page's start as in the file, if it may lie so. Then the disk brings them into place.
    start: usize,
    _permit: Permit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref()
    }
}

impl Charged {
    /// The `len` bytes that are to be filled.
    pub(super) fn as_slot(&mut self, len: u64) -> Slot<'_> {
        let slot = self.memory.as_slot();
        Slot {
            memory: &mut slot.memory[self.start..self.start + len as usize],
            ..slot
        }
    }
}

impl<W: Work> Account for Feed<W> {
    fn give_back(self: Arc<Self>, part: &Permit) {
        if let Some(tensor) = part.tensor {
            self.holds[tensor].fetch_sub(1, Relaxed);
        }
        let mut state = self.state.lock();
        state.available += part.bytes;
        state.excess -= part.excess;
        self.start_job_with(state);
    }
}

thread_local! {
    /// Whether this thread waits for reads that others carry out. It may be given another job meanwhile; that one is to be short.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

impl<W: Work> Feed<W> {
    /// Starts a job if there is a thread for it and the budget admits the next piece of work.
    fn start_job(self: &Arc<Self>) {
        self.start_job_with(self.state.lock());
    }

    fn start_job_with(self: &Arc<Self>, mut state: MutexGuard<'_, State<W>>) {
        // A core is left to the consumer.
        let most = match self.files.wanted_threads() {
            several if self.files.is_waiting() => several,
            several => (several - 1).max(1),
        };
        if state.jobs >= most || !state.admits_next() {
            return;
        }
        state.jobs += 1;
        self.meter.reading(state.jobs);
        drop(state);
        // Until it runs, a job keeps no files open for consumers that may be gone by then.
        let feed = Arc::downgrade(self);
        self.workers.spawn(move || {
            if let Some(feed) = feed.upgrade() {
                feed.run();
            }
        });
    }

    /// Does one piece of work after the other, as long as the budget admits the next.
    fn run(self: Arc<Self>) {
        while let Some((work, permit)) = self.take_work() {
            self.start_job(); // the budget may admit another one beside this
            self.carry_out(work, permit, Crew::Workers);
            if WAITS.get() {
                self.end_job();
                break;
            }
        }
    }

    fn carry_out(self: &Arc<Self>, work: W, permit: Permit, crew: Crew) {
        if let Err(failure) = Error::catch(|| work.carry_out(self, permit, crew)) {
            self.deliver(Err(failure));
            self.stop();
        }
    }

    fn end_job(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.jobs -= 1;
        self.start_job_with(state);
    }

    /// The next piece of work with its part of the budget, or `None` if the job has to end.
    fn take_work(self: &Arc<Self>) -> Option<(W, Permit)> {
        let mut state = self.state.lock();
        let next = self.take_next(&mut state);
        if next.is_none() {
            state.jobs -= 1;
        }
        next
    }

    /// A piece of work for a consumer that has nothing else to do, if a core is all that it needs, and one is free.
    fn take_work_of_consumer(self: &Arc<Self>, state: &mut State<W>) -> Option<(W, Permit)> {
        let suits = !self.files.is_waiting()
            && state.jobs < self.files.wanted_threads()
            && state.work.front()?.charge() <= ALONE_BYTES;
        if !suits {
            return None;
        }
        let next = self.take_next(state)?;
        state.jobs += 1;
        self.meter.reading(state.jobs);
        Some(next)
    }

    fn take_next(self: &Arc<Self>, state: &mut State<W>) -> Option<(W, Permit)> {
        if !state.admits_next() {
            return None;
        }
        let work = state.work.pop_front()?;
        let charge = work.charge();
        state.available -= charge;
        Some((work, self.permit(charge)))
    }

    /// Reads neighbouring tensors into memory of their own, charged to `permit`; the bytes of each in turn.
    pub(super) fn read_tensors(
        self: &Arc<Self>,
        range: Range<usize>,
        mut permit: Permit,
        crew: Crew,
    ) -> Result<Vec<Bytes>, Error> {
        let tensors = &self.checkpoint.tensors()[range.clone()];
        let mut memory = Vec::with_capacity(tensors.len());
        for (number, info) in range.zip(tensors) {
            memory.push(self.allocate(number, info, &mut permit)?);
        }
        let plan = Plan::separate(tensors, self.files.policy().read_bytes);
        let slots = memory
            .iter_mut()
            .zip(tensors)
            .map(|(memory, info)| memory.as_slot(info.bytes))
            .filter(|slot| !slot.memory.is_empty())
            .collect();
        self.fill(tensors, &plan, slots, crew)?;
        let memory = memory.into_iter().zip(tensors);
        Ok(memory
            .map(|(memory, info)| self.filled(memory, info.bytes))
            .collect())
    }

    /// Carries out the plan of `tensors`.
    pub(super) fn fill(
        &self,
        tensors: &[TensorInfo],
        plan: &Plan,
        slots: Vec<Slot<'_>>,
        crew: Crew,
    ) -> Result<(), Error> {
        let watch = Watch {
            meter: &self.meter,
            observer: &*self.loader.observer,
            cancels: &self.loader.cancels,
        };
        let bytes: u64 = tensors.iter().map(|info| info.bytes).sum();
        let tasks = plan.reads().len() + plan.gathers().len();
        let is_quick = tasks < 2 || (bytes <= ALONE_BYTES && !self.files.is_waiting());
        if crew == Crew::Consumer || is_quick {
            read::fill_here(&self.files, plan, tensors, slots, &watch)?;
        } else {
            let outer = WAITS.replace(true);
            let filled = Error::catch(|| read::fill(&self.files, plan, tensors, slots, &watch));
            WAITS.set(outer);
            filled?;
        }
        // A read beside a change brings whatever bytes it meets, zeros where a file is being cut off, and no error.
        self.files.check_unchanged_under(tensors)
    }

    /// The `len` bytes of memory that is filled.
    pub(super) fn filled(&self, mut charged: Charged, len: u64) -> Bytes {
        if let Memory::Pooled(buffer) = &mut charged.memory {
            self.loader.pin(buffer, &self.meter);
        }
        let start = charged.start;
        let bytes = Bytes::from_owner(charged);
        if bytes.len() as u64 == len {
            bytes
        } else {
            bytes.slice(start..start + len as usize)
        }
    }

    /// Tells that a tensor is there, whole.
    pub(super) fn loaded(&self, tensor: usize) {
        let info = &self.checkpoint.tensors()[tensor];
        self.meter.loaded(info.bytes);
        self.loader.observer.tensor(info);
    }

    /// Takes memory for `bytes` of a tensor, and its charge out of `permit`.
    fn allocate(
        self: &Arc<Self>,
        tensor: usize,
        info: &TensorInfo,
        permit: &mut Permit,
    ) -> Result<Charged, Error> {
        let mut permit = permit.split(self.loader.charge(info.bytes));
        let is_small = self.loader.is_small(info.bytes);
        if let Some(buffer) = is_small.then(|| self.small(info.bytes)).flatten() {
            return Ok(self.charged(tensor, Memory::Small(buffer), 0, permit));
        }
        let (buffer, start) = self.lease(info, &mut permit)?;
        Ok(self.charged(tensor, Memory::Pooled(buffer), start, permit))
    }

    /// A buffer for a tensor, and where in it the tensor begins; adds to `permit` what is in excess of it, if the budget has room for that:
    /// for a capacity that others share, for a recycled buffer an eighth larger than needed, for a beginning in step with the file.
    fn lease(
        self: &Arc<Self>,
        info: &TensorInfo,
        permit: &mut Permit,
    ) -> Result<(PooledBuffer, u64), Error> {
        let start = info.step();
        let len = info.bytes + start;
        let own = self.loader.capacity_for(len);
        let ways = [
            (self.shared_capacity, self.shared_capacity, true, start),
            (own + len / 8, len, false, start),
            (own, len, true, start),
        ];
        let affordable = ways.into_iter().find_map(|(most, len, exact, start)| {
            let excess = most.checked_sub(own).and(most.checked_sub(permit.bytes))?;
            Some((self.reserve_excess(excess)?, len, exact, start))
        });
        let Some((mut excess, len, exact, start)) = affordable else {
            let request = self.loader.request(info.bytes, true);
            return Ok((self.loader.lease(request, &self.meter)?, 0));
        };
        let buffer = self
            .loader
            .lease(self.loader.request(len, exact), &self.meter)?;
        let more = (buffer.capacity() as u64).saturating_sub(permit.bytes);
        permit.merge(excess.split(more.min(excess.bytes)));
        Ok((buffer, start))
    }

    /// Memory of the allocator; if that has none, the pool can say why, or has some.
    fn small(&self, bytes: u64) -> Option<SmallBuffer> {
        let start = Instant::now();
        let buffer = SmallBuffer::new(bytes as usize)?;
        if bytes > 0 {
            let time = start.elapsed();
            let event = Leased {
                bytes,
                duration: time,
                origin: Origin::Fresh { time },
            };
            self.meter.leased(&event);
            self.loader.observer.leased(&event);
        }
        Some(buffer)
    }

    /// A buffer of `bytes` for a part of a tensor that begins at `start` in it, of the size that a new one has, and `permit` for it.
    pub(super) fn allocate_part(
        &self,
        tensor: usize,
        bytes: u64,
        start: u64,
        permit: Permit,
    ) -> Result<Charged, Error> {
        let request = self.loader.request(bytes, true);
        let buffer = self.loader.lease(request, &self.meter)?;
        Ok(self.charged(tensor, Memory::Pooled(buffer), start, permit))
    }

    fn charged(&self, tensor: usize, memory: Memory, start: u64, mut permit: Permit) -> Charged {
        permit.tensor = Some(tensor);
        self.holds[tensor].fetch_add(1, Relaxed);
        Charged {
            memory,
            start: start as usize,
            _permit: permit,
        }
    }

    /// A part of the budget for memory that is not needed, if there is as much.
    fn reserve_excess(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut state = self.state.lock();
        let excess = state.excess + bytes;
        if bytes > state.available || excess > self.most_excess {
            return None;
        }
        state.available -= bytes;
        state.excess = excess;
        let mut permit = self.permit(bytes);
        permit.excess = bytes;
        Some(permit)
    }

    fn permit(self: &Arc<Self>, bytes: u64) -> Permit {
        let feed: Weak<Self> = Arc::downgrade(self);
        Permit {
            account: feed,
            bytes,
            excess: 0,
            tensor: None,
        }
    }

    /// Hands something to the consumers. If they are gone its memory goes back here.
    pub(super) fn deliver(&self, arrival: Result<W::Item, Error>) {
        self.deliver_all(vec![arrival]);
    }

    /// The same, of several things.
    pub(super) fn deliver_all(&self, arrivals: Vec<Result<W::Item, Error>>) {
        let mut state = self.state.lock();
        // What is refused is dropped after the lock, for that takes it, too.
        if !state.is_closed {
            state.arrivals.extend(arrivals);
            drop(state);
            self.arrived.notify_all();
        }
    }

    /// Takes no further work, and begins no further read; what was delivered may still be taken.
    fn stop(&self) {
        self.end.cancel();
        self.state.lock().work.clear();
    }

    /// Ends the load: no further read begins, and nothing is delivered any more.
    fn cancel(&self) {
        self.stop();
        let mut state = self.state.lock();
        state.is_closed = true;
        state.unclaimed = 0;
        let refused = mem::take(&mut state.arrivals);
        drop(state);
        drop(refused);
        self.arrived.notify_all();
    }

    /// The error, if nothing can arrive any more because the consumers hold too much.
    fn held(&self, state: &State<W>, since: Instant) -> Option<Error> {
        let next = state.work.front()?;
        if state.jobs > 0 || !state.arrivals.is_empty() || state.admits_next() {
            return None;
        }
        let numbers = (0..self.holds.len()).filter(|&tensor| self.holds[tensor].load(Relaxed) > 0);
        let mut names = numbers.map(|tensor| self.checkpoint.tensors()[tensor].name.clone());
        Some(Error::BudgetHeld {
            held: self.budget.as_u64() - state.available,
            needed: next.charge(),
            budget: self.budget,
            waited: since.elapsed(),
            tensors: names.by_ref().take(NAMED).collect(),
            others: names.count(),
        })
    }
}

impl<W: Work> State<W> {
    fn admits_next(&self) -> bool {
        self.work
            .front()
            .is_some_and(|work| work.charge() <= self.available)
    }

    /// Notes what a consumer is about to get: one tensor less is missing, or nobody gets anything after this error.
    fn note(&mut self, arrival: &Result<W::Item, Error>) {
        match arrival {
            Ok(_) => self.missing -= 1,
            Err(_) => self.is_closed = true,
        }
    }
}
