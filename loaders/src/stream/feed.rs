//! Work within a budget of bytes, on a loader's threads.
//!
//! No thread waits for the budget. It is a number under a lock; a job takes the next piece of work if the budget admits it
//! and ends if not, and whoever gives bytes back (a consumer that drops a tensor, on whatever thread) starts a job again. So a slow
//! consumer blocks no worker, and several streams share one loader's threads.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use bytesize::ByteSize;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::{Mutex, MutexGuard};
use rayon::ThreadPool;

use crate::memory::{Memory, SmallBuffer};
use crate::plan::Plan;
use crate::read::{self, Files, Slot, Watch};
use crate::report::Meter;
use crate::{Checkpoint, Error, Loader, Report, TensorInfo};

/// Of the tensors that a consumer holds too long, an error names as many.
const NAMED: usize = 5;

/// A piece of work: it reads some tensors, or a part of one, and delivers them.
pub(super) trait Work: Send + Sync + Sized + 'static {
    /// What consumers get.
    type Item: Send + 'static;

    /// The bytes of the budget that it takes.
    fn charge(&self) -> u64;

    /// Does it, with its part of the budget.
    fn carry_out(self, feed: &Arc<Feed<Self>>, permit: Permit) -> Result<(), Error>;
}

/// Pieces of work in their order, the budget, and the way to the consumers.
pub(super) struct Feed<W: Work> {
    pub(super) loader: Loader,
    workers: Arc<ThreadPool>,
    pub(super) checkpoint: Checkpoint,
    pub(super) files: Files,
    budget: ByteSize,
    pub(super) meter: Meter,
    state: Mutex<State<W>>,
    /// Nobody wants the rest: the stream was dropped, or has failed.
    cancelled: AtomicBool,
}

struct State<W: Work> {
    work: VecDeque<W>,
    /// What is left of the budget, in bytes.
    available: u64,
    /// Jobs that are started and have not ended.
    jobs: usize,
    /// The numbers of the tensors that hold a part of the budget, and how many parts each.
    holders: BTreeMap<usize, usize>,
    /// Gone when the feed is cancelled: whoever waits then wakes up.
    arrivals: Option<Sender<Result<W::Item, Error>>>,
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
    fn give_back(self: Arc<Self>, bytes: u64, tensor: Option<usize>);
}

/// A part of the budget; goes back when it is dropped.
pub(super) struct Permit {
    account: Weak<dyn Account>,
    bytes: u64,
    /// Whose memory it is for.
    tensor: Option<usize>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(account) = self.account.upgrade() {
            account.give_back(self.bytes, self.tensor);
        }
    }
}

impl Permit {
    /// Cuts off `bytes` of it.
    fn split(&mut self, bytes: u64) -> Self {
        self.bytes -= bytes;
        Self {
            account: Weak::clone(&self.account),
            bytes,
            tensor: None,
        }
    }

    /// Adds what `other` has.
    fn merge(&mut self, mut other: Self) {
        self.bytes += mem::take(&mut other.bytes);
    }
}

/// Memory with its part of the budget. The memory goes first.
pub(super) struct Charged {
    memory: Memory,
    _permit: Permit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref()
    }
}

impl Charged {
    pub(super) fn as_slot(&mut self) -> Slot<'_> {
        self.memory.as_slot()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl<W: Work> Account for Feed<W> {
    fn give_back(self: Arc<Self>, bytes: u64, tensor: Option<usize>) {
        let mut state = self.state.lock();
        state.available += bytes;
        if let Some(tensor) = tensor
            && let Some(parts) = state.holders.get_mut(&tensor)
        {
            *parts -= 1;
            if *parts == 0 {
                state.holders.remove(&tensor);
            }
        }
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
        if state.jobs >= self.files.wanted_threads() || !state.admits_next() {
            return;
        }
        state.jobs += 1;
        self.meter.reading(state.jobs);
        drop(state);
        let feed = Arc::clone(self);
        self.workers.spawn(move || feed.run());
    }

    /// Does one piece of work after the other, as long as the budget admits the next.
    fn run(self: Arc<Self>) {
        while let Some((work, permit)) = self.take_work() {
            self.start_job(); // the budget may admit another one beside this
            if let Err(failure) = Error::catch(|| work.carry_out(&self, permit)) {
                self.deliver(Err(failure));
                self.cancel();
            }
            if WAITS.get() {
                self.state.lock().jobs -= 1;
                self.start_job();
                break;
            }
        }
    }

    /// The next piece of work with its part of the budget, or `None` if the job has to end.
    fn take_work(self: &Arc<Self>) -> Option<(W, Permit)> {
        let mut state = self.state.lock();
        if !state.admits_next() {
            state.jobs -= 1;
            return None;
        }
        let work = state.work.pop_front()?;
        let charge = work.charge();
        state.available -= charge;
        Some((work, self.permit(charge)))
    }

    /// Reads neighbouring tensors into memory of their own, charged to `permit`; the bytes of each in turn. Empty if the feed is
    /// cancelled meanwhile.
    pub(super) fn read_tensors(
        self: &Arc<Self>,
        range: Range<usize>,
        mut permit: Permit,
    ) -> Result<Vec<Bytes>, Error> {
        let tensors = &self.checkpoint.tensors()[range.clone()];
        let mut memory = Vec::with_capacity(tensors.len());
        for (number, info) in range.zip(tensors) {
            memory.push(self.allocate(number, info.bytes, &mut permit)?);
        }
        let plan = Plan::separate(tensors, self.files.policy().read_bytes);
        let slots = memory
            .iter_mut()
            .map(Charged::as_slot)
            .filter(|slot| !slot.memory.is_empty())
            .collect();
        if !self.fill(tensors, &plan, slots)? {
            return Ok(Vec::new());
        }
        Ok(memory.into_iter().map(Charged::into_bytes).collect())
    }

    /// Carries out the plan of `tensors`; `false` if some may have been left out, since the feed is cancelled.
    pub(super) fn fill(
        &self,
        tensors: &[TensorInfo],
        plan: &Plan,
        slots: Vec<Slot<'_>>,
    ) -> Result<bool, Error> {
        let watch = Watch {
            meter: &self.meter,
            observer: &*self.loader.observer,
            cancelled: &self.cancelled,
        };
        let outer = WAITS.replace(true);
        let filled = Error::catch(|| read::fill(&self.files, plan, tensors, slots, &watch));
        WAITS.set(outer);
        filled?;
        if self.cancelled.load(Relaxed) {
            return Ok(false);
        }
        // A read beside a change brings whatever bytes it meets, zeros where a file is being cut off, and no error.
        self.files.check_unchanged_under(tensors)?;
        Ok(true)
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
        bytes: u64,
        permit: &mut Permit,
    ) -> Result<Charged, Error> {
        let mut permit = permit.split(self.loader.charge(bytes));
        let small = self.loader.is_small(bytes).then(|| self.small(bytes));
        let memory = if let Some(buffer) = small.flatten() {
            Memory::Small(buffer)
        } else {
            // A recycled buffer may be an eighth larger, if the budget has room for that.
            let mut slack = self.reserve(bytes / 8);
            let request = self.loader.request(bytes, slack.is_none());
            let buffer = self.loader.lease(request, &self.meter)?;
            if let Some(slack) = &mut slack {
                let excess = (buffer.capacity() as u64).saturating_sub(permit.bytes);
                permit.merge(slack.split(excess.min(slack.bytes)));
            }
            Memory::Pooled(buffer)
        };
        Ok(self.charged(tensor, memory, permit))
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

    /// A buffer of `bytes` for a part of a tensor, of the size that a new one has, and `permit` for it.
    pub(super) fn allocate_part(
        &self,
        tensor: usize,
        bytes: u64,
        permit: Permit,
    ) -> Result<Charged, Error> {
        let request = self.loader.request(bytes, true);
        let buffer = self.loader.lease(request, &self.meter)?;
        Ok(self.charged(tensor, Memory::Pooled(buffer), permit))
    }

    fn charged(&self, tensor: usize, memory: Memory, mut permit: Permit) -> Charged {
        permit.tensor = Some(tensor);
        *self.state.lock().holders.entry(tensor).or_default() += 1;
        Charged {
            memory,
            _permit: permit,
        }
    }

    /// A part of the budget, if there is as much.
    fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut state = self.state.lock();
        state.available = state.available.checked_sub(bytes)?;
        Some(self.permit(bytes))
    }

    fn permit(self: &Arc<Self>, bytes: u64) -> Permit {
        let feed: Weak<Self> = Arc::downgrade(self);
        Permit {
            account: feed,
            bytes,
            tensor: None,
        }
    }

    /// Hands something to the consumers. If they are gone its memory goes back here.
    pub(super) fn deliver(&self, arrival: Result<W::Item, Error>) {
        self.deliver_all([arrival]);
    }

    /// The same, of several things.
    pub(super) fn deliver_all(&self, arrivals: impl IntoIterator<Item = Result<W::Item, Error>>) {
        let state = self.state.lock();
        // Under the lock nothing is sent once the feed is cancelled.
        let refused: Vec<_> = arrivals
            .into_iter()
            .filter_map(|arrival| match &state.arrivals {
                Some(sender) => sender.send(arrival).err().map(|refused| refused.0),
                None => Some(arrival),
            })
            .collect();
        // What gives back a part of the budget takes the lock.
        drop(state);
        drop(refused);
    }

    /// Ends the load: no further work is taken, no further read begins.
    fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
        let mut state = self.state.lock();
        state.work.clear();
        state.arrivals = None;
    }

    /// The error, if nothing can arrive any more because the consumers hold too much.
    fn held(&self, arrivals: &Receiver<Result<W::Item, Error>>, since: Instant) -> Option<Error> {
        let state = self.state.lock();
        let next = state.work.front()?;
        let stalled = state.jobs == 0 && arrivals.is_empty() && !state.admits_next();
        let name = |&tensor: &usize| self.checkpoint.tensors()[tensor].name.clone();
        stalled.then(|| Error::BudgetHeld {
            held: self.budget.as_u64() - state.available,
            needed: next.charge(),
            budget: self.budget,
            waited: since.elapsed(),
            tensors: state.holders.keys().take(NAMED).map(name).collect(),
            others: state.holders.len().saturating_sub(NAMED),
        })
    }
}

impl<W: Work> State<W> {
    fn admits_next(&self) -> bool {
        self.work
            .front()
            .is_some_and(|work| work.charge() <= self.available)
    }
}

/// The consumers' end of a feed; any number of threads may take from it.
pub(super) struct Consumer<W: Work> {
    feed: Arc<Feed<W>>,
    arrivals: Receiver<Result<W::Item, Error>>,
    /// What no thread has begun to wait for yet.
    unclaimed: AtomicUsize,
    end: Mutex<End>,
}

struct End {
    /// What has not arrived yet.
    missing: usize,
    /// Of a load that has ended.
    report: Option<Report>,
}

impl<W: Work> Consumer<W> {
    /// Starts a feed that delivers `items`.
    pub(super) fn start(setting: Setting<'_>, work: VecDeque<W>, items: usize) -> Self {
        let meter = Meter::start(setting.checkpoint.open_time());
        let (sender, arrivals) = unbounded();
        let feed = Arc::new(Feed {
            loader: setting.loader.clone(),
            workers: setting.workers,
            checkpoint: setting.checkpoint.clone(),
            files: setting.files,
            budget: setting.budget,
            meter,
            state: Mutex::new(State {
                work,
                available: setting.budget.as_u64(),
                jobs: 0,
                holders: BTreeMap::new(),
                arrivals: Some(sender),
            }),
            cancelled: AtomicBool::new(false),
        });
        setting.loader.announce(setting.checkpoint);
        feed.start_job();
        Self {
            feed,
            arrivals,
            unclaimed: AtomicUsize::new(items),
            end: Mutex::new(End {
                missing: items,
                report: None,
            }),
        }
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.feed.checkpoint
    }

    pub(super) fn budget(&self) -> ByteSize {
        self.feed.budget
    }

    pub(super) fn report(&self) -> Report {
        let end = self.end.lock();
        end.report
            .clone()
            .unwrap_or_else(|| self.feed.meter.report())
    }

    /// Waits for the next arrival. `None` if there is none for this thread any more; what others wait for may still come to them.
    pub(super) fn next(&self) -> Option<Result<W::Item, Error>> {
        if self.end.lock().report.is_some() {
            return None;
        }
        let claimed = self
            .unclaimed
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if claimed.is_err() {
            return self.check().err().map(Err);
        }
        match self.receive()? {
            Ok(item) => {
                self.end.lock().missing -= 1;
                Some(Ok(item))
            }
            Err(error) => {
                self.finish(&mut self.end.lock());
                Some(Err(error))
            }
        }
    }

    /// `None` if another thread met an error.
    fn receive(&self) -> Option<Result<W::Item, Error>> {
        let patience = self.feed.loader.patience;
        let mut since = Instant::now();
        loop {
            match self.arrivals.recv_timeout(patience) {
                Ok(arrival) => return Some(arrival),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => match self.feed.held(&self.arrivals, since) {
                    Some(error) => return Some(Err(error)),
                    None => since = Instant::now(), // a read takes its time
                },
            }
        }
    }

    /// Once everything has arrived: refuses it if a file changed, and closes the books.
    fn check(&self) -> Result<(), Error> {
        let mut end = self.end.lock();
        if end.missing > 0 || end.report.is_some() {
            return Ok(());
        }
        let unchanged = self.feed.files.check_unchanged();
        self.finish(&mut end);
        unchanged?;
        let report = end.report.clone().unwrap_or_default();
        drop(end);
        Error::catch(|| {
            self.feed.loader.observer.finished(&report);
            Ok(())
        })
    }

    fn finish(&self, end: &mut End) {
        end.report.get_or_insert_with(|| self.feed.meter.report());
        self.feed.cancel();
        // Of a feed that failed, what other threads have delivered meanwhile is dropped.
        while self.arrivals.try_recv().is_ok() {}
    }
}

impl<W: Work> fmt::Debug for Consumer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("checkpoint", &self.feed.checkpoint.path())
            .field("budget", &self.feed.budget)
            .field("missing", &self.end.lock().missing)
            .finish_non_exhaustive()
    }
}

impl<W: Work> Drop for Consumer<W> {
    fn drop(&mut self) {
        self.feed.cancel();
    }
}
