//! What the name of a file in a folder says of it. Its bytes have the last word: they decide how it is read.
//!
//! The names are those that `transformers`, `diffusers`, `accelerate`, `peft` and llama.cpp give to what they write:
//! `model.safetensors`, `model.fp16.safetensors`, `model-00001-of-00004.safetensors`, `model.safetensors.index.json`, and so on.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// Numbers in names have no more leading zeros than make this many digits.
const DIGITS: usize = 5;

/// A family of file names, each of which is a checkpoint format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Safetensors,
    Gguf,
    PyTorch,
    NumPy,
}

const SUFFIXES: &[(&str, Family)] = &[
    (".safetensors", Family::Safetensors),
    (".gguf", Family::Gguf),
    (".bin", Family::PyTorch),
    (".pt", Family::PyTorch),
    (".pth", Family::PyTorch),
    (".pth.tar", Family::PyTorch),
    (".ckpt", Family::PyTorch),
    (".npz", Family::NumPy),
    (".npy", Family::NumPy),
];

/// What stands between the stem and `.json` in the name of an index, or between the stem and `.<variant>.json`.
const INDEXES: &[(&str, Family)] = &[
    (".safetensors.index", Family::Safetensors),
    (".bin.index", Family::PyTorch),
];

/// What trainers leave beside a model: pickles, but no models.
const NO_MODELS: &[&str] = &[
    "training_args",
    "optimizer",
    "scheduler",
    "scaler",
    "sampler",
    "rng_state",
    "random_states",
];

/// A name that may be a checkpoint's, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) family: Family,
    /// What the files of one checkpoint have in common; a variant is a part of it, as in `model.fp16`.
    pub(super) stem: String,
    pub(super) is_index: bool,
    pub(super) part: Option<Part>,
}

/// One of the files of a checkpoint in several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) of: u32,
    /// Where the number stands, in bytes from the end of the file's name.
    digits: Range<usize>,
}

impl Name {
    /// Takes `name` apart, if it is of a checkpoint's file or index.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if let Some((stem, family)) = index_stem(name) {
            return Some(Self {
                family,
                stem,
                is_index: true,
                part: None,
            });
        }
        let (rest, family) = SUFFIXES
            .iter()
            .find_map(|&(suffix, family)| Some((name.strip_suffix(suffix)?, family)))?;
        if rest.is_empty() || family == Family::PyTorch && is_no_model(rest) {
            return None;
        }
        // `model.fp16-00001-of-00002`, or `model-00001-of-00002.fp16`.
        let (numbered, variant) = match without_variant(rest) {
            Some(base) if Part::split(base).is_some() => (base, &rest[base.len()..]),
            _ => (rest, ""),
        };
        let (stem, part) = match Part::split(numbered) {
            Some((stem, part)) => {
                let part = part.before(name.len() - numbered.len());
                (format!("{stem}{variant}"), Some(part))
            }
            None => (rest.to_owned(), None),
        };
        Some(Self {
            family,
            stem,
            is_index: false,
            part,
        })
    }
}

impl Part {
    /// The stem of `stem-00001-of-00004`, and the numbers.
    fn split(text: &str) -> Option<(&str, Self)> {
        let (before, of) = text.rsplit_once("-of-")?;
        let (stem, number) = before.rsplit_once('-')?;
        let end = text.len() - before.len();
        let part = Self {
            number: parse_digits(number)?,
            of: parse_digits(of)?,
            digits: end..end + number.len(),
        };
        (!stem.is_empty()).then_some((stem, part))
    }

    /// The same part where `more` bytes of the name follow.
    fn before(self, more: usize) -> Self {
        let Range { start, end } = self.digits;
        Self {
            digits: start + more..end + more,
            ..self
        }
    }

    /// The path of part `number` of the checkpoint of which this part is at `path`.
    pub(super) fn sibling(&self, path: &Path, number: u32) -> PathBuf {
        // Bytes, since a name need not be text: what follows the number is, whatever stands before it.
        let name = path.file_name().unwrap_or_default().as_bytes();
        let Range { start, end } = self.digits;
        let (before, rest) = name.split_at(name.len().saturating_sub(end));
        let (digits, after) = rest.split_at(rest.len().saturating_sub(start));
        let number = format!("{number:0width$}", width = digits.len().min(DIGITS));
        path.with_file_name(OsString::from_vec(
            [before, number.as_bytes(), after].concat(),
        ))
    }

    /// Part `number` of the checkpoint of which this part is at `path` is not there.
    pub(super) fn missing(&self, path: &Path, number: u32) -> Error {
        let sibling = self.sibling(path, number);
        let name = sibling.file_name().unwrap_or_default();
        Error::MissingShard {
            path: path.to_owned(),
            shard: name.to_string_lossy().into_owned(),
        }
    }
}

/// `model` of `model.fp16`: what a variant is one of. A variant begins with a letter, so that the `1-8B` of `Llama-3.1-8B` is none.
pub(super) fn without_variant(stem: &str) -> Option<&str> {
    let (base, variant) = stem.rsplit_once('.')?;
    let is_variant = variant.starts_with(|first: char| first.is_ascii_alphabetic())
        && variant
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_variant && !base.is_empty()).then_some(base)
}

/// The stem of `model.safetensors.index.json`, and of `model.safetensors.index.fp16.json` with its variant.
fn index_stem(name: &str) -> Option<(String, Family)> {
    let rest = name.strip_suffix(".json")?;
    INDEXES.iter().find_map(|&(marker, family)| {
        let (stem, variant) = rest.rsplit_once(marker)?;
        let is_index = !stem.is_empty() && (variant.is_empty() || variant.starts_with('.'));
        is_index.then(|| (format!("{stem}{variant}"), family))
    })
}

fn is_no_model(stem: &str) -> bool {
    let counted = |name: &&str| {
        stem.strip_prefix(*name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    // DeepSpeed's optimizer states, and the weights of OpenVINO, whose names and shapes are in another file.
    NO_MODELS.iter().any(counted) || stem.ends_with("optim_states") || stem.starts_with("openvino_")
}

fn parse_digits(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stem(name: &str) -> Option<(String, Family, bool)> {
        Name::parse(name).map(|name| (name.stem, name.family, name.is_index))
    }

    #[test]
    fn names_of_files_and_indexes() {
        for (name, expected, family, is_index) in [
            ("model.safetensors", "model", Family::Safetensors, false),
            (
                "model.fp16.safetensors",
                "model.fp16",
                Family::Safetensors,
                false,
            ),
            (
                "model-00001-of-00004.safetensors",
                "model",
                Family::Safetensors,
                false,
            ),
            (
                "model.fp16-00001-of-00004.safetensors",
                "model.fp16",
                Family::Safetensors,
                false,
            ),
            (
                "model-00001-of-00004.fp16.safetensors",
                "model.fp16",
                Family::Safetensors,
                false,
            ),
            (
                "model.safetensors.index.json",
                "model",
                Family::Safetensors,
                true,
            ),
            (
                "model.safetensors.index.fp16.json",
                "model.fp16",
                Family::Safetensors,
                true,
            ),
            (
                "pytorch_model.bin.index.json",
                "pytorch_model",
                Family::PyTorch,
                true,
            ),
            (
                "consolidated.00.pth",
                "consolidated.00",
                Family::PyTorch,
                false,
            ),
            (
                "chgnet_0.3.0.pth.tar",
                "chgnet_0.3.0",
                Family::PyTorch,
                false,
            ),
            (
                "Llama-3.1-8B-Q4_K_M-00002-of-00003.gguf",
                "Llama-3.1-8B-Q4_K_M",
                Family::Gguf,
                false,
            ),
            ("weights.npz", "weights", Family::NumPy, false),
        ] {
            assert_eq!(
                stem(name),
                Some((expected.to_owned(), family, is_index)),
                "{name}"
            );
        }
    }

    #[test]
    fn names_of_other_things() {
        for name in [
            "config.json",
            "model.safetensors.part",
            "model.safetensors.indexes.json",
            ".safetensors",
            "training_args.bin",
            "optimizer.pt",
            "optimizer_1.bin",
            "rng_state_3.pth",
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "openvino_model.bin",
            "README",
        ] {
            assert_eq!(stem(name), None, "{name}");
        }
        assert!(Name::parse("optimizer_of_dreams.safetensors").is_some());
        assert!(Name::parse("scheduled.pt").is_some());
    }

    #[test]
    fn parts_know_their_siblings() {
        let name = "model-00002-of-00004.safetensors";
        let part = Name::parse(name)
            .and_then(|name| name.part)
            .expect("a part");
        assert_eq!((part.number, part.of), (2, 4));
        let sibling = part.sibling(Path::new("in/model-00002-of-00004.safetensors"), 3);
        assert_eq!(sibling, Path::new("in/model-00003-of-00004.safetensors"));
        for (name, sibling) in [
            ("m-100000-of-123456.gguf", "m-00003-of-123456.gguf"),
            ("m-9-of-12.gguf", "m-3-of-12.gguf"),
            ("m-00001-of-00004.fp16.bin", "m-00003-of-00004.fp16.bin"),
        ] {
            let part = Name::parse(name).and_then(|name| name.part);
            let found = part.expect("a part").sibling(Path::new(name), 3);
            assert_eq!(found, Path::new(sibling));
        }
        // Not UTF-8, and longer when it is made so.
        let name = OsString::from_vec(b"\xff-1-of-3.gguf".to_vec());
        let part = Name::parse(&name.to_string_lossy()).and_then(|name| name.part);
        let found = part.expect("a part").sibling(Path::new(&name), 3);
        assert_eq!(found.as_os_str().as_bytes(), b"\xff-3-of-3.gguf");
        for name in [
            "a-of-4.gguf",
            "-1-of-4.gguf",
            "a-x-of-4.gguf",
            "a-1-of-99999999999.gguf",
        ] {
            assert_eq!(Name::parse(name).and_then(|name| name.part), None, "{name}");
        }
    }

    #[test]
    fn variants_begin_with_a_letter() {
        assert_eq!(without_variant("model.fp16"), Some("model"));
        assert_eq!(without_variant("model.non_ema"), Some("model"));
        for stem in ["model", "Llama-3.1", "model.", ".fp16", "consolidated.00"] {
            assert_eq!(without_variant(stem), None, "{stem}");
        }
    }
}
