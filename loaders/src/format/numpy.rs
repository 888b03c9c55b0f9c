//! NumPy arrays: `.npy` files, and `.npz` archives of them.
//!
//! Source: the docstring of `numpy/lib/format.py`. 6 bytes of magic, a version in 2 bytes, the header's length (2 bytes in version 1, 4 in
//! 2 and 3), and the header: the literal of a Python dictionary with `descr`, `fortran_order` and `shape`. The elements follow.

use std::collections::BTreeMap;

use super::input::Input;
use super::view::{View, row_major};
use super::zip::{Archive, Member};
use super::{Format, Header};
use crate::stored::{ByteOrder, Storage};
use crate::{Dtype, Error, TensorInfo};

/// First bytes of a `.npy` file.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// What the array of a `.npy` file is called, which has no name in it.
const ALONE: &str = "array";

/// The largest header, in bytes: what version 1 can express. Only arrays of records need more, and they are refused.
const MAX_HEADER_BYTES: u64 = u16::MAX as u64;

/// What is read at first: NumPy pads headers to this size, and longer ones are rare.
const FIRST_BYTES: u64 = 128;

/// The suffix of an archive's arrays.
const SUFFIX: &str = ".npy";

/// How many dimensions an array may have: twice as many as NumPy 2 allows.
const MAX_DIMENSIONS: usize = 128;

/// Whether the archive has arrays.
pub(super) fn recognised(archive: &Archive) -> bool {
    arrays(archive).next().is_some()
}

fn arrays(archive: &Archive) -> impl Iterator<Item = (&Member, &str)> {
    let members = archive.members().iter();
    members.filter_map(|member| Some((member, member.name.strip_suffix(SUFFIX)?)))
}

/// Reads the header of a `.npy` file.
pub(super) fn read_header(input: &Input<'_>) -> Result<Header, Error> {
    let place = "the header";
    let storage = Storage::Plain {
        offset: 0,
        bytes: input.bytes,
    };
    let read = |count: u64| input.read(0, count.min(input.bytes));
    let (header, start) = Description::read(read).map_err(|fault| match fault {
        Fault::Io(error) => error,
        Fault::Ended(expected) => input.truncated(expected),
        Fault::Rule(reason) => input.malformed(place, reason),
        Fault::Unsupported(reason) => input.unsupported(place, reason),
    })?;
    let end = header.end(start);
    match end.map_err(|reason| input.malformed(place, reason))? {
        end if end > input.bytes => return Err(input.truncated(end)),
        end if end < input.bytes => return Err(input.trailing(end)),
        _ => {}
    }
    let info = header.into_info(ALONE, start, storage);
    Ok(Header {
        format: Format::NumPy,
        tensors: vec![info.map_err(|reason| input.malformed(place, reason))?],
        metadata: BTreeMap::new(),
    })
}

/// Reads the headers of an archive's arrays; its other members are ignored.
pub(super) fn read_archive(input: &Input<'_>, archive: &Archive) -> Result<Header, Error> {
    let arrays = arrays(archive);
    let mut tensors = arrays
        .map(|(member, name)| read_member(input, member, name))
        .collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|info| info.offset);
    Ok(Header {
        format: Format::NumPy,
        tensors,
        metadata: BTreeMap::new(),
    })
}

fn read_member(input: &Input<'_>, member: &Member, name: &str) -> Result<TensorInfo, Error> {
    let place = format!("tensor {name:?}");
    let malformed = |reason: String| input.malformed(&*place, reason);
    let read = |count| member.read_start(input, count);
    let (header, start) = Description::read(read).map_err(|fault| match fault {
        Fault::Io(error) => error,
        Fault::Ended(_) => malformed("its header breaks off".to_owned()),
        Fault::Rule(reason) => malformed(reason),
        Fault::Unsupported(reason) => input.unsupported(&*place, reason),
    })?;
    let end = header.end(start).map_err(malformed)?;
    if end != member.bytes {
        return Err(malformed(format!(
            "header and elements are {end} bytes, the member has {}",
            member.bytes
        )));
    }
    let storage = member.storage(input)?;
    header.into_info(name, start, storage).map_err(malformed)
}

/// Why an array's header cannot be read.
enum Fault {
    Io(Error),
    /// There should be so many bytes.
    Ended(u64),
    /// It breaks a rule.
    Rule(String),
    /// Its elements are no numbers.
    Unsupported(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Rule(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Rule(reason.to_owned())
    }
}

/// What an array's header says.
#[derive(Debug, PartialEq)]
struct Description {
    dtype: Dtype,
    byte_order: ByteOrder,
    is_fortran: bool,
    shape: Vec<u64>,
}

impl Description {
    /// Reads the header, and tells where the elements start. `read` gives the first bytes of the array, as many as are asked for or all.
    fn read(read: impl Fn(u64) -> Result<Vec<u8>, Error>) -> Result<(Self, u64), Fault> {
        let mut bytes = read(FIRST_BYTES).map_err(Fault::Io)?;
        if !bytes.starts_with(MAGIC) {
            return Err("it does not begin as an array does".into());
        }
        let number = |range: std::ops::Range<usize>| {
            let end = range.end as u64;
            bytes.get(range).ok_or(Fault::Ended(end))
        };
        let (before, length) = match number(6..8)? {
            [1, _] => (10, number(8..10)?),
            [2 | 3, _] => (12, number(8..12)?),
            [major, minor] => {
                return Err(format!("its version {major}.{minor} is unknown").into());
            }
            _ => return Err(Fault::Ended(8)),
        };
        let length = length
            .iter()
            .rfold(0, |sum, &byte| sum << 8 | u64::from(byte));
        if length > MAX_HEADER_BYTES {
            let reason =
                format!("its header of {length} bytes is over the limit of {MAX_HEADER_BYTES}");
            return Err(reason.into());
        }
        let start = before + length;
        if start > bytes.len() as u64 {
            bytes = read(start).map_err(Fault::Io)?;
        }
        let header = bytes
            .get(before as usize..start as usize)
            .ok_or(Fault::Ended(start))?;
        Ok((Self::parse(header)?, start))
    }

    fn parse(header: &[u8]) -> Result<Self, Fault> {
        let header = std::str::from_utf8(header).map_err(|_| "its header is not UTF-8")?;
        let mut literal = Literal(header);
        let mut dtype = None;
        let mut is_fortran = None;
        let mut shape = None;
        literal.expect("{")?;
        while !literal.accepts("}") {
            let key = literal.text()?;
            literal.expect(":")?;
            let repeated = match key {
                "descr" => dtype.replace(literal.dtype()?).is_some(),
                "fortran_order" => is_fortran.replace(literal.bool()?).is_some(),
                "shape" => shape.replace(literal.shape()?).is_some(),
                _ => return Err(format!("its header has the unknown key {key:?}").into()),
            };
            if repeated {
                return Err(format!("its header has the key {key:?} twice").into());
            }
            if !literal.accepts(",") {
                literal.expect("}")?;
                break;
            }
        }
        if !literal.0.trim_ascii().is_empty() {
            return Err("its header goes on after the dictionary".into());
        }
        match (dtype, is_fortran, shape) {
            (Some((dtype, byte_order)), Some(is_fortran), Some(shape)) => Ok(Self {
                dtype,
                byte_order,
                is_fortran,
                shape,
            }),
            _ => Err("its header lacks `descr`, `fortran_order` or `shape`".into()),
        }
    }

    /// Where the elements end that start at `start`.
    fn end(&self, start: u64) -> Result<u64, String> {
        let Self { dtype, shape, .. } = self;
        let bytes = dtype.bytes_of(shape);
        let end = bytes.and_then(|bytes| bytes.checked_add(start));
        end.ok_or_else(|| format!("{dtype} of shape {shape:?} overflows"))
    }

    /// The tensor whose elements start at `start` of a storage.
    fn into_info(self, name: &str, start: u64, storage: Storage) -> Result<TensorInfo, String> {
        let strides = if self.is_fortran {
            let reversed: Vec<u64> = self.shape.iter().rev().copied().collect();
            row_major(&reversed).into_iter().rev().collect()
        } else {
            row_major(&self.shape)
        };
        let view = View {
            dtype: self.dtype,
            shape: self.shape,
            strides,
            start,
            storage,
        };
        view.into_info(name.to_owned(), self.byte_order)
    }
}

/// What is left of the literal of a Python value.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    /// Whether `token` is next; takes it.
    fn accepts(&mut self, token: &str) -> bool {
        let rest = self.0.trim_ascii_start().strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.accepts(token) {
            return Ok(());
        }
        let next: String = self.0.trim_ascii_start().chars().take(20).collect();
        Err(format!(
            "its header has {next:?} where {token:?} is expected"
        ))
    }

    /// A string without escapes.
    fn text(&mut self) -> Result<&'a str, String> {
        let rest = self.0.trim_ascii_start();
        let quote = ['\'', '"']
            .into_iter()
            .find(|&quote| rest.starts_with(quote));
        let inside = quote.and_then(|quote| rest[1..].split_once(quote));
        let (text, rest) = inside
            .filter(|(text, _)| !text.contains('\\'))
            .ok_or("its header has no string where one is expected")?;
        self.0 = rest;
        Ok(text)
    }

    fn bool(&mut self) -> Result<bool, String> {
        if self.accepts("True") {
            return Ok(true);
        }
        self.expect("False").map(|()| false)
    }

    /// A tuple of counts; Python 2 wrote some with an `L` behind.
    fn shape(&mut self) -> Result<Vec<u64>, String> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.accepts(")") {
            let rest = self.0.trim_ascii_start();
            let end = rest.find(|c: char| !c.is_ascii_digit());
            let (digits, rest) = rest.split_at(end.unwrap_or(rest.len()));
            let dim = digits.parse();
            shape.push(dim.map_err(|_| "its shape has what is no count")?);
            if shape.len() > MAX_DIMENSIONS {
                return Err(format!("it has more than {MAX_DIMENSIONS} dimensions"));
            }
            self.0 = rest.strip_prefix('L').unwrap_or(rest);
            if !self.accepts(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }

    fn dtype(&mut self) -> Result<(Dtype, ByteOrder), Fault> {
        if self.0.trim_ascii_start().starts_with('[') {
            let reason = "it is an array of records, which are no tensors";
            return Err(Fault::Unsupported(reason.to_owned()));
        }
        let described = self.text()?;
        let known = described.split_at_checked(1).and_then(|(order, kind)| {
            let dtype = element(kind)?;
            match order {
                "<" => Some((dtype, ByteOrder::Little)),
                ">" => Some((dtype, ByteOrder::Big)),
                "|" if dtype.block().bytes == 1 => Some((dtype, ByteOrder::Little)),
                _ => None,
            }
        });
        known.ok_or_else(|| {
            Fault::Unsupported(match described {
                "|O" | "O" => {
                    "it is an array of Python objects, pickled: they are not read".to_owned()
                }
                _ => format!("its dtype {described:?} is not supported"),
            })
        })
    }
}

/// The element type of a kind and a size.
fn element(described: &str) -> Option<Dtype> {
    Some(match described {
        "b1" => Dtype::BOOL,
        "i1" => Dtype::I8,
        "u1" => Dtype::U8,
        "i2" => Dtype::I16,
        "u2" => Dtype::U16,
        "f2" => Dtype::F16,
        "i4" => Dtype::I32,
        "u4" => Dtype::U32,
        "f4" => Dtype::F32,
        "i8" => Dtype::I64,
        "u8" => Dtype::U64,
        "f8" => Dtype::F64,
        "c8" => Dtype::C64,
        "c16" => Dtype::C128,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::Stored;

    fn stored(is_fortran: bool, shape: &[u64], storage: Storage) -> Stored {
        let description = Description {
            dtype: Dtype::F32,
            byte_order: ByteOrder::Little,
            is_fortran,
            shape: shape.to_vec(),
        };
        let info = description.into_info("a", 128, storage);
        info.expect("an array").stored
    }

    #[test]
    fn arrays_lie_as_their_order_says() {
        let plain = Storage::Plain {
            offset: 1000,
            bytes: 224,
        };
        let deflated = Storage::Deflated {
            offset: 1000,
            packed: 50,
            bytes: 224,
        };
        let strides = |stored| match stored {
            Stored::Scattered(scattered) => {
                assert_eq!(scattered.start, 128);
                Some(scattered.strides.clone())
            }
            _ => None,
        };
        let cases: [(bool, &[u64], &Storage, &[u64]); 6] = [
            (false, &[2, 3, 4], &plain, &[]),
            (true, &[2, 3, 4], &plain, &[1, 2, 6]),
            (true, &[24], &plain, &[]),
            (true, &[1, 24, 1], &plain, &[]),
            (false, &[2, 12], &deflated, &[12, 1]),
            (true, &[2, 12], &deflated, &[1, 2]),
        ];
        for (is_fortran, shape, storage, expected) in cases {
            let found = strides(stored(is_fortran, shape, storage.clone()));
            assert_eq!(found.unwrap_or_default(), expected, "{shape:?}");
        }
    }
}
