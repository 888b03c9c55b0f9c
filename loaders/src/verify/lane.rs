//! What becomes of a file's bytes: a digest of all of them, and digests and counts of the tensors in them.

use std::ops::Range;

use super::digest::{Digest, Hasher};
use super::finite::{Counter, NonFinite};
use crate::TensorInfo;
use crate::stored::Stored;

/// Takes a file's bytes in order, piece by piece.
pub(super) enum Lane {
    File(Hasher),
    Tensors(TensorHashers),
}

impl Lane {
    /// The two lanes of the file that holds those of `tensors` that have these `numbers`.
    ///
    /// Each has every byte pass once, so that they take as long as each other.
    pub(super) fn both(tensors: &[TensorInfo], numbers: Range<usize>, finite: bool) -> [Self; 2] {
        [
            Self::File(Hasher::default()),
            Self::Tensors(TensorHashers::new(tensors, numbers, finite)),
        ]
    }

    /// Takes the bytes that start `at` bytes into the file.
    pub(super) fn update(&mut self, at: u64, bytes: &[u8]) {
        match self {
            Self::File(hasher) => hasher.update(bytes),
            Self::Tensors(hashers) => hashers.update(at, bytes),
        }
    }
}

/// What was found in a tensor's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sha256: Digest,
    /// Of a float tensor, if that was asked for.
    pub(super) non_finite: Option<NonFinite>,
}

impl Found {
    /// What is in `bytes`, which are all of the tensor's, with the digest that is known already.
    pub(super) fn in_whole(info: &TensorInfo, sha256: Digest, bytes: &[u8], finite: bool) -> Self {
        let mut counter = counter(info, finite);
        if let Some(counter) = &mut counter {
            counter.update(bytes);
        }
        Self {
            sha256,
            non_finite: counter.map(Counter::finish),
        }
    }
}

fn counter(info: &TensorInfo, finite: bool) -> Option<Counter> {
    finite
        .then(|| Counter::new(info.dtype, info.byte_order))
        .flatten()
}

/// The tensors of one file that are in place, and the hashers of those whose bytes are passing.
pub(super) struct TensorHashers {
    /// Those that have not begun, the last one first.
    waiting: Vec<Extent>,
    passing: Vec<Extent>,
    /// By tensor number.
    done: Vec<(usize, Found)>,
}

/// Bytes of a file that a tensor has, or several that are alike.
struct Extent {
    bytes: Range<u64>,
    /// Their numbers.
    tensors: Vec<usize>,
    hasher: Hasher,
    counter: Option<Counter>,
}

impl TensorHashers {
    fn new(tensors: &[TensorInfo], numbers: Range<usize>, finite: bool) -> Self {
        let mut numbers: Vec<usize> = numbers
            .filter(|&number| is_in_place(&tensors[number]))
            .collect();
        let key = |&number: &usize| {
            let info = &tensors[number];
            (
                info.offset,
                info.bytes,
                info.dtype,
                info.byte_order as usize,
            )
        };
        numbers.sort_by_key(key);
        let (waiting, empty): (Vec<_>, Vec<_>) = numbers
            .chunk_by(|one, next| key(one) == key(next))
            .rev()
            .map(|alike| Extent::new(&tensors[alike[0]], alike.to_vec(), finite))
            .partition(|extent| !extent.bytes.is_empty());
        let mut done = Vec::new();
        for extent in empty {
            extent.finish(&mut done);
        }
        Self {
            waiting,
            passing: Vec::new(),
            done,
        }
    }

    fn update(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        while let Some(extent) = self.waiting.pop_if(|next| next.bytes.start < end) {
            self.passing.push(extent);
        }
        for extent in &mut self.passing {
            let start = extent.bytes.start.max(at) - at;
            let stop = extent.bytes.end.min(end) - at;
            extent.update(&bytes[start as usize..stop as usize]);
        }
        for extent in self
            .passing
            .extract_if(.., |extent| extent.bytes.end <= end)
        {
            extent.finish(&mut self.done);
        }
    }

    /// What was found in each tensor, by number; a tensor whose bytes did not all pass is not in it.
    pub(super) fn finish(self) -> Vec<(usize, Found)> {
        self.done
    }
}

impl Extent {
    fn new(info: &TensorInfo, tensors: Vec<usize>, finite: bool) -> Self {
        Self {
            bytes: info.offset..info.offset.saturating_add(info.bytes),
            tensors,
            hasher: Hasher::default(),
            counter: counter(info, finite),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(counter) = &mut self.counter {
            counter.update(bytes);
        }
    }

    fn finish(self, done: &mut Vec<(usize, Found)>) {
        let found = Found {
            sha256: self.hasher.finish(),
            non_finite: self.counter.map(Counter::finish),
        };
        done.extend(self.tensors.into_iter().map(|tensor| (tensor, found)));
    }
}

/// Whether the tensor's bytes stand in its file as they will lie in memory.
pub(super) fn is_in_place(info: &TensorInfo) -> bool {
    info.stored == Stored::InPlace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    fn random() -> fastrand::Rng {
        let seed = std::env::var("CKLOAD_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("CKLOAD_SEED={seed}");
        fastrand::Rng::with_seed(seed)
    }

    #[test]
    fn tensors_that_share_bytes_have_each_its_digest_whatever_the_pieces() {
        let mut random = random();
        for _ in 0..200 {
            let len = random.u64(0..3000);
            let file: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let tensors: Vec<TensorInfo> = (0..random.usize(0..12))
                .map(|number| {
                    let start = random.u64(0..=len);
                    let end = [start, random.u64(start..=len), len];
                    let end = random.choice(end);
                    let bytes = end.expect("one of three") - start;
                    let name = number.to_string();
                    TensorInfo::in_place(name, Dtype::U8, vec![bytes], bytes, start)
                })
                .collect();
            let twice = [tensors.clone(), tensors.clone()].concat();
            let mut hashers = TensorHashers::new(&twice, 0..twice.len(), false);
            let piece = random.usize(1..=file.len() + 1);
            let mut at = 0;
            for bytes in file.chunks(piece) {
                hashers.update(at, bytes);
                at += bytes.len() as u64;
            }
            let mut found = hashers.finish();
            found.sort_by_key(|(tensor, _)| *tensor);
            let expected = twice.iter().map(|info| {
                let range = info.offset as usize..(info.offset + info.bytes) as usize;
                Digest::of(&file[range])
            });
            assert!(found.iter().map(|(_, found)| found.sha256).eq(expected));
        }
    }
}
