//! The header of a safetensors file.
//!
//! The format, as its repository's README states it: 8 bytes, an unsigned little-endian integer N; N bytes, a JSON object in UTF-8 that
//! maps each tensor's name to `{"dtype", "shape", "data_offsets": [begin, end]}`, and `__metadata__` to a map from strings to strings;
//! the rest of the file is the data, which the tensors' ranges cover without a gap or an overlap. N is at most 100 MB.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::tensor::TensorInfo as Entry;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::sniff::{SNIFF_BYTES, name_impostor_or_text};
use super::{Format, Header, repeated};
use crate::{Dtype, Error, TensorInfo};

/// The largest header, in bytes, that the format allows.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The bytes of the length that stands before the header.
const LENGTH_BYTES: u64 = 8;

const METADATA_KEY: &str = "__metadata__";

/// Reads and checks the header of `file`, which has `file_bytes` bytes; `path` is for the errors.
pub(crate) fn read_header(path: &Path, file: &File, file_bytes: u64) -> Result<Header, Error> {
    parse_file(path, file, file_bytes).map_err(|error| {
        let mut head = [0; SNIFF_BYTES];
        let have = file_bytes.min(SNIFF_BYTES as u64) as usize;
        match file.read_exact_at(&mut head[..have], 0) {
            Ok(()) if !looks_like_safetensors(&head[..have]) => {
                name_impostor_or_text(path, &head[..have]).unwrap_or(error)
            }
            _ => error,
        }
    })
}

/// Whether a file begins with a length that the format allows, and an object behind it: then it is a broken safetensors file, even
/// if the length's bytes are those with which another format begins.
pub(super) fn looks_like_safetensors(head: &[u8]) -> bool {
    head.split_first_chunk().is_some_and(|(length, rest)| {
        let rest = rest.trim_ascii_start();
        u64::from_le_bytes(*length) <= MAX_HEADER_BYTES
            && (rest.is_empty() || rest.starts_with(b"{"))
    })
}

fn parse_file(path: &Path, file: &File, file_bytes: u64) -> Result<Header, Error> {
    let malformed = |place: &str, reason: String| Error::Malformed {
        path: path.to_owned(),
        format: "safetensors",
        place: place.to_owned(),
        reason,
    };
    if file_bytes < LENGTH_BYTES {
        return Err(Error::Truncated {
            path: path.to_owned(),
            expected: LENGTH_BYTES,
            found: file_bytes,
        });
    }
    let mut length = [0; LENGTH_BYTES as usize];
    let read = |buffer: &mut [u8], offset| {
        file.read_exact_at(buffer, offset)
            .map_err(Error::io("read the header of", path))
    };
    read(&mut length, 0)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(malformed(
            "bytes 0..8",
            format!(
                "a header of {header_bytes} bytes is over the format's limit of {MAX_HEADER_BYTES}"
            ),
        ));
    }
    let data_start = LENGTH_BYTES + header_bytes;
    if data_start > file_bytes {
        return Err(Error::Truncated {
            path: path.to_owned(),
            expected: data_start,
            found: file_bytes,
        });
    }
    let mut json = vec![0; header_bytes as usize];
    read(&mut json, LENGTH_BYTES)?;
    let place = format!("header, bytes {LENGTH_BYTES}..{data_start}");
    let json = std::str::from_utf8(&json)
        .map_err(|error| malformed(&place, format!("not UTF-8: {error}")))?;
    let listing: Listing =
        serde_json::from_str(json).map_err(|error| malformed(&place, error.to_string()))?;
    let (tensors, data_bytes) = check(listing.tensors, data_start)
        .map_err(|(name, reason)| malformed(&format!("tensor {name:?}"), reason))?;
    let expected = data_start.saturating_add(data_bytes);
    if file_bytes < expected {
        return Err(Error::Truncated {
            path: path.to_owned(),
            expected,
            found: file_bytes,
        });
    }
    if file_bytes > expected {
        return Err(Error::TrailingBytes {
            path: path.to_owned(),
            expected,
            found: file_bytes,
        });
    }
    let metadata = listing.metadata.into_iter();
    Ok(Header {
        format: Format::Safetensors,
        tensors,
        metadata: metadata.map(|(key, text)| (key, text.into())).collect(),
    })
}

/// Puts the entries in the order of their bytes, checks them, and tells the bytes of data that they cover.
///
/// An error is the tensor's name and the rule that it breaks.
fn check(
    mut entries: Vec<(String, Entry)>,
    data_start: u64,
) -> Result<(Vec<TensorInfo>, u64), (String, String)> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut covered = 0;
    let mut tensors: Vec<TensorInfo> = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (begin, end) = (entry.data_offsets.0 as u64, entry.data_offsets.1 as u64);
        let Some(bytes) = end.checked_sub(begin) else {
            return Err((
                name,
                format!("its range {begin}..{end} ends before it begins"),
            ));
        };
        if begin < covered {
            let reason = format!(
                "its range {begin}..{end} overlaps that of {:?}, which ends at {covered}",
                tensors.last().map_or("", |last| &last.name)
            );
            return Err((name, reason));
        }
        if begin > covered {
            let reason = format!(
                "bytes {covered}..{begin} of the data, before its own, belong to no tensor"
            );
            return Err((name, reason));
        }
        let Some(dtype) = Dtype::from_published(entry.dtype) else {
            return Err((name, format!("its dtype {} is not supported", entry.dtype)));
        };
        let shape: Vec<u64> = entry.shape.iter().map(|&dim| dim as u64).collect();
        match dtype.bytes_of(&shape) {
            Some(needed) if needed == bytes => {}
            Some(needed) => {
                let reason = format!(
                    "{dtype} of shape {shape:?} takes {needed} bytes, its range {begin}..{end} has {bytes}"
                );
                return Err((name, reason));
            }
            None => {
                let reason = format!("{dtype} of shape {shape:?} overflows, or ends within a byte");
                return Err((name, reason));
            }
        }
        let Some(offset) = data_start.checked_add(begin) else {
            return Err((name, format!("its range {begin}..{end} overflows")));
        };
        covered = end;
        tensors.push(TensorInfo::in_place(name, dtype, shape, bytes, offset));
    }
    Ok((tensors, covered))
}

/// The header's JSON object as it stands: unlike a map, it still has a name that occurs twice, to be refused.
struct Listing {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Listing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that maps tensor names to their descriptions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listing, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA_KEY {
                        let UniqueMap(entries) = map.next_value()?;
                        if metadata.replace(entries).is_some() {
                            return Err(de::Error::custom("`__metadata__` occurs twice"));
                        }
                    } else {
                        let entry = map.next_value::<Entry>().map_err(|error| {
                            de::Error::custom(format_args!("tensor {name:?}: {error}"))
                        })?;
                        tensors.push((name, entry));
                    }
                }
                if let Some(name) = repeated(tensors.iter().map(|(name, _)| name.as_str())) {
                    return Err(de::Error::custom(format_args!(
                        "tensor {name:?} occurs twice"
                    )));
                }
                Ok(Listing {
                    tensors,
                    metadata: metadata.unwrap_or_default(),
                })
            }
        }

        deserializer.deserialize_map(Names)
    }
}

/// A JSON object from strings to strings in which no key may occur twice.
pub(super) struct UniqueMap(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = UniqueMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that maps strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.contains_key(&key) {
                        return Err(de::Error::custom(format_args!("{key:?} occurs twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(UniqueMap(entries))
            }
        }

        deserializer.deserialize_map(Strings)
    }
}
