//! Blueprint to file.

use std::fs::Permissions;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rayon::prelude::*;
use tempfile::NamedTempFile;

use super::fill::{CHUNK_BYTES, Chunk, chunks};
use super::{Blueprint, Error};

/// So much is drawn by all threads together, then written at once.
const BATCH_BYTES: usize = 16 * CHUNK_BYTES as usize;

/// What to do about a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfExists {
    /// Leave it and return [`Error::Exists`].
    #[default]
    Refuse,
    /// Put the new file in its place, once the new one is complete.
    Replace,
}

impl Blueprint {
    /// Writes the checkpoint to a new file; `seed` decides the random values.
    ///
    /// # Errors
    ///
    /// See [`write_file_with`](Self::write_file_with).
    pub fn write_file(&self, path: impl AsRef<Path>, seed: u64) -> Result<(), Error> {
        self.write_file_with(path, seed, IfExists::Refuse, |_| ControlFlow::Continue(()))
    }

    /// Writes the checkpoint to a file, and calls `progress` with the number of bytes that each write added.
    ///
    /// The bytes go to a temporary name in the same folder, which then takes the place of `path`: nobody ever sees
    /// half a checkpoint. The temporary file is removed on every error, and when `progress` returns
    /// [`ControlFlow::Break`].
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if `path` is there and is not to be replaced, [`Error::NotAFile`] if it cannot be,
    /// [`Error::NoSpace`] before anything is written, [`Error::Stopped`] if `progress` asked to stop, and
    /// [`Error::Io`] for what the operating system refuses.
    pub fn write_file_with(
        &self,
        path: impl AsRef<Path>,
        seed: u64,
        if_exists: IfExists,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let path = path.as_ref();
        let io_error = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        check_target(path, if_exists)?;
        let folder = folder_of(path);
        check_space(path, folder, self.file_bytes()).map_err(io_error)??;

        let mut file = temporary(path, folder).map_err(io_error)?;
        let written = self
            .write_to(file.as_file_mut(), seed, &mut progress)
            .map_err(io_error)?;
        if written.is_break() {
            return Err(Error::Stopped {
                path: path.to_owned(),
            });
        }
        match if_exists {
            IfExists::Replace => file.persist(path),
            IfExists::Refuse => file.persist_noclobber(path),
        }
        .map(drop)
        .map_err(|refused| match refused.error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists {
                path: path.to_owned(),
            },
            _ => io_error(refused.error),
        })
    }

    fn write_to(
        &self,
        file: &mut impl Write,
        seed: u64,
        progress: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let header = self.header();
        file.write_all(&header)?;
        if progress(header.len() as u64).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mut buffer = vec![0; BATCH_BYTES];
        let mut chunks = chunks(self.tensors(), seed).peekable();
        while chunks.peek().is_some() {
            let mut batch: Vec<(Chunk<'_>, &mut [u8])> = Vec::new();
            let mut room = &mut buffer[..];
            while let Some(chunk) = chunks.next_if(|chunk| chunk.bytes <= room.len()) {
                let (own, rest) = room.split_at_mut(chunk.bytes);
                batch.push((chunk, own));
                room = rest;
            }
            let batch_bytes = BATCH_BYTES - room.len();
            batch
                .into_par_iter()
                .for_each(|(chunk, out)| chunk.fill(out));
            file.write_all(&buffer[..batch_bytes])?;
            if progress(batch_bytes as u64).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The folder that `path` is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn check_target(path: &Path, if_exists: IfExists) -> Result<(), Error> {
    let path = path.to_owned();
    match (path.symlink_metadata(), if_exists) {
        (Err(_), _) => Ok(()),
        (Ok(_), IfExists::Refuse) => Err(Error::Exists { path }),
        (Ok(found), IfExists::Replace) if !found.is_file() => Err(Error::NotAFile { path }),
        (Ok(_), IfExists::Replace) => Ok(()),
    }
}

/// Asks before writing: a disk filled to the brim disturbs more than this command.
pub(super) fn check_space(
    path: &Path,
    folder: &Path,
    needed: u64,
) -> io::Result<Result<(), Error>> {
    let space = rustix::fs::statvfs(folder)?;
    let available = space.f_bavail.saturating_mul(space.f_frsize);
    Ok(if available < needed {
        Err(Error::NoSpace {
            path: path.to_owned(),
            needed,
            available,
        })
    } else {
        Ok(())
    })
}

/// A file beside `path` that is removed when it is dropped, with the permissions of an ordinary new file.
fn temporary(path: &Path, folder: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::synth::{Element, Gpt2, TensorSpec};

    fn names_in(folder: &Path) -> Vec<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_safetensors_crate_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let blueprint = Gpt2::TINY.blueprint();
        let mut reported = 0;
        blueprint
            .write_file_with(&path, 3, IfExists::Refuse, |bytes| {
                reported += bytes;
                ControlFlow::Continue(())
            })
            .unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, blueprint.file_bytes());
        assert_eq!(reported, blueprint.file_bytes());
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), blueprint.tensors().len());
        for tensor in blueprint.tensors() {
            let view = read.tensor(&tensor.name).unwrap();
            assert_eq!(view.dtype(), safetensors::Dtype::F32);
            assert!(
                view.shape()
                    .iter()
                    .map(|&extent| extent as u64)
                    .eq(tensor.shape.iter().copied())
            );
        }
        assert_eq!(names_in(folder.path()), ["model.safetensors"]);
    }

    #[test]
    fn batches_hold_tensors_of_every_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let large = BATCH_BYTES as u64 / 2 + 3;
        let blueprint = Blueprint::new(vec![
            TensorSpec::random("empty", Element::F32, [0, 4]),
            TensorSpec::random("large", Element::Bf16, [large]),
            TensorSpec::random("scalar", Element::F32, []),
            TensorSpec::random("larger", Element::F32, [large]),
        ]);
        blueprint.write_file(&path, 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), blueprint.file_bytes());
    }

    #[test]
    fn a_file_that_is_there_is_refused_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, "precious").unwrap();
        let blueprint = Gpt2::TINY.blueprint();
        assert!(matches!(
            blueprint.write_file(&path, 0),
            Err(Error::Exists { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        blueprint
            .write_file_with(&path, 0, IfExists::Replace, |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), blueprint.file_bytes());
    }

    #[test]
    fn devices_and_folders_are_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        for path in [Path::new("/dev/null"), folder.path()] {
            let refused =
                Gpt2::TINY
                    .blueprint()
                    .write_file_with(path, 0, IfExists::Replace, |_| ControlFlow::Continue(()));
            assert!(
                matches!(refused, Err(Error::NotAFile { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn stopping_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let stopped = Gpt2::TINY
            .blueprint()
            .write_file_with(&path, 0, IfExists::Refuse, |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Stopped { .. })));
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn too_large_a_file_is_refused_before_it_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let blueprint = Blueprint::new(vec![TensorSpec::random("huge", Element::F32, [1 << 60])]);
        let refused = blueprint.write_file(&path, 0).unwrap_err();
        assert!(matches!(refused, Error::NoSpace { .. }), "{refused:?}");
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn the_new_file_has_ordinary_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        fs::write(folder.path().join("plain"), "").unwrap();
        let mode = |name: &str| {
            fs::metadata(folder.path().join(name))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(mode("model.safetensors"), mode("plain"));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let refused = Gpt2::TINY
            .blueprint()
            .write_file("/nowhere/at/all.safetensors", 0)
            .unwrap_err();
        assert_eq!(refused.kind(), "io");
        assert!(
            refused
                .to_string()
                .starts_with("cannot write /nowhere/at/all.safetensors: No such file")
        );
    }
}
