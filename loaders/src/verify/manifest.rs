//! Digests that were recorded, to compare with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;

use super::{Digest, FileDigest, Mismatch, TensorDigest, Verification};
use crate::{Error, Select};

/// No manifest is larger, in bytes: a million tensors take a third of it.
const MAX_BYTES: u64 = 1 << 30;

/// The only version of the JSON that there is.
const SCHEMA: u64 = 1;

/// Recorded digests of files, and of tensors where they came from `ckload verify --json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    files: Vec<RecordedFile>,
    /// By name; `None` of a list of files.
    tensors: Option<BTreeMap<String, RecordedTensor>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RecordedFile {
    path: String,
    /// A list of `sha256sum` has no sizes.
    bytes: Option<u64>,
    sha256: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RecordedTensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    sha256: Digest,
}

/// What `ckload verify --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct Printed {
    schema: u64,
    files: Vec<RecordedFile>,
    tensors: Vec<RecordedTensor>,
}

impl Manifest {
    /// Reads what `ckload verify --json` printed, or a list of files as `sha256sum` prints it (GNU coreutils, with `--tag` or without).
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is neither of these.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let malformed = |(place, reason): (String, String)| Error::Manifest {
            path: path.to_owned(),
            place,
            reason,
        };
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", path))?;
        let whole = || "the whole".to_owned();
        if bytes.len() as u64 > MAX_BYTES {
            let reason = format!("it has more than the {MAX_BYTES} bytes that are read");
            return Err(malformed((whole(), reason)));
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| malformed((whole(), format!("it is not UTF-8: {error}"))))?;
        if text.trim_start().starts_with('{') {
            Self::from_json(text).map_err(malformed)
        } else {
            Self::from_list(text).map_err(malformed)
        }
    }

    fn from_json(text: &str) -> Result<Self, (String, String)> {
        let of_object = |reason: String| ("the JSON object".to_owned(), reason);
        let printed: Printed =
            serde_json::from_str(text).map_err(|error| of_object(error.to_string()))?;
        if printed.schema != SCHEMA {
            let reason = format!("its schema is {}, known is {SCHEMA}", printed.schema);
            return Err(of_object(reason));
        }
        let mut tensors = BTreeMap::new();
        for tensor in printed.tensors {
            if let Some(first) = tensors.insert(tensor.name.clone(), tensor) {
                let place = format!("the tensor {:?}", first.name);
                return Err((place, "it is recorded twice".to_owned()));
            }
        }
        Ok(Self {
            files: printed.files,
            tensors: Some(tensors),
        })
    }

    fn from_list(text: &str) -> Result<Self, (String, String)> {
        let mut files = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let file = RecordedFile::from_line(line).ok_or_else(|| {
                let reason = "it has no SHA-256 of 64 hexadecimal digits and a file's name";
                (format!("line {}", number + 1), reason.to_owned())
            })?;
            files.push(file);
        }
        if files.is_empty() {
            return Err(("the whole".to_owned(), "it names no file".to_owned()));
        }
        Ok(Self {
            files,
            tensors: None,
        })
    }

    /// Whether tensors are recorded: a list of `sha256sum` has files alone.
    #[must_use]
    pub fn has_tensors(&self) -> bool {
        self.tensors.is_some()
    }

    /// Every difference between what is recorded and what was found: first of files, then of tensors.
    ///
    /// Tensors are told by their names. Files are told by their paths, from the last part on, so that a checkpoint may have moved. What
    /// else a list of `sha256sum` names in a model's folder is passed over: files whose extension no file of the checkpoint has.
    #[must_use]
    pub fn mismatches(&self, found: &Verification) -> Vec<Mismatch> {
        let mut mismatches = self.file_mismatches(found.files());
        mismatches.extend(self.tensor_mismatches(found.tensors(), &Select::all()));
        mismatches
    }

    /// Every difference between the recorded tensors that `select` admits and those that were found; none if no tensors are recorded.
    #[must_use]
    pub fn tensor_mismatches(&self, found: &[TensorDigest], select: &Select) -> Vec<Mismatch> {
        let Some(recorded) = &self.tensors else {
            return Vec::new();
        };
        let mut mismatches = Vec::new();
        for tensor in found {
            match recorded.get(&tensor.name) {
                Some(recorded) => recorded.compare(tensor, &mut mismatches),
                None => mismatches.push(Mismatch::TensorExtra {
                    name: tensor.name.clone(),
                }),
            }
        }
        let names: HashSet<&str> = found.iter().map(|tensor| tensor.name.as_str()).collect();
        let missing = recorded
            .keys()
            .filter(|name| !names.contains(name.as_str()) && select.admits(name));
        mismatches.extend(missing.map(|name| Mismatch::TensorMissing { name: name.clone() }));
        mismatches
    }

    fn file_mismatches(&self, found: &[FileDigest]) -> Vec<Mismatch> {
        let paired = self.paired(found);
        let mut mismatches = Vec::new();
        for (file, recorded) in found.iter().zip(&paired) {
            match recorded {
                Some(recorded) => self.files[*recorded].compare(file, &mut mismatches),
                None => mismatches.push(Mismatch::FileExtra {
                    path: file.path.clone(),
                }),
            }
        }
        let used: HashSet<usize> = paired.into_iter().flatten().collect();
        let is_alike = |recorded: &RecordedFile| {
            let extension = Path::new(&recorded.path).extension();
            self.has_tensors() || found.iter().any(|file| file.path.extension() == extension)
        };
        let rest = self.files.iter().enumerate();
        let missing = rest.filter(|(number, file)| !used.contains(number) && is_alike(file));
        mismatches.extend(missing.map(|(_, file)| Mismatch::FileMissing {
            path: file.path.clone(),
        }));
        mismatches
    }

    /// For each file that was found the number of the recorded one that is meant: of the same name, with the most folders in common.
    fn paired(&self, found: &[FileDigest]) -> Vec<Option<usize>> {
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (number, file) in self.files.iter().enumerate() {
            by_name
                .entry(last_part(&file.path))
                .or_default()
                .push(number);
        }
        let paths: Vec<_> = found
            .iter()
            .map(|file| file.path.to_string_lossy())
            .collect();
        let mut pairs = Vec::new();
        for (file, path) in paths.iter().enumerate() {
            for &number in by_name.get(last_part(path)).into_iter().flatten() {
                pairs.push((common_parts(path, &self.files[number].path), file, number));
            }
        }
        pairs.sort_by_key(|&(common, ..)| std::cmp::Reverse(common));
        let mut paired = vec![None; found.len()];
        let mut used = HashSet::new();
        for (_, file, number) in pairs {
            if paired[file].is_none() && used.insert(number) {
                paired[file] = Some(number);
            }
        }
        paired
    }
}

impl RecordedFile {
    /// A line of `sha256sum`: `digest  path`, `digest *path`, or `SHA256 (path) = digest`; one that starts with a backslash has
    /// escapes in its path.
    fn from_line(line: &str) -> Option<Self> {
        let (line, is_escaped) = match line.strip_prefix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        let (digest, path) = match line.strip_prefix("SHA256 (") {
            Some(tagged) => {
                let (path, digest) = tagged.rsplit_once(") = ")?;
                (digest, path)
            }
            None => {
                let (digest, path) = line.split_once(' ')?;
                (digest, path.strip_prefix([' ', '*'])?)
            }
        };
        let path = if is_escaped {
            unescaped(path)?
        } else {
            path.to_owned()
        };
        (!path.is_empty()).then_some(Self {
            path,
            bytes: None,
            sha256: digest.trim_end().parse().ok()?,
        })
    }

    fn compare(&self, found: &FileDigest, mismatches: &mut Vec<Mismatch>) {
        if let Some(expected) = self.bytes
            && expected != found.bytes
        {
            mismatches.push(Mismatch::FileBytes {
                path: found.path.clone(),
                expected,
                found: found.bytes,
            });
        }
        if self.sha256 != found.sha256 {
            mismatches.push(Mismatch::FileDigest {
                path: found.path.clone(),
                expected: self.sha256,
                found: found.sha256,
            });
        }
    }
}

impl RecordedTensor {
    fn compare(&self, found: &TensorDigest, mismatches: &mut Vec<Mismatch>) {
        if self.dtype != found.dtype.name() {
            mismatches.push(Mismatch::TensorDtype {
                name: self.name.clone(),
                expected: self.dtype.clone(),
                found: found.dtype.to_string(),
            });
        }
        if self.shape != found.shape {
            mismatches.push(Mismatch::TensorShape {
                name: self.name.clone(),
                expected: self.shape.clone(),
                found: found.shape.clone(),
            });
        }
        if self.sha256 != found.sha256 {
            mismatches.push(Mismatch::TensorDigest {
                name: self.name.clone(),
                expected: self.sha256,
                found: found.sha256,
            });
        }
    }
}

/// What GNU coreutils escape in a path: backslashes and ends of lines. `None` for any other escape.
fn unescaped(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// How many of their last parts two paths have in common.
fn common_parts(one: &str, other: &str) -> usize {
    let parts = |path| {
        Path::new(path)
            .components()
            .rev()
            .filter(|part| *part != Component::CurDir)
    };
    let mut pairs = parts(one).zip(parts(other));
    pairs
        .by_ref()
        .take_while(|(one, other)| one == other)
        .count()
}
