//! Tensors piece by piece, for those who pass them on to a device.

use std::collections::VecDeque;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;
use bytesize::ByteSize;

use super::charge;
use super::feed::{Consumer, Crew, Feed, Permit, Setting, Work};
use crate::plan::{MAX_PARTS, Plan};
use crate::{Checkpoint, Error, Loader, Report, TensorInfo};

/// Without a budget of its own, chunks are of so many bytes: a few of them stay in a CPU's cache.
const USUAL_CHUNK_BYTES: u64 = 2 << 20;

/// Chunks are of whole pages, this large.
const PAGE: u64 = 4096;

/// The tensors of a checkpoint in pieces, whatever their size, holding no more than a budget; see [`Loader::chunks`].
///
/// Chunks come in the order in which they arrive; every byte of every tensor comes once, and a tensor without bytes is one empty
/// chunk. An error ends the stream, and dropping it ends the load. Several threads may take chunks, each through a reference; those
/// that wait read meanwhile, as those of a [`Stream`](crate::Stream) do.
#[derive(Debug)]
pub struct Chunks {
    consumer: Consumer<Piece>,
}

/// A part of a tensor.
#[derive(Clone)]
pub struct Chunk {
    checkpoint: Checkpoint,
    tensor: usize,
    offset: u64,
    bytes: Bytes,
}

/// What one job reads.
pub(crate) enum Piece {
    /// Small tensors, whole, as a range of the checkpoint's.
    Whole { tensors: Range<usize>, charge: u64 },
    /// A part of one tensor, in a buffer that is as large for each of them.
    Part {
        tensor: usize,
        offset: u64,
        len: u64,
        /// Where it lies in the buffer.
        start: u64,
        buffer_bytes: u64,
        charge: u64,
    },
}

impl Work for Piece {
    type Item = Chunk;

    fn charge(&self) -> u64 {
        match self {
            Self::Whole { charge, .. } | Self::Part { charge, .. } => *charge,
        }
    }

    fn carry_out(self, feed: &Arc<Feed<Self>>, permit: Permit, crew: Crew) -> Result<(), Error> {
        let chunk = |tensor, offset, bytes| Chunk {
            checkpoint: feed.checkpoint.clone(),
            tensor,
            offset,
            bytes,
        };
        match self {
            Self::Whole { tensors, .. } => {
                let bytes = feed.read_tensors(tensors.clone(), permit, crew)?;
                let chunks: Vec<_> = tensors
                    .zip(bytes)
                    .map(|(tensor, bytes)| {
                        feed.loaded(tensor);
                        Ok(chunk(tensor, 0, bytes))
                    })
                    .collect();
                feed.deliver_all(chunks);
            }
            Self::Part {
                tensor,
                offset,
                len,
                start,
                buffer_bytes,
                ..
            } => {
                let info = &feed.checkpoint.tensors()[tensor];
                let mut charged = feed.allocate_part(tensor, buffer_bytes, start, permit)?;
                let read_bytes = feed.files.policy().read_bytes;
                let plan = Plan::part(info, offset..offset + len, read_bytes);
                let slots = vec![charged.as_slot(len)];
                feed.fill(slice::from_ref(info), &plan, slots, crew)?;
                if offset + len == info.bytes {
                    feed.loaded(tensor);
                }
                let bytes = feed.filled(charged, len);
                feed.deliver(Ok(chunk(tensor, offset, bytes)));
            }
        }
        Ok(())
    }
}

impl Chunks {
    /// A stream of chunks of at most `chunk_bytes`, which is what [`chunk_bytes()`] gives.
    pub(crate) fn new(setting: Setting<'_>, chunk_bytes: u64) -> Self {
        let tensors = setting.checkpoint.tensors();
        let work = pieces(setting.loader, tensors, chunk_bytes);
        let items = work
            .iter()
            .map(|piece| match piece {
                Piece::Whole { tensors, .. } => tensors.len(),
                Piece::Part { .. } => 1,
            })
            .sum();
        Self {
            consumer: Consumer::start(setting, work, items),
        }
    }

    /// Waits for the next chunk. `None` if there is none for this thread any more; others may still wait for theirs.
    ///
    /// # Errors
    ///
    /// As [`Loader::chunks`]; after an error nothing comes any more, to no thread.
    pub fn receive(&self) -> Option<Result<Chunk, Error>> {
        self.consumer.next()
    }

    /// The next chunk if it has arrived already; waits for nothing and reads nothing. `None` says nothing about what is to come.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn try_receive(&self) -> Option<Result<Chunk, Error>> {
        self.consumer.try_next()
    }

    /// What the stream has done so far; final once it has ended.
    #[must_use]
    pub fn report(&self) -> Report {
        self.consumer.report()
    }

    /// The bytes that the stream may hold at once.
    #[must_use]
    pub fn budget(&self) -> ByteSize {
        self.consumer.budget()
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receive()
    }
}

impl Chunk {
    /// What the checkpoint says of the tensor.
    #[must_use]
    pub fn tensor(&self) -> &TensorInfo {
        &self.checkpoint.tensors()[self.tensor]
    }

    /// Where the chunk starts, in bytes from the tensor's first.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The chunk's bytes. A clone or a slice of them keeps the buffer, and its part of the budget.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same, for keeps.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk")
            .field("tensor", &self.tensor().name)
            .field("offset", &self.offset)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// The size of chunks in bytes, as asked for or as usual, and the budget that they are held to: at least two fit.
///
/// Without a budget there are two more than threads that wait for a disk, so that each has one while the consumer has one and another waits.
pub(crate) fn chunk_bytes(
    asked: Option<u64>,
    budget: Option<u64>,
    limit: u64,
    threads: usize,
) -> (u64, u64) {
    let wanted = asked.unwrap_or(USUAL_CHUNK_BYTES).next_multiple_of(PAGE);
    let usual = wanted.saturating_mul(threads as u64 + 2);
    let budget = budget.unwrap_or(usual).min(limit);
    let most = (budget / 2 / PAGE * PAGE).max(PAGE);
    (wanted.min(most), budget)
}

/// Cuts `tensors` into what jobs read.
fn pieces(loader: &Loader, tensors: &[TensorInfo], chunk_bytes: u64) -> VecDeque<Piece> {
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    let mut small = 0..0;
    let mut small_bytes = 0;
    let flush = |small: &mut Range<usize>, pieces: &mut VecDeque<Piece>| {
        if small.start < small.end {
            pieces.push_back(Piece::Whole {
                charge: charge(loader, &tensors[small.clone()]),
                tensors: small.clone(),
            });
        }
    };
    for (tensor, info) in tensors.iter().enumerate() {
        let is_small = loader.is_small(info.bytes) && info.bytes <= chunk_bytes;
        let joins = is_small
            && small_bytes + info.bytes <= chunk_bytes
            && small.len() < MAX_PARTS
            && small.end == tensor;
        if !joins {
            flush(&mut small, &mut pieces);
            (small, small_bytes) = (tensor..tensor, 0);
        }
        if is_small {
            small.end = tensor + 1;
            small_bytes += info.bytes;
            continue;
        }
        small = 0..0;
        let charge = loader.capacity_for(chunk_bytes);
        let mut offset = 0;
        // The first lies in step with the file and ends with a block, so that the disk brings it and all others into place.
        let mut start = info.step();
        while offset < info.bytes {
            let len = (chunk_bytes - start).min(info.bytes - offset);
            pieces.push_back(Piece::Part {
                tensor,
                offset,
                len,
                start,
                buffer_bytes: chunk_bytes,
                charge,
            });
            offset += len;
            start = 0;
        }
    }
    flush(&mut small, &mut pieces);
    pieces
}
