//! The loader: how a load is set up, and the three ways of loading.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use ckload_pool::{BufferPool, PooledBuffer};
use parking_lot::Mutex;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::layout::{Layout, Limits};
use crate::observer::{Observer, Planned, Silent};
use crate::plan::{self, Plan};
use crate::read::{self, Files, Watch};
use crate::report::Meter;
use crate::{Checkpoint, Error, Io, Model, Report, Stream, Tensor};

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
    threads: usize,
    io: Io,
    budget: Option<ByteSize>,
    pub(crate) patience: Duration,
    pub(crate) observer: Arc<dyn Observer>,
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
            threads: num_cpus::get(),
            io: Io::default(),
            budget: None,
            patience: Duration::from_secs(30),
            observer: Arc::new(Silent),
            workers: Arc::default(),
        }
    }

    /// Takes memory from `pool`, which other loaders and other code may use as well. Default: a pool of the loader's own.
    #[must_use]
    pub fn pool(mut self, pool: &BufferPool) -> Self {
        self.pool = pool.clone();
        self
    }

    /// Reads with this many threads, at least one. Default: the number of cores.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self.workers = Arc::default();
        self
    }

    /// Reads in this way. Default: [`Io::Auto`].
    #[must_use]
    pub fn io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Lets a stream hold this much at once: what is being read and what the consumer has not dropped yet, in whole pages.
    ///
    /// More than the pool may hold counts as what the pool may hold. Default: [`Loader::default_budget`].
    #[must_use]
    pub fn budget(mut self, budget: ByteSize) -> Self {
        self.budget = Some(budget);
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

    /// The budget of a stream of `checkpoint` if none is set: 256 MiB, or the largest tensor and half of that if it is more, or what the
    /// pool may hold if that is less.
    #[must_use]
    pub fn default_budget(&self, checkpoint: &Checkpoint) -> ByteSize {
        let sizes = checkpoint.tensors().iter().map(|info| info.bytes);
        let largest = sizes.map(|bytes| self.charge(bytes)).max().unwrap_or(0);
        let usual = USUAL_BUDGET_BYTES.max(largest.saturating_add(USUAL_BUDGET_BYTES / 2));
        ByteSize::b(usual).min(self.pool_limit())
    }

    /// What a resident load of `checkpoint` would read, and where it would put it.
    #[must_use]
    pub fn plan(&self, checkpoint: &Checkpoint) -> Plan {
        let bytes = checkpoint.bytes();
        Plan::packed(
            checkpoint.tensors(),
            self.slot_bytes(bytes),
            self.read_bytes(bytes),
        )
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
    /// observer panics. Nothing is kept of a load that fails.
    pub fn load(&self, checkpoint: &Checkpoint) -> Result<Model, Error> {
        Error::catch(|| self.load_model(checkpoint))
    }

    fn load_model(&self, checkpoint: &Checkpoint) -> Result<Model, Error> {
        let meter = Meter::start(checkpoint.open_time());
        let plan = self.plan(checkpoint);
        let needed = self.check_capacity(&plan)?;
        let files = Files::open(checkpoint, self.io, &self.staging)?;
        self.announce(checkpoint);
        let workers = self.workers()?;
        let (plan, mut buffers) = {
            // Two loads must not each hold a part of a pool that has a cap, and wait for the rest.
            let turn = self.pool.take_turn(needed, self.patience);
            let _turn = turn.map_err(|source| Error::Memory { source })?;
            let layout = self.layout(checkpoint, plan);
            let buffers = workers.install(|| self.lease_all(&layout, &meter))?;
            (layout.plan, buffers)
        };
        workers.install(|| {
            let slots = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
            self.fill(&files, &plan, slots, &meter)
        })?;
        files.check_unchanged()?;
        let slots: Vec<Bytes> = buffers.into_iter().map(Bytes::from_owner).collect();
        let mut bytes = vec![Bytes::new(); checkpoint.tensors().len()];
        for place in plan.places() {
            let start = place.offset as usize;
            let len = checkpoint.tensors()[place.tensor].bytes as usize;
            bytes[place.tensor] = slots[place.slot].slice(start..start + len);
        }
        let tensors = bytes
            .into_iter()
            .enumerate()
            .map(|(index, bytes)| Tensor::new(checkpoint, index, bytes))
            .collect();
        let report = self.finish(checkpoint, &meter);
        Ok(Model::new(checkpoint.clone(), tensors, report))
    }

    /// Loads tensors one by one past a consumer, in the order in which they arrive, holding no more than the budget.
    ///
    /// # Errors
    ///
    /// A file cannot be opened, or is not the one that was opened before; the budget is too small for a tensor; the observer
    /// panics. What goes wrong later comes out of the stream.
    pub fn stream(&self, checkpoint: &Checkpoint) -> Result<Stream, Error> {
        self.check_budget(checkpoint)?;
        let budget = self
            .budget
            .unwrap_or_else(|| self.default_budget(checkpoint))
            .min(self.pool_limit());
        let files = Files::open(checkpoint, self.io, &self.staging)?;
        let workers = self.workers()?;
        Error::catch(|| Ok(Stream::new(self, checkpoint, files, budget, workers)))
    }

    /// Loads tensors into the caller's memory: for each name, exactly as many bytes as the tensor has.
    ///
    /// Tensors of the checkpoint that are not named are not read. The memory's content is unspecified if the load fails.
    ///
    /// # Errors
    ///
    /// A name is unknown or given twice, the memory is not of the tensor's size; a file cannot be read, or is not the one that was
    /// opened; the observer panics.
    pub fn load_into<'a>(
        &self,
        checkpoint: &Checkpoint,
        targets: impl IntoIterator<Item = (&'a str, &'a mut [u8])>,
    ) -> Result<Report, Error> {
        let meter = Meter::start(checkpoint.open_time());
        let mut memory: HashMap<&str, &mut [u8]> = HashMap::new();
        for (name, target) in targets {
            let info = checkpoint
                .tensor(name)
                .ok_or_else(|| Error::UnknownTensor {
                    path: checkpoint.path().to_owned(),
                    tensor: name.to_owned(),
                })?;
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
            .collect();
        Error::catch(|| self.fill_all(&wanted, slots, &meter))
    }

    /// Fills `slots`, one for each tensor of `checkpoint` that has bytes.
    fn fill_all(
        &self,
        checkpoint: &Checkpoint,
        slots: Vec<&mut [u8]>,
        meter: &Meter,
    ) -> Result<Report, Error> {
        let plan = Plan::separate(checkpoint.tensors(), self.read_bytes(checkpoint.bytes()));
        let files = Files::open(checkpoint, self.io, &self.staging)?;
        self.announce(checkpoint);
        self.workers()?
            .install(|| self.fill(&files, &plan, slots, meter))?;
        files.check_unchanged()?;
        Ok(self.finish(checkpoint, meter))
    }

    /// The loader's own threads: a server's global rayon pool must not wait for our reads.
    fn workers(&self) -> Result<Arc<ThreadPool>, Error> {
        let mut workers = self.workers.lock();
        if let Some(workers) = &*workers {
            return Ok(Arc::clone(workers));
        }
        let started = ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(|number| format!("ckload-{number}"))
            .build()
            .map_err(|source| Error::Threads { source })?;
        Ok(Arc::clone(workers.insert(Arc::new(started))))
    }

    /// The number of threads that read.
    pub(crate) fn thread_count(&self) -> usize {
        self.threads
    }

    /// Takes a buffer of `bytes` from the pool, of no larger capacity than a new one's if it is to be `exact`.
    pub(crate) fn lease(
        &self,
        bytes: u64,
        exact: bool,
        meter: &Meter,
    ) -> Result<PooledBuffer, Error> {
        let start = Instant::now();
        let buffer = if exact {
            self.pool.get_exact(bytes as usize, self.patience)
        } else {
            self.pool.get_timeout(bytes as usize, self.patience)
        };
        let buffer = buffer.map_err(|source| Error::Memory { source })?;
        meter.leased(&self.pool, &buffer, start.elapsed());
        Ok(buffer)
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
            slot_bytes: self.slot_bytes(checkpoint.bytes()),
            read_bytes: self.read_bytes(checkpoint.bytes()),
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
                None => self.lease(bytes, self.pool.max_bytes().is_some(), meter),
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
            self.pool.capacity_for(bytes as usize) as u64
        }
    }

    /// Whether a tensor of `bytes` gets memory of its own in a stream: the pool would not keep so small a buffer.
    pub(crate) fn is_small(&self, bytes: u64) -> bool {
        bytes < self.pool.min_buffer_size().clamp(MIN_BUFFER_BYTES, 1 << 20) as u64
    }

    fn fill(
        &self,
        files: &Files,
        plan: &Plan,
        slots: Vec<&mut [u8]>,
        meter: &Meter,
    ) -> Result<(), Error> {
        let watch = Watch {
            meter,
            observer: &*self.observer,
            cancelled: &AtomicBool::new(false),
        };
        read::fill(files, plan.reads(), slots, &watch)
    }

    /// The bytes that a load takes of the pool; refuses at once what could only fail after a long wait.
    fn check_capacity(&self, plan: &Plan) -> Result<usize, Error> {
        let sizes = plan.slots().iter();
        let needed = sizes
            .map(|&bytes| self.pool.capacity_for(bytes as usize))
            .fold(0, usize::saturating_add);
        match self.pool.max_bytes() {
            Some(max_bytes) if needed > max_bytes => Err(Error::PoolTooSmall {
                needed: needed as u64,
                max_bytes: max_bytes as u64,
            }),
            _ => Ok(needed),
        }
    }

    /// Refuses a stream whose largest tensor fits its budget or the pool not even alone.
    fn check_budget(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
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

    /// The size of a resident load's blocks of memory; half of what the pool keeps is left to others.
    fn slot_bytes(&self, bytes: u64) -> u64 {
        plan::slot_bytes(bytes, self.pool.max_idle_buffers() as u64 / 2)
    }

    fn read_bytes(&self, bytes: u64) -> u64 {
        plan::read_bytes(bytes, self.threads)
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
