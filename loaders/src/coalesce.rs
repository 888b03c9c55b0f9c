//! From places to reads: neighbours in the file join, large tensors are split, and what lies in runs is read as costs the least.
//!
//! Runs are what a tensor-parallel rank keeps of a matrix whose columns are divided: some bytes of each row. What that costs:
//!
//! * Of what is cached, a system call costs about as much as copying 2 KiB. To be read in one go with their gaps, runs have to move the gaps
//!   as well: a rank of 8 then moves 8 times what it keeps. So runs are read one by one, and exactly their bytes are moved, unless
//!   they are so close together ([`CLOSE`]) that a call for each would take 16 times as long as copying everything.
//! * Of what is not cached, a request costs a disk about as much as [`FAR`] bytes that follow one another: 100 µs, shared by 8 threads
//!   that wait at the same time, at 2 to 5 GB/s. So gaps are read where they are shorter, and left out where they are longer.
//!
//! Which of the two it is, the reader sees. Here runs with short gaps become one read with [`Gaps`], runs with long ones, and long runs, become
//! a read each, and runs that are close together are gathered like any other view.

use std::ops::Range;

use crate::TensorInfo;
use crate::plan::{Gaps, Gather, MAX_PARTS, Part, Place, Read, STEP};
use crate::stored::Stored;

/// Runs that follow one another at no more than this distance, in bytes, are copied out of what is read whole.
const CLOSE: u64 = 128;

/// A gap of this many bytes or more is not worth reading.
const FAR: u64 = 64 << 10;

/// A run of this many bytes or more is worth a read of its own.
const LONG: u64 = 256 << 10;

/// The most runs of one read: each takes some memory while it is carried out.
const MAX_RUNS: u64 = 4096;

/// Where a read from `offset` on ends at the latest.
///
/// Between two reads of one tensor lies a multiple of every disk's blocks: each block is read once, and none of the two has to read a part
/// of one by itself, which takes as long as all the rest while the disk is busy.
fn end_of(offset: u64, read_bytes: u64) -> u64 {
    let end = offset.saturating_add(read_bytes);
    let whole = end / STEP * STEP;
    if whole > offset { whole } else { end }
}

/// The reads of some tensors, as they are being put together.
pub(crate) struct Reads {
    read_bytes: u64,
    pub(crate) reads: Vec<Read>,
    pub(crate) gathers: Vec<Gather>,
}

impl Reads {
    /// Fills nothing yet, with reads of at most `read_bytes`.
    pub(crate) fn new(read_bytes: u64) -> Self {
        Self {
            read_bytes,
            reads: Vec::new(),
            gathers: Vec::new(),
        }
    }

    /// Fills, from `place` on, with the tensor's bytes of `range`. In each slot places come in rising order.
    pub(crate) fn add(&mut self, info: &TensorInfo, range: Range<u64>, place: Place) {
        match info.stored {
            _ if range.is_empty() => {}
            Stored::InPlace => self.add_stretch(
                info.file,
                info.offset + range.start,
                range.end - range.start,
                place,
            ),
            Stored::Runs { run, stride } if stride > CLOSE => {
                let is_apart = stride - run >= FAR || run >= LONG || stride > self.read_bytes;
                if is_apart {
                    self.add_apart(info, run, stride, range, place);
                } else {
                    self.add_with_gaps(info, run, stride, range, place);
                }
            }
            Stored::Runs { .. } | Stored::Scattered(_) => self.gathers.push(Gather {
                tensor: place.tensor,
                from: range.start,
                slot: place.slot,
                offset: place.offset,
                len: range.end - range.start,
                after: self.reads.len(),
            }),
        }
    }

    /// Bytes that follow one another.
    fn add_stretch(&mut self, file: usize, offset: u64, bytes: u64, place: Place) {
        let mut done = 0;
        while done < bytes {
            let at = offset + done;
            let follows_gather =
                (self.gathers.last()).is_some_and(|gather| gather.after == self.reads.len());
            let joins = self.reads.last().is_some_and(|read| {
                read.file == file
                    && read.offset + read.len == at
                    && at < end_of(read.offset, self.read_bytes)
                    && read.parts.len() < MAX_PARTS
                    && read.gaps.is_none()
                    && !follows_gather
            });
            if !joins {
                self.reads.push(Read {
                    file,
                    offset: at,
                    len: 0,
                    parts: Vec::new(),
                    gaps: None,
                });
            }
            let read_bytes = self.read_bytes;
            let read = self
                .reads
                .last_mut()
                .expect("one was pushed if there was none");
            let len = (bytes - done).min(end_of(read.offset, read_bytes) - at);
            read.len += len;
            let offset = place.offset + done;
            match read.parts.last_mut() {
                Some(part) if part.slot == place.slot && part.offset + part.len == offset => {
                    part.len += len;
                }
                _ => read.parts.push(Part {
                    slot: place.slot,
                    offset,
                    len,
                }),
            }
            done += len;
        }
    }

    /// Runs that are read one by one, whatever the state of the cache.
    fn add_apart(
        &mut self,
        info: &TensorInfo,
        run: u64,
        stride: u64,
        range: Range<u64>,
        place: Place,
    ) {
        let mut at = range.start;
        while at < range.end {
            let within = at % run;
            let len = (run - within).min(range.end - at);
            let offset = info.offset + at / run * stride + within;
            let place = Place {
                offset: place.offset + at - range.start,
                ..place
            };
            self.add_stretch(info.file, offset, len, place);
            at += len;
        }
    }

    /// Runs of which one read takes as many as it may reach over.
    fn add_with_gaps(
        &mut self,
        info: &TensorInfo,
        run: u64,
        stride: u64,
        range: Range<u64>,
        place: Place,
    ) {
        let runs_at_once = (self.read_bytes / stride).clamp(1, MAX_RUNS);
        let mut at = range.start;
        while at < range.end {
            let within = at % run;
            let len = (runs_at_once * run - within).min(range.end - at);
            self.reads.push(Read {
                file: info.file,
                offset: info.offset + at / run * stride + within,
                len,
                parts: vec![Part {
                    slot: place.slot,
                    offset: place.offset + at - range.start,
                    len,
                }],
                gaps: Some(Gaps {
                    first: run - within,
                    run,
                    gap: stride - run,
                }),
            });
            at += len;
        }
    }
}
