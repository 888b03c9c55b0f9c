//! What keeps a checkpoint out of burn.

use std::path::PathBuf;

use burn_store::ApplyResult;

use crate::Dtype;

/// Why a checkpoint could not be given to burn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint could not be opened or loaded.
    #[error(transparent)]
    Load(#[from] crate::Error),

    /// A tensor that burn was to get is of a type that burn lacks.
    #[error(
        "the tensor {tensor:?} of {} is {dtype}, for which burn has no type; leave it out, or convert the checkpoint to F32, F16 or BF16",
        path.display()
    )]
    NoSuchDtype {
        /// The tensor's file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },

    /// A tensor of booleans has a byte that is none.
    #[error(
        "element {at} of the boolean tensor {tensor:?} of {} is {value}, neither 0 nor 1; the file is damaged, or the tensor is mislabelled",
        path.display()
    )]
    NotBoolean {
        /// The tensor's file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The number of the element.
        at: usize,
        /// Its byte.
        value: u8,
    },

    /// A pattern of a store is not a valid regular expression.
    #[error("{pattern:?} is not a valid regular expression: {reason}")]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Nothing lies under a top-level key.
    #[error(
        "{} has no tensor under the key {key:?}; `ckload inspect` shows the names, the keys are what stands before the dots",
        path.display()
    )]
    NoSuchKey {
        /// The checkpoint.
        path: PathBuf,
        /// The key that was asked for.
        key: String,
    },

    /// Two tensors of a checkpoint have one name after remapping.
    #[error(
        "remapping names both {first:?} and {second:?} of {} {name:?}; make the pattern more exact, or leave one of them out",
        path.display()
    )]
    NameTaken {
        /// The checkpoint.
        path: PathBuf,
        /// The name of both.
        name: String,
        /// The first one's name in the checkpoint.
        first: String,
        /// The second one's.
        second: String,
    },

    /// Tensors do not fit the module's: in shape, in type, or an adapter failed. The module keeps what was applied.
    #[error(
        "{} does not fit the module (`validate(false)` returns this as a result):\n{result}",
        path.display()
    )]
    Unfit {
        /// The checkpoint.
        path: PathBuf,
        /// What was applied and what was not.
        result: Box<ApplyResult>,
    },

    /// The module has tensors that the checkpoint lacks. The module keeps what was applied.
    #[error(
        "{} lacks tensors of the module (`allow_partial(true)` returns this as a result):\n{result}",
        path.display()
    )]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// What was applied and what was not.
        result: Box<ApplyResult>,
    },

    /// A store was asked to save.
    #[error(
        "ckload loads checkpoints and does not write them; save with burn_store::BurnpackStore or SafetensorsStore"
    )]
    ReadOnly,
}
