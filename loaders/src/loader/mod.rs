//! The loader: how a load is set up, and what the three ways of loading share.

mod into;
mod resident;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use ckload_pool::{BufferPool, GetError, PooledBuffer, Request};
use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::cancel::{Cancel, Cancels};
use crate::observer::{Leased, Observer, Planned, Silent, Touch, Touched};
use crate::plan::Plan;
use crate::read::{self, Files, ReadPolicy, Slot, Watch};
use crate::report::Meter;
use crate::{Checkpoint, Error, Io, Report, Tensor, TensorInfo};

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
    /// A thread that waits for a [`Stream`](crate::Stream) or for [`Chunks`](crate::Chunks) reads in place of one of them, as long as the
    /// page cache has what is read.
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
    /// In a stream the thread that has just read a tensor hashes it, before it is delivered. In a resident load as many threads as
    /// [`ReadPolicy::threads`] says hash tensor by tensor once everything is there. [`Chunks`](crate::Chunks) and
    /// [`load_into`](Self::load_into) hash nothing.
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
        self.leased(&buffer, start, meter);
        Ok(buffer)
    }

    /// Counts and tells that the pool lent `buffer`, which was asked for at `start`.
    fn leased(&self, buffer: &PooledBuffer, start: Instant, meter: &Meter) {
        let event = Leased {
            bytes: buffer.capacity() as u64,
            duration: start.elapsed(),
            origin: buffer.origin(),
        };
        meter.leased(&event);
        meter.held(&self.pool);
        self.observer.leased(&event);
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
            let event = Touched {
                bytes: buffer.capacity() as u64,
                duration: start.elapsed(),
                step: Touch::Lock,
            };
            meter.touched(&event);
            self.observer.touched(&event);
        }
    }

    /// The most that the pool may hold.
    fn pool_limit(&self) -> ByteSize {
        ByteSize::b(self.pool.max_bytes().unwrap_or(usize::MAX) as u64)
    }

    /// The capacity of a new buffer for `bytes`.
    pub(crate) fn capacity_for(&self, bytes: u64) -> u64 {
        self.pool.capacity_for(bytes as usize) as u64
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
    checkpoint
        .tensor(name)
        .ok_or_else(|| Error::unknown_tensor(checkpoint, name))
}
