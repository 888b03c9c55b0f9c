//! Streams: tensors past a consumer, whole or in chunks, within a budget.

use std::collections::HashMap;

use bytesize::ByteSize;

use super::{Loader, MIN_BUFFER_BYTES, known};
use crate::read::{Files, ReadPolicy};
use crate::stream::{self, Setting};
use crate::{Checkpoint, Chunks, Error, Stream};

/// Without a budget of its own a stream may hold this many bytes, or more if the largest tensor needs it.
const USUAL_BUDGET_BYTES: u64 = 256 << 20;

impl Loader {
    /// The budget of a stream of `checkpoint` if none is set: 256 MiB, or the largest tensor and half of that if it is more, or what the
    /// pool may hold if that is less.
    #[must_use]
    pub fn default_budget(&self, checkpoint: &Checkpoint) -> ByteSize {
        let sizes = checkpoint.tensors().iter().map(|info| info.bytes);
        let largest = sizes.map(|bytes| self.charge(bytes)).max().unwrap_or(0);
        let usual = USUAL_BUDGET_BYTES.max(largest.saturating_add(USUAL_BUDGET_BYTES / 2));
        ByteSize::b(usual).min(self.pool_limit())
    }

    /// Loads tensors one by one past a consumer, in the order in which they arrive, holding no more than the budget.
    ///
    /// # Errors
    ///
    /// A file cannot be opened, or is not the one that was opened before; the budget is too small for a tensor; the observer
    /// panics. What goes wrong later comes out of the stream.
    pub fn stream(&self, checkpoint: &Checkpoint) -> Result<Stream, Error> {
        traced!(self, "stream", checkpoint).begin_stream(checkpoint)
    }

    /// A stream within what this loader is told to log already.
    pub(crate) fn begin_stream(&self, checkpoint: &Checkpoint) -> Result<Stream, Error> {
        let setting = self.stream_setting(checkpoint)?;
        Error::catch(|| Ok(Stream::new(setting, None)))
    }

    /// As [`stream`](Self::stream), but only the tensors that are named, in this order.
    ///
    /// They are read in parallel and ahead; what arrives before its turn waits, within the budget.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream); a name is unknown or given twice.
    pub fn stream_in_order_of<'a>(
        &self,
        checkpoint: &Checkpoint,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Stream, Error> {
        let mut order = Vec::new();
        let mut turns = HashMap::new();
        for name in names {
            known(checkpoint, name)?;
            if turns.insert(name, order.len()).is_some() {
                return Err(Error::NamedTwice {
                    tensor: name.to_owned(),
                });
            }
            order.push(name);
        }
        let wanted = checkpoint.only(|info| turns.contains_key(info.name.as_str()));
        let numbers: Vec<usize> = order
            .into_iter()
            .filter_map(|name| wanted.position(name))
            .collect();
        let loader = traced!(self, "stream", &wanted);
        let setting = loader.stream_setting(&wanted)?;
        Error::catch(|| Ok(Stream::new(setting, Some(&numbers))))
    }

    /// Loads tensors piece by piece past a consumer, whatever their size, for those who pass them on to a device.
    ///
    /// Chunks are of 2 MiB at most, or of what [`chunk_size`](Self::chunk_size) says, and of half the budget at most. Their buffers are
    /// all of one size, and by default so few are in use at a time that they stay in the CPU's cache: two more than threads.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream), but a budget is too small only below 8 KiB.
    pub fn chunks(&self, checkpoint: &Checkpoint) -> Result<Chunks, Error> {
        let policy = self.policy(checkpoint);
        let asked = self.chunk_size;
        let (chunk_bytes, budget) = self.piece_bytes(checkpoint, asked, &policy)?;
        let loader = traced!(self, "chunks", checkpoint);
        let setting = loader.setting(checkpoint, ByteSize::b(budget), policy)?;
        Error::catch(|| Ok(Chunks::new(setting, chunk_bytes)))
    }

    /// The size in bytes of the pieces that something is read in, as `asked` for or as usual, and the budget for them.
    pub(crate) fn piece_bytes(
        &self,
        checkpoint: &Checkpoint,
        asked: Option<u64>,
        policy: &ReadPolicy,
    ) -> Result<(u64, u64), Error> {
        let (piece_bytes, budget) = stream::chunk_bytes(
            asked,
            self.budget.map(|budget| budget.as_u64()),
            self.pool_limit().as_u64(),
            policy.waiting_threads,
        );
        let needed = self.capacity_for(piece_bytes);
        if budget < needed {
            let tensor = checkpoint.tensors().first();
            return Err(Error::BudgetTooSmall {
                tensor: tensor.map_or_else(String::new, |info| info.name.clone()),
                needed,
                budget: ByteSize::b(budget),
            });
        }
        Ok((piece_bytes, budget))
    }

    fn stream_setting<'a>(&'a self, checkpoint: &'a Checkpoint) -> Result<Setting<'a>, Error> {
        self.check_budget(checkpoint)?;
        let budget = self
            .budget
            .unwrap_or_else(|| self.default_budget(checkpoint))
            .min(self.pool_limit());
        self.setting(checkpoint, budget, self.policy(checkpoint))
    }

    fn setting<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
        budget: ByteSize,
        policy: ReadPolicy,
    ) -> Result<Setting<'a>, Error> {
        self.cancels.check()?;
        Ok(Setting {
            loader: self,
            checkpoint,
            files: Files::open(checkpoint, self.io, self.drop_cache, &self.staging, policy)?,
            budget,
            workers: self.workers(&policy)?,
        })
    }

    /// What a tensor of `bytes` takes of a stream's budget.
    pub(crate) fn charge(&self, bytes: u64) -> u64 {
        if self.is_small(bytes) {
            bytes
        } else {
            self.capacity_for(bytes)
        }
    }

    /// Whether a tensor of `bytes` gets memory of its own in a stream: the pool would not keep so small a buffer.
    pub(crate) fn is_small(&self, bytes: u64) -> bool {
        bytes < self.pool.min_buffer_size().clamp(MIN_BUFFER_BYTES, 1 << 20) as u64
    }

    /// Refuses a stream whose largest tensor fits its budget or the pool not even alone.
    pub(crate) fn check_budget(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let tensors = checkpoint.tensors().iter();
        let Some(largest) = tensors.max_by_key(|info| self.charge(info.bytes)) else {
            return Ok(());
        };
        let needed = self.charge(largest.bytes);
        let limit = self.pool_limit().as_u64();
        match self.budget {
            Some(budget) if budget.as_u64() < needed => Err(Error::BudgetTooSmall {
                tensor: largest.name.clone(),
                needed,
                budget,
            }),
            _ if limit < needed => Err(Error::PoolTooSmall {
                needed,
                max_bytes: limit,
            }),
            _ => Ok(()),
        }
    }
}
