//! What a checkpoint holds, before a byte of it is written.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The names, shapes and contents of a checkpoint that is to be written.
#[derive(Clone, Debug)]
pub struct Blueprint {
    tensors: Vec<TensorSpec>,
    metadata: BTreeMap<String, String>,
    padded: bool,
}

/// One tensor of a [`Blueprint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, unique in its blueprint.
    pub name: String,
    /// Type of each element.
    pub element: Element,
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<u64>,
    /// What the elements are.
    pub fill: Fill,
}

/// The element types that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Element {
    /// 32-bit IEEE floating point.
    F32,
    /// The upper half of an [`Element::F32`].
    #[serde(rename = "BF16")]
    Bf16,
}

/// What a tensor's elements are set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fill {
    /// Uniform in [-0.05, 0.05), the magnitude of trained weights, and always finite.
    Random,
    /// Ones on and below the diagonal of the last two dimensions, zeros above it.
    CausalMask,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl TensorSpec {
    /// A tensor of random values.
    pub fn random(name: impl Into<String>, element: Element, shape: impl Into<Vec<u64>>) -> Self {
        Self {
            name: name.into(),
            element,
            shape: shape.into(),
            fill: Fill::Random,
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.element.bytes()
    }
}

impl Blueprint {
    /// A checkpoint of `tensors`, in the order in which their data is to lie in the file.
    pub fn new(tensors: Vec<TensorSpec>) -> Self {
        Self {
            tensors,
            metadata: BTreeMap::new(),
            padded: false,
        }
    }

    /// Adds an entry to the file's metadata. Default: none.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Pads the header with spaces to 8 bytes, as the safetensors library does since version 0.3: the data is aligned then.
    #[must_use]
    pub fn padded(mut self) -> Self {
        self.padded = true;
        self
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorSpec::bytes).sum()
    }

    /// Bytes of the whole file: header length, header and data.
    pub fn file_bytes(&self) -> u64 {
        self.header().len() as u64 + self.data_bytes()
    }

    /// The bytes that stand before the data: the length of the JSON, then the JSON.
    ///
    /// The JSON is compact. Unless it is to be [padded](Self::padded) it ends where it ends, as in files written by early versions of
    /// the safetensors library, so the data may start at any offset.
    pub fn header(&self) -> Vec<u8> {
        let mut header = vec![0; 8];
        serde_json::to_writer(&mut header, &Header(self))
            .expect("maps with string keys are valid JSON");
        if self.padded {
            header.resize(header.len().next_multiple_of(8), b' ');
        }
        let json_bytes = (header.len() - 8) as u64;
        header[..8].copy_from_slice(&json_bytes.to_le_bytes());
        header
    }
}

struct Header<'a>(&'a Blueprint);

#[derive(Serialize)]
struct HeaderEntry<'a> {
    dtype: Element,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.0.metadata.is_empty() {
            map.serialize_entry("__metadata__", &self.0.metadata)?;
        }
        let mut begin = 0;
        for tensor in &self.0.tensors {
            let end = begin + tensor.bytes();
            let entry = HeaderEntry {
                dtype: tensor.element,
                shape: &tensor.shape,
                data_offsets: [begin, end],
            };
            map.serialize_entry(&tensor.name, &entry)?;
            begin = end;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_compact_json_after_its_length() {
        let blueprint = Blueprint::new(vec![
            TensorSpec::random("b", Element::Bf16, [3]),
            TensorSpec::random("a", Element::F32, []),
        ])
        .with_metadata("format", "pt");
        let header = blueprint.header();
        let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]},"a":{"dtype":"F32","shape":[],"data_offsets":[6,10]}}"#;
        assert_eq!(header[..8], (json.len() as u64).to_le_bytes());
        assert_eq!(std::str::from_utf8(&header[8..]), Ok(json));
        assert_eq!(blueprint.file_bytes(), 8 + json.len() as u64 + 10);
    }

    #[test]
    fn a_checkpoint_may_hold_nothing() {
        assert_eq!(&Blueprint::new(Vec::new()).header()[8..], b"{}");
    }
}
