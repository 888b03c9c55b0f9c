use std::io;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;

/// Why a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is there already and was not to be replaced.
    #[error("{} exists already; choose another name, or replace it on purpose (--force)", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What is to be replaced is a folder, a device or the like.
    #[error("{} is not a regular file and will not be replaced; choose another name", .path.display())]
    NotAFile {
        /// The folder, device or the like.
        path: PathBuf,
    },
    /// What is to be replaced is not a folder.
    #[error("{} is not a folder and will not be replaced by one; choose another name", .path.display())]
    NotAFolder {
        /// The file, device or the like.
        path: PathBuf,
    },
    /// The file system has too little room.
    #[error(
        "{} needs {}, and its file system has {} left; free some space or choose another folder",
        .path.display(), ByteSize::b(*.needed), ByteSize::b(*.available)
    )]
    NoSpace {
        /// The file that was to be written.
        path: PathBuf,
        /// Bytes of the file.
        needed: u64,
        /// Bytes that are left.
        available: u64,
    },
    /// The operating system refused to write.
    #[error("cannot write {}: {source}{}", .path.display(), remedy(.source))]
    Io {
        /// The file that was to be written.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The progress callback asked to stop.
    #[error("writing {} was stopped; nothing is left of it", .path.display())]
    Stopped {
        /// The file that was to be written.
        path: PathBuf,
    },
}

impl Error {
    /// A short name of the error that stays the same across versions.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "exists",
            Self::NotAFile { .. } => "not_a_file",
            Self::NotAFolder { .. } => "not_a_folder",
            Self::NoSpace { .. } => "no_space",
            Self::Io { .. } => "io",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// The file that could not be written.
    pub fn path(&self) -> &Path {
        match self {
            Self::Exists { path }
            | Self::NotAFile { path }
            | Self::NotAFolder { path }
            | Self::NoSpace { path, .. }
            | Self::Io { path, .. }
            | Self::Stopped { path } => path,
        }
    }
}

/// What is to be done about the operating system's refusal to write.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; make its folder first (`mkdir -p`)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that this user may write to"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
        _ => "",
    }
}
