//! Storages that are deflated (RFC 1951), as entries of zip archives may be.
//!
//! They are inflated from their start, piece by piece, straight into place where that is possible; what is not wanted goes through a small
//! buffer. A piece that lies before the last one makes it start again. The checksum of a zip entry is over all of it and is not
//! looked at here; a damaged stream is noticed where it breaks the format, or does not have the size that was declared.

use std::io;
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};
use parking_lot::Mutex;

use super::{Failed, Target};

/// Compressed bytes that are read at a time.
const PACKED_BYTES: usize = 256 << 10;

/// Bytes that are inflated at a time where they are not wanted.
const SKIPPED_BYTES: usize = 64 << 10;

/// Who starts again is to get there: no more than this is inflated, in bytes and in times the storage's size, whichever is more.
const MOST_INFLATED: (u64, u64) = (8 << 30, 16);

/// The most streams that wait to be read on.
const MAX_PARKED: usize = 32;

/// Reads compressed bytes from an offset on, counted from the first.
pub(super) type ReadPacked<'a> = &'a mut dyn FnMut(u64, Target<'_>) -> Result<(), Failed>;

/// A deflated storage that is being inflated.
pub(super) struct Inflater {
    /// Sizes in bytes.
    packed: u64,
    bytes: u64,
    stream: Decompress,
    input: Vec<u8>,
    /// Of the input, what was not inflated yet.
    waiting: Range<usize>,
    /// Compressed bytes that were read.
    read: u64,
    /// Bytes that were inflated, since the start and altogether.
    at: u64,
    inflated: u64,
    skipped: Vec<u8>,
}

impl Inflater {
    /// A stream of `packed` bytes that inflates to `bytes`.
    pub(super) fn new(packed: u64, bytes: u64) -> Self {
        Self {
            packed,
            bytes,
            stream: Decompress::new(false),
            input: vec![0; packed.min(PACKED_BYTES as u64) as usize],
            waiting: 0..0,
            read: 0,
            at: 0,
            inflated: 0,
            skipped: Vec::new(),
        }
    }

    /// Fills `target` with what the storage has from `at` on. An error says how many compressed bytes were good.
    pub(super) fn fill(
        &mut self,
        at: u64,
        mut target: Target<'_>,
        packed: ReadPacked<'_>,
    ) -> Result<(), Failed> {
        if at < self.at {
            self.restart()?;
        }
        self.skip(at - self.at, packed)?;
        while target.len() > 0 {
            let gap = target.skip_gap() as u64;
            self.skip(gap, packed)?;
            while let Some(memory) = target.first() {
                let bytes = self.inflate(memory, packed)?;
                if bytes == 0 {
                    return Err(self.damaged("the compressed data end before the tensor does"));
                }
                target.advance(bytes);
            }
        }
        Ok(())
    }

    /// Refuses a stream that does not have its declared size.
    pub(super) fn finish(&mut self, packed: ReadPacked<'_>) -> Result<(), Failed> {
        self.skip(self.bytes.saturating_sub(self.at), packed)?;
        if self.inflate(&mut [0], packed)? > 0 {
            return Err(self.damaged("the compressed data are more than was declared"));
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Failed> {
        let most = MOST_INFLATED
            .0
            .max(self.bytes.saturating_mul(MOST_INFLATED.1));
        if self.inflated > most {
            let message = "a view of compressed data that has to be inflated over and over; \
                store the file without compression";
            return Err(self.damaged(message));
        }
        self.stream.reset(false);
        self.waiting = 0..0;
        (self.read, self.at) = (0, 0);
        Ok(())
    }

    /// Inflates `len` bytes that are not wanted.
    fn skip(&mut self, len: u64, packed: ReadPacked<'_>) -> Result<(), Failed> {
        let mut rest = len;
        let mut skipped = std::mem::take(&mut self.skipped);
        while rest > 0 {
            skipped.resize(SKIPPED_BYTES, 0);
            let now = rest.min(SKIPPED_BYTES as u64) as usize;
            match self.inflate(&mut skipped[..now], packed)? {
                0 => return Err(self.damaged("the compressed data are less than was declared")),
                bytes => rest -= bytes as u64,
            }
        }
        self.skipped = skipped;
        Ok(())
    }

    /// Inflates some bytes; none only at the stream's end.
    fn inflate(&mut self, memory: &mut [u8], packed: ReadPacked<'_>) -> Result<usize, Failed> {
        loop {
            if self.waiting.is_empty() {
                self.read_on(packed)?;
            }
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let input = &self.input[self.waiting.clone()];
            let status = self
                .stream
                .decompress(input, memory, FlushDecompress::None)
                .map_err(|error| {
                    self.damaged(&format!("the compressed data are damaged ({error})"))
                })?;
            let taken = (self.stream.total_in() - before_in) as usize;
            let bytes = (self.stream.total_out() - before_out) as usize;
            self.waiting.start += taken;
            self.at += bytes as u64;
            self.inflated += bytes as u64;
            if bytes > 0 || status == Status::StreamEnd {
                return Ok(bytes);
            }
            if taken == 0 && self.read == self.packed {
                return Err(self.damaged("the compressed data end within a block"));
            }
        }
    }

    /// Reads the next compressed bytes, if there are any.
    fn read_on(&mut self, packed: ReadPacked<'_>) -> Result<(), Failed> {
        let len = (self.packed - self.read).min(self.input.len() as u64) as usize;
        if len == 0 {
            return Ok(());
        }
        let input = &mut self.input[..len];
        packed(self.read, std::iter::once(input).collect())
            .map_err(|failed| failed.after(self.read))?;
        self.waiting = 0..len;
        self.read += len as u64;
        Ok(())
    }

    fn damaged(&self, message: &str) -> Failed {
        Failed::damaged(self.read - self.waiting.len() as u64, message)
    }
}

impl Failed {
    /// The bytes are there, but they are not what they should be.
    pub(super) fn damaged(done: u64, message: &str) -> Self {
        Self {
            done,
            source: io::Error::new(io::ErrorKind::InvalidData, message),
        }
    }
}

/// A storage: the number of its file, and its first byte there.
type Key = (usize, u64);

/// Streams of which a piece was taken: whoever wants a later one goes on from there. Pieces of a tensor come to several threads, so there
/// may be as many for one storage.
#[derive(Default)]
pub(super) struct Parked {
    streams: Mutex<Vec<(Key, Inflater)>>,
}

impl Parked {
    /// The stream that has come the furthest, but not past `at`.
    pub(super) fn take(&self, key: Key, at: u64) -> Option<Inflater> {
        let mut streams = self.streams.lock();
        let fitting = (0..streams.len())
            .filter(|&number| streams[number].0 == key && streams[number].1.at <= at)
            .max_by_key(|&number| streams[number].1.at)?;
        Some(streams.swap_remove(fitting).1)
    }

    pub(super) fn park(&self, key: Key, inflater: Inflater) {
        let mut streams = self.streams.lock();
        if streams.len() == MAX_PARKED {
            streams.remove(0);
        }
        streams.push((key, inflater));
    }
}
