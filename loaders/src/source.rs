//! From what a person types to the files of a checkpoint.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::Error;
use crate::format::gguf;
use crate::format::index::Index;

/// The files behind a path, in the order in which they are loaded.
pub(crate) struct Source {
    pub(crate) files: Vec<PathBuf>,
    /// The index that named the files, if one did.
    pub(crate) index: Option<(PathBuf, Index)>,
}

const INDEX_SUFFIX: &str = ".safetensors.index.json";
const FILE_SUFFIX: &str = ".safetensors";

/// Finds the files behind `path`: a file, a part of a split GGUF model, a folder, or an index.
///
/// In a folder an index decides which files belong to the checkpoint; without one, every `.safetensors` file does.
pub(crate) fn find(path: &Path) -> Result<Source, Error> {
    let metadata = fs::metadata(path).map_err(Error::io("open", path))?;
    if metadata.is_dir() {
        return find_in_folder(path);
    }
    if has_suffix(path, ".json") {
        return from_index(path.to_owned());
    }
    Ok(Source {
        files: gguf::part_paths(path)?.unwrap_or_else(|| vec![path.to_owned()]),
        index: None,
    })
}

fn find_in_folder(folder: &Path) -> Result<Source, Error> {
    let none = |reason| Error::NoCheckpoint {
        path: folder.to_owned(),
        reason,
    };
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .map_err(Error::io("read the folder", folder))?;
    // A link that leads nowhere stays: opening it says so, where leaving it out would load a part of the model.
    entries.retain(|path| !path.is_dir());
    entries.sort();
    let indexes: Vec<&PathBuf> = entries
        .iter()
        .filter(|path| has_suffix(path, INDEX_SUFFIX))
        .collect();
    match indexes.as_slice() {
        [] => {}
        [index] => return from_index(PathBuf::clone(index)),
        several => {
            let usual = several
                .iter()
                .find(|path| {
                    path.file_name()
                        .is_some_and(|name| name == "model.safetensors.index.json")
                })
                .ok_or_else(|| none("holds several indexes, none of the usual name"))?;
            return from_index(PathBuf::clone(usual));
        }
    }
    entries.retain(|path| has_suffix(path, FILE_SUFFIX));
    if entries.is_empty() {
        return Err(none("holds no .safetensors file"));
    }
    Ok(Source {
        files: entries,
        index: None,
    })
}

/// Opens a file for reading; anything else is refused, and a pipe without a writer is not waited for.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), Error> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(Error::io("open", path))?;
    let metadata = file.metadata().map_err(Error::io("inspect", path))?;
    if !metadata.is_file() {
        return Err(Error::NoCheckpoint {
            path: path.to_owned(),
            reason: if metadata.is_dir() {
                "is a folder where a file is expected"
            } else {
                "is neither a file nor a folder"
            },
        });
    }
    Ok((file, metadata))
}

fn from_index(path: PathBuf) -> Result<Source, Error> {
    let index = Index::read(&path)?;
    Ok(Source {
        files: index.shards.iter().map(|(_, path)| path.clone()).collect(),
        index: Some((path, index)),
    })
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().ends_with(suffix.as_bytes()))
}
