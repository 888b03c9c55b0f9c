//! What this process has used, as the kernel counts it.

use std::fs::File;

use procfs::process::Process;

use crate::read;

/// The most memory in bytes that this process has had resident so far (`VmHWM`), or `None` where `/proc` is not to be read.
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    let kibibytes = Process::myself().ok()?.status().ok()?.vmhwm?;
    Some(kibibytes * 1024)
}

/// The page faults of this process so far, minor and major; 0 where `/proc` is not to be read.
#[must_use]
pub fn page_faults() -> u64 {
    Process::myself()
        .and_then(|process| process.stat())
        .map_or(0, |stat| stat.minflt + stat.majflt)
}

/// The bytes of `file` that the page cache has, in whole pages, or `None` where the kernel does not tell (before Linux 6.5, or of a
/// file that the user could not write).
#[must_use]
pub fn cached_bytes(file: &File) -> Option<u64> {
    let pages = read::cached_pages(file)?;
    Some(pages * rustix::param::page_size() as u64)
}
