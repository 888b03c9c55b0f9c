//! How PyTorch's pickles describe storages: the bytes that tensors view.
//!
//! Source: `persistent_id` and `persistent_load` in `torch/serialization.py`, `_dtype_to_storage_type_map` in `torch/storage.py`.

use crate::Dtype;
use crate::format::pickle::{Pickle, Value};

/// The longest key of a storage, in bytes. Torch writes numbers.
const MAX_KEY_BYTES: usize = 256;

/// A storage as a pickle refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageRef<'a> {
    /// Its name in the file.
    pub(super) key: &'a str,
    pub(super) elements: Elements,
    /// How many elements it has.
    pub(super) count: u64,
    /// The part of it that is meant, in elements: its first, and how many. Only torch before 0.4 divided storages.
    pub(super) part: Option<(u64, u64)>,
}

/// What a storage is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    Typed(Dtype),
    /// Bytes; the tensor says of which type.
    Untyped,
}

impl Elements {
    /// The size of an element in bytes.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::Typed(dtype) => dtype.block().bytes,
            Self::Untyped => 1,
        }
    }
}

impl<'a> StorageRef<'a> {
    /// Reads a persistent id; `None` if it is one of something else (old files have those of modules' classes, with their source).
    pub(super) fn parse<'p>(pickle: &'a Pickle<'p>, id: Value<'p>) -> Result<Option<Self>, String> {
        let parts = pickle.sequence(id).unwrap_or_default();
        let [kind, class, key, _location, count, rest @ ..] = parts else {
            return Ok(None);
        };
        if pickle.text(*kind) != Some("storage") {
            return Ok(None);
        }
        let Some((module, name)) = pickle.global(*class) else {
            return Err("its storage has no type".to_owned());
        };
        let elements = elements_of(module, name)
            .ok_or_else(|| format!("its storage is a {module}.{name}, which is not known"))?;
        let key = pickle
            .text(*key)
            .filter(|key| key.len() <= MAX_KEY_BYTES)
            .ok_or("the key of its storage is no text, or too long a one")?;
        let count = count_of(*count).ok_or("its storage has no size")?;
        let part = match rest {
            [] | [Value::None] => None,
            [part] => {
                let part = pickle.sequence(*part).unwrap_or_default();
                let [_key, first, count] = part else {
                    return Err("its storage is a part of another that is not described".to_owned());
                };
                let part = count_of(*first).zip(count_of(*count));
                Some(part.ok_or("its storage is a part of another without a size")?)
            }
            _ => return Err("its storage has too many descriptions".to_owned()),
        };
        Ok(Some(Self {
            key,
            elements,
            count,
            part,
        }))
    }
}

/// A number that counts something.
pub(super) fn count_of(value: Value<'_>) -> Option<u64> {
    match value {
        Value::Int(count) => count.try_into().ok(),
        _ => None,
    }
}

fn elements_of(module: &str, class: &str) -> Option<Elements> {
    if !matches!(module, "torch" | "torch.cuda" | "torch.storage") {
        return None;
    }
    Some(Elements::Typed(match class {
        "BoolStorage" => Dtype::BOOL,
        "ByteStorage" => Dtype::U8,
        "CharStorage" => Dtype::I8,
        "ShortStorage" => Dtype::I16,
        "IntStorage" => Dtype::I32,
        "LongStorage" => Dtype::I64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "ComplexFloatStorage" => Dtype::C64,
        "ComplexDoubleStorage" => Dtype::C128,
        // The integers of quantised tensors, which are refused: what lies behind them in an old file is not.
        "QInt8Storage" => Dtype::I8,
        "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => Dtype::U8,
        "QInt32Storage" => Dtype::I32,
        "UntypedStorage" | "_UntypedStorage" => return Some(Elements::Untyped),
        _ => return None,
    }))
}

/// The type that is `torch.<name>`.
///
/// `torch.float4_e2m1fn_x2` is not among them: its elements are pairs, see [`FLOAT4_PAIR`].
pub(super) fn dtype_of(name: &str) -> Option<Dtype> {
    Some(match name {
        "bool" => Dtype::BOOL,
        "uint8" => Dtype::U8,
        "int8" => Dtype::I8,
        "uint16" => Dtype::U16,
        "int16" | "short" => Dtype::I16,
        "uint32" => Dtype::U32,
        "int32" | "int" => Dtype::I32,
        "uint64" => Dtype::U64,
        "int64" | "long" => Dtype::I64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float32" | "float" => Dtype::F32,
        "float64" | "double" => Dtype::F64,
        "complex32" | "chalf" => Dtype::C32,
        "complex64" | "cfloat" => Dtype::C64,
        "complex128" | "cdouble" => Dtype::C128,
        _ => return None,
    })
}

/// The type whose elements are two 4-bit floats in a byte. The safetensors library counts the floats, and so do we.
pub(super) const FLOAT4_PAIR: &str = "float4_e2m1fn_x2";
