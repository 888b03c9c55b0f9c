//! Loads for asynchronous code: futures and streams over the same loader.
//!
//! Each load has a thread of its own that waits for it, so nothing here blocks the thread that polls, and dropping a future or a stream at any
//! moment ends the load: a read that has begun is finished, no other begins, and the memory goes back to the pool, while whoever
//! dropped it goes on. These threads are not taken from the runtime: a load may last minutes, would keep a place of
//! [`spawn_blocking`](::tokio::task::spawn_blocking) all the while, and a runtime that shuts down waits for those. So any runtime will do, one
//! of a single thread as well.
//!
//! There is no `load_into`: a future that is dropped cannot take its borrowed memory back from threads that write to it. Call
//! [`Loader::load_into`] where blocking is allowed, with memory that the closure owns and a [`Cancel`] to end it.
//!
//! ```
//! use ckload::{BufferPool, ByteSize, Loader};
//!
//! # fn upload(tensor: &ckload::Tensor) { assert!(!tensor.bytes().is_empty()); }
//! # let folder = tempfile::tempdir()?;
//! # ckload::synth::Gpt2::TINY.blueprint().write_file(folder.path().join("model.safetensors"), 0)?;
//! # let path = folder.path().to_owned();
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! let loader = Loader::new().pool(&BufferPool::new());
//! let checkpoint = ckload::tokio::open(path).await?;
//! let model = ckload::tokio::load(&loader, &checkpoint).await?;
//! println!("{} tensors", model.tensors().len());
//!
//! let mut tensors = ckload::tokio::stream(&loader.budget(ByteSize::mib(64)), &checkpoint);
//! while let Some(tensor) = tensors.next().await {
//!     upload(&tensor?); // no more than 64 MiB at a time
//! }
//! # Ok::<(), ckload::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::vec;

use ::tokio::sync::mpsc as answers;
use ::tokio::sync::oneshot;
use futures_core::Stream;

use crate::{Cancel, Checkpoint, Chunk, Chunks, Error, Loader, Model, Tensor};

/// A thread that has waited for a tensor hands over what else is there, up to so many: small ones come quicker than threads wake.
const HANDFUL: usize = 64;

/// Opens a checkpoint, as [`Checkpoint::open`] does. Reads headers only, but a network may take its time for those as well.
///
/// # Errors
///
/// As [`Checkpoint::open`].
pub fn open(
    path: impl Into<PathBuf>,
) -> impl Future<Output = Result<Checkpoint, Error>> + Send + 'static {
    let path = path.into();
    apart(path.clone(), move || Checkpoint::open(path))
}

/// Loads all tensors into memory that stays, as [`Loader::load`] does. Nothing happens before the future is polled; dropping it ends the load.
///
/// # Errors
///
/// As [`Loader::load`].
pub fn load(
    loader: &Loader,
    checkpoint: &Checkpoint,
) -> impl Future<Output = Result<Model, Error>> + Send + use<> {
    let end = EndOnDrop::default();
    let loader = loader.clone().cancel_with(&end.0);
    let checkpoint = checkpoint.clone();
    async move {
        let _end = end;
        let path = checkpoint.path().to_owned();
        apart(path, move || loader.load(&checkpoint)).await
    }
}

/// Gives tensors one by one, as [`Loader::stream`] does, within its budget.
///
/// Nothing is read before the first is asked for. Then tensors are read ahead, as far as the budget allows; a consumer that takes its time
/// is waited for. An error ends the stream, and comes out of it even where [`Loader::stream`] would give it at once.
pub fn stream(loader: &Loader, checkpoint: &Checkpoint) -> Incoming<Tensor> {
    let checkpoint = checkpoint.clone();
    Incoming::new(
        loader,
        checkpoint.path().to_owned(),
        move |loader| loader.stream(&checkpoint),
        [crate::Stream::receive, crate::Stream::try_receive],
    )
}

/// As [`stream()`], but only the tensors that are named, in this order, as [`Loader::stream_in_order_of`] does.
pub fn stream_in_order_of(
    loader: &Loader,
    checkpoint: &Checkpoint,
    names: impl IntoIterator<Item = impl Into<String>>,
) -> Incoming<Tensor> {
    let checkpoint = checkpoint.clone();
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    Incoming::new(
        loader,
        checkpoint.path().to_owned(),
        move |loader| loader.stream_in_order_of(&checkpoint, names.iter().map(String::as_str)),
        [crate::Stream::receive, crate::Stream::try_receive],
    )
}

/// Gives tensors of any size piece by piece, as [`Loader::chunks`] does; otherwise as [`stream()`].
pub fn chunks(loader: &Loader, checkpoint: &Checkpoint) -> Incoming<Chunk> {
    let checkpoint = checkpoint.clone();
    Incoming::new(
        loader,
        checkpoint.path().to_owned(),
        move |loader| loader.chunks(&checkpoint),
        [Chunks::receive, Chunks::try_receive],
    )
}

/// Takes the next from a blocking stream.
type Receive<I, T> = fn(&I) -> Option<Result<T, Error>>;

/// What a load brings, one after the other; see [`stream()`] and [`chunks()`]. Dropping it ends the load.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Incoming<T> {
    /// The thread that waits for the load looks here for what is wanted, and ends when this is gone. It takes nothing that nobody has asked
    /// for: the time that the consumer takes is not to count as waiting for its memory.
    wanted: mpsc::Sender<()>,
    arrived: answers::Receiver<Vec<Result<T, Error>>>,
    /// Something is wanted that has not arrived.
    is_waiting: bool,
    /// What came along with what was asked for.
    ready: vec::IntoIter<Result<T, Error>>,
    _end: EndOnDrop,
}

/// Nothing in it has to stay where it is, whatever it brings.
impl<T> Unpin for Incoming<T> {}

impl<T: Send + 'static> Incoming<T> {
    fn new<I>(
        loader: &Loader,
        path: PathBuf,
        begin: impl FnOnce(&Loader) -> Result<I, Error> + Send + 'static,
        [receive, try_receive]: [Receive<I, T>; 2],
    ) -> Self
    where
        I: 'static,
    {
        let end = EndOnDrop::default();
        let loader = loader.clone().cancel_with(&end.0);
        let (wanted, wishes) = mpsc::channel();
        let (answer, arrived) = answers::channel(1);
        let (on_failure, on_panic) = (answer.clone(), answer.clone());
        let bring = move || {
            if wishes.recv().is_err() {
                return;
            }
            let items = match begin(&loader) {
                Ok(items) => items,
                Err(error) => return drop(answer.blocking_send(vec![Err(error)])),
            };
            while let Some(first) = receive(&items) {
                let others = iter::from_fn(|| try_receive(&items));
                let handful = iter::once(first).chain(others.take(HANDFUL - 1)).collect();
                if answer.blocking_send(handful).is_err() || wishes.recv().is_err() {
                    break;
                }
            }
        };
        let started = start(&path, move || {
            // Without a word it would look like the end.
            if catch_unwind(AssertUnwindSafe(bring)).is_err() {
                let _ = on_panic.blocking_send(vec![Err(ended_before())]);
            }
        });
        if let Err(error) = started {
            // The channel is empty.
            let _ = on_failure.try_send(vec![Err(error)]);
        }
        Self {
            wanted,
            arrived,
            is_waiting: false,
            ready: Vec::new().into_iter(),
            _end: end,
        }
    }

    /// Waits for the next; `None` after the last, and after an error.
    ///
    /// It is safe to drop the future that this gives: what arrives meanwhile comes next.
    ///
    /// # Errors
    ///
    /// As [`Loader::stream`] and [`Loader::chunks`].
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<T: Send + 'static> Stream for Incoming<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(item) = self.ready.next() {
            return Poll::Ready(Some(item));
        }
        if !self.is_waiting {
            self.is_waiting = self.wanted.send(()).is_ok();
        }
        let handful = ready!(self.arrived.poll_recv(context));
        self.is_waiting = false;
        self.ready = handful.unwrap_or_default().into_iter();
        Poll::Ready(self.ready.next())
    }
}

/// Ends a load whose future or stream is gone.
#[derive(Debug, Default)]
struct EndOnDrop(Cancel);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Does `work` on a thread of its own.
async fn apart<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (answer, result) = oneshot::channel();
    start(&path, move || drop(answer.send(work())))?;
    result.await.unwrap_or_else(|_| Err(ended_before()))
}

fn ended_before() -> Error {
    Error::WorkerPanicked {
        message: "the thread that waits for the load ended before it".to_owned(),
    }
}

fn start(path: &Path, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name("ckload-waits".to_owned());
    let started: io::Result<_> = thread.spawn(work);
    started.map(drop).map_err(|source| Error::Io {
        action: "start a thread to load",
        path: path.to_owned(),
        source,
    })
}
