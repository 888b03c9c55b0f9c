//! A file that exists in memory alone.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

static FILE: Mutex<Option<File>> = Mutex::new(None);

/// The file of this process, as long as nobody else may write it.
pub(crate) struct MemoryFile {
    file: MutexGuard<'static, Option<File>>,
}

impl MemoryFile {
    /// The file with this content, and without bytes up to `len` if it is more.
    pub(crate) fn new(content: &[u8], len: u64) -> Self {
        let mut guard = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        let file = guard.get_or_insert_with(|| {
            let descriptor = memfd_create("ckload", MemfdFlags::CLOEXEC);
            descriptor.expect("a file in memory").into()
        });
        file.set_len(0).expect("it can be emptied");
        file.write_all_at(content, 0).expect("there is memory");
        file.set_len(len.max(content.len() as u64))
            .expect("it can be sparse");
        Self { file: guard }
    }

    pub(crate) fn path(&self) -> PathBuf {
        let descriptor = self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        format!("/proc/self/fd/{descriptor}").into()
    }
}
