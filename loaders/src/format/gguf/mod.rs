//! The header of a GGUF file, versions 2 and 3.
//!
//! The format, as ggml's `docs/gguf.md` has it: the letters `GGUF`, a version, the number of tensors and of metadata values; the values,
//! each with its key and type; the tensors, each with its name, dimensions (innermost first), type, and offset from the data's start. The
//! data starts at the next multiple of `general.alignment`, 32 if that key is missing. All numbers have one byte order, which the
//! version gives away. (The magic has none.)
//!
//! Where the specification is silent we do as llama.cpp's `gguf.cpp` does: every key occurs once and is not empty, a tensor may have no
//! elements, its rows are whole blocks, and bytes that belong to no tensor (padding, and what stands behind the last one) may be anything.
//! So we do where it says less than the specification: an alignment is any power of two, a boolean any byte, and keys need not be ASCII.
//! Where it says more we do as Python's `gguf`: tensors are in any order and may have gaps between them, and arrays may be nested.

mod cursor;
mod metadata;
mod split;
mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use self::cursor::Cursor;
use self::metadata::{Kind, read_value};
pub(crate) use self::split::{Part, check_parts};
use super::{Format, Header, repeated};
use crate::{ByteOrder, Error, MetadataValue, TensorInfo};

/// The name of the format in errors.
const FORMAT: &str = "GGUF";

/// The first bytes of every GGUF file, whatever its byte order.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

const VERSIONS: [u32; 2] = [2, 3];

/// The key that tells where tensors may start.
const ALIGNMENT_KEY: &str = "general.alignment";

const DEFAULT_ALIGNMENT: u64 = 32;

/// The most dimensions of a tensor, `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;

/// Keys have at most so many bytes, by the specification. We hold the names of tensors to the same: 64 bytes, as it has them, are a
/// limit that programs raise for themselves (`GGML_MAX_NAME`).
const MAX_NAME_BYTES: u64 = 65_535;

/// The fewest bytes of a key with its value: a length, a letter, a type, a byte.
const LEAST_VALUE_BYTES: u64 = 8 + 1 + 4 + 1;

/// The fewest bytes of a tensor's description: a length, no letter, no dimension, a type, an offset.
const LEAST_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// Reads and checks the header of `file`, which has `file_bytes` bytes and begins with [`MAGIC`]; `path` is for the errors.
pub(super) fn read_header(path: &Path, file: &File, file_bytes: u64) -> Result<Header, Error> {
    let mut cursor = Cursor::new(path, file, file_bytes);
    cursor.bytes::<{ MAGIC.len() }>()?;
    read_version(&mut cursor)?;
    let tensor_bytes = size_of::<TensorInfo>();
    let tensors = cursor.count("bytes 8..16", "tensors", LEAST_TENSOR_BYTES, tensor_bytes)?;
    let value_bytes = size_of::<(String, MetadataValue)>();
    let values = cursor.count("bytes 16..24", "values", LEAST_VALUE_BYTES, value_bytes)?;
    let (metadata, alignment) = read_metadata(&mut cursor, values)?;
    let mut infos = Vec::with_capacity(tensors);
    for number in 0..tensors {
        infos.push(read_tensor(&mut cursor, number, alignment)?);
    }
    let end = place_tensors(&mut infos, cursor.position(), alignment)
        .map_err(|(name, reason)| cursor.malformed(&format!("tensor {name:?}"), reason))?;
    if end > file_bytes {
        return Err(Error::Truncated {
            path: path.to_owned(),
            expected: end,
            found: file_bytes,
        });
    }
    Ok(Header {
        format: Format::Gguf,
        tensors: infos,
        metadata,
    })
}

/// Reads the version, and from it the byte order: a version is small, so its lower half is 0 only in the other order.
fn read_version(cursor: &mut Cursor<'_>) -> Result<(), Error> {
    let bytes = cursor.bytes()?;
    let mut version = u32::from_le_bytes(bytes);
    if version.trailing_zeros() >= 16 {
        version = u32::from_be_bytes(bytes);
        cursor.set_order(ByteOrder::Big);
    }
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    let reason = match version {
        1 => "version 1 is not read, neither by llama.cpp; convert the model again, from its original".to_owned(),
        _ => format!("version {version} is not known, 2 and 3 are"),
    };
    Err(cursor.malformed("bytes 4..8", reason))
}

/// Reads `count` values with their keys, and the alignment among them.
fn read_metadata(
    cursor: &mut Cursor<'_>,
    count: usize,
) -> Result<(BTreeMap<String, MetadataValue>, u64), Error> {
    let mut metadata = BTreeMap::new();
    let mut alignment = DEFAULT_ALIGNMENT;
    for number in 0..count {
        let key = read_name(cursor, "key", number)?;
        let place = format!("key {key:?}");
        if key.is_empty() {
            return Err(cursor.malformed(&place, "it has no letter".to_owned()));
        }
        let kind = Kind::read(cursor, &place)?;
        let value = read_value(cursor, kind, &place)?;
        if key == ALIGNMENT_KEY {
            alignment = match value {
                MetadataValue::Unsigned(bytes) if kind == Kind::U32 && bytes.is_power_of_two() => {
                    bytes
                }
                _ => {
                    let reason = "the alignment is not a power of two of the type uint32";
                    return Err(cursor.malformed(&place, reason.to_owned()));
                }
            };
        }
        if metadata.insert(key, value).is_some() {
            return Err(cursor.malformed(&place, "it occurs twice".to_owned()));
        }
    }
    Ok((metadata, alignment))
}

/// Reads the description of tensor `number`; its offset stays the one from the data's start.
fn read_tensor(
    cursor: &mut Cursor<'_>,
    number: usize,
    alignment: u64,
) -> Result<TensorInfo, Error> {
    let name = read_name(cursor, "tensor", number)?;
    let place = format!("tensor {name:?}");
    let dims = cursor.u32()?;
    if dims > MAX_DIMS {
        let reason = format!("{dims} dimensions are more than the format's {MAX_DIMS}");
        return Err(cursor.malformed(&place, reason));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(cursor.u64()?);
    }
    shape.reverse();
    let dtype = types::dtype(cursor.u32()?).map_err(|reason| cursor.malformed(&place, reason))?;
    let row = shape.last().copied().unwrap_or(1);
    let block = dtype.block().elements;
    if !row.is_multiple_of(block) {
        let reason = format!("rows of {row} elements are not whole blocks of {dtype}, of {block}");
        return Err(cursor.malformed(&place, reason));
    }
    let bytes = dtype.bytes_of(&shape).filter(|_| is_countable(&shape));
    let Some(bytes) = bytes else {
        let reason = format!("{dtype} of shape {shape:?} overflows");
        return Err(cursor.malformed(&place, reason));
    };
    let offset = cursor.u64()?;
    if !offset.is_multiple_of(alignment) {
        let reason = format!("its offset {offset} is not a multiple of the alignment {alignment}");
        return Err(cursor.malformed(&place, reason));
    }
    Ok(TensorInfo {
        byte_order: cursor.order(),
        ..TensorInfo::in_place(name, dtype, shape, bytes, offset)
    })
}

/// Whether the elements can be counted in 63 bits, in whatever order the dimensions are multiplied, zeros among them or not.
fn is_countable(shape: &[u64]) -> bool {
    let mut dims = shape.iter().map(|&dim| dim.max(1));
    let product = dims.try_fold(1u64, u64::checked_mul);
    product.is_some_and(|elements| i64::try_from(elements).is_ok())
}

fn read_name(cursor: &mut Cursor<'_>, what: &str, number: usize) -> Result<String, Error> {
    let place = format!("name of {what} number {number}");
    let bytes = cursor.string(&place, MAX_NAME_BYTES)?;
    String::from_utf8(bytes)
        .map_err(|error| cursor.malformed(&place, format!("not UTF-8: {error}")))
}

/// Puts the tensors in the order of their bytes, counts their offsets from the file's start, and tells where the last one ends; 0 if there
/// is none.
///
/// An error is the tensor's name and the rule that it breaks.
fn place_tensors(
    tensors: &mut [TensorInfo],
    header_end: u64,
    alignment: u64,
) -> Result<u64, (String, String)> {
    if let Some(name) = repeated(tensors.iter().map(|info| info.name.as_str())) {
        return Err((name.to_owned(), "it occurs twice".to_owned()));
    }
    tensors.sort_by_key(|info| (info.offset, info.bytes));
    let data_start = header_end.checked_next_multiple_of(alignment);
    let mut last: Option<(&str, u64)> = None;
    for info in tensors {
        let offset = data_start.and_then(|start| start.checked_add(info.offset));
        let end = offset.and_then(|offset| offset.checked_add(info.bytes));
        let (Some(offset), Some(end)) = (offset, end) else {
            let reason = format!("its {} bytes at {} overflow", info.bytes, info.offset);
            return Err((info.name.clone(), reason));
        };
        if let Some((before, covered)) = last
            && offset < covered
        {
            let reason = format!(
                "its bytes {offset}..{end} overlap those of {before:?}, which end at {covered}"
            );
            return Err((info.name.clone(), reason));
        }
        info.offset = offset;
        last = Some((&info.name, end));
    }
    Ok(last.map_or(0, |(_, end)| end))
}
