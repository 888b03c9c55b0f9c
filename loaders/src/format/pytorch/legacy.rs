//! Checkpoints as torch wrote them before 1.6, or writes them when it is told to: pickles, and behind them the storages.
//!
//! Source: `_legacy_save` and `_legacy_load` in `torch/serialization.py`, `THPStorage_writeFileRaw` in torch's
//! `csrc/generic/StorageMethods.cpp`. In this order: a magic number, a version, facts about the writer's machine, the object, the keys of
//! the storages, each pickled; and for each key the number of its elements in 8 bytes, and the elements. All numbers are little-endian,
//! whatever machine wrote them.

use std::collections::HashMap;

use super::storage::StorageRef;
use super::{MAX_PICKLE_BYTES, scalars, tensors, unpickle};
use crate::Error;
use crate::format::input::Input;
use crate::format::pickle::{self, Fault, Node, Pickle, Value};
use crate::format::{Format, Header};
use crate::stored::{ByteOrder, Storage};

/// `0x1950a86a20f9469cfc6c`, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The magic number's pickle is no longer than this many bytes, in any protocol.
const MAGIC_BYTES: u64 = 64;

/// The version of this format.
const VERSION: Value<'_> = Value::Int(1001);

/// The bytes that are read to find the end of a pickle in, first; twice as many each further time.
const FIRST_BYTES: u64 = 256 << 10;

/// Whether the file is of this format.
pub(in crate::format) fn recognised(input: &Input<'_>) -> Result<bool, Error> {
    let head = input.read(0, input.bytes.min(MAGIC_BYTES))?;
    Ok(pickle::begins(&head)
        && pickle::extent(&head).is_ok_and(|end| {
            Pickle::read(&head[..end]).is_ok_and(|pickle| pickle.root() == Value::Long(&MAGIC))
        }))
}

/// Reads the header of a file that is [`recognised`].
pub(in crate::format) fn read_header(input: &Input<'_>) -> Result<Header, Error> {
    let mut pickles = Pickles { input, at: 0 };
    pickles.next("the magic number")?;
    let (version_place, version) = pickles.next("the version")?;
    let version = unpickle(input, &version_place, &version)?.root();
    if version != VERSION {
        let reason = format!("the version is {version:?}, not 1001");
        return Err(input.malformed(version_place, reason));
    }
    pickles.next("the facts about the writer's machine")?;
    let (object_place, object) = pickles.next("the object")?;
    let object = unpickle(input, &object_place, &object)?;
    let (keys_place, keys) = pickles.next("the keys")?;
    let keys = unpickle(input, &keys_place, &keys)?;
    let sizes = element_sizes(&object).map_err(|reason| input.malformed(&*object_place, reason))?;
    let storages = locate(input, &keys, &keys_place, &sizes, pickles.at)?;
    Ok(Header {
        format: Format::PyTorch,
        tensors: tensors::find(input, &object, &storages, ByteOrder::Little)?,
        metadata: scalars(&object),
    })
}

/// The pickles of a file, one behind the other.
struct Pickles<'a> {
    input: &'a Input<'a>,
    at: u64,
}

impl Pickles<'_> {
    /// The bytes of the next pickle, and what an error calls it.
    fn next(&mut self, what: &str) -> Result<(String, Vec<u8>), Error> {
        let (input, at) = (self.input, self.at);
        let place = format!("the pickle of {what}, from byte {at}");
        let rest = input.bytes.saturating_sub(at);
        let mut window = FIRST_BYTES;
        loop {
            let mut bytes = input.read(at, window.min(rest))?;
            match pickle::extent(&bytes) {
                Ok(end) => {
                    bytes.truncate(end);
                    self.at += end as u64;
                    return Ok((place, bytes));
                }
                Err(Fault::Ended) if window >= rest => {
                    return Err(input.malformed(
                        place,
                        "the file ends within it; if the download stopped short, fetch it again",
                    ));
                }
                Err(Fault::Ended) if window >= MAX_PICKLE_BYTES => {
                    let reason = format!("it is over the limit of {MAX_PICKLE_BYTES} bytes");
                    return Err(input.malformed(place, reason));
                }
                Err(Fault::Ended) => window = (2 * window).min(MAX_PICKLE_BYTES),
                Err(Fault::Broken { at, reason }) => {
                    return Err(input.malformed(format!("{place}, byte {at} of it"), reason));
                }
            }
        }
    }
}

/// For each storage that a pickle refers to, the size of its elements in bytes, and how many it has.
fn element_sizes<'a>(pickle: &'a Pickle<'_>) -> Result<HashMap<&'a str, (u64, u64)>, String> {
    let mut sizes = HashMap::new();
    for node in pickle.nodes() {
        let &Node::Persistent(id) = node else {
            continue;
        };
        let Some(storage) = StorageRef::parse(pickle, id)? else {
            continue;
        };
        let size = (storage.elements.bytes(), storage.count);
        if *sizes.entry(storage.key).or_insert(size) != size {
            return Err(format!(
                "the storage {:?} is described in two ways",
                storage.key
            ));
        }
    }
    Ok(sizes)
}

/// Where the storages are, which begin at `at`.
fn locate(
    input: &Input<'_>,
    keys: &Pickle<'_>,
    place: &str,
    sizes: &HashMap<&str, (u64, u64)>,
    mut at: u64,
) -> Result<HashMap<String, Storage>, Error> {
    let list = keys.sequence(keys.root());
    let list = list.ok_or_else(|| input.malformed(place, "the keys are no list"))?;
    let mut storages = HashMap::new();
    for &key in list {
        let key = keys
            .text(key)
            .ok_or_else(|| input.malformed(place, "a key is no text"))?;
        let malformed = |reason: &str| input.malformed(format!("storage {key:?}"), reason);
        let &(element, expected) = sizes
            .get(key)
            .ok_or_else(|| malformed("the object does not refer to it"))?;
        let count = input.read(at, 8)?;
        let count = count.first_chunk().copied().map_or(0, u64::from_le_bytes);
        if count != expected {
            return Err(malformed(&format!(
                "it has {count} elements where the object expects {expected}"
            )));
        }
        let offset = at + 8;
        let bytes = count.checked_mul(element);
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        let (Some(bytes), Some(end)) = (bytes, end) else {
            return Err(malformed("its size overflows"));
        };
        if end > input.bytes {
            return Err(input.truncated(end));
        }
        at = end;
        let storage = Storage::Plain { offset, bytes };
        if storages.insert(key.to_owned(), storage).is_some() {
            return Err(malformed("it is there twice"));
        }
    }
    if at < input.bytes {
        return Err(input.trailing(at));
    }
    Ok(storages)
}
