//! Files that are there whole or not at all.

use std::fs::{self, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::Error;

/// Where what is written goes.
enum Target {
    /// To a file beside it, which takes its place when it is whole.
    File { path: PathBuf, folder: PathBuf },
    /// Into it: a pipe or a device has no place to be taken.
    Stream,
}

/// Looks whether [`write`] can succeed; leaves nothing.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let check = || match Target::of(path)? {
        Target::File { folder, .. } => temporary(&folder).map(drop),
        Target::Stream => Ok(()),
    };
    check().map_err(failed(path))
}

/// Writes what `fill` puts out, in place of what is there.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let write = || match Target::of(path)? {
        Target::File { path, folder } => {
            let mut file = temporary(&folder)?;
            fill_all(&mut file, fill)?;
            file.persist(path)?;
            Ok(())
        }
        Target::Stream => {
            let mut stream = fs::OpenOptions::new().write(true).open(path)?;
            fill_all(&mut stream, fill)
        }
    };
    write().map_err(failed(path))
}

impl Target {
    fn of(path: &Path) -> io::Result<Self> {
        // What a link leads to is replaced, and not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => Ok(Self::Stream),
            _ => {
                let folder = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                    _ => PathBuf::from("."),
                };
                Ok(Self::File { path, folder })
            }
        }
    }
}

fn fill_all(
    file: &mut impl Write,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    fill(&mut out)?;
    out.flush()
}

/// A file with the permissions of any that the user makes.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".ckload-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        // The error names the temporary file, of which nobody has heard.
        .map_err(|error| error.kind().into())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    |source| Error::WriteFile {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_replaced_and_links_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.csv"), folder.path().join("link"));
        fs::write(&path, "a longer text than the new one").unwrap();
        std::os::unix::fs::symlink("a.csv", &link).unwrap();
        check(&link).unwrap();
        write(&link, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn half_a_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let result = write(&path, |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(result.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_check_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        check(&folder.path().join("new.json")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn devices_are_written_to_and_not_replaced() {
        let null = Path::new("/dev/null");
        check(null).unwrap();
        write(null, |out| out.write_all(b"nothing")).unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
    }

    #[test]
    fn folders_and_missing_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none/a.md")] {
            let error = check(&path).unwrap_err();
            assert!(matches!(error, Error::WriteFile { .. }), "{error}");
            assert!(!error.to_string().contains(".ckload-"), "{error}");
            assert!(write(&path, |_| Ok(())).is_err());
        }
    }
}
