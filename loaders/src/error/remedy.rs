//! What to do about an error, as far as its cause says.

use std::io;
use std::path::Path;

use rustix::io::Errno;

/// What is to be done about the operating system's refusal to open or read a file, behind its answer; nothing if that is not known.
pub(super) fn of_io(source: &io::Error) -> &'static str {
    let Some(errno) = Errno::from_io_error(source) else {
        return match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                "; the file became shorter, fetch it again or wait until it is written"
            }
            _ => "",
        };
    };
    match errno {
        Errno::NOENT => "; its name is mistyped, or it was moved or deleted",
        Errno::ACCESS | Errno::PERM => {
            "; let this user read it (`chmod`), or run as a user who may"
        }
        Errno::MFILE | Errno::NFILE => "; allow more open files (`ulimit -n`)",
        Errno::IO => "; the storage failed (`dmesg` may say more), fetch the file again",
        Errno::STALE | Errno::NOTCONN => "; the file system is gone, mount it again",
        Errno::LOOP => "; the link leads back to itself, point at the file",
        Errno::NAMETOOLONG => "; no file has such a long name",
        _ => "",
    }
}

/// What is to be done about a path where nothing is.
pub(super) fn of_absent(nearest: Option<&Path>) -> String {
    match nearest {
        Some(path) => format!("; did you mean {}?", path.display()),
        None => "; a model is a file, a folder, an index, a quoted pattern, or org/name in the cache of Hugging Face".to_owned(),
    }
}

/// What is to be done about what is not in the cache of Hugging Face.
pub(super) fn of_not_cached(nearest: Option<&Path>, download: &str) -> String {
    let meant = nearest.map(|path| format!("did you mean {}? ", path.display()));
    let meant = meant.unwrap_or_default();
    format!("{meant}`{download}` fetches it, if it is a repository")
}
