//! The loader: how a load is set up, and the three ways of loading.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use ckload_pool::{BufferPool, GetError, Origin, PooledBuffer, Request};
use parking_lot::Mutex;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::cancel::{Cancel, Cancels};
use crate::layout::{Layout, Limits};
use crate::observer::{Observer, Planned, Silent};
use crate::plan::{self, Plan, SlotRule};
use crate::read::{self, Files, ReadPolicy, Slot, Watch};
use crate::report::Meter;
use crate::stream::{self, Setting};
use crate::{Checkpoint, Chunks, Error, Io, Model, Report, Stream, Tensor, TensorInfo};

/// Without a budget of its own a stream may hold this many bytes, or more if the largest tensor needs it.
const USUAL_BUDGET_BYTES: u64 = 256 << 20;

/// The smallest buffers that a loader's own pool keeps: below, the allocator is as good.
const MIN_BUFFER_BYTES: usize = 64 << 10;

/// Loads checkpoints: into memory that stays ([`load`](Self::load)), past a consumer ([`stream`](Self::stream)), or into the
/// caller's memory ([`load_into`](Self::load_into)).
///
/// A loader is cheap to clone, and clones share its threads and its pool. One loader may run several loads at once.
///
/// ```no_run
/// use ckload_loaders::{ByteSize, Checkpoint, Loader};
/// use ckload_pool::BufferPool;
///
/// # fn main() -> Result<(), ckload_loaders::Error> {
/// let pool = BufferPool::new();
/// let checkpoint = Checkpoint::open("models/gpt2")?;
/// let loader = Loader::new().pool(&pool);
/// let model = loader.load(&checkpoint)?;
/// let wte = model.tensor("wte.weight")?.as_slice::<f32>()?;
/// println!("{} embeddings", wte.len() / 768);
///
/// for tensor in loader.budget(ByteSize::mib(256)).stream(&checkpoint)? {
///     let tensor = tensor?;
///     println!("{}: {} bytes", tensor.name(), tensor.bytes().len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Loader {
    pub(crate) pool: BufferPool,
    /// Lends what bytes pass through on the way from a disk that wants more alignment than they have.
    staging: BufferPool,
    threads: Option<usize>,
    read_size: Option<u64>,
    chunk_size: Option<u64>,
    io: Io,
    drop_cache: bool,
    digests: bool,
    budget: Option<ByteSize>,
    pub(crate) patience: Duration,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) cancels: Cancels,
    workers: Arc<Mutex<Option<Arc<ThreadPool>>>>,
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// A loader with a pool and threads of its own; memory is taken and threads are started when they are first needed.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pool: BufferPool::builder()
                .min_buffer_size(MIN_BUFFER_BYTES)
                .build(),
            staging: BufferPool::new(),
            threads: None,
            read_size: None,
            chunk_size: None,
            io: Io::default(),
            drop_cache: false,
            digests: false,
            budget: None,
            patience: Duration::from_secs(30),
            observer: Arc::new(Silent),
            cancels: Cancels::default(),
            workers: Arc::default(),
        }
    }

    /// Takes memory from `pool`, which other loaders and other code may use as well. Default: a pool of the loader's own.
    #[must_use]
    pub fn pool(mut self, pool: &BufferPool) -> Self {
        self.pool = pool.clone();
        self
    }

    /// Reads with this many threads, at least one, whatever is read. Default: as [`Loader::policy`] says.
    ///
    /// A thread that waits for a [`Stream`] or for [`Chunks`] reads in place of one of them, as long as the page cache has what is read.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self.workers = Arc::default();
        self
    }

    /// Reads at most this much at a time, and at least 4 KiB. Default: as [`Loader::policy`] says.
    #[must_use]
    pub fn read_size(mut self, size: ByteSize) -> Self {
        self.read_size = Some(size.as_u64().max(4096));
        self
    }

    /// Reads in this way. Default: [`Io::Auto`].
    #[must_use]
    pub fn io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Drops from the page cache what a load brought there, once it is read; what was there before stays. Default: `false`.
    ///
    /// It matters where reading past the page cache is not possible ([`Io`]). Where the kernel does not tell what was there (before Linux
    /// 6.5, or of files that the user could not write), nothing is dropped. What another process reads meanwhile may go as well.
    #[must_use]
    pub fn drop_cache(mut self, drop: bool) -> Self {
        self.drop_cache = drop;
        self
    }

    /// Computes the SHA-256 of every tensor that is loaded: see [`Tensor::sha256`] for it, and [`Report::digest_seconds`] for what it
    /// took. Default: `false`.
    ///
    /// In a stream the thread that has just read a tensor hashes it, before it is delivered. In a resident load the threads that have
    /// read hash tensor by tensor once everything is there. [`Chunks`] and [`load_into`](Self::load_into) hash nothing.
    #[must_use]
    pub fn digests(mut self, digests: bool) -> Self {
        self.digests = digests;
        self
    }

    /// Lets a stream hold this much at once: what is being read and what the consumer has not dropped yet, in whole pages.
    ///
    /// Up to an eighth of it may be memory that no tensor needs, but that makes reading quicker: a page more, so that a tensor lies in step
    /// with its file, or the rest of a buffer that tensors of several sizes share. Of a budget for all tensors that is what they leave.
    ///
    /// Where not all tensors fit, those of up to 16 MiB may be given larger buffers than they need, so that they share them: an eighth of the
    /// budget at most goes into that. More than the pool may hold counts as what the pool may hold. Default: [`Loader::default_budget`].
    #[must_use]
    pub fn budget(mut self, budget: ByteSize) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Cuts tensors into [`chunks`](Self::chunks) of at most this size, in whole pages of 4 KiB. Default: 2 MiB.
    #[must_use]
    pub fn chunk_size(mut self, size: ByteSize) -> Self {
        self.chunk_size = Some(size.as_u64().max(1));
        self
    }

    /// Waits this long for memory that others hold, and for a stream's consumer to drop a tensor, before it gives up with an error.
    /// Default: 30 seconds.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Tells `observer` what loads do, while they do it. Default: nobody.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Ends every load of this loader with [`Error::Cancelled`] once `cancel` says so. Given several times, any of them does. Default: nobody
    /// ends a load.
    ///
    /// A read that has begun is finished, no other begins; who waits for memory or for a stream stops waiting within 20 milliseconds. All
    /// memory goes back to the pool.
    #[must_use]
    pub fn cancel_with(mut self, cancel: &Cancel) -> Self {
        self.cancels.add(cancel);
        self
    }

    /// The budget of a stream of `checkpoint` if none is set: 256 MiB, or the largest tensor and half of that if it is more, or what the
    /// pool may hold if that is less.
    #[must_use]
    pub fn default_budget(&self, checkpoint: &Checkpoint) -> ByteSize {
        let sizes = checkpoint.tensors().iter().map(|info| info.bytes);
        let largest = sizes.map(|bytes| self.charge(bytes)).max().unwrap_or(0);
        let usual = USUAL_BUDGET_BYTES.max(largest.saturating_add(USUAL_BUDGET_BYTES / 2));
        ByteSize::b(usual).min(self.pool_limit())
    }

    /// How a load of `checkpoint` reads: by how many threads, in pieces of what size.
    ///
    /// Threads that read what the page cache has keep their cores busy, so there are as many as cores. When a load comes to what is not
    /// there, more join them, up to 8 on a local disk and 32 over a network, since they wait most of the time.
    #[must_use]
    pub fn policy(&self, checkpoint: &Checkpoint) -> ReadPolicy {
        self.policy_for(checkpoint.bytes(), checkpoint)
    }

    /// How `bytes` of the files of `checkpoint` are read.
    pub(crate) fn policy_for(&self, bytes: u64, checkpoint: &Checkpoint) -> ReadPolicy {
        let is_remote = checkpoint.is_remote();
        ReadPolicy::new(bytes, is_remote, self.threads, self.read_size)
    }

    /// Opens all files of `checkpoint` for reading them whole.
    pub(crate) fn open_all(
        &self,
        checkpoint: &Checkpoint,
        policy: ReadPolicy,
    ) -> Result<Files, Error> {
        Files::open_all(checkpoint, self.io, self.drop_cache, &self.staging, policy)
    }

    /// What a resident load of `checkpoint` would read, and where it would put it.
    #[must_use]
    pub fn plan(&self, checkpoint: &Checkpoint) -> Plan {
        let read_bytes = self.policy(checkpoint).read_bytes;
        Plan::packed(checkpoint.tensors(), self.slot_rule(checkpoint), read_bytes)
    }

    /// Loads all tensors into memory that stays until the model is dropped, and then goes back to the pool.
    ///
    /// # Memory
    ///
    /// Tensors are packed into blocks of an eighth of the model, but of 64 MiB at least and 1 GiB at most unless the pool keeps so few
    /// buffers that they have to be larger; a larger tensor has a block of its own. A tensor that outlives its model keeps its block.
    ///
    /// A model of other shapes takes the memory that the one before it left: its tensors are packed into the pool's idle buffers, the
    /// largest first, each where it leaves the least room. Published 7B models of four families take 85 to 100 % of their bytes from one
    /// another's memory, as far as there is as much. New memory is needed for tensors larger than any idle buffer, and for what the next model
    /// is larger by; idle buffers that are in the way of that are freed. Unused ends of divided buffers count: a load takes at most an eighth
    /// more than it would in an empty pool, and never more than [`BufferPool::max_bytes`], so a limit just above a model's size leaves
    /// less to divide. Small buffers that other threads hold privately (at most 8 MiB each, in pools without a limit) are not found.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not the one that was opened; the memory is not to be had, by the pool's limit or the system's; the
    /// observer panics; somebody cancels. Nothing is kept of a load that fails.
    pub fn load(&self, checkpoint: &Checkpoint) -> Result<Model, Error> {
        Error::catch(|| self.load_model(checkpoint))
    }

    fn load_model(&self, checkpoint: &Checkpoint) -> Result<Model, Error> {
        self.cancels.check()?;
        let meter = Meter::start(checkpoint.open_time());
        let plan = self.plan(checkpoint);
        let needed = self.check_capacity(&plan)?;
        let policy = self.policy(checkpoint);
        let files = Files::open(checkpoint, self.io, self.drop_cache, &self.staging, policy)?;
        self.announce(checkpoint);
        let workers = self.workers(&policy)?;
        let (plan, mut buffers) = {
            // Two loads must not each hold a part of a pool that has a cap, and wait for the rest.
            let is_over = || self.cancels.is_any();
            let turn = if self.cancels.is_empty() {
                self.pool.take_turn(needed, self.patience)
            } else {
                self.pool.take_turn_unless(needed, self.patience, &is_over)
            };
            let _turn = turn.map_err(|source| self.no_memory(source))?;
            let layout = self.layout(checkpoint, plan);
            let buffers = workers.install(|| self.lease_all(&layout, &meter))?;
            (layout.plan, buffers)
        };
        workers.install(|| {
            let slots = buffers
                .iter_mut()
                .map(|buffer| Slot {
                    is_untouched: buffer.origin() != Origin::Recycled,
                    memory: &mut buffer[..],
                })
                .collect();
            self.fill(&files, &plan, checkpoint, slots, &meter)
        })?;
        files.check_unchanged()?;
        workers.install(|| {
            let buffers = buffers.par_iter_mut().with_max_len(1);
            buffers.for_each(|buffer| self.pin(buffer, &meter));
        });
        let slots: Vec<Bytes> = buffers.into_iter().map(Bytes::from_owner).collect();
        let mut bytes = vec![Bytes::new(); checkpoint.tensors().len()];
        for place in plan.places() {
            let start = place.offset as usize;
            let len = checkpoint.tensors()[place.tensor].bytes as usize;
            bytes[place.tensor] = slots[place.slot].slice(start..start + len);
        }
        let tensor = |(index, bytes)| self.tensor(checkpoint, index, bytes, &meter);
        let tensors = if self.digests {
            // Each alone: a tensor that is large keeps no others waiting.
            let bytes = bytes.into_par_iter().enumerate().with_max_len(1);
            let hash = |tensor_bytes| self.cancels.check().map(|()| tensor(tensor_bytes));
            workers.install(|| bytes.map(hash).collect::<Result<_, _>>())?
        } else {
            bytes.into_iter().enumerate().map(tensor).collect()
        };
        let report = self.finish(checkpoint, &meter);
        Ok(Model::new(checkpoint.clone(), tensors, report))
    }

    /// The tensor at `index` that was loaded, with its digest if that is wanted.
    pub(crate) fn tensor(
        &self,
        checkpoint: &Checkpoint,
        index: usize,
        bytes: Bytes,
        meter: &Meter,
    ) -> Tensor {
        let tensor = Tensor::new(checkpoint, index, bytes);
        if self.digests {
            meter.hashing(|| tensor.hashed())
        } else {
            tensor
        }
    }

    /// Loads tensors one by one past a consumer, in the order in which they arrive, holding no more than the budget.
    ///
    /// # Errors
    ///
    /// A file cannot be opened, or is not the one that was opened before; the budget is too small for a tensor; the observer
    /// panics. What goes wrong later comes out of the stream.
    pub fn stream(&self, checkpoint: &Checkpoint) -> Result<Stream, Error> {
        let setting = self.stream_setting(checkpoint)?;
        Error::catch(|| Ok(Stream::new(setting, None)))
    }

    /// As [`stream`](Self::stream), but only the tensors that are named, in this order.
    ///
    /// They are read in parallel and ahead; what arrives before its turn waits, within the budget.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream); a name is unknown or given twice.
    pub fn stream_in_order_of<'a>(
        &self,
        checkpoint: &Checkpoint,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Stream, Error> {
        let mut order = Vec::new();
        let mut turns = HashMap::new();
        for name in names {
            known(checkpoint, name)?;
            if turns.insert(name, order.len()).is_some() {
                return Err(Error::NamedTwice {
                    tensor: name.to_owned(),
                });
            }
            order.push(name);
        }
        let wanted = checkpoint.only(|info| turns.contains_key(info.name.as_str()));
        let numbers: Vec<usize> = order
            .into_iter()
            .filter_map(|name| wanted.position(name))
            .collect();
        let setting = self.stream_setting(&wanted)?;
        Error::catch(|| Ok(Stream::new(setting, Some(&numbers))))
    }

    /// Loads tensors piece by piece past a consumer, whatever their size, for those who pass them on to a device.
    ///
    /// Chunks are of 2 MiB at most, or of what [`chunk_size`](Self::chunk_size) says, and of half the budget at most. Their buffers are
    /// all of one size, and by default so few are in use at a time that they stay in the CPU's cache: two more than threads.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream), but a budget is too small only below 8 KiB.
    pub fn chunks(&self, checkpoint: &Checkpoint) -> Result<Chunks, Error> {
        let policy = self.policy(checkpoint);
        let asked = self.chunk_size;
        let (chunk_bytes, budget) = self.piece_bytes(checkpoint, asked, &policy)?;
        let setting = self.setting(checkpoint, ByteSize::b(budget), policy)?;
        Error::catch(|| Ok(Chunks::new(setting, chunk_bytes)))
    }

    /// The size in bytes of the pieces that something is read in, as `asked` for or as usual, and the budget for them.
    pub(crate) fn piece_bytes(
        &self,
        checkpoint: &Checkpoint,
        asked: Option<u64>,
        policy: &ReadPolicy,
    ) -> Result<(u64, u64), Error> {
        let (piece_bytes, budget) = stream::chunk_bytes(
            asked,
            self.budget.map(|budget| budget.as_u64()),
            self.pool_limit().as_u64(),
            policy.waiting_threads,
        );
        let needed = self.capacity_for(piece_bytes);
        if budget < needed {
            let tensor = checkpoint.tensors().first();
            return Err(Error::BudgetTooSmall {
                tensor: tensor.map_or_else(String::new, |info| info.name.clone()),
                needed,
                budget: ByteSize::b(budget),
            });
        }
        Ok((piece_bytes, budget))
    }

    fn stream_setting<'a>(&'a self, checkpoint: &'a Checkpoint) -> Result<Setting<'a>, Error> {
        self.check_budget(checkpoint)?;
        let budget = self
            .budget
            .unwrap_or_else(|| self.default_budget(checkpoint))
            .min(self.pool_limit());
        self.setting(checkpoint, budget, self.policy(checkpoint))
    }

    fn setting<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
        budget: ByteSize,
        policy: ReadPolicy,
    ) -> Result<Setting<'a>, Error> {
        self.cancels.check()?;
        Ok(Setting {
            loader: self,
            checkpoint,
            files: Files::open(checkpoint, self.io, self.drop_cache, &self.staging, policy)?,
            budget,
            workers: self.workers(&policy)?,
        })
    }

    /// Loads tensors into the caller's memory: for each name, exactly as many bytes as the tensor has.
    ///
    /// Tensors of the checkpoint that are not named are not read. The memory's content is unspecified if the load fails.
    ///
    /// # Errors
    ///
    /// A name is unknown or given twice, the memory is not of the tensor's size; a file cannot be read, or is not the one that was
    /// opened; the observer panics; somebody cancels.
    pub fn load_into<'a>(
        &self,
        checkpoint: &Checkpoint,
        targets: impl IntoIterator<Item = (&'a str, &'a mut [u8])>,
    ) -> Result<Report, Error> {
        let meter = Meter::start(checkpoint.open_time());
        let mut memory: HashMap<&str, &mut [u8]> = HashMap::new();
        for (name, target) in targets {
            let info = known(checkpoint, name)?;
            let unfit = |reason| Error::Target {
                tensor: name.to_owned(),
                reason,
            };
            if target.len() as u64 != info.bytes {
                let reason = format!("it has {} bytes, the tensor {}", target.len(), info.bytes);
                return Err(unfit(reason));
            }
            if memory.insert(name, target).is_some() {
                return Err(unfit("the tensor was named twice".to_owned()));
            }
        }
        let wanted = checkpoint.only(|info| memory.contains_key(info.name.as_str()));
        let slots = wanted
            .tensors()
            .iter()
            .filter_map(|info| memory.remove(info.name.as_str()))
            .filter(|target| !target.is_empty())
            .map(Slot::from)
            .collect();
        Error::catch(|| self.fill_all(&wanted, slots, &meter))
    }

    /// Fills `slots`, one for each tensor of `checkpoint` that has bytes.
    fn fill_all(
        &self,
        checkpoint: &Checkpoint,
        slots: Vec<Slot<'_>>,
        meter: &Meter,
    ) -> Result<Report, Error> {
        self.cancels.check()?;
        let policy = self.policy(checkpoint);
        let plan = Plan::separate(checkpoint.tensors(), policy.read_bytes);
        let files = Files::open(checkpoint, self.io, self.drop_cache, &self.staging, policy)?;
        self.announce(checkpoint);
        self.workers(&policy)?
            .install(|| self.fill(&files, &plan, checkpoint, slots, meter))?;
        files.check_unchanged()?;
        Ok(self.finish(checkpoint, meter))
    }

    /// The loader's own threads, as many as `policy` may want: a server's global rayon pool must not wait for our reads.
    pub(crate) fn workers(&self, policy: &ReadPolicy) -> Result<Arc<ThreadPool>, Error> {
        let mut workers = self.workers.lock();
        if let Some(workers) = &*workers
            && workers.current_num_threads() >= policy.waiting_threads
        {
            return Ok(Arc::clone(workers));
        }
        let started = ThreadPoolBuilder::new()
            .num_threads(policy.waiting_threads)
            .thread_name(|number| format!("ckload-{number}"))
            .build()
            .map_err(|source| Error::Threads { source })?;
        Ok(Arc::clone(workers.insert(Arc::new(started))))
    }

    /// A request for a buffer of `bytes`, of no larger capacity than a new one's if it is to be `exact`.
    pub(crate) fn request(&self, bytes: u64, exact: bool) -> Request<'_> {
        let request = self.pool.request(bytes as usize).untouched();
        if exact { request.exact() } else { request }
    }

    /// Takes a buffer from the pool, whose pages may have to be touched.
    pub(crate) fn lease(&self, request: Request<'_>, meter: &Meter) -> Result<PooledBuffer, Error> {
        let start = Instant::now();
        let buffer = request
            .get_unless(self.patience, &|| self.cancels.is_any())
            .map_err(|source| self.no_memory(source))?;
        meter.leased(&self.pool, &buffer, start.elapsed());
        Ok(buffer)
    }

    /// Why a load got no memory: nobody wanted it any more, or the pool's answer.
    fn no_memory(&self, source: GetError) -> Error {
        match self.cancels.check() {
            Err(cancelled) => cancelled,
            Ok(()) => Error::Memory { source },
        }
    }

    /// Locks a buffer whose pages are there by now, if the pool wants that.
    pub(crate) fn pin(&self, buffer: &mut PooledBuffer, meter: &Meter) {
        if self.pool.is_pinned() && !buffer.is_pinned() {
            let start = Instant::now();
            buffer.pin();
            meter.touched(start.elapsed());
        }
    }

    /// Finds room for a resident load in what lies idle in the pool.
    fn layout(&self, checkpoint: &Checkpoint, plain: Plan) -> Layout {
        let idle = self.pool.idle_capacities();
        let idle: Vec<u64> = idle.into_iter().map(|capacity| capacity as u64).collect();
        let capacity_for = |bytes| self.pool.capacity_for(bytes as usize) as u64;
        let most_for = |bytes| match self.pool.max_bytes() {
            Some(_) => capacity_for(bytes),
            None => capacity_for(bytes).max(bytes + bytes / 8),
        };
        let limits = Limits {
            capacity_for: &capacity_for,
            serves: &|capacity, bytes| (bytes..=most_for(bytes)).contains(&capacity),
            max_bytes: self.pool.max_bytes().map(|bytes| bytes as u64),
            slots: self.slot_rule(checkpoint),
            read_bytes: self.policy(checkpoint).read_bytes,
        };
        Layout::new(checkpoint.tensors(), plain, &idle, &limits)
    }

    /// Takes the memory of a layout: first what lies idle, then the rest, which frees idle buffers where the pool has a limit.
    fn lease_all(&self, layout: &Layout, meter: &Meter) -> Result<Vec<PooledBuffer>, Error> {
        let idle: Vec<Option<PooledBuffer>> = layout
            .idle
            .iter()
            .map(|capacity| {
                let start = Instant::now();
                let buffer = self.pool.get_idle((*capacity)? as usize)?;
                meter.leased(&self.pool, &buffer, start.elapsed());
                Some(buffer)
            })
            .collect();
        layout
            .plan
            .slots()
            .par_iter()
            .zip(idle)
            .with_max_len(1)
            .map(|(&bytes, idle)| match idle {
                Some(buffer) => Ok(buffer),
                None => {
                    let exact = self.pool.max_bytes().is_some();
                    self.lease(self.request(bytes, exact), meter)
                }
            })
            .collect()
    }

    /// The most that the pool may hold.
    fn pool_limit(&self) -> ByteSize {
        ByteSize::b(self.pool.max_bytes().unwrap_or(usize::MAX) as u64)
    }

    /// What a tensor of `bytes` takes of a stream's budget.
    pub(crate) fn charge(&self, bytes: u64) -> u64 {
        if self.is_small(bytes) {
            bytes
        } else {
            self.capacity_for(bytes)
        }
    }

    /// The capacity of a new buffer for `bytes`.
    pub(crate) fn capacity_for(&self, bytes: u64) -> u64 {
        self.pool.capacity_for(bytes as usize) as u64
    }

    /// Whether a tensor of `bytes` gets memory of its own in a stream: the pool would not keep so small a buffer.
    pub(crate) fn is_small(&self, bytes: u64) -> bool {
        bytes < self.pool.min_buffer_size().clamp(MIN_BUFFER_BYTES, 1 << 20) as u64
    }

    fn fill(
        &self,
        files: &Files,
        plan: &Plan,
        checkpoint: &Checkpoint,
        slots: Vec<Slot<'_>>,
        meter: &Meter,
    ) -> Result<(), Error> {
        let watch = Watch {
            meter,
            observer: &*self.observer,
            cancels: &self.cancels,
        };
        read::fill(files, plan, checkpoint.tensors(), slots, &watch)
    }

    /// The bytes that a load takes of the pool; refuses at once what could only fail after a long wait.
    fn check_capacity(&self, plan: &Plan) -> Result<usize, Error> {
        let needed = self.capacity_of(plan.slots());
        match self.pool.max_bytes() {
            Some(max_bytes) if needed > max_bytes => Err(Error::PoolTooSmall {
                needed: needed as u64,
                max_bytes: max_bytes as u64,
            }),
            _ => Ok(needed),
        }
    }

    /// Refuses a stream whose largest tensor fits its budget or the pool not even alone.
    pub(crate) fn check_budget(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let tensors = checkpoint.tensors().iter();
        let Some(largest) = tensors.max_by_key(|info| self.charge(info.bytes)) else {
            return Ok(());
        };
        let needed = self.charge(largest.bytes);
        let limit = self.pool_limit().as_u64();
        match self.budget {
            Some(budget) if budget.as_u64() < needed => Err(Error::BudgetTooSmall {
                tensor: largest.name.clone(),
                needed,
                budget,
            }),
            _ if limit < needed => Err(Error::PoolTooSmall {
                needed,
                max_bytes: limit,
            }),
            _ => Ok(()),
        }
    }

    /// What `slots` take of the pool, in bytes.
    fn capacity_of(&self, slots: &[u64]) -> usize {
        slots
            .iter()
            .map(|&bytes| self.pool.capacity_for(bytes as usize))
            .fold(0, usize::saturating_add)
    }

    /// How a resident load's blocks of memory are made; half of what the pool keeps is left to others.
    fn slot_rule(&self, checkpoint: &Checkpoint) -> SlotRule {
        let kept = self.pool.max_idle_buffers() as u64 / 2;
        let plain = SlotRule {
            bytes: plan::slot_bytes(checkpoint.bytes(), kept),
            in_step: false,
        };
        let in_step = SlotRule {
            in_step: true,
            ..plain
        };
        let capacity = |rule| self.capacity_of(&plan::packed_slots(checkpoint.tensors(), rule));
        // A few bytes more can cost a huge page more.
        let (least, wanted) = (capacity(plain), capacity(in_step));
        let most = least.saturating_add(least / 64);
        if wanted <= most.min(self.pool.max_bytes().unwrap_or(usize::MAX)) {
            in_step
        } else {
            plain
        }
    }

    pub(crate) fn announce(&self, checkpoint: &Checkpoint) {
        self.observer.planned(&Planned {
            tensors: checkpoint.tensors().len(),
            bytes: checkpoint.bytes(),
        });
    }

    /// Tells of the tensors of a load that is whole, and closes its books.
    fn finish(&self, checkpoint: &Checkpoint, meter: &Meter) -> Report {
        for info in checkpoint.tensors() {
            meter.loaded(info.bytes);
            self.observer.tensor(info);
        }
        let report = meter.report();
        self.observer.finished(&report);
        report
    }
}

fn known<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a TensorInfo, Error> {
    checkpoint.tensor(name).ok_or_else(|| Error::UnknownTensor {
        path: checkpoint.path().to_owned(),
        tensor: name.to_owned(),
    })
}
