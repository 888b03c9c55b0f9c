//! Reads past the page cache (`O_DIRECT`).
//!
//! The system wants offset, length and memory aligned, commonly to 512 bytes. Where file and memory agree modulo that, it reads straight
//! into the destination. Where they do not, as with most checkpoints, whose data start wherever the header ends, the bytes go
//! through a small *staging* buffer, which is recycled and stays in the CPU's cache, so that the copy costs little beside the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ckload_pool::{BufferPool, PooledBuffer};
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::Target;
use super::buffered::{End, Progress};
use super::raw::RawFile;

/// Size of a staging buffer, in bytes: a huge page. Into small pages, which lie scattered, some disks read at less than half the rate.
pub(super) const STAGING_BYTES: usize = 2 << 20;

/// The most that is staged at a time, in bytes: large enough for a disk to stream, small enough for a CPU's cache.
const STAGED_BYTES: usize = 1 << 20;

/// Alignment, in bytes, where the system does not say: enough for every common disk.
const USUAL_ALIGNMENT: u32 = 4096;

/// What bypasses the page cache is read straight into the destination from this many bytes on; below, staging is cheaper than a request more.
const LEAST_IN_PLACE: usize = 64 << 10;

/// A file that is open for reading past the page cache.
pub(super) struct Direct<F = File> {
    file: F,
    /// Alignment of offsets and lengths, bytes; a power of two.
    block: usize,
    /// Alignment of memory, bytes; a power of two.
    memory: usize,
}

impl Direct {
    /// Opens the file, if its file system can read past the page cache.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let opened = File::options()
            .read(true)
            .custom_flags((OFlags::DIRECT | OFlags::NONBLOCK).bits() as i32)
            .open(path);
        let file = match opened {
            Err(error) if Errno::from_io_error(&error).is_some_and(is_refusal) => return Ok(None),
            opened => opened?,
        };
        let (memory, block) = alignment(&file);
        Ok(Self::new(file, block as usize, memory as usize))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl<F: RawFile> Direct<F> {
    /// Takes a file whose offsets and lengths must be multiples of `block`, and memory addresses of `memory`, if that can be done.
    pub(super) fn new(file: F, block: usize, memory: usize) -> Option<Self> {
        let is_usable = block.is_power_of_two()
            && block <= STAGED_BYTES
            && memory.is_power_of_two()
            && memory <= rustix::param::page_size();
        is_usable.then_some(Self {
            file,
            block,
            memory,
        })
    }

    /// Reads until `target` is full or the system gives no more, `NOMEM` if it gives no memory for staging; returns how far
    /// it came. Gaps are read as well, but for the one at the start of what is staged.
    pub(super) fn read(
        &self,
        offset: u64,
        target: &mut Target<'_>,
        staging: &BufferPool,
    ) -> (Progress, End) {
        let mut buffer: Option<PooledBuffer> = None;
        let mut progress = Progress::default();
        loop {
            progress.done += target.skip_gap() as u64;
            if target.len() == 0 {
                return (progress, End::Full);
            }
            let at = offset + progress.done;
            let read = match self.in_place(at, target) {
                Some(piece) => retried(|| self.file.read(piece, at)),
                None => {
                    if buffer.is_none() {
                        buffer = staging.try_get(STAGING_BYTES).ok();
                    }
                    match &mut buffer {
                        Some(buffer) => self.read_staged(at, target, &mut buffer[..STAGED_BYTES]),
                        None => Err(Errno::NOMEM),
                    }
                }
            };
            match read {
                Ok(0) => return (progress, End::Eof),
                Ok(bytes) => {
                    target.advance(bytes);
                    progress.add(bytes);
                }
                Err(errno) => return (progress, End::Error(errno)),
            }
        }
    }

    /// The whole blocks at the start of `target` that can be read straight into it.
    fn in_place<'t>(&self, offset: u64, target: &'t mut Target<'_>) -> Option<&'t mut [u8]> {
        let piece = target.first()?;
        let len = piece.len() & !(self.block - 1);
        let aligned = offset.is_multiple_of(self.block as u64)
            && piece.as_ptr().addr().is_multiple_of(self.memory);
        (aligned && len >= LEAST_IN_PLACE).then(|| &mut piece[..len])
    }

    /// Reads blocks into `buffer` and copies what is wanted of them to the start of `target`; says how much that is.
    fn read_staged(
        &self,
        offset: u64,
        target: &mut Target<'_>,
        buffer: &mut [u8],
    ) -> rustix::io::Result<usize> {
        let skipped = (offset % self.block as u64) as usize;
        let wanted = self.until_in_place(skipped, target).unwrap_or(target.len());
        let blocks = (skipped + wanted)
            .next_multiple_of(self.block)
            .min(buffer.len());
        let start = offset - skipped as u64;
        let read = retried(|| self.file.read(&mut buffer[..blocks], start))?;
        if read > 0 && read <= skipped {
            // The file's end, or an answer short of a block, after which aligned reads come no further: the page cache will tell.
            return Err(Errno::INVAL);
        }
        let bytes = wanted.min(read.saturating_sub(skipped));
        target.copy_from(&buffer[skipped..skipped + bytes]);
        Ok(bytes)
    }

    /// The bytes up to the next block, if from there on the system can read into the target's first piece.
    fn until_in_place(&self, skipped: usize, target: &mut Target<'_>) -> Option<usize> {
        let piece = target.first()?;
        let head = (self.block - skipped) % self.block;
        let agrees = (piece.as_ptr().addr() + head).is_multiple_of(self.memory);
        (head > 0 && agrees && piece.len() >= head + LEAST_IN_PLACE + self.block).then_some(head)
    }
}

/// Alignments of memory and of offsets, bytes; zeros where the file system cannot read past the page cache.
fn alignment(file: &File) -> (u32, u32) {
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) => {
            (stat.stx_dio_mem_align, stat.stx_dio_offset_align)
        }
        // Linux before 6.1, or a file system that does not say.
        _ => (USUAL_ALIGNMENT, USUAL_ALIGNMENT),
    }
}

/// Whether the system says that it cannot read this file past the page cache.
pub(super) fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::OPNOTSUPP)
}

fn retried(mut read: impl FnMut() -> rustix::io::Result<usize>) -> rustix::io::Result<usize> {
    loop {
        match read() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
