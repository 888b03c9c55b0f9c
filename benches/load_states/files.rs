//! The checkpoint's files, what of them is in the page cache, and what is read at a time.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ckload::usage;
use rustix::fs::{Advice, fadvise};

use crate::MIB;

/// A tensor of more bytes than this does not stay in a CPU's cache.
const CACHED_BYTES: u64 = 32 << 20;

pub(crate) struct OneFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: usize,
    /// Where its bytes go in the memory of the limits.
    pub(crate) start: usize,
    /// The ranges of its tensors, small neighbours together.
    pub(crate) tensors: Vec<Range<u64>>,
}

/// Which part of every file.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    Whole,
    FirstHalf,
    SecondHalf,
}

/// What each piece of the files is read into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// Memory of its own.
    Memory,
    /// The same, but the tensors alone, to where their types' alignments allow them to lie: beside a file of an odd offset the
    /// processor copies between addresses that do not agree, which some do more slowly.
    Suited,
    /// One buffer of each thread, which stays in the CPU's cache.
    Cached,
    /// The same, tensor by tensor: one buffer of each thread, as large as a tensor. What is larger than the cache has memory of its own.
    Tensors,
}

impl OneFile {
    /// Has the page cache let go of the file, and makes sure of it.
    pub(crate) fn evict(&self) {
        let file = File::open(&self.path).expect("the checkpoint is there");
        fadvise(&file, 0, None, Advice::DontNeed).expect("the kernel takes advice");
        if let Some(cached) = usage::cached_bytes(&file) {
            assert!(
                cached < MIB as u64,
                "{cached} bytes stay cached: not a cold load"
            );
        }
    }

    pub(crate) fn evict_second_half(&self) {
        self.evict();
        let file = File::open(&self.path).expect("the checkpoint is there");
        fadvise(&file, 0, None, Advice::Random).expect("the kernel takes advice");
        let mut buffer = vec![0; MIB];
        let half = self.half();
        for at in (0..half).step_by(MIB) {
            let len = MIB.min(half - at);
            file.read_exact_at(&mut buffer[..len], at as u64)
                .expect("it is as long as it was");
        }
    }

    /// What is read at a time.
    pub(crate) fn pieces(&self, piece: usize, into: Into, part: Part) -> Vec<Range<u64>> {
        let half = self.half() as u64;
        let whole = match part {
            Part::Whole => 0..self.bytes as u64,
            Part::FirstHalf => 0..half,
            Part::SecondHalf => half..self.bytes as u64,
        };
        let cut = |range: Range<u64>| {
            let starts = range.clone().step_by(piece);
            starts.map(move |start| start..range.end.min(start + piece as u64))
        };
        match into {
            Into::Memory | Into::Cached => cut(whole).collect(),
            Into::Suited => cut(self.data_start()..whole.end).collect(),
            Into::Tensors => {
                let tensors = self.tensors.iter().cloned();
                let pieces = tensors.flat_map(|range| {
                    if range.end - range.start > CACHED_BYTES {
                        cut(range).collect()
                    } else {
                        vec![range]
                    }
                });
                pieces.collect()
            }
        }
    }

    fn data_start(&self) -> u64 {
        self.tensors.first().map_or(0, |first| first.start)
    }

    /// How far before their places in the file the bytes lie in memory.
    pub(crate) fn shift(&self, into: Into) -> usize {
        match into {
            Into::Suited if !self.data_start().is_multiple_of(8) => self.data_start() as usize,
            _ => 0,
        }
    }

    pub(crate) fn is_of_large(&self, piece: &Range<u64>) -> bool {
        let after = self
            .tensors
            .partition_point(|tensor| tensor.end <= piece.start);
        let tensor = self.tensors.get(after);
        tensor.is_some_and(|tensor| tensor.end - tensor.start > CACHED_BYTES)
    }

    pub(crate) fn half(&self) -> usize {
        (self.bytes / 2).next_multiple_of(MIB).min(self.bytes)
    }
}

/// Joins neighbours as long as they are small together.
pub(crate) fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start && range.end - last.start <= 4 * MIB as u64 => {
                last.end = range.end;
            }
            _ => joined.push(range),
        }
    }
    joined
}
