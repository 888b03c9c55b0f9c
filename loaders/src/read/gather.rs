//! Tensors whose elements do not lie one behind the other: they are collected by way of a small window.
//!
//! The storage is walked in the order of its bytes, dimensions with large strides outermost, whatever their order in the tensor. What lies
//! within a window's size is read into the window at once and copied to its places from there; long runs are read straight into place. So the
//! memory is bounded whatever the storage's size, and a permuted tensor is read once, not once for each row.

use std::cmp::Reverse;
use std::iter;
use std::ops::Range;

use ckload_pool::PooledBuffer;

use super::inflate::Inflater;
use super::{Failed, Files, Target};
use crate::cancel::Cancels;
use crate::observer::ReadDone;
use crate::plan::Gaps;
use crate::stored::Storage;
use crate::view::View;
use crate::{Error, TensorInfo};

/// A window's size in bytes: it stays in a CPU's cache, and is enough for a disk to stream.
const WINDOW_BYTES: usize = 1 << 20;

/// Runs of this many bytes or more are read straight into place.
const LONG: u64 = 64 << 10;

/// Up to so many bytes between what is wanted are read into the window as well: that is quicker than to leave them out.
const NEAR: u64 = 512;

/// From so many bytes between what is wanted on, there is a read for each side of them.
const FAR: u64 = 64 << 10;

/// The most runs of one read.
const MAX_RUNS: u64 = 4096;

/// Reads the bytes of a storage from an offset on, counted from its start.
pub(super) type ReadAt<'a> = &'a mut dyn FnMut(u64, Target<'_>) -> Result<(), Error>;

impl Files {
    /// Fills `target`, which is one piece, with the tensor's bytes from `from` on, and tells `done` of each read. An error if one of
    /// `cancels` is cancelled meanwhile.
    pub(super) fn gather(
        &self,
        info: &TensorInfo,
        from: u64,
        mut target: Target<'_>,
        cancels: &Cancels,
        mut done: impl FnMut(&ReadDone),
    ) -> Result<(), Error> {
        let range = from..from + target.len() as u64;
        let memory = target.first().unwrap_or_default();
        let Some((storage, view)) = info.view() else {
            let failed = Failed::damaged(0, "the tensor is not a view of its storage");
            return Err(self.gather_error(info, info.file_range(), failed));
        };
        match storage {
            Storage::Plain { offset, .. } => {
                let mut read = |at: u64, target: Target<'_>| {
                    let whole = offset + at..offset + at + target.len() as u64;
                    self.read_at(info.file, whole.start, target, &mut done)
                        .map_err(|failed| self.gather_error(info, whole, failed))
                };
                self.collect(&view.cut(range), memory, cancels, &mut read)
            }
            Storage::Deflated {
                offset,
                packed,
                bytes,
            } => {
                let whole = offset..offset + packed;
                let views = view.cut(range.clone());
                let first = views.first().map_or(0, |view| view.start);
                let parked = self.inflaters.take((info.file, offset), first);
                let mut inflater = parked.unwrap_or_else(|| Inflater::new(packed, bytes));
                let mut packed_read = |at: u64, target: Target<'_>| {
                    self.read_at(info.file, offset + at, target, &mut done)
                };
                let mut read = |at: u64, target: Target<'_>| {
                    inflater
                        .fill(at, target, &mut packed_read)
                        .map_err(|failed| self.gather_error(info, whole.clone(), failed))
                };
                self.collect(&views, memory, cancels, &mut read)?;
                if range.end < info.bytes {
                    self.inflaters.park((info.file, offset), inflater);
                } else {
                    inflater
                        .finish(&mut packed_read)
                        .map_err(|failed| self.gather_error(info, whole, failed))?;
                }
                Ok(())
            }
        }
    }

    /// Fills `memory` with the bytes of `views`, one after the other.
    fn collect(
        &self,
        views: &[View],
        memory: &mut [u8],
        cancels: &Cancels,
        read: ReadAt<'_>,
    ) -> Result<(), Error> {
        let mut buffer: Option<PooledBuffer> = None;
        let mut rest = memory;
        for view in views {
            let walk = Walk::new(view, WINDOW_BYTES as u64);
            let (now, later) = rest.split_at_mut(view.bytes().unwrap_or(0) as usize);
            rest = later;
            if walk.needs_window() && buffer.is_none() {
                let lent = self.staging.try_get(super::direct::STAGING_BYTES);
                buffer = Some(lent.map_err(|source| Error::Memory { source })?);
            }
            let window = match &mut buffer {
                Some(buffer) => &mut buffer[..WINDOW_BYTES],
                None => &mut [],
            };
            walk.run(window, now, cancels, read)?;
        }
        Ok(())
    }

    fn gather_error(&self, info: &TensorInfo, range: Range<u64>, failed: Failed) -> Error {
        Error::Read {
            path: self.checkpoint.files()[info.file].path.clone(),
            tensor: info.name.clone(),
            range: range.start + failed.done..range.end,
            source: failed.source,
        }
    }
}

/// A dimension on the way from a storage to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    len: u64,
    /// The distance between neighbours in the storage, bytes.
    from: u64,
    /// In the tensor; larger for each dimension than for all within it.
    to: u64,
}

/// How a view is walked.
#[derive(Debug)]
pub(super) struct Walk {
    /// The first byte, from the storage's start.
    start: u64,
    /// Bytes that follow one another in both.
    run: u64,
    /// By their strides in the storage, the largest first; none has length 1.
    axes: Vec<Axis>,
    window: u64,
}

impl Walk {
    /// A walk of a view that has bytes, with a window of so many.
    pub(super) fn new(view: &View, window: u64) -> Self {
        let mut run = view.unit;
        let mut axes: Vec<Axis> = Vec::new();
        let mut to = view.unit;
        for dim in view.dims.iter().rev().filter(|dim| dim.len != 1) {
            match axes.last_mut() {
                None if dim.stride == run => run *= dim.len,
                Some(inner) if inner.len.checked_mul(inner.from) == Some(dim.stride) => {
                    inner.len *= dim.len;
                }
                _ => axes.push(Axis {
                    len: dim.len,
                    from: dim.stride,
                    to,
                }),
            }
            to *= dim.len;
        }
        axes.sort_by_key(|axis| Reverse(axis.from));
        Self {
            start: view.start,
            run,
            axes,
            window,
        }
    }

    fn needs_window(&self) -> bool {
        !self.axes.is_empty() && self.run < LONG.min(self.window + 1)
    }

    /// Fills `memory`; an error if one of `cancels` is cancelled meanwhile. The window is as large as was said, if one is needed.
    pub(super) fn run(
        &self,
        window: &mut [u8],
        memory: &mut [u8],
        cancels: &Cancels,
        read: ReadAt<'_>,
    ) -> Result<(), Error> {
        if !self.needs_window() {
            for (from, to) in Positions::new(&self.axes) {
                cancels.check()?;
                let place = &mut memory[to as usize..][..self.run as usize];
                read(self.start + from, iter::once(place).collect())?;
            }
            return Ok(());
        }
        let tile = self.tile();
        for (from, to) in Positions::new(tile.outer) {
            for first in (0..tile.split.len).step_by(tile.steps as usize) {
                cancels.check()?;
                let steps = tile.steps.min(tile.split.len - first);
                let start = self.start + from + first * tile.split.from;
                tile.read(start, steps, window, read)?;
                let to = to + first * tile.split.to;
                tile.copy(self.run, steps, window, &mut memory[to as usize..]);
            }
        }
        Ok(())
    }

    /// What is read into the window at once: all of the inner axes, and as many steps of the one around them as fit.
    fn tile(&self) -> Tile<'_> {
        let mut extent = self.run;
        let mut inner = self.axes.len();
        while let Some(axis) = self.axes[..inner].last() {
            let grown = (axis.len - 1)
                .checked_mul(axis.from)
                .and_then(|more| more.checked_add(extent));
            match grown {
                Some(grown) if grown <= self.window => extent = grown,
                _ => break,
            }
            inner -= 1;
        }
        let (outer, split) = match self.axes[..inner].split_last() {
            Some((split, outer)) => (outer, *split),
            // The window holds everything.
            None => (
                &[][..],
                Axis {
                    len: 1,
                    from: 1,
                    to: 0,
                },
            ),
        };
        let gap = split.from.saturating_sub(extent);
        let (step, steps) = if gap <= NEAR {
            let more = (self.window - extent) / split.from;
            (split.from, more + 1)
        } else {
            (extent, (self.window / extent).min(MAX_RUNS))
        };
        let mut axes = self.axes[inner..].to_vec();
        axes.push(Axis {
            from: step,
            ..split
        });
        axes.sort_by_key(|axis| Reverse(axis.to));
        Tile {
            outer,
            split,
            steps,
            step,
            extent,
            axes,
        }
    }
}

/// A part of a walk that is read at once.
struct Tile<'a> {
    /// The axes around it.
    outer: &'a [Axis],
    /// The axis along which it takes a few steps.
    split: Axis,
    /// The most steps that it takes.
    steps: u64,
    /// The distance between steps in the window, bytes.
    step: u64,
    /// The bytes of one step, from its first to its last.
    extent: u64,
    /// The axes within the window, outermost in the tensor first.
    axes: Vec<Axis>,
}

impl Tile<'_> {
    /// Reads `steps` from `start` on into the window.
    fn read(
        &self,
        start: u64,
        steps: u64,
        window: &mut [u8],
        read: ReadAt<'_>,
    ) -> Result<(), Error> {
        let window = &mut window[..((steps - 1) * self.step + self.extent) as usize];
        if self.step == self.split.from {
            return read(start, iter::once(window).collect());
        }
        let gap = self.split.from - self.extent;
        if gap < FAR {
            let gaps = Gaps {
                first: self.extent,
                run: self.extent,
                gap,
            };
            let target: Target<'_> = iter::once(window).collect();
            return read(start, target.spaced(&gaps));
        }
        let places = window.chunks_mut(self.extent as usize);
        (0..).zip(places).try_for_each(|(number, place)| {
            let start = start + number * self.split.from;
            read(start, iter::once(place).collect())
        })
    }

    /// Copies `steps` from the window to their places in the tensor.
    fn copy(&self, run: u64, steps: u64, window: &[u8], memory: &mut [u8]) {
        let mut axes = self.axes.clone();
        for axis in axes.iter_mut().filter(|axis| axis.to == self.split.to) {
            axis.len = steps;
        }
        let Some((line, outer)) = axes.split_last() else {
            return;
        };
        for (from, to) in Positions::new(outer) {
            let (window, memory) = (&window[from as usize..], &mut memory[to as usize..]);
            match run {
                1 => copy_line::<1>(line, window, memory),
                2 => copy_line::<2>(line, window, memory),
                4 => copy_line::<4>(line, window, memory),
                8 => copy_line::<8>(line, window, memory),
                16 => copy_line::<16>(line, window, memory),
                _ => {
                    for (from, to) in Positions::new(&[*line]) {
                        let run = run as usize;
                        memory[to as usize..][..run]
                            .copy_from_slice(&window[from as usize..][..run]);
                    }
                }
            }
        }
    }
}

/// Copies elements of `N` bytes along one axis: with a size that is known each copy is one instruction.
fn copy_line<const N: usize>(line: &Axis, window: &[u8], memory: &mut [u8]) {
    let (len, from, to) = (line.len as usize, line.from as usize, line.to as usize);
    if to == N && from >= N {
        let places = memory.chunks_exact_mut(N).take(len);
        for (place, element) in places.zip(window.chunks(from)) {
            place.copy_from_slice(&element[..N]);
        }
    } else {
        for index in 0..len {
            memory[index * to..][..N].copy_from_slice(&window[index * from..][..N]);
        }
    }
}

/// Every position along some axes, as offsets in the storage and in the tensor; the last axis changes first.
struct Positions<'a> {
    axes: &'a [Axis],
    indexes: Vec<u64>,
    next: Option<(u64, u64)>,
}

impl<'a> Positions<'a> {
    fn new(axes: &'a [Axis]) -> Self {
        Self {
            axes,
            indexes: vec![0; axes.len()],
            next: Some((0, 0)),
        }
    }
}

impl Iterator for Positions<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let now = self.next?;
        let (mut from, mut to) = now;
        self.next = None;
        for (axis, index) in self.axes.iter().zip(&mut self.indexes).rev() {
            if *index + 1 < axis.len {
                *index += 1;
                self.next = Some((from + axis.from, to + axis.to));
                break;
            }
            from -= *index * axis.from;
            to -= *index * axis.to;
            *index = 0;
        }
        Some(now)
    }
}
