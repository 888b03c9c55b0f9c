//! A writer of safetensors files that gives a test every freedom that the format gives, and some that it does not.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use super::Content;

/// One file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shard {
    /// In the order of their bytes.
    pub(crate) tensors: Vec<Content>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) style: Style,
}

/// How a header is put down; none of it changes what it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    /// The order of the header's entries, as indices into the tensors; empty for that of their bytes.
    pub(crate) order: Vec<usize>,
    /// White space between any two tokens.
    pub(crate) gap: &'static str,
    /// White space before the JSON object.
    pub(crate) before: usize,
    /// White space behind it.
    pub(crate) behind: usize,
    pub(crate) escapes: Escapes,
    pub(crate) metadata_last: bool,
    pub(crate) offsets_first: bool,
}

/// Which characters of a string are escaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// Those that JSON demands.
    #[default]
    Needed,
    /// All, as `\uXXXX`.
    All,
}

impl Shard {
    pub(crate) fn of(tensors: Vec<Content>) -> Self {
        Self {
            tensors,
            ..Self::default()
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let data: Vec<&[u8]> = self
            .tensors
            .iter()
            .map(|content| &content.bytes[..])
            .collect();
        safetensors_bytes(self.header(), &data.concat())
    }

    fn header(&self) -> String {
        let Style {
            gap,
            before,
            behind,
            ..
        } = self.style;
        let mut end = 0;
        let ranges: Vec<Range<usize>> = self
            .tensors
            .iter()
            .map(|content| {
                let begin = end;
                end += content.bytes.len();
                begin..end
            })
            .collect();
        let order = match self.style.order.as_slice() {
            [] => (0..self.tensors.len()).collect(),
            order => order.to_vec(),
        };
        let mut entries: Vec<String> = order
            .into_iter()
            .map(|at| self.entry(&self.tensors[at], ranges[at].clone()))
            .collect();
        if let Some(metadata) = &self.metadata {
            let at = if self.style.metadata_last {
                entries.len()
            } else {
                0
            };
            entries.insert(at, self.metadata_entry(metadata));
        }
        let entries = entries.join(&format!("{gap},{gap}"));
        format!(
            "{}{{{gap}{entries}{gap}}}{}",
            " ".repeat(before),
            " ".repeat(behind)
        )
    }

    fn entry(&self, content: &Content, range: Range<usize>) -> String {
        let gap = self.style.gap;
        let colon = format!("{gap}:{gap}");
        let comma = format!("{gap},{gap}");
        let shape: Vec<String> = content.shape.iter().map(u64::to_string).collect();
        let mut fields = [
            format!("\"dtype\"{colon}\"{}\"", content.dtype),
            format!("\"shape\"{colon}[{gap}{}{gap}]", shape.join(&comma)),
            format!(
                "\"data_offsets\"{colon}[{}{comma}{}]",
                range.start, range.end
            ),
        ];
        if self.style.offsets_first {
            fields.reverse();
        }
        format!(
            "{}{colon}{{{}}}",
            self.quoted(&content.name),
            fields.join(&comma)
        )
    }

    fn metadata_entry(&self, metadata: &BTreeMap<String, String>) -> String {
        let pairs: Vec<String> = metadata
            .iter()
            .map(|(key, value)| format!("{}:{}", self.quoted(key), self.quoted(value)))
            .collect();
        format!("\"__metadata__\":{{{}}}", pairs.join(","))
    }

    fn quoted(&self, text: &str) -> String {
        match self.style.escapes {
            Escapes::Needed => serde_json::to_string(text).expect("a string"),
            Escapes::All => {
                let mut quoted = String::from("\"");
                for unit in text.encode_utf16() {
                    write!(quoted, "\\u{unit:04X}").expect("a string grows");
                }
                quoted + "\""
            }
        }
    }
}

/// A file with this header and this data, whatever they are.
pub(crate) fn safetensors_bytes(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let length = (header.len() as u64).to_le_bytes();
    [&length, header, data].concat()
}

/// A header with these entries.
pub(crate) fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// One entry of a header, right or wrong; `name`, `dtype` and `shape` go in as they stand.
pub(crate) fn entry(name: &str, dtype: &str, shape: &str, offsets: Range<u64>) -> String {
    let Range { start, end } = offsets;
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}
