//! The page cache, brought into a known state; the kernel is asked whether it is.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ckload::{Checkpoint, usage};
use rustix::fs::{Advice, fadvise, fstatfs};
use serde::Serialize;

use crate::cli::{Error, units};

/// What the page cache has of a checkpoint's files before a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// All of them.
    Warm,
    /// Nothing.
    Cold,
}

impl State {
    /// What stands above a table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Warm => "page cache warm",
            Self::Cold => "page cache cold",
        }
    }
}

/// Why nothing can be measured in a state.
#[derive(Debug)]
pub(super) enum Unready {
    /// The page cache cannot be brought there, or nobody knows whether it is there.
    LeftOut(String),
    /// A file cannot be read.
    Failed(Error),
}

/// The page cache, as far as a checkpoint's files go.
pub(super) struct PageCache {
    files: Vec<PathBuf>,
    /// Why the kernel's word on what is cached is not to be had.
    untold: Option<Untold>,
    is_filled: bool,
    /// Whether the caches of the whole machine were dropped.
    has_dropped_all: bool,
}

/// Why nobody knows what is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Untold {
    /// The kernel does not say.
    Refused,
    /// The kernel says that nothing is there, right after a read.
    Elsewhere,
}

/// The part of a file that may be otherwise than the state says: a thousandth.
const SLACK: u64 = 1000;

/// So much is read at a time to fill the page cache.
const FILL_BYTES: usize = 1 << 20;

/// Writing `1` there drops the page cache of the whole machine, for who may.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// File systems that have no other place than memory, by the numbers that the kernel gives them.
const IN_MEMORY: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

impl PageCache {
    /// Finds out whether the kernel tells what it has of the files of `checkpoint`.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let files = checkpoint.files().iter();
        let files: Vec<PathBuf> = files
            .filter(|file| file.bytes > 0)
            .map(|file| file.path.clone())
            .collect();
        let mut untold = None;
        for path in &files {
            untold = untold.or(probe(path).map_err(read_error(path))?);
        }
        Ok(Self {
            files,
            untold,
            is_filled: false,
            has_dropped_all: false,
        })
    }

    /// Brings the page cache into `state`, and makes sure of it.
    pub(super) fn prepare(&mut self, state: State) -> Result<(), Unready> {
        match state {
            State::Warm => self.fill(),
            State::Cold => self.empty(),
        }
    }

    /// What a reader has to know of how the state came about.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(untold) = self.untold {
            notes.push(format!(
                "that the page cache was warm is not checked: {untold}"
            ));
        }
        if self.has_dropped_all {
            notes.push(format!(
                "other files were dropped from the page cache as well ({DROP_CACHES})"
            ));
        }
        notes
    }

    fn fill(&mut self) -> Result<(), Unready> {
        // Pages that a writer has left are smaller, and copying out of them takes longer: at first everything is read anew.
        if !self.is_filled || (self.untold.is_none() && !self.has_all()?) {
            for path in &self.files {
                fill(path).map_err(failed(path))?;
            }
            self.is_filled = true;
        }
        if self.untold.is_none() && !self.has_all()? {
            return Err(Unready::LeftOut(
                "the page cache does not keep the files; there may be too little memory".into(),
            ));
        }
        Ok(())
    }

    fn has_all(&self) -> Result<bool, Unready> {
        let has_all = |path: &PathBuf| {
            let (cached, bytes) = cached(path)?;
            Ok(cached >= bytes - bytes / SLACK)
        };
        for path in &self.files {
            if !has_all(path).map_err(failed(path))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn empty(&mut self) -> Result<(), Unready> {
        for path in &self.files {
            let file = File::open(path).map_err(failed(path))?;
            if let Some(system) = in_memory(&file) {
                return Err(Unready::LeftOut(format!(
                    "{} lies in memory ({system})",
                    path.display()
                )));
            }
        }
        if let Some(untold) = self.untold {
            return Err(Unready::LeftOut(untold.to_string()));
        }
        for path in &self.files {
            evict(&File::open(path).map_err(failed(path))?);
        }
        if self.left()?.is_some() && fs::write(DROP_CACHES, "1").is_ok() {
            self.has_dropped_all = true;
        }
        match self.left()? {
            None => Ok(()),
            Some((path, cached)) => Err(Unready::LeftOut(format!(
                "{} of {} stay in the page cache: another process may use it",
                units::bytes(cached),
                path.display()
            ))),
        }
    }

    /// A file that is still cached, and how many bytes of it.
    fn left(&self) -> Result<Option<(&Path, u64)>, Unready> {
        for path in &self.files {
            let (cached, bytes) = cached(path).map_err(failed(path))?;
            if cached > bytes / SLACK {
                return Ok(Some((path, cached)));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => {
                "the kernel does not tell what is cached (before Linux 6.5, or of files that you may not write)"
            }
            Self::Elsewhere => {
                "the file system keeps what was read where the kernel does not count it"
            }
        })
    }
}

/// Reads a byte of the file, which must be cached then.
fn probe(path: &Path) -> io::Result<Option<Untold>> {
    let mut file = File::open(path)?;
    file.read_exact(&mut [0])?;
    Ok(match usage::cached_bytes(&file) {
        None => Some(Untold::Refused),
        Some(0) => Some(Untold::Elsewhere),
        Some(_) => None,
    })
}

/// The bytes of the file that are cached, and how many it has.
fn cached(path: &Path) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    // What is not told any more is unknown: neither all nor nothing.
    Ok((usage::cached_bytes(&file).unwrap_or(bytes / 2), bytes))
}

/// Has the page cache hold the file as after reading it from its device.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    evict(&file);
    let mut buffer = vec![0; FILL_BYTES];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Has the page cache let go of the file, as far as it can; who wants to be sure looks afterwards.
fn evict(file: &File) {
    // What is not written yet does not go.
    let _ = file.sync_all();
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

fn in_memory(file: &File) -> Option<&'static str> {
    let kind = fstatfs(file).ok()?.f_type as u64;
    let known = IN_MEMORY.into_iter().find(|(number, _)| *number == kind);
    known.map(|(_, name)| name)
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> Error {
    |source| Error::Read {
        path: path.to_owned(),
        source,
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Unready {
    move |source| Unready::Failed(read_error(path)(source))
}

#[cfg(test)]
mod tests {
    use ckload::synth::Gpt2;

    use super::*;

    fn tiny(folder: &Path) -> Checkpoint {
        let path = folder.join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        Checkpoint::open(path).unwrap()
    }

    #[test]
    fn the_kernel_agrees_or_the_state_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = tiny(folder.path());
        let mut cache = PageCache::of(&checkpoint).unwrap();
        cache.prepare(State::Warm).unwrap();
        let (held, bytes) = cached(&checkpoint.files()[0].path).unwrap();
        assert!(held >= bytes || cache.untold.is_some());
        match cache.prepare(State::Cold) {
            Ok(()) => assert_eq!(cached(&checkpoint.files()[0].path).unwrap().0, 0),
            Err(Unready::LeftOut(reason)) => assert!(!reason.is_empty()),
            Err(Unready::Failed(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn a_file_that_is_gone_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = PageCache::of(&tiny(folder.path())).unwrap();
        drop(folder);
        for state in [State::Warm, State::Cold] {
            cache.untold = None;
            assert!(matches!(cache.prepare(state), Err(Unready::Failed(_))));
        }
    }

    #[test]
    fn what_nobody_knows_is_not_called_cold() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = PageCache::of(&tiny(folder.path())).unwrap();
        cache.untold = Some(Untold::Elsewhere);
        cache.prepare(State::Warm).unwrap();
        assert!(matches!(
            cache.prepare(State::Cold),
            Err(Unready::LeftOut(_))
        ));
        assert_eq!(cache.notes().len(), 1);
    }
}
