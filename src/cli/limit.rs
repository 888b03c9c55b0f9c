//! What plain reads reach on this machine: loops of positioned reads of a checkpoint's files, without anything around them.
//!
//! They parse nothing, place nothing and check nothing, and their memory has been in use before. A loader that copies the bytes of a large
//! checkpoint is hardly faster; of a small one, the time goes into other things than reads ([`LEAST_LIMITED_BYTES`]). Where the bytes end
//! up decides how fast they come, so there are two limits ([`Into`]), and each is asked of the state in which the page cache is.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ckload::pool::GetError;
use ckload::{Arrangement, BufferPool, Checkpoint, Loader, PooledBuffer};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use serde::Serialize;

/// A plain way of reading: what is measured beside the loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Loop {
    pub(crate) threads: usize,
    /// The most that is read at a time, in bytes.
    pub(crate) piece_bytes: usize,
    /// Past the page cache.
    pub(crate) direct: bool,
}

/// Where the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// Each to a place of its own, as those of a resident load.
    Memory,
    /// One buffer for each thread, which stays in the CPU's cache, as that of a stream may.
    Cache,
}

/// The bytes of a checkpoint, and memory that they may go to.
pub(crate) struct Limit {
    files: Vec<PathBuf>,
    /// Files by number, and what is wanted of them; whole pages, in file order.
    ranges: Vec<(usize, Range<u64>)>,
    into: Into,
    /// For [`Into::Memory`].
    memory: Vec<PooledBuffer>,
    pool: BufferPool,
}

/// What a read past the page cache has to be aligned to, on any device in use.
const DIRECT_ALIGNMENT: u64 = 4096;

const MIB: usize = 1 << 20;

/// What loads of smaller checkpoints take is not reading, and too little to be measured against it.
pub(crate) const LEAST_LIMITED_BYTES: u64 = 16 << 20;

/// Of more bytes, trying loops takes seconds each time.
const LARGE_BYTES: u64 = 1 << 30;

/// Where the last bytes are less than this apart, they are read in one go.
const NEIGHBOURS: u64 = 64 << 10;

/// A buffer of this size stays in a core's cache while it is filled.
const CACHED_PIECE: usize = MIB;

/// The most that [`quick`] reads, in bytes.
const QUICK_BYTES: u64 = 128 << 20;

impl Limit {
    /// The limit of loads of `checkpoint`. For [`Into::Memory`] it takes as much memory as the tensors have bytes.
    ///
    /// # Errors
    ///
    /// The system gives no memory.
    pub(crate) fn new(checkpoint: &Checkpoint, into: Into) -> io::Result<Self> {
        Self::of_part(checkpoint, into, u64::MAX)
    }

    /// The same, of no more than about `most` bytes from the start.
    fn of_part(checkpoint: &Checkpoint, into: Into, most: u64) -> io::Result<Self> {
        let ranges = first(ranges(checkpoint), most);
        let pool = BufferPool::new();
        let memory = match into {
            Into::Memory => ranges
                .iter()
                .map(|(_, range)| pool.try_get((range.end - range.start) as usize))
                .collect::<Result<_, _>>()
                .map_err(no_memory)?,
            Into::Cache => Vec::new(),
        };
        Ok(Self {
            files: checkpoint.files().iter().map(|f| f.path.clone()).collect(),
            ranges,
            into,
            memory,
            pool,
        })
    }

    /// What is read, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let lens = self.ranges.iter().map(|(_, range)| range.end - range.start);
        lens.sum()
    }

    /// The loops that may be the quickest.
    pub(crate) fn candidates(&self, direct: bool) -> Vec<Loop> {
        let cores = num_cpus::get();
        let mut threads = if direct {
            vec![2, 4, 8, 16]
        } else {
            vec![1, cores, 2 * cores]
        };
        threads.dedup();
        let pieces: &[usize] = match (direct, self.is_large()) {
            (_, true) => &[4 * MIB],
            (true, false) => &[4 * MIB, 8 * MIB],
            (false, false) => &[CACHED_PIECE, 4 * MIB],
        };
        let with = |&threads: &usize| {
            pieces.iter().map(move |&piece_bytes| Loop {
                threads,
                piece_bytes,
                direct,
            })
        };
        threads.iter().flat_map(with).collect()
    }

    fn is_large(&self) -> bool {
        self.bytes() > LARGE_BYTES
    }

    /// The quickest of the loops, each tried after `prepare`: twice, since anything may disturb one of them, unless that takes long.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or not past the page cache, or the system gives no memory or no threads.
    pub(crate) fn best(
        &mut self,
        direct: bool,
        mut prepare: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Loop> {
        let mut tried = Vec::new();
        let tries = if self.is_large() { 1 } else { 2 };
        for _ in 0..tries {
            for candidate in self.candidates(direct) {
                prepare()?;
                tried.push((self.read(candidate)?, candidate));
            }
        }
        let best = tried.into_iter().min_by_key(|&(time, _)| time);
        Ok(best.expect("there are candidates").1)
    }

    /// Reads everything once, and says how long it took with opening the files.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or not past the page cache, or the system gives no memory or no threads.
    pub(crate) fn read(&mut self, how: Loop) -> io::Result<Duration> {
        let own_bytes = match self.into {
            Into::Memory => 0,
            Into::Cache => how.piece_bytes,
        };
        let mut buffers = (0..how.threads)
            .map(|_| self.pool.try_get(own_bytes))
            .collect::<Result<Vec<_>, _>>()
            .map_err(no_memory)?;
        let start = Instant::now();
        let open = |path: &PathBuf| open(path, how.direct);
        let files = self
            .files
            .iter()
            .map(open)
            .collect::<io::Result<Vec<_>>>()?;
        let pieces = Mutex::new(pieces(&self.ranges, &mut self.memory, how.piece_bytes));
        let failed = AtomicBool::new(false);
        let read = |mut buffer: PooledBuffer| -> io::Result<()> {
            while !failed.load(Relaxed) {
                let Some(piece) = pieces.lock().next() else {
                    break;
                };
                let target = match piece.memory {
                    Some(memory) => memory,
                    None => &mut buffer[..piece.bytes],
                };
                read_at(&files[piece.file], piece.offset, target)
                    .inspect_err(|_| failed.store(true, Relaxed))?;
            }
            Ok(())
        };
        // This thread is one of them: where one is the best, starting another would be what takes the time.
        let own = buffers.pop().expect("a loop has a thread");
        thread::scope(|scope| {
            let read = &read;
            let spawn = |buffer| thread::Builder::new().spawn_scoped(scope, move || read(buffer));
            let others = buffers
                .into_iter()
                .map(spawn)
                .collect::<io::Result<Vec<_>>>()
                .inspect_err(|_| failed.store(true, Relaxed))?;
            let done = read(own);
            let others = others.into_iter();
            let others = others.map(|thread| thread.join().expect("reading does not panic"));
            others.fold(done, io::Result::and)
        })?;
        Ok(start.elapsed())
    }
}

/// About the rate that plain reads of the checkpoint's files reach now, with no more than `most_threads`, in bytes a second; `None` if
/// they fail.
///
/// It reads the start of the checkpoint, up to 128 MiB, a few times, which takes some tens of milliseconds from the page cache.
pub(crate) fn quick(
    checkpoint: &Checkpoint,
    into: Into,
    direct: bool,
    most_threads: Option<NonZeroUsize>,
) -> Option<f64> {
    let mut limit = Limit::of_part(checkpoint, into, QUICK_BYTES).ok()?;
    let threads = if direct { 8 } else { num_cpus::get() };
    let how = Loop {
        threads: most_threads.map_or(threads, |most| most.get().min(threads)),
        piece_bytes: if direct { 4 * MIB } else { CACHED_PIECE },
        direct,
    };
    // The first one also brings the memory of the threads' stacks.
    let rounds = if direct { 1 } else { 3 };
    let times: Option<Vec<Duration>> = (0..rounds).map(|_| limit.read(how).ok()).collect();
    let seconds = times?.into_iter().min()?.as_secs_f64();
    (limit.bytes() > 0).then(|| limit.bytes() as f64 / seconds)
}

/// Whether tensors have to be inflated: the bytes of the files say nothing about theirs.
pub(crate) fn has_compressed(checkpoint: &Checkpoint) -> bool {
    let mut tensors = checkpoint.tensors().iter();
    tensors.any(|tensor| tensor.arrangement() == Arrangement::Compressed)
}

/// A part of a file that one thread reads at a time.
struct Piece<'a> {
    file: usize,
    offset: u64,
    bytes: usize,
    /// Where it goes, if not to the buffer of the thread.
    memory: Option<&'a mut [u8]>,
}

fn pieces<'a>(
    ranges: &'a [(usize, Range<u64>)],
    memory: &'a mut [PooledBuffer],
    piece_bytes: usize,
) -> impl Iterator<Item = Piece<'a>> + Send {
    let mut memory = memory.iter_mut();
    ranges.iter().flat_map(move |(file, range)| {
        let len = (range.end - range.start) as usize;
        let mut places = memory
            .next()
            .map(|buffer| buffer[..len].chunks_mut(piece_bytes));
        (0..len).step_by(piece_bytes).map(move |start| Piece {
            file: *file,
            offset: range.start + start as u64,
            bytes: piece_bytes.min(len - start),
            memory: places.as_mut().and_then(Iterator::next),
        })
    })
}

/// What a load of the checkpoint reads, neighbours together, to whole pages.
fn ranges(checkpoint: &Checkpoint) -> Vec<(usize, Range<u64>)> {
    let plan = Loader::new().plan(checkpoint);
    let mut wanted: Vec<(usize, Range<u64>)> = if plan.gathers().is_empty() {
        let reads = plan.reads().iter();
        reads
            .map(|read| (read.file, read.offset..read.offset + read.span()))
            .collect()
    } else {
        // What is gathered does not lie in one piece.
        let files = checkpoint.files().iter().enumerate();
        files
            .map(|(number, file)| (number, 0..file.bytes))
            .collect()
    };
    wanted.sort_unstable_by_key(|(file, range)| (*file, range.start));
    let mut joined: Vec<(usize, Range<u64>)> = Vec::new();
    for (file, range) in wanted {
        let start = range.start / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT;
        let end = range.end.next_multiple_of(DIRECT_ALIGNMENT);
        match joined.last_mut() {
            Some((last_file, last)) if *last_file == file && start <= last.end + NEIGHBOURS => {
                last.end = last.end.max(end);
            }
            _ => joined.push((file, start..end)),
        }
    }
    joined
}

/// The first of `ranges`, of about `most` bytes.
fn first(ranges: Vec<(usize, Range<u64>)>, most: u64) -> Vec<(usize, Range<u64>)> {
    let mut left = most / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT;
    let cut = |(file, range): (usize, Range<u64>)| {
        let len = (range.end - range.start).min(left);
        left -= len;
        (len > 0).then_some((file, range.start..range.start + len))
    };
    ranges.into_iter().map_while(cut).collect()
}

fn no_memory(error: GetError) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, error)
}

fn open(path: &Path, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    if direct {
        options.custom_flags(OFlags::DIRECT.bits() as i32);
    }
    options.read(true).open(path)
}

/// Fills `memory` from `offset` on, but for what is past the file's end.
fn read_at(file: &File, mut offset: u64, mut memory: &mut [u8]) -> io::Result<()> {
    while !memory.is_empty() {
        let read = match file.read_at(memory, offset) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Past the page cache, no read begins where a file ends within a page.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidInput
                    && !offset.is_multiple_of(DIRECT_ALIGNMENT) =>
            {
                break;
            }
            Err(error) => return Err(error),
        };
        offset += read as u64;
        memory = &mut memory[read..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ckload::synth::Gpt2;

    use super::*;

    fn tiny() -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        let checkpoint = Checkpoint::open(path).unwrap();
        (folder, checkpoint)
    }

    #[test]
    fn every_loop_reads_every_byte_of_the_tensors() {
        let (_folder, checkpoint) = tiny();
        let file = std::fs::read(&checkpoint.files()[0].path).unwrap();
        for piece_bytes in [4096, 64 << 10, MIB, 8 * MIB] {
            let mut limit = Limit::new(&checkpoint, Into::Memory).unwrap();
            let how = Loop {
                threads: 3,
                piece_bytes,
                direct: false,
            };
            limit.read(how).unwrap();
            for ((_, range), memory) in limit.ranges.iter().zip(&limit.memory) {
                let end = file.len().min(range.end as usize);
                let expected = &file[range.start as usize..end];
                assert_eq!(&memory[..expected.len()], expected, "{piece_bytes}");
            }
            assert!(limit.bytes() >= checkpoint.bytes());
        }
    }

    #[test]
    fn a_stream_needs_no_memory_of_the_models_size() {
        let (_folder, checkpoint) = tiny();
        let mut limit = Limit::new(&checkpoint, Into::Cache).unwrap();
        assert!(limit.memory.is_empty());
        let best = limit.best(false, || Ok(())).unwrap();
        assert!(limit.candidates(false).contains(&best));
    }

    #[test]
    fn a_part_is_the_start() {
        let all = vec![(0, 0..8192), (1, 4096..40960)];
        assert_eq!(first(all.clone(), u64::MAX), all);
        assert_eq!(first(all.clone(), 4100), [(0, 0..4096)]);
        assert_eq!(first(all, 12288), [(0, 0..8192), (1, 4096..8192)]);
    }

    #[test]
    fn memory_that_is_not_to_be_had_is_an_error() {
        let (_folder, checkpoint) = tiny();
        let mut limit = Limit::new(&checkpoint, Into::Cache).unwrap();
        let how = Loop {
            threads: 1,
            piece_bytes: isize::MAX as usize / 2,
            direct: false,
        };
        let error = limit.read(how).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
    }

    #[test]
    fn a_file_that_is_gone_is_an_error() {
        let (folder, checkpoint) = tiny();
        let mut limit = Limit::new(&checkpoint, Into::Cache).unwrap();
        drop(folder);
        let how = limit.candidates(false)[0];
        assert!(limit.read(how).is_err());
        assert_eq!(quick(&checkpoint, Into::Cache, false, None), None);
    }
}
