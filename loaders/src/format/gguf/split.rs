//! GGUF models in several files, as llama.cpp's `gguf-split` writes them: `NAME-00001-of-00003.gguf`, and in each file its number, the
//! number of files, and that of all tensors.

use super::FORMAT;
use crate::format::{Format, Header};
use crate::{Error, FileInfo, MetadataValue};

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

/// What the header of a file says of the split that the file is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The number of files; 1 if the model is not split.
    count: u64,
    /// The file's number, from 0.
    number: Option<u64>,
    /// The tensors in all files.
    tensors: Option<u64>,
}

impl Part {
    pub(crate) fn of(header: &Header) -> Self {
        let value = |key| match header.metadata.get(key) {
            Some(MetadataValue::Unsigned(value)) => Some(*value),
            Some(MetadataValue::Signed(value)) => u64::try_from(*value).ok(),
            _ => None,
        };
        Self {
            count: match header.format {
                Format::Gguf => value(COUNT_KEY).unwrap_or(1).max(1),
                _ => 1,
            },
            number: value(NUMBER_KEY),
            tensors: value(TENSORS_KEY),
        }
    }
}

/// Refuses files that are not all the parts of one split model, in order, if any of them is a part of one.
///
/// `files` are the checkpoint's, `parts` what the header of each says, `tensors` the number of tensors in all of them.
pub(crate) fn check_parts(files: &[FileInfo], parts: &[Part], tensors: usize) -> Result<(), Error> {
    let Some(Part { count, .. }) = parts.iter().find(|part| part.count > 1) else {
        return Ok(());
    };
    let tensors = tensors as u64;
    let says = |value: Option<u64>| value.map_or("nothing".to_owned(), |value| value.to_string());
    for ((number, part), file) in (0u64..).zip(parts).zip(files) {
        let (key, reason) = if part.count != *count || files.len() as u64 != *count {
            let reason = format!(
                "it says {}, by their names there are {}; parts are called NAME-00001-of-{count:05}.gguf",
                part.count,
                files.len()
            );
            (COUNT_KEY, reason)
        } else if part.number != Some(number) {
            let has = says(part.number);
            let reason = format!("it says {has}, by its name the file is number {number}, from 0");
            (NUMBER_KEY, reason)
        } else if part.tensors != Some(tensors) {
            let has = says(part.tensors);
            let reason = format!("it says {has}, the files have {tensors}; fetch them together");
            (TENSORS_KEY, reason)
        } else {
            continue;
        };
        return Err(Error::Malformed {
            path: file.path.clone(),
            format: FORMAT,
            place: format!("key {key:?}"),
            reason,
        });
    }
    Ok(())
}
