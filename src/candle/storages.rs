//! Memory of models that are gone, for the models that come.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor};
use candle_nn::VarBuilder;

use super::backend::Ahead;
use super::dtype::width;
use super::loading::{Job, Loading};
use super::memory::Memory;
use crate::{ByteSize, Checkpoint, Loader};

/// Keeps the memory of candle's tensors for the next model, since candle owns what its tensors lie in and a pool cannot lend it.
///
/// [`build`](Self::build) loads a model on the CPU. When it is dropped, the memory of its weights comes back, and the next model is loaded
/// into it: without page faults, which are most of what a load into fresh memory takes. Clones share the memory.
///
/// ```
/// use ckload::candle::Storages;
/// use ckload::{ByteSize, Checkpoint, Loader};
/// use candle_core::DType;
/// # let folder = tempfile::tempdir()?;
/// # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
/// # let path = folder.path();
///
/// let storages = Storages::new(ByteSize::gib(2));
/// let (loader, checkpoint) = (Loader::new(), Checkpoint::open(path)?);
/// for _ in 0..2 {
///     let norm = storages.build(&loader, &checkpoint, DType::F32, |vb| candle_nn::layer_norm(96, 1e-5, vb.pp("ln_f")))?;
///     assert_eq!(norm.weight().dims(), [96]);
/// }
/// let stats = storages.stats();
/// assert_eq!((stats.fresh, stats.reused), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Storages {
    shared: Arc<Shared>,
}

struct Shared {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// What has lain the longest comes first.
    memories: VecDeque<Memory>,
    stats: StoragesStats,
}

/// What [`Storages`] keep, and what they have done since they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoragesStats {
    /// Bytes that lie ready for the next model.
    pub kept_bytes: u64,
    /// Pieces of memory in which they lie.
    pub kept: u64,
    /// Pieces that were taken from what lay ready.
    pub reused: u64,
    /// Their bytes.
    pub reused_bytes: u64,
    /// Pieces that had to be asked of the system.
    pub fresh: u64,
    /// Their bytes.
    pub fresh_bytes: u64,
    /// Bytes that were given back to the system, for want of room.
    pub freed_bytes: u64,
}

impl Storages {
    /// Keeps up to `max_bytes`; what has lain the longest is freed first. Memory that models use does not count.
    #[must_use]
    pub fn new(max_bytes: ByteSize) -> Self {
        Self {
            shared: Arc::new(Shared {
                max_bytes: max_bytes.as_u64() as usize,
                kept: Mutex::default(),
            }),
        }
    }

    /// Builds a model on the CPU from the tensors of `checkpoint` as `dtype`, in kept memory as far as there is some.
    ///
    /// Tensors are loaded ahead of `build`, as [`var_builder`](super::var_builder) does. What it does not ask for need not be loaded by then,
    /// and is not afterwards: a model that keeps its `VarBuilder` gets errors from it.
    ///
    /// # Errors
    ///
    /// The checkpoint cannot be loaded, or `build` fails. Then the memory comes back as well.
    pub fn build<M>(
        &self,
        loader: &Loader,
        checkpoint: &Checkpoint,
        dtype: DType,
        build: impl FnOnce(VarBuilder<'static>) -> Result<M>,
    ) -> Result<Recycled<M>> {
        let loading = Arc::new(Loading::start(Job {
            loader: loader.clone(),
            checkpoint: checkpoint.clone(),
            dtype: Some(dtype),
            device: Device::Cpu,
            storages: Some(self.clone()),
        })?);
        // Whatever `build` does, also a panic.
        let mut weights = Weights {
            storages: Some(self.clone()),
            loading: Arc::clone(&loading),
            bases: Vec::new(),
        };
        let backend = Box::new(Ahead::new(loading));
        let model = build(VarBuilder::from_backend(backend, dtype, Device::Cpu))?;
        weights.settle();
        Ok(Recycled { model, weights })
    }

    /// What is kept, and what has been done.
    #[must_use]
    pub fn stats(&self) -> StoragesStats {
        self.lock().stats
    }

    /// Gives what is kept back to the system.
    pub fn clear(&self) {
        self.lock().shrink_to(0);
    }

    /// Memory of at least `bytes` that is kept, with the least to spare: an eighth at most.
    fn take(&self, width: usize, bytes: usize) -> Option<Memory> {
        let mut kept = self.lock();
        let suitable = bytes..=bytes.saturating_add(bytes / 8);
        let sizes = kept.memories.iter().enumerate();
        let (best, _) = sizes
            .filter(|(_, memory)| memory.width() == width && suitable.contains(&memory.len()))
            .min_by_key(|(_, memory)| memory.len())?;
        let memory = kept.memories.remove(best)?;
        kept.stats.kept -= 1;
        kept.stats.kept_bytes -= memory.len() as u64;
        kept.stats.reused += 1;
        kept.stats.reused_bytes += memory.len() as u64;
        Some(memory)
    }

    fn fresh(&self, dtype: DType, bytes: usize) -> Result<Memory> {
        let memory = Memory::fresh(dtype, bytes)?;
        let mut kept = self.lock();
        kept.stats.fresh += 1;
        kept.stats.fresh_bytes += memory.len() as u64;
        Ok(memory)
    }

    fn keep(&self, memory: Memory) {
        if memory.len() == 0 {
            return;
        }
        let mut kept = self.lock();
        kept.stats.kept += 1;
        kept.stats.kept_bytes += memory.len() as u64;
        kept.memories.push_back(memory);
        kept.shrink_to(self.shared.max_bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        let kept = self.shared.kept.lock();
        kept.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn shrink_to(&mut self, max_bytes: usize) {
        while self.stats.kept_bytes > max_bytes as u64
            && let Some(memory) = self.memories.pop_front()
        {
            self.stats.kept -= 1;
            self.stats.kept_bytes -= memory.len() as u64;
            self.stats.freed_bytes += memory.len() as u64;
        }
    }
}

impl fmt::Debug for Storages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storages")
            .field("max_bytes", &self.shared.max_bytes)
            .field("stats", &self.stats())
            .finish()
    }
}

/// Memory that is being filled; it goes back to where it came from if nothing becomes of it.
pub(super) struct Lease {
    memory: Memory,
    home: Option<Storages>,
}

impl Lease {
    /// At least `bytes` for elements of `dtype`, from `home` if there is one, else from the system.
    pub(super) fn new(home: Option<&Storages>, dtype: DType, bytes: usize) -> Result<Self> {
        let memory = match home {
            Some(storages) => match storages.take(width(dtype), bytes) {
                Some(memory) => memory,
                None => storages.fresh(dtype, bytes)?,
            },
            None => Memory::fresh(dtype, bytes)?,
        };
        Ok(Self {
            memory,
            home: home.cloned(),
        })
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// The memory, for good.
    pub(super) fn into_memory(mut self) -> Memory {
        mem::take(&mut self.memory)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.keep(mem::take(&mut self.memory));
        }
    }
}

/// A model whose weights' memory goes back to its [`Storages`] when it is dropped.
///
/// A tensor that was cloned out of the model and outlives it is empty from then on: to compute with it is an error, or a panic. It never has the
/// values of another model. Dropping waits for computations with such a tensor that are under way, and for ever for a guard of
/// `storage_and_layout` that the same thread holds. What was computed from the model's tensors is not affected, unless it is a view of one (`narrow`, `t`,
/// `reshape`): keep a [`Tensor::copy`] instead.
pub struct Recycled<M> {
    /// Dropped first.
    model: M,
    weights: Weights,
}

impl<M> Recycled<M> {
    /// The model, whose memory does not come back.
    #[must_use]
    pub fn into_inner(self) -> M {
        let Self { model, mut weights } = self;
        weights.storages = None;
        model
    }
}

impl<M> Deref for Recycled<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.model
    }
}

impl<M: fmt::Debug> fmt::Debug for Recycled<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recycled").field(&self.model).finish()
    }
}

/// The storages of a model's weights.
struct Weights {
    /// `None` once they are the model's for good.
    storages: Option<Storages>,
    loading: Arc<Loading>,
    bases: Vec<Tensor>,
}

impl Weights {
    /// Ends the load, and takes the storages that are there.
    fn settle(&mut self) {
        self.bases.append(&mut self.loading.stop());
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.settle();
        if let Some(storages) = &self.storages {
            for base in &self.bases {
                take_back(base, storages);
            }
        }
    }
}

/// Takes the memory out of the storage of `base`, for whomever it is still in use.
fn take_back(base: &Tensor, storages: &Storages) {
    // It fails on no tensor that is one contiguous piece in the CPU's memory; where it did, the memory would be freed with the tensor.
    let _ = base.inplace_op1(&TakeBack { storages });
}

struct TakeBack<'a> {
    storages: &'a Storages,
}

impl InplaceOp1 for TakeBack<'_> {
    fn name(&self) -> &'static str {
        "ckload-take-back"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        self.storages.keep(Memory::take_out_of(storage));
        Ok(())
    }
}
