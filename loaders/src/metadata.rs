//! What a checkpoint's header says besides its tensors.

use std::fmt;

use serde::Serialize;

/// A value of a checkpoint's metadata: a string in safetensors, any of these in GGUF.
///
/// Displayed and serialised without a tag: strings as they are, numbers, `true` and `false`, arrays in brackets.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum MetadataValue {
    /// True or false.
    Bool(bool),
    /// An unsigned integer.
    Unsigned(u64),
    /// A signed integer.
    Signed(i64),
    /// A single precision float.
    F32(f32),
    /// A double precision float; JSON has no infinities and no NaN, they are serialised as `null`.
    F64(f64),
    /// A text.
    String(String),
    /// Several values, arrays too.
    Array(Vec<Self>),
}

impl MetadataValue {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

impl From<String> for MetadataValue {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl fmt::Display for MetadataValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::String(text) => text.fmt(f),
            Self::Array(values) => {
                f.write_str("[")?;
                for (number, value) in values.iter().enumerate() {
                    if number > 0 {
                        f.write_str(", ")?;
                    }
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_a_person_would_write_them() {
        let values = MetadataValue::Array(vec![
            MetadataValue::Bool(true),
            MetadataValue::Signed(-1),
            MetadataValue::Array(vec![MetadataValue::F32(0.1), "a".to_owned().into()]),
        ]);
        assert_eq!(values.to_string(), "[true, -1, [0.1, a]]");
        let json = serde_json::to_string(&values).expect("JSON has all of these");
        assert_eq!(json, "[true,-1,[0.1,\"a\"]]");
    }
}
