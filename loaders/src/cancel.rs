//! Ending loads from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::Error;

/// A consumer that waits for a load looks as often as this whether somebody has cancelled it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Ends loads from another thread; clones are the same handle.
///
/// A loader is told of it with [`Loader::cancel_with`](crate::Loader::cancel_with). Once cancelled it stays so: take a new one for the next
/// load.
///
/// ```
/// use ckload_loaders::{Cancel, Checkpoint, Error, Loader};
///
/// # fn load(path: &std::path::Path) -> Result<(), Error> {
/// let cancel = Cancel::new();
/// let loader = Loader::new().cancel_with(&cancel);
/// let checkpoint = Checkpoint::open(path)?;
/// std::thread::scope(|scope| {
///     let load = scope.spawn(|| loader.load(&checkpoint));
///     cancel.cancel(); // from a signal's handler, a request that was given up, …
///     match load.join().expect("no panic") {
///         Err(Error::Cancelled) => {} // its memory is back in the pool
///         Err(error) => println!("{error}"),
///         Ok(model) => println!("{} tensors were quicker", model.tensors().len()),
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    is_cancelled: Arc<AtomicBool>,
}

impl Cancel {
    /// A handle that nobody has cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all loads of loaders that have this handle, those under way and those to come, with [`Error::Cancelled`]; waits for none.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
    }

    /// Whether somebody has called [`cancel`](Self::cancel).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
    }
}

/// All handles that may end a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancels(Vec<Cancel>);

impl Cancels {
    pub(crate) fn add(&mut self, cancel: &Cancel) {
        self.0.push(cancel.clone());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn is_any(&self) -> bool {
        self.0.iter().any(Cancel::is_cancelled)
    }

    /// An error if the load is not wanted any more.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_any() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}
