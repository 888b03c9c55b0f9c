//! Which files of a folder are the checkpoint.
//!
//! Folders hold the same model several times: in two formats, whole and in parts, in half precision. One of them is taken, the rest is
//! left out and said to be; where none is the better one, that is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::Source;
use super::names::{Family, Name, Part, without_variant};
use crate::Error;

/// What `transformers`, `diffusers` and `peft` call the model, in the order in which one is preferred.
const USUAL_STEMS: &[&str] = &[
    "pytorch_model",
    "model",
    "diffusion_pytorch_model",
    "adapter_model",
];

/// What Mistral and Meta call the model in their own layout, which they publish beside that of `transformers`.
const ORIGINAL_STEM: &str = "consolidated";

/// A file that may be one of the checkpoint's, or its index.
#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    name: Name,
}

/// The files that have a stem in common.
#[derive(Debug, Default)]
struct Group<'a> {
    index: Option<&'a Candidate>,
    files: Vec<&'a Candidate>,
}

/// The groups of one format's files, by their stems.
type Groups<'a> = BTreeMap<&'a str, Group<'a>>;

/// Finds the checkpoint in `folder`: safetensors, else PyTorch files with an index, GGUF, PyTorch, NumPy.
pub(super) fn find(folder: &Path) -> Result<Source, Error> {
    let candidates = candidates(folder)?;
    let groups = |family| groups(&candidates, family);
    let (safetensors, pytorch) = (groups(Family::Safetensors), groups(Family::PyTorch));
    let (gguf, numpy) = (groups(Family::Gguf), groups(Family::NumPy));
    let mut source = if has_index(&safetensors) {
        of_index(folder, &safetensors)?
    } else if !safetensors.is_empty() {
        of_all(&safetensors)?
    } else if has_index(&pytorch) {
        of_index(folder, &pytorch)?
    } else if !gguf.is_empty() {
        of_one(folder, &gguf, |stem| !is_helper(stem))?
    } else if !pytorch.is_empty() {
        let usual = USUAL_STEMS.iter().find(|stem| pytorch.contains_key(*stem));
        of_one(folder, &pytorch, |stem| {
            usual.is_none_or(|usual| stem == *usual)
        })?
    } else if !numpy.is_empty() {
        of_one(folder, &numpy, |_| true)?
    } else {
        return Err(Error::NoCheckpoint {
            path: folder.to_owned(),
            reason: "holds no checkpoint",
        });
    };
    let taken: BTreeSet<&Path> = source.files.iter().map(PathBuf::as_path).collect();
    source.ignored = candidates
        .iter()
        .filter(|candidate| !candidate.name.is_index && !taken.contains(candidate.path.as_path()))
        .map(|candidate| candidate.path.clone())
        .collect();
    Ok(source)
}

/// The candidates in `folder` in the order of their names; what is in folders below is not meant.
fn candidates(folder: &Path) -> Result<Vec<Candidate>, Error> {
    let mut candidates = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let entry = entry.map_err(Error::io("read the folder", folder))?;
        let Some(name) = Name::parse(&entry.file_name().to_string_lossy()) else {
            continue;
        };
        let path = entry.path();
        // A link that leads nowhere stays: opening it says so, where leaving it out would load a part of the model.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file || !path.is_dir() {
            candidates.push(Candidate { path, name });
        }
    }
    candidates.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(candidates)
}

/// Groups the files of a format; variants of what is there without one, as `model.fp16` is of `model`, are left out.
fn groups(candidates: &[Candidate], family: Family) -> Groups<'_> {
    let mut groups = Groups::new();
    for candidate in candidates {
        if candidate.name.family != family {
            continue;
        }
        let group = groups.entry(candidate.name.stem.as_str()).or_default();
        if candidate.name.is_index {
            group.index = Some(candidate);
        } else {
            group.files.push(candidate);
        }
    }
    let stems: BTreeSet<&str> = groups.keys().copied().collect();
    groups.retain(|stem, _| without_variant(stem).is_none_or(|base| !stems.contains(base)));
    groups
}

fn has_index(groups: &Groups<'_>) -> bool {
    groups.values().any(|group| group.index.is_some())
}

/// The files that the index names; of several indexes the one of the most usual name.
fn of_index(folder: &Path, groups: &Groups<'_>) -> Result<Source, Error> {
    let indexed: BTreeMap<&str, &Candidate> = groups
        .iter()
        .filter_map(|(stem, group)| Some((*stem, group.index?)))
        .collect();
    let only = || indexed.values().next().filter(|_| indexed.len() == 1);
    let usual = USUAL_STEMS.iter().find_map(|stem| indexed.get(stem));
    match usual.or_else(only) {
        Some(index) => Source::of_index(index.path.clone()),
        None => Err(Error::Ambiguous {
            path: folder.to_owned(),
            candidates: indexed.values().map(|index| index.path.clone()).collect(),
        }),
    }
}

/// All files of all groups, but those of another layout.
fn of_all(groups: &Groups<'_>) -> Result<Source, Error> {
    let is_alone = groups.keys().all(|stem| is_original(stem));
    let mut files = Vec::new();
    for (stem, group) in groups {
        if is_alone || !is_original(stem) {
            refuse_missing_parts(&group.files)?;
            files.extend(group.files.iter().map(|file| file.path.clone()));
        }
    }
    files.sort();
    Ok(Source::of_files(files))
}

/// The files of the one group that is `meant`; if none is, of the only group.
fn of_one(
    folder: &Path,
    groups: &Groups<'_>,
    meant: impl Fn(&str) -> bool,
) -> Result<Source, Error> {
    let mut left: Vec<&Group<'_>> = groups
        .iter()
        .filter_map(|(stem, group)| meant(stem).then_some(group))
        .collect();
    if left.is_empty() {
        left = groups.values().collect();
    }
    // A model that is there whole and in parts, or with two suffixes, is not one.
    let parts = |files: &[&Candidate]| match files {
        [_] => true,
        files => files.iter().all(|file| file.name.part.is_some()),
    };
    match left.as_slice() {
        [group] if parts(&group.files) => {
            refuse_missing_parts(&group.files)?;
            let mut files = group.files.clone();
            files.sort_by_key(|file| file.name.part.as_ref().map(|part| part.number));
            let files = files.into_iter().map(|file| file.path.clone());
            Ok(Source::of_files(files.collect()))
        }
        several => Err(Error::Ambiguous {
            path: folder.to_owned(),
            candidates: several
                .iter()
                .flat_map(|group| group.files.iter().map(|file| file.path.clone()))
                .collect(),
        }),
    }
}

/// Refuses `model-00001-of-00004` without its siblings: a part of a model must not pass for the whole.
fn refuse_missing_parts(files: &[&Candidate]) -> Result<(), Error> {
    // By how many there should be: one of the files, and the numbers of all.
    let mut numbers: BTreeMap<u32, (&Candidate, &Part, BTreeSet<u32>)> = BTreeMap::new();
    for &file in files {
        if let Some(part) = &file.name.part {
            let new = || (file, part, BTreeSet::new());
            let (.., there) = numbers.entry(part.of).or_insert_with(new);
            there.insert(part.number);
        }
    }
    for (of, (file, part, there)) in numbers {
        // Most count from 1.
        let first = u32::from(!there.contains(&0));
        let mut expected = (first..=of).take(of as usize);
        if let Some(missing) = expected.find(|number| !there.contains(number)) {
            return Err(part.missing(&file.path, missing));
        }
    }
    Ok(())
}

fn is_original(stem: &str) -> bool {
    stem.strip_prefix(ORIGINAL_STEM)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What stands beside a language model in GGUF: the projector of its images, and the weights' importances.
fn is_helper(stem: &str) -> bool {
    stem.starts_with("mmproj") || stem.ends_with("imatrix")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken out of a folder of these files, and what is ignored; or the error.
    fn taken(names: &[&str]) -> Result<(String, String), Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in names {
            fs::write(folder.path().join(name), "").expect("a file");
        }
        let source = find(folder.path())?;
        let joined = |paths: &[PathBuf]| {
            let names = paths.iter().map(|path| path.file_name().expect("a file"));
            let names = names.map(|name| name.to_string_lossy().into_owned());
            names.collect::<Vec<_>>().join(" ")
        };
        Ok((joined(&source.files), joined(&source.ignored)))
    }

    #[track_caller]
    fn check(names: &[&str], files: &str, ignored: &str) {
        let taken = taken(names).expect("a checkpoint");
        assert_eq!(taken, (files.to_owned(), ignored.to_owned()));
    }

    #[track_caller]
    fn check_ambiguous(names: &[&str]) {
        let error = taken(names).map(drop).expect_err("several checkpoints");
        assert_eq!(error.kind(), "ambiguous", "{error}");
        for name in names {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn formats_in_the_order_in_which_they_are_preferred() {
        let names = [
            "a.safetensors",
            "m.gguf",
            "pytorch_model.bin",
            "w.npz",
            "vocab.json",
        ];
        check(&names, "a.safetensors", "m.gguf pytorch_model.bin w.npz");
        check(&names[1..], "m.gguf", "pytorch_model.bin w.npz");
        check(&names[2..], "pytorch_model.bin", "w.npz");
        check(&names[3..], "w.npz", "");
        let error = taken(&names[4..]).map(drop).expect_err("no checkpoint");
        assert_eq!(error.kind(), "no_checkpoint");
    }

    #[test]
    fn pytorch_files_with_an_index_come_before_gguf() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content);
        write("m.gguf", "").expect("a file");
        write("pytorch_model-00001-of-00001.bin", "").expect("a file");
        let index = r#"{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}"#;
        write("pytorch_model.bin.index.json", index).expect("a file");
        let source = find(folder.path()).expect("a checkpoint");
        let part = folder.path().join("pytorch_model-00001-of-00001.bin");
        assert_eq!(source.files, [part]);
        assert_eq!(source.ignored, [folder.path().join("m.gguf")]);
    }

    #[test]
    fn of_pytorch_files_the_model() {
        check(
            &["training_args.bin", "optimizer.pt", "pytorch_model.bin"],
            "pytorch_model.bin",
            "",
        );
        check(
            &["best.pt", "model.bin", "pytorch_model.bin"],
            "pytorch_model.bin",
            "best.pt model.bin",
        );
        check(
            &["consolidated.00.pth", "params.json"],
            "consolidated.00.pth",
            "",
        );
        check(
            &["pytorch_model.bin", "pytorch_model.fp16.bin"],
            "pytorch_model.bin",
            "pytorch_model.fp16.bin",
        );
        check(
            &["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"],
            "pytorch_model-1-of-2.bin pytorch_model-2-of-2.bin",
            "",
        );
        check_ambiguous(&["best.pt", "last.pt"]);
        check_ambiguous(&["model.pt", "model.pth"]);
        check_ambiguous(&["consolidated.00.pth", "consolidated.01.pth"]);
        check_ambiguous(&["model.bin", "model-1-of-1.bin"]);
    }

    #[test]
    fn of_gguf_files_one_model() {
        check(
            &["m-1-of-2.gguf", "m-2-of-2.gguf"],
            "m-1-of-2.gguf m-2-of-2.gguf",
            "",
        );
        // In the order of their numbers, which is not that of their names.
        let parts = (1..=10).map(|number| format!("m-{number}-of-10.gguf"));
        let parts: Vec<String> = parts.collect();
        let names: Vec<&str> = parts.iter().map(String::as_str).collect();
        check(&names, &names.join(" "), "");
        check(
            &["gemma-Q8_0.gguf", "mmproj-gemma-f16.gguf"],
            "gemma-Q8_0.gguf",
            "mmproj-gemma-f16.gguf",
        );
        check(&["mmproj-gemma-f16.gguf"], "mmproj-gemma-f16.gguf", "");
        check_ambiguous(&["m-Q4_K_M.gguf", "m-Q8_0.gguf"]);
    }

    #[test]
    fn of_safetensors_the_layout_of_transformers() {
        check(
            &["consolidated.safetensors", "model.safetensors"],
            "model.safetensors",
            "consolidated.safetensors",
        );
        check(
            &["consolidated.safetensors"],
            "consolidated.safetensors",
            "",
        );
        check(
            &["Llama-3.safetensors", "Llama-3.1-8B.safetensors"],
            "Llama-3.1-8B.safetensors Llama-3.safetensors",
            "",
        );
    }
}
