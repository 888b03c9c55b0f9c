//! The values of a GGUF header: typed, with arrays of one type each, which may be arrays again.

use super::cursor::Cursor;
use crate::{Error, MetadataValue};

/// Arrays may be nested so deep. The specification has no limit; llama.cpp refuses arrays in arrays altogether.
const MAX_DEPTH: usize = 16;

/// The type of a value: `enum gguf_type` of llama.cpp's `gguf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of their numbers.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    pub(super) fn read(cursor: &mut Cursor<'_>, place: &str) -> Result<Self, Error> {
        let number = cursor.u32()?;
        let kind = Self::ALL.get(number as usize).copied();
        kind.ok_or_else(|| {
            let reason = format!("its value's type has the number {number}, which GGUF has not");
            cursor.malformed(place, reason)
        })
    }

    /// The fewest bytes that a value takes in a file.
    fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String => 8, // its length
            Self::Array => 12, // its elements' type, their number
        }
    }
}

/// Reads a value; `place` names it for the errors.
///
/// As in llama.cpp every byte but 0 is true, and a string may be anything: what is not UTF-8 in it becomes U+FFFD.
pub(super) fn read_value(
    cursor: &mut Cursor<'_>,
    kind: Kind,
    place: &str,
) -> Result<MetadataValue, Error> {
    read_nested(cursor, kind, place, 0)
}

fn read_nested(
    cursor: &mut Cursor<'_>,
    kind: Kind,
    place: &str,
    depth: usize,
) -> Result<MetadataValue, Error> {
    Ok(match kind {
        Kind::U8 => MetadataValue::Unsigned(u8::from_le_bytes(cursor.number()?).into()),
        Kind::I8 => MetadataValue::Signed(i8::from_le_bytes(cursor.number()?).into()),
        Kind::U16 => MetadataValue::Unsigned(u16::from_le_bytes(cursor.number()?).into()),
        Kind::I16 => MetadataValue::Signed(i16::from_le_bytes(cursor.number()?).into()),
        Kind::U32 => MetadataValue::Unsigned(cursor.u32()?.into()),
        Kind::I32 => MetadataValue::Signed(i32::from_le_bytes(cursor.number()?).into()),
        Kind::U64 => MetadataValue::Unsigned(cursor.u64()?),
        Kind::I64 => MetadataValue::Signed(i64::from_le_bytes(cursor.number()?)),
        Kind::F32 => MetadataValue::F32(f32::from_le_bytes(cursor.number()?)),
        Kind::F64 => MetadataValue::F64(f64::from_le_bytes(cursor.number()?)),
        Kind::Bool => MetadataValue::Bool(cursor.number::<1>()? != [0]),
        Kind::String => {
            let bytes = cursor.string(place, u64::MAX)?;
            match String::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(error) => {
                    // Each byte may become three.
                    cursor.charge(place, 2 * error.as_bytes().len())?;
                    String::from_utf8_lossy(error.as_bytes())
                        .into_owned()
                        .into()
                }
            }
        }
        Kind::Array => {
            if depth == MAX_DEPTH {
                let reason = format!("its arrays are nested deeper than {MAX_DEPTH}");
                return Err(cursor.malformed(place, reason));
            }
            let of = Kind::read(cursor, place)?;
            let value_bytes = size_of::<MetadataValue>();
            let count = cursor.count(place, "elements", of.least_bytes(), value_bytes)?;
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(read_nested(cursor, of, place, depth + 1)?);
            }
            MetadataValue::Array(values)
        }
    })
}
