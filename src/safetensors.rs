//! Loaded models behind the interface of the [safetensors](https://docs.rs/safetensors) crate 0.8, without a copy.
//!
//! [`Views`] is to a [`Model`] what `SafeTensors` is to the bytes of a file: `tensor`, `tensors`, `names`, `iter`, `len`. Code that was
//! written for one takes the other, whatever format the model is loaded from. What it gives are safetensors' own `TensorView`s, which
//! `safetensors::serialize` and `serialize_to_file` write. [`Tensor::view`](crate::Tensor::view) gives that of one tensor.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("model.safetensors");
//! # ckload::synth::Gpt2::TINY.blueprint().write_file(&path, 0)?;
//! use ckload::safetensors::Views;
//! use ckload::{Checkpoint, Loader};
//!
//! // was: let tensors = SafeTensors::deserialize(&fs::read(&path)?)?;
//! let model = Loader::new().load(&Checkpoint::open(&path)?)?;
//! let tensors = Views::of(&model)?;
//!
//! assert_eq!(tensors.tensor("wte.weight")?.shape(), [257, 96]);
//! for (name, tensor) in tensors.iter() {
//!     println!("{name} {:?}: {} bytes", tensor.dtype(), tensor.data().len());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::HashMap;

use ::safetensors::SafeTensorError;
use ::safetensors::tensor::TensorView;

use crate::{Error, Model};

/// The tensors of a [`Model`] as views of the safetensors crate, in file order.
#[derive(Clone, Debug)]
pub struct Views<'model> {
    views: Vec<(&'model str, TensorView<'model>)>,
    /// Where each name is among the views.
    positions: HashMap<&'model str, usize>,
}

impl<'model> Views<'model> {
    /// The views of all tensors of the model.
    ///
    /// # Errors
    ///
    /// A tensor is of a type that safetensors lacks, as the quantised blocks of GGUF are, or big-endian. Leave it out with
    /// [`Checkpoint::select`](crate::Checkpoint::select).
    ///
    /// A GGUF or PyTorch model is written as a safetensors file so:
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors");
    /// # ckload::synth::Gpt2::TINY.blueprint().write_file(&path, 0)?;
    /// # let written = folder.path().join("written.safetensors");
    /// use ckload::safetensors::Views;
    /// use ckload::{Checkpoint, Loader};
    ///
    /// let model = Loader::new().load(&Checkpoint::open(&path)?)?;
    /// safetensors::serialize_to_file(Views::of(&model)?.iter(), None, &written)?;
    /// # assert_eq!(Checkpoint::open(&written)?.tensors().len(), model.tensors().len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(model: &'model Model) -> Result<Self, Error> {
        let tensors = model.tensors().iter();
        let views: Vec<_> = tensors
            .map(|tensor| Ok((tensor.name(), tensor.view()?)))
            .collect::<Result<_, Error>>()?;
        let positions = (0..)
            .zip(&views)
            .map(|(at, (name, _))| (*name, at))
            .collect();
        Ok(Self { views, positions })
    }

    /// The view of the tensor called `name`.
    ///
    /// # Errors
    ///
    /// There is none of that name: `SafeTensorError::TensorNotFound`, as of `SafeTensors`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'model>, SafeTensorError> {
        match self.positions.get(name) {
            Some(&at) => Ok(self.views[at].1.clone()),
            None => Err(SafeTensorError::TensorNotFound(name.to_owned())),
        }
    }

    /// All names and views.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, TensorView<'model>)> {
        self.iter()
            .map(|(name, view)| (name.to_owned(), view))
            .collect()
    }

    /// All names and views, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = (&'model str, TensorView<'model>)> {
        self.views.iter().map(|(name, view)| (*name, view.clone()))
    }

    /// All names.
    #[must_use]
    pub fn names(&self) -> Vec<&'model str> {
        self.views.iter().map(|(name, _)| *name).collect()
    }

    /// How many tensors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }
}
