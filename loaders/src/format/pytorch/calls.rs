//! The calls in PyTorch's pickles that are known, and what each makes.
//!
//! Source: `torch/_utils.py`, `torch/_tensor.py`, `torch/jit/_pickle.py`; none of it is run.

use crate::format::pickle::{Pickle, Value};

/// What a call makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// A tensor: storage, offset, size, strides, and more that does not matter but for the `metadata` at this place.
    Tensor {
        /// Where the type stands, if the storage has none.
        dtype: Option<usize>,
        metadata: usize,
    },
    /// What its first argument is.
    First,
    /// What another call makes: function, type, arguments.
    Another,
    /// A dictionary: of pairs, or of another dictionary.
    Mapping,
    /// A list, tuple or set of what its argument has.
    Sequence,
    /// A tensor that cannot be loaded, and why not.
    Refused(&'static str),
    /// Nobody knows.
    Unknown,
}

impl Call {
    /// What calling `callable` makes.
    pub(super) fn of(pickle: &Pickle<'_>, callable: Value<'_>) -> Self {
        let Some((module, name)) = pickle.global(callable) else {
            return Self::Unknown;
        };
        match (module, name) {
            ("torch._utils", _) => Self::of_torch(name),
            ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => {
                Self::Another
            }
            ("torch.nn.parameter", "Parameter" | "Buffer")
            | ("torch.autograd.variable", "Variable")
            | ("torch.jit._pickle", "restore_type_tag") => Self::First,
            ("collections", "OrderedDict" | "defaultdict" | "Counter")
            | ("builtins" | "__builtin__", "dict") => Self::Mapping,
            ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple")
            | ("collections", "deque")
            | ("torch", "Size")
            | (
                "torch.jit._pickle",
                "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist",
            ) => Self::Sequence,
            _ => Self::Unknown,
        }
    }

    fn of_torch(name: &str) -> Self {
        match name {
            "_rebuild_tensor" | "_rebuild_tensor_v2" => Self::Tensor {
                dtype: None,
                metadata: 6,
            },
            "_rebuild_tensor_v3" => Self::Tensor {
                dtype: Some(6),
                metadata: 7,
            },
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => Self::First,
            "_rebuild_qtensor" => {
                Self::Refused("it is quantised, with scales that its bytes do not hold")
            }
            "_rebuild_sparse_tensor"
            | "_rebuild_sparse_csr_tensor"
            | "_rebuild_sparse_compressed_tensor" => Self::Refused("it is sparse"),
            "_rebuild_nested_tensor" => Self::Refused("it is a nested tensor, without a shape"),
            "_rebuild_meta_tensor_no_storage" => {
                Self::Refused("it is on the meta device: the file has no values of it")
            }
            "_rebuild_wrapper_subclass" => {
                Self::Refused("it wraps other tensors, and has no values of its own")
            }
            "_rebuild_device_tensor_from_numpy" => {
                Self::Refused("it is kept as a NumPy array within the pickle")
            }
            _ => Self::Unknown,
        }
    }
}
