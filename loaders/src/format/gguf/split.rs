//! GGUF models in several files, as llama.cpp's `gguf-split` writes them: `NAME-00001-of-00003.gguf`, and in each file its number, the
//! number of files, and that of all tensors.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::FORMAT;
use crate::format::{Format, Header};
use crate::{Error, FileInfo, MetadataValue};

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

/// Numbers in names have at least so many digits.
const DIGITS: usize = 5;

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

/// The paths of all parts of the split model that `path` names a part of, in order; `None` if its name is no part's.
///
/// Names decide, no file is opened.
///
/// # Errors
///
/// A part is not there.
pub(crate) fn part_paths(path: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    let name = path.file_name().unwrap_or_default();
    let Some(PartName { stem, count }) = PartName::parse(name) else {
        return Ok(None);
    };
    let mut paths = Vec::new();
    for number in 1..=count {
        let mut name = stem.as_bytes().to_vec();
        name.extend(format!("-{number:0DIGITS$}-of-{count:0DIGITS$}.gguf").into_bytes());
        let name = OsString::from_vec(name);
        let part = path.with_file_name(&name);
        if !part.exists() {
            return Err(Error::MissingShard {
                path: path.to_owned(),
                shard: name.to_string_lossy().into_owned(),
            });
        }
        paths.push(part);
    }
    Ok(Some(paths))
}

/// A file name of a part, taken apart.
struct PartName<'a> {
    /// What comes before the numbers.
    stem: &'a OsStr,
    /// The number of parts.
    count: u32,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a OsStr) -> Option<Self> {
        let rest = name.as_bytes().strip_suffix(b".gguf")?;
        let (rest, count) = split_number(rest, b"-of-")?;
        let (stem, number) = split_number(rest, b"-")?;
        (1..=count).contains(&number).then_some(Self {
            stem: OsStr::from_bytes(stem),
            count,
        })
    }
}

/// Takes a number and the `mark` before it off the end of a name.
fn split_number<'a>(name: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], u32)> {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let (rest, digits) = name.split_at(name.len() - digits.count());
    // One spelling for each number: the one that `part_paths` gives it.
    let usual = digits.len() == DIGITS || (digits.len() > DIGITS && !digits.starts_with(b"0"));
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    usual
        .then(|| rest.strip_suffix(mark))?
        .map(|rest| (rest, number))
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
                "it says {}, by their names there are {}; parts are called NAME-00001-of-{count:0DIGITS$}.gguf",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let parse = |name| {
            PartName::parse(OsStr::new(name)).map(|PartName { stem, count }| (stem.to_str(), count))
        };
        assert_eq!(parse("a-b-00002-of-00003.gguf"), Some((Some("a-b"), 3)));
        assert_eq!(parse("-00001-of-00001.gguf"), Some((Some(""), 1)));
        assert_eq!(parse("a-100000-of-123456.gguf"), Some((Some("a"), 123_456)));
        for name in [
            "a.gguf",
            "a-00001-of-00003",
            "a-00001-of-00003.safetensors",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "a-0001-of-0003.gguf",
            "a-000001-of-000003.gguf",
            "a-00001-of-99999999999.gguf",
            "a-00001of-00003.gguf",
            "a00001-of-00003.gguf",
            "00003.gguf",
            ".gguf",
            "",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
