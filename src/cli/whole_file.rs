//! Files that are there whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::interrupt::{CleansUp, interrupted};
use super::{Error, style};

/// Where what is written goes.
enum Target {
    /// To a file beside it, which takes its place, with the permissions that it has, when it is whole.
    File {
        path: PathBuf,
        folder: PathBuf,
        permissions: Option<Permissions>,
    },
    /// To its end: a pipe, a device, or what a process has open has no place to be taken.
    Stream,
}

/// A path may lead over so many links, as the kernel has it.
const MOST_LINKS: usize = 40;

/// What the user may have others do with a new file is subtracted by the system.
const NEW_FILE_MODE: u32 = 0o666;

/// Looks whether [`write`] can succeed; leaves nothing.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    unless_interrupted(path, || match Target::of(path)? {
        Target::File { folder, .. } => {
            let _cleans_up = CleansUp::new();
            temporary(&folder).map(drop)
        }
        Target::Stream => Ok(()),
    })
}

/// Writes what `fill` puts out, in place of what is there.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    unless_interrupted(path, || match Target::of(path)? {
        Target::File {
            path,
            folder,
            permissions,
        } => {
            let _cleans_up = CleansUp::new();
            let mut file = temporary(&folder)?;
            if let Some(permissions) = permissions {
                file.as_file().set_permissions(permissions)?;
            }
            fill_all(&mut file, fill)?;
            file.persist(path)?;
            Ok(())
        }
        Target::Stream => {
            let mut stream = File::options().append(true).open(path)?;
            fill_all(&mut stream, fill)
        }
    })
}

/// Does `work`; the first Ctrl-C waits for what has to be cleaned up.
fn unless_interrupted(path: &Path, work: impl FnOnce() -> io::Result<()>) -> Result<(), Error> {
    let done = work();
    if interrupted() {
        return Err(Error::Interrupted);
    }
    done.map_err(|source| Error::WriteFile {
        path: path.to_owned(),
        source,
    })
}

impl Target {
    /// What a link leads to is replaced, or made, and not the link.
    fn of(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let name = path.file_name().ok_or(Errno::ISDIR)?;
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize()?,
                _ => Path::new(".").canonicalize()?,
            };
            let place = folder.join(name);
            // As /dev/stdout leads there: the links of an open file do not say what it is.
            if folder.starts_with("/proc") {
                return Ok(Self::Stream);
            }
            if let Ok(next) = fs::read_link(&place) {
                path = folder.join(next);
                continue;
            }
            let permissions = match fs::metadata(&place) {
                Ok(metadata) if metadata.is_dir() => return Err(Errno::ISDIR.into()),
                Ok(metadata) if !metadata.is_file() => return Ok(Self::Stream),
                Ok(metadata) => Some(metadata.permissions()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            return Ok(Self::File {
                path: place,
                folder,
                permissions,
            });
        }
        Err(Errno::LOOP.into())
    }
}

/// Whatever the user's locale: the file may be read elsewhere.
fn fill_all(
    file: &mut impl Write,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    style::in_every_locale(|| fill(&mut out))?;
    out.flush()
}

/// A file with the permissions of any that the user makes.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let create = |path: &Path| {
        let mut options = File::options();
        options.write(true).create_new(true).mode(NEW_FILE_MODE);
        options.open(path)
    };
    // An error names no temporary file then, of which nobody has heard.
    tempfile::Builder::new()
        .prefix(".ckload-")
        .make_in(folder, create)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_there_is_replaced_and_links_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.csv"), folder.path().join("link"));
        fs::write(&path, "a longer text than the new one").unwrap();
        symlink("a.csv", &link).unwrap();
        check(&link).unwrap();
        write(&link, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_link_leads_to_is_made() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        let (link, second) = (folder.path().join("link"), folder.path().join("b/second"));
        symlink("b/second", &link).unwrap();
        symlink("../a.csv", &second).unwrap();
        check(&link).unwrap();
        write(&link, |out| out.write_all(b"new")).unwrap();
        assert!(link.is_symlink() && second.is_symlink());
        let made = fs::read_to_string(folder.path().join("a.csv")).unwrap();
        assert_eq!(made, "new");

        let around = folder.path().join("around");
        symlink("around", &around).unwrap();
        assert!(check(&around).unwrap_err().to_string().contains("links"));
    }

    #[test]
    fn permissions_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let usual = folder.path().join("usual");
        fs::write(&usual, "").unwrap();
        fs::write(&old, "").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o600)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        for (path, expected) in [(&old, mode(&old)), (&new, mode(&usual))] {
            write(path, |out| out.write_all(b"new")).unwrap();
            assert_eq!(mode(path), expected, "{}", path.display());
        }
    }

    #[test]
    fn what_is_open_is_written_to_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"a table\n").unwrap();
        let open = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        check(&open).unwrap();
        write(&open, |out| out.write_all(b"an export\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a table\nan export\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
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
            assert!(error.to_string().contains("(os error "), "{error}");
            assert!(write(&path, |_| Ok(())).is_err());
        }
    }
}
