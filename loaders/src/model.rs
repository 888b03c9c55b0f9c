//! A checkpoint that is resident: all its tensors are in memory.

use crate::{Checkpoint, Error, Report, Tensor};

/// All tensors of a checkpoint, in memory that is leased from a pool.
///
/// The memory goes back when the model and all clones of its tensors and of their bytes are dropped.
#[derive(Clone, Debug)]
pub struct Model {
    checkpoint: Checkpoint,
    tensors: Vec<Tensor>,
    report: Report,
}

impl Model {
    pub(crate) fn new(checkpoint: Checkpoint, tensors: Vec<Tensor>, report: Report) -> Self {
        Self {
            checkpoint,
            tensors,
            report,
        }
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        match self.checkpoint.position(name) {
            Some(at) => Ok(&self.tensors[at]),
            None => Err(Error::unknown_tensor(&self.checkpoint, name)),
        }
    }

    /// The tensors in file order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensors in file order, for a caller who goes on without the rest.
    #[must_use]
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    /// The checkpoint that was loaded.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the load did.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}
