//! PyTorch checkpoints: what `torch.save` and `torch.jit.save` write.
//!
//! A pickle describes the tensors as views of storages, which are elsewhere in the file. The pickle is read and never executed. Of
//! TorchScript archives the attributes of the saved module are read; code, and the constants in it, are not.
//!
//! Source: `torch/serialization.py`, and `caffe2/serialize/inline_container.h` for the archive: `<folder>/data.pkl`,
//! `<folder>/data/<key>` for each storage, `<folder>/byteorder`, where the folder has any name.

mod calls;
pub(super) mod legacy;
mod storage;
mod tensors;

use std::collections::{BTreeMap, HashMap};

use super::input::Input;
use super::pickle::{Fault, Pickle, Value};
use super::safetensors::MAX_HEADER_BYTES;
use super::zip::{Archive, Member};
use super::{Format, Header};
use crate::stored::{ByteOrder, Storage};
use crate::{Error, MetadataValue};

/// The largest pickle that is read, in bytes: it may hold 600,000 tensors.
const MAX_PICKLE_BYTES: u64 = MAX_HEADER_BYTES;

/// How many values of the saved object become metadata, and how long a text of them may be in bytes.
const MAX_SCALARS: usize = 1000;
const MAX_SCALAR_BYTES: usize = 4096;

const PICKLE: &str = "/data.pkl";

/// The pickles of an archive that describe tensors: one, if `torch.save` wrote it.
fn pickles(archive: &Archive) -> impl Iterator<Item = (&Member, &str)> {
    archive.members().iter().filter_map(|member| {
        let folder = member.name.strip_suffix(PICKLE)?;
        (!folder.contains('/')).then_some((member, folder))
    })
}

/// Whether PyTorch wrote the archive.
pub(super) fn recognised(archive: &Archive) -> bool {
    pickles(archive).next().is_some()
}

/// Reads the header of an archive that is [`recognised`].
pub(super) fn read_header(input: &Input<'_>, archive: &Archive) -> Result<Header, Error> {
    let mut pickles = pickles(archive);
    let Some((member, folder)) = pickles.next() else {
        return Err(input.malformed("the archive", "it has no data.pkl"));
    };
    if let Some((other, _)) = pickles.next() {
        return Err(input.malformed(
            other.place(),
            format!(
                "{:?} is there as well, and only one can be meant",
                member.name
            ),
        ));
    }
    let bytes = member.read_all(input, MAX_PICKLE_BYTES)?;
    let pickle = unpickle(input, &member.place(), &bytes)?;
    let storages = storages(input, archive, folder)?;
    let byte_order = byte_order(input, archive, folder)?;
    Ok(Header {
        format: Format::PyTorch,
        tensors: tensors::find(input, &pickle, &storages, byte_order)?,
        metadata: scalars(&pickle),
    })
}

fn unpickle<'p>(input: &Input<'_>, place: &str, bytes: &'p [u8]) -> Result<Pickle<'p>, Error> {
    Pickle::read(bytes).map_err(|fault| match fault {
        Fault::Ended => input.malformed(place, "the pickle breaks off"),
        Fault::Broken { at, reason } => {
            input.malformed(format!("{place}, byte {at} of the pickle"), reason)
        }
    })
}

/// The storages of an archive, by their keys.
fn storages(
    input: &Input<'_>,
    archive: &Archive,
    folder: &str,
) -> Result<HashMap<String, Storage>, Error> {
    let prefix = format!("{folder}/data/");
    let members = archive.members().iter();
    members
        .filter_map(|member| Some((member.name.strip_prefix(&prefix)?, member)))
        .map(|(key, member)| Ok((key.to_owned(), member.storage(input)?)))
        .collect()
}

/// What the archive says of its byte order; those of before 2.1 say nothing, and are little-endian.
fn byte_order(input: &Input<'_>, archive: &Archive, folder: &str) -> Result<ByteOrder, Error> {
    let Some(member) = archive.member(&format!("{folder}/byteorder")) else {
        return Ok(ByteOrder::Little);
    };
    match member.read_start(input, 16)?.as_slice() {
        b"little" => Ok(ByteOrder::Little),
        b"big" => Ok(ByteOrder::Big),
        _ => Err(input.malformed(member.place(), "it is neither `little` nor `big`")),
    }
}

/// The numbers and the short texts of a saved dictionary: `epoch`, `arch` and the like.
fn scalars(pickle: &Pickle<'_>) -> BTreeMap<String, MetadataValue> {
    let root = pickle.root();
    let items = pickle
        .dict(root)
        .or_else(|| pickle.object(root).map(|object| object.items.as_slice()));
    let scalars = items
        .unwrap_or_default()
        .iter()
        .filter_map(|&(key, value)| {
            let value = match value {
                Value::Bool(value) => MetadataValue::Bool(value),
                Value::Int(value) => MetadataValue::Signed(value),
                Value::Float(value) => MetadataValue::F64(value),
                _ => MetadataValue::String(short(pickle.text(value)?)?),
            };
            Some((short(pickle.text(key)?)?, value))
        });
    scalars.take(MAX_SCALARS).collect()
}

fn short(text: &str) -> Option<String> {
    (text.len() <= MAX_SCALAR_BYTES).then(|| text.to_owned())
}
