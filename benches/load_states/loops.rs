//! Plain loops of reads, buffered, past the page cache or through `io_uring`: the limits that loads are measured against.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::fs::OFlags;

use crate::files::{Into, OneFile, Part};

/// A way of reading files without anything around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loop {
    pub(crate) threads: usize,
    pub(crate) piece: usize,
    pub(crate) direct: bool,
}

/// Reads a part of all files by a plain loop.
pub(crate) fn read_all(
    pool: &ThreadPool,
    files: &[OneFile],
    way: Loop,
    into: Into,
    part: Part,
    memory: &mut [u8],
) {
    let mut rest = memory;
    let mut cut = 0;
    let mut pieces = Vec::new();
    for file in files {
        let handle = Arc::new(open(&file.path, way.direct));
        for range in file.pieces(way.piece, into, part) {
            let wanted = (range.end - range.start) as usize;
            let shared = into == Into::Cached || into == Into::Tensors && !file.is_of_large(&range);
            // Past the end there is nothing, but a direct read asks for whole blocks.
            let len = if way.direct {
                wanted.next_multiple_of(4096)
            } else {
                wanted
            };
            let at = file.start + range.start as usize - file.shift(into);
            let (_, tail) = rest.split_at_mut(at - cut);
            let (buffer, tail) = tail.split_at_mut(len);
            (rest, cut) = (tail, at + len);
            pieces.push((Arc::clone(&handle), range.start, buffer, !shared, wanted));
        }
    }
    let longest = pieces
        .iter()
        .filter(|piece| !piece.3)
        .map(|piece| piece.2.len());
    let longest = longest.max().unwrap_or(0);
    pool.install(|| {
        pieces.into_iter().par_bridge().for_each_init(
            || vec![0; longest],
            |one, (file, at, buffer, own, wanted)| {
                let buffer = if own {
                    buffer
                } else {
                    &mut one[..buffer.len()]
                };
                let mut done = 0;
                while done < wanted {
                    let read = file.read_at(&mut buffer[done..], at + done as u64);
                    let read = read.expect("the disk works");
                    assert!(read > 0, "the file is as long as it was");
                    done += read;
                }
                black_box(&buffer[..]);
            },
        );
    });
}

/// A read by a ring: the file, where in it, the memory, and how many bytes the file has there at least.
type Asked<'a> = (i32, u64, &'a mut [u8], usize);

/// Reads all files into `memory` through `io_uring`, by as many threads as cores with a ring of `depth` reads each; `None` where the
/// system refuses rings.
#[allow(unsafe_code)] // the interface of the rings is unsafe: the kernel writes to memory while nobody looks
pub(crate) fn read_all_by_rings(
    files: &[OneFile],
    piece: usize,
    direct: bool,
    depth: usize,
    memory: &mut [u8],
) -> Option<()> {
    let threads = num_cpus::get();
    let handles: Vec<File> = files.iter().map(|file| open(&file.path, direct)).collect();
    let mut shares: Vec<Vec<Asked<'_>>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    let mut number = 0;
    let mut rest = memory;
    let mut cut = 0;
    for (file, handle) in files.iter().zip(&handles) {
        for at in (0..file.bytes).step_by(piece) {
            let wanted = piece.min(file.bytes - at);
            let (_, tail) = rest.split_at_mut(file.start + at - cut);
            let (buffer, tail) = tail.split_at_mut(wanted.next_multiple_of(4096));
            cut = file.start + at + buffer.len();
            rest = tail;
            shares[number % threads].push((handle.as_raw_fd(), at as u64, buffer, wanted));
            number += 1;
        }
    }
    let read_share = |share: Vec<Asked<'_>>| -> Option<()> {
        let mut ring = IoUring::new(depth as u32).ok()?;
        let mut waiting = 0;
        let mut next = 0;
        while next < share.len() || waiting > 0 {
            while next < share.len() && waiting < depth {
                let (file, at, buffer, _) = &share[next];
                let target = buffer.as_ptr().cast_mut();
                let read = opcode::Read::new(types::Fd(*file), target, buffer.len() as u32)
                    .offset(*at)
                    .build()
                    .user_data(next as u64);
                // SAFETY: file and memory live until all reads are completed below, and no two reads share memory.
                unsafe { ring.submission().push(&read) }.ok()?;
                next += 1;
                waiting += 1;
            }
            ring.submit_and_wait(1).ok()?;
            for done in ring.completion() {
                let wanted = share[done.user_data() as usize].3;
                assert!(done.result() >= wanted as i32, "a short read, or an error");
                waiting -= 1;
            }
        }
        Some(())
    };
    let results: Vec<Option<()>> = std::thread::scope(|scope| {
        let running: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(|| read_share(share)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("no read failed"))
            .collect()
    });
    results.into_iter().collect()
}

fn open(path: &Path, direct: bool) -> File {
    let flags = if direct {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .expect("the file system takes the flags")
}

pub(crate) fn workers(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads can be started")
}
