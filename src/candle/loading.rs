//! A load that runs ahead of those who ask for its tensors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use candle_core::{DType, Device, Error, Result, Tensor};

use super::fill;
use super::layout::{Base, Layout, Place};
use super::storages::Storages;
use super::{convert, dtype, error, upload};
use crate::{Cancel, Checkpoint, Loader, Select, TensorInfo};

/// At least so many bytes are loaded before the tensors among them can be had.
const BATCH_BYTES: usize = 256 << 20;

/// What is to be loaded, and how.
pub(super) struct Job {
    pub(super) loader: Loader,
    pub(super) checkpoint: Checkpoint,
    /// The type of all tensors; `None` for each its own.
    pub(super) dtype: Option<DType>,
    pub(super) device: Device,
    /// Where memory comes from, if not from the system.
    pub(super) storages: Option<Storages>,
}

/// A load whose tensors can be asked for while it runs. Dropping it ends it.
pub(super) struct Loading {
    job: Arc<Job>,
    /// The job's loader has it.
    cancel: Cancel,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    layout: Layout,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By the group's number.
    bases: Vec<Option<Base>>,
    end: Option<End>,
}

/// Why nothing comes any more.
enum End {
    /// All is there.
    Whole,
    Failed(Error),
    Panicked(String),
    Stopped,
}

impl Loading {
    /// Starts to load in a thread of its own.
    pub(super) fn start(job: Job) -> Result<Self> {
        let loading = Self::new(job);
        let (job, shared) = (Arc::clone(&loading.job), Arc::clone(&loading.shared));
        let thread = thread::Builder::new().name("ckload-candle".to_owned());
        let thread = thread.spawn(move || shared.run(&job))?;
        *lock(&loading.thread) = Some(thread);
        Ok(loading)
    }

    /// Loads everything before it returns.
    pub(super) fn whole(job: Job) -> Result<Self> {
        let loading = Self::new(job);
        loading.shared.run(&loading.job);
        let failure = loading.shared.lock().failure();
        failure.map_or(Ok(loading), Err)
    }

    fn new(mut job: Job) -> Self {
        let cancel = Cancel::new();
        job.loader = job.loader.cancel_with(&cancel);
        let layout = Layout::new(&job.checkpoint, job.dtype, &job.device);
        let state = State {
            bases: vec![None; layout.groups.len()],
            end: None,
        };
        Self {
            job: Arc::new(job),
            cancel,
            shared: Arc::new(Shared {
                layout,
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
            thread: Mutex::new(None),
        }
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.job.checkpoint
    }

    pub(super) fn loader(&self) -> &Loader {
        &self.job.loader
    }

    /// Waits for a tensor of the checkpoint as it was ordered.
    ///
    /// # Errors
    ///
    /// The load failed, or was stopped before it came to the tensor; candle cannot hold the tensor.
    pub(super) fn tensor(&self, info: &TensorInfo) -> Result<Tensor> {
        match self.shared.layout.place(&info.name) {
            Some(place) => place.view(&self.shared.wait_for(place)?),
            None => {
                dtype::held_as(info, self.job.dtype)?;
                Err(missing(&info.name))
            }
        }
    }

    /// The same as `wanted`, on `device`. What was rounded on its way is loaded once more.
    pub(super) fn tensor_as(
        &self,
        info: &TensorInfo,
        wanted: DType,
        device: &Device,
    ) -> Result<Tensor> {
        dtype::held_as(info, Some(wanted))?;
        let is_same = self.job.dtype == Some(wanted);
        let is_unrounded = || {
            let held = dtype::held_as(info, self.job.dtype);
            held.is_ok_and(|held| {
                dtype::of(info.dtype) == Some(held) && convert::is_safe(held, wanted)
            })
        };
        if is_same || is_unrounded() {
            return self.tensor(info)?.to_device(device)?.to_dtype(wanted);
        }
        let select = Select::names([&info.name]);
        let alone = self.checkpoint().select(&select).map_err(error::wrap)?;
        load_alone(self.loader(), alone, wanted, device)
    }

    /// Ends the load, waits until nothing of it runs, and takes the storages that are there.
    pub(super) fn stop(&self) -> Vec<Tensor> {
        self.cancel.cancel();
        if let Some(thread) = lock(&self.thread).take() {
            // It catches panics itself.
            let _ = thread.join();
        }
        let mut state = self.shared.lock();
        state.end = Some(End::Stopped);
        let bases = state.bases.iter_mut().filter_map(Option::take);
        bases.map(|base| base.tensor).collect()
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Loads the only tensor of `checkpoint`.
pub(super) fn load_alone(
    loader: &Loader,
    checkpoint: Checkpoint,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let loading = Loading::whole(Job {
        loader: loader.clone(),
        checkpoint,
        dtype: Some(dtype),
        device: device.clone(),
        storages: None,
    })?;
    match loading.checkpoint().tensors() {
        [info] => loading.tensor(info),
        _ => candle_core::bail!("one tensor was to be loaded alone"),
    }
}

impl Shared {
    /// Waits for the storage of a tensor.
    fn wait_for(&self, place: &Place) -> Result<Base> {
        let mut state = self.lock();
        loop {
            if let Some(failure) = state.failure() {
                return Err(failure);
            }
            if let Some(base) = &state.bases[place.group] {
                return Ok(base.clone());
            }
            if state.end.is_some() {
                candle_core::bail!("the load was ended before it came to this tensor");
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Carries out `job`; whatever becomes of it, those who wait are told.
    fn run(&self, job: &Job) {
        let end = match catch_unwind(AssertUnwindSafe(|| self.load(job))) {
            Ok(Ok(())) => End::Whole,
            Ok(Err(error)) => End::Failed(error),
            Err(panic) => End::Panicked(panic_message(&*panic)),
        };
        self.lock().end = Some(end);
        self.changed.notify_all();
    }

    fn load(&self, job: &Job) -> Result<()> {
        if !job.device.is_cpu() {
            return self.upload(job);
        }
        let whole = job.checkpoint.bytes() as usize;
        let batch_bytes = BATCH_BYTES.max(whole / 8);
        let mut start = 0;
        while start < self.layout.groups.len() {
            let mut bytes = 0;
            let groups = self.layout.groups[start..].iter();
            let len = groups
                .take_while(|group| {
                    let is_next = bytes < batch_bytes;
                    bytes += group.room();
                    is_next
                })
                .count();
            let end = start + len;
            let bases = fill::load(job, &self.layout.groups[start..end])?;
            self.publish(start, bases);
            start = end;
        }
        Ok(())
    }

    /// Copies tensors to a device as they arrive.
    fn upload(&self, job: &Job) -> Result<()> {
        let infos = job.checkpoint.tensors().iter();
        let names = infos.map(|info| &info.name);
        let names = names.filter(|name| self.layout.place(name).is_some());
        let wanted = job.checkpoint.select(&Select::names(names));
        let stream = job.loader.stream(&wanted.map_err(error::wrap)?);
        let copy = |tensor: &crate::Tensor| -> Result<(usize, Base)> {
            let Some(place) = self.layout.place(tensor.name()) else {
                return Err(missing(tensor.name()));
            };
            let copied = convert::raw(tensor.dtype(), tensor.bytes(), place.dims(), &job.device)?;
            let base = Base {
                tensor: copied.to_dtype(place.dtype)?,
                origin: 0,
            };
            Ok((place.group, base))
        };
        let stream = stream.map_err(error::wrap)?;
        upload::all(&stream, &job.device, copy, |(group, base)| {
            self.publish(group, [base]);
        })
    }

    /// Hands out the storages of groups from number `first` on.
    fn publish(&self, first: usize, bases: impl IntoIterator<Item = Base>) {
        let mut state = self.lock();
        for (slot, base) in state.bases[first..].iter_mut().zip(bases) {
            *slot = Some(base);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn failure(&self) -> Option<Error> {
        match self.end.as_ref()? {
            End::Whole | End::Stopped => None,
            End::Failed(error) => Some(error::again(error)),
            End::Panicked(message) => {
                Some(Error::msg(format!("a panic ended the load: {message}")))
            }
        }
    }
}

/// Candle's own word for a tensor that there is not.
pub(super) fn missing(name: &str) -> Error {
    let path = name.to_owned();
    Error::CannotFindTensor { path }.bt()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
