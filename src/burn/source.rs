//! Where the bytes come from that burn draws.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn_core::tensor::{Bytes as BurnBytes, DType};
use burn_store::burn_pack;

use super::{Error, check_booleans, checked_dtype, shared_bytes};
use crate::{Checkpoint, Loader, Model, Select, Stream, Tensor, TensorInfo};

/// Tensors of a resident load that are no larger are copied: each would keep a block of an eighth of the model, after its neighbours
/// were transposed or uploaded and the block could go back.
const COPIED_BYTES: usize = 64 << 10;

/// Gives bytes to burn, tensor by tensor, from a load that was made ahead or, without one, from a load for each.
///
/// burn reports an error of a tensor as text. One of the load itself is kept, for the store to return.
pub(super) struct Source {
    pub(super) checkpoint: Checkpoint,
    loader: Loader,
    delivery: Mutex<Delivery>,
}

enum Delivery {
    /// Each tensor is loaded when it is drawn.
    Single,
    Resident(Model),
    Streamed(Feed),
    /// The load ended before its time; nothing more is tried.
    Failed(Error),
}

/// A stream of tensors in the order in which they will be asked for.
struct Feed {
    stream: Stream,
    /// Each tensor's place in the order.
    turns: HashMap<String, usize>,
    /// How many have arrived.
    arrived: usize,
}

impl Source {
    pub(super) fn new(checkpoint: Checkpoint, loader: Loader) -> Self {
        Self {
            checkpoint,
            loader,
            delivery: Mutex::new(Delivery::Single),
        }
    }

    /// burn's type of a tensor of the checkpoint.
    pub(super) fn dtype_of(&self, info: &TensorInfo) -> Result<DType, Error> {
        checked_dtype(&self.checkpoint.files()[info.file].path, info)
    }

    /// Refuses a tensor of the checkpoint of a type that burn lacks.
    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        let info = self.checkpoint.tensor(name);
        info.map_or(Ok(()), |info| self.dtype_of(info).map(drop))
    }

    /// Loads these tensors, for the draws that follow.
    pub(super) fn load(&self, names: &[&str]) -> Result<(), Error> {
        let wanted = Select::names(names.iter().copied());
        let model = self.loader.load(&self.checkpoint.select(&wanted)?)?;
        *self.delivery() = Delivery::Resident(model);
        Ok(())
    }

    /// Starts to stream these tensors, for draws in this order.
    pub(super) fn stream(&self, names: &[&str]) -> Result<(), Error> {
        let order = names.iter().copied();
        let feed = Feed {
            stream: self.loader.stream_in_order_of(&self.checkpoint, order)?,
            turns: (0..)
                .zip(names)
                .map(|(turn, &name)| (name.to_owned(), turn))
                .collect(),
            arrived: 0,
        };
        *self.delivery() = Delivery::Streamed(feed);
        Ok(())
    }

    /// Lets go of what was loaded.
    ///
    /// # Errors
    ///
    /// The load failed.
    pub(super) fn finish(&self) -> Result<(), Error> {
        match mem::replace(&mut *self.delivery(), Delivery::Single) {
            Delivery::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The bytes of a tensor of the checkpoint, for burn-pack.
    pub(super) fn draw(&self, name: &str) -> Result<BurnBytes, burn_pack::Error> {
        let mut delivery = self.delivery();
        let is_resident = matches!(*delivery, Delivery::Resident(_));
        let delivered = delivery.take(name)?;
        drop(delivery);
        let tensor = match delivered {
            Some(tensor) => Ok(tensor),
            None => self.load_one(name),
        };
        let bytes = tensor.and_then(|tensor| match tensor.bytes().len() {
            ..=COPIED_BYTES if is_resident => copied_bytes(&tensor),
            _ => shared_bytes(&tensor),
        });
        bytes.map_err(|error| as_text(&error))
    }

    fn load_one(&self, name: &str) -> Result<Tensor, Error> {
        let alone = self.checkpoint.select(&Select::names([name]))?;
        Ok(self.loader.load(&alone)?.tensor(name)?.clone())
    }

    fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// The tensor, if the load that was made ahead has it.
    fn take(&mut self, name: &str) -> Result<Option<Tensor>, burn_pack::Error> {
        let streamed = match self {
            Self::Single => return Ok(None),
            Self::Resident(model) => return Ok(model.tensor(name).ok().cloned()),
            Self::Failed(error) => return Err(as_text(error)),
            Self::Streamed(feed) => feed.take(name),
        };
        streamed.map_err(|error| {
            let text = as_text(&error);
            *self = Self::Failed(error);
            text
        })
    }
}

impl Feed {
    /// Waits for the tensor. What comes before it was passed over, and is dropped.
    fn take(&mut self, name: &str) -> Result<Option<Tensor>, Error> {
        let turn = self.turns.get(name).copied();
        while turn.is_some_and(|turn| turn >= self.arrived)
            && let Some(tensor) = self.stream.receive()
        {
            let tensor = tensor?;
            self.arrived += 1;
            if tensor.name() == name {
                return Ok(Some(tensor));
            }
        }
        Ok(None)
    }
}

fn copied_bytes(tensor: &Tensor) -> Result<BurnBytes, Error> {
    check_booleans(tensor)?;
    Ok(BurnBytes::from_bytes_vec(tensor.bytes().to_vec()))
}

/// burn-pack's errors are texts.
fn as_text(error: &Error) -> burn_pack::Error {
    match error {
        Error::Load(_) => burn_pack::Error::IoError(error.to_string()),
        _ => burn_pack::Error::ValidationError(error.to_string()),
    }
}
