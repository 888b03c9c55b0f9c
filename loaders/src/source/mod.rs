//! From what a person types to the files of a checkpoint.
//!
//! A path that exists is what it is: a file, an index, a folder, a repository in a Hugging Face cache. Of what does not exist, a word with
//! a wildcard is a pattern, and `org/name` is looked up in the cache of Hugging Face. Nothing is ever fetched.

mod absent;
mod folder;
mod hub;
mod names;
mod pattern;

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use self::names::{Family, Name, Part};
use crate::Error;
use crate::format::index::Index;

pub(crate) use self::hub::{blob_of, download};

/// The files behind a path, in the order in which they are loaded.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) files: Vec<PathBuf>,
    /// The index that named the files, if one did.
    pub(crate) index: Option<(PathBuf, Index)>,
    /// Files of the same folder that look like a checkpoint's, and that were left out.
    pub(crate) ignored: Vec<PathBuf>,
}

impl Source {
    fn of_files(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    fn of_index(path: PathBuf) -> Result<Self, Error> {
        let index = Index::read(&path)?;
        Ok(Self {
            files: index.shards.iter().map(|(_, path)| path.clone()).collect(),
            index: Some((path, index)),
            ignored: Vec::new(),
        })
    }
}

/// Finds the files behind `path`.
pub(crate) fn find(path: &Path) -> Result<Source, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => find_in_folder(path),
        Ok(_) => find_file(path),
        Err(error) if is_absent(&error) && fs::symlink_metadata(path).is_err() => find_absent(path),
        Err(error) => Err(cannot_open(path, error)),
    }
    .map_err(hub::or_unfinished)
}

fn find_in_folder(path: &Path) -> Result<Source, Error> {
    if hub::is_repository(path) {
        folder::find(&hub::snapshot(path, None)?)
    } else {
        folder::find(path)
    }
}

fn find_file(path: &Path) -> Result<Source, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".json") {
        return Source::of_index(path.to_owned());
    }
    Ok(Source::of_files(match Name::parse(&name) {
        Some(Name {
            family: Family::Gguf,
            part: Some(part),
            ..
        }) if (1..=part.of).contains(&part.number) => all_parts(path, &part)?,
        _ => vec![path.to_owned()],
    }))
}

/// The paths of all parts of the split model of which the one at `path` is `part`, in order. Names decide, no file is opened.
fn all_parts(path: &Path, part: &Part) -> Result<Vec<PathBuf>, Error> {
    (1..=part.of)
        .map(|number| {
            let sibling = part.sibling(path, number);
            if sibling.exists() {
                Ok(sibling)
            } else {
                Err(part.missing(path, number))
            }
        })
        .collect()
}

/// What is meant by a word that is no path.
fn find_absent(path: &Path) -> Result<Source, Error> {
    if let Some(matches) = pattern::matches(path)? {
        return find_matches(path, matches);
    }
    match path.to_str().map(hub::find).transpose()?.flatten() {
        Some(snapshot) => folder::find(&snapshot),
        None => Err(Error::NotFound {
            path: path.to_owned(),
            nearest: absent::nearest(path),
        }),
    }
}

/// One match is what it is; several are the files of one checkpoint.
fn find_matches(pattern: &Path, paths: Vec<PathBuf>) -> Result<Source, Error> {
    if let [path] = paths.as_slice() {
        return if path.is_dir() {
            find_in_folder(path)
        } else {
            find_file(path)
        };
    }
    let (folders, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    match (files.is_empty(), folders.is_empty()) {
        (false, _) => Ok(Source::of_files(files)),
        (true, false) => Err(Error::Ambiguous {
            path: pattern.to_owned(),
            candidates: folders,
        }),
        (true, true) => Err(Error::NoCheckpoint {
            path: pattern.to_owned(),
            reason: "matches no file",
        }),
    }
}

/// Opens a file for reading; anything else is refused, and a pipe without a writer is not waited for.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), Error> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(|error| cannot_open(path, error))?;
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

/// Why `path` cannot be opened: what the system says, or that it is a link to nothing.
pub(crate) fn cannot_open(path: &Path, error: io::Error) -> Error {
    match fs::read_link(path) {
        Ok(target) if is_absent(&error) => hub::or_unfinished(Error::BrokenLink {
            path: path.to_owned(),
            target,
        }),
        _ => Error::io("open", path)(error),
    }
}

/// Whether nothing is there, as against something that cannot be looked at.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
