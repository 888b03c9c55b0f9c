//! Which bytes are read in which order, and where each goes: a pure function from tensors to reads and places.
//!
//! Nothing here opens a file or takes memory. A plan has *slots* (blocks of memory that the load will take), *places* (where in a slot a
//! tensor lies), *reads* (one range of a file each, scattered over one or more parts of slots) and *gathers* (a tensor each whose elements
//! do not lie one behind the other).

use std::ops::Range;

use crate::TensorInfo;
use crate::coalesce::Reads;
use crate::stored::Stored;

/// The smallest blocks, in bytes, of a resident load that has more than one.
const LEAST_SLOT_BYTES: u64 = 64 << 20;

/// Blocks of a resident load are no larger than this many bytes, unless the pool could not keep them all.
const USUAL_SLOT_BYTES: u64 = 1 << 30;

/// The most parts of one read: Linux takes 1,024 buffers in one `preadv` (`UIO_MAXIOV`).
pub(crate) const MAX_PARTS: usize = 1024;

/// Where a tensor does not simply follow its neighbour it starts on a cache line.
const PLACE_ALIGNMENT: u64 = 64;

/// Memory and file that agree modulo this many bytes suit every disk's direct reads.
pub(crate) const STEP: u64 = 4096;

/// A tensor of this many bytes or more is worth a gap before it that brings its memory in step with its file.
const WORTH_A_GAP: u64 = 64 << 10;

/// How slots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotRule {
    /// Their size in bytes, but for tensors that are larger.
    pub(crate) bytes: u64,
    /// Whether tensors lie as far from a page's start as they do in their files, where their dtypes' alignments allow it: reads past
    /// the page cache then need no copy. It costs less than a page for each slot and large tensor.
    pub(crate) in_step: bool,
}

impl SlotRule {
    /// The first byte from `used` on that suits a tensor which does not follow its neighbour.
    fn start_from(self, used: u64, info: &TensorInfo) -> u64 {
        let in_step = self.in_step
            && info.stored == Stored::InPlace
            && info.offset.is_multiple_of(info.dtype.alignment())
            && (used == 0 || info.bytes >= WORTH_A_GAP);
        if in_step {
            used + (info.offset % STEP + STEP - used % STEP) % STEP
        } else {
            used.next_multiple_of(PLACE_ALIGNMENT)
        }
    }
}

/// One read: consecutive bytes of one file, which may go to several places, and of which some may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read {
    /// The file, as an index into [`Checkpoint::files`](crate::Checkpoint::files).
    pub file: usize,
    /// The first byte, from the start of the file.
    pub offset: u64,
    /// The number of bytes that it brings: the sum of the parts'.
    pub len: u64,
    /// Where the bytes go, in the order in which the file has them.
    pub parts: Vec<Part>,
    /// What of the file is left out, if anything is.
    pub gaps: Option<Gaps>,
}

impl Read {
    /// The bytes of the file from the first to the last that it brings, those that are left out as well.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.len + self.gaps.map_or(0, |gaps| gaps.between(self.len))
    }
}

/// The bytes that a read leaves out, at regular distances: the read has runs, and gaps between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gaps {
    /// The bytes before the first gap; not more than `run`.
    pub first: u64,
    /// The bytes before each further gap.
    pub run: u64,
    /// The bytes of each gap.
    pub gap: u64,
}

impl Gaps {
    /// The bytes of all gaps between `len` bytes that are read.
    fn between(self, len: u64) -> u64 {
        len.saturating_sub(self.first).div_ceil(self.run) * self.gap
    }
}

/// A tensor, or a part of one, whose elements are collected: a view of a storage, or what is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gather {
    /// The tensor, as an index into [`Checkpoint::tensors`](crate::Checkpoint::tensors).
    pub tensor: usize,
    /// The first byte that is wanted, from the start of the tensor as it will lie in memory.
    pub from: u64,
    /// The slot, as an index into [`Plan::slots`].
    pub slot: usize,
    /// Where in the slot that byte goes.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
    /// In the order of their places, the reads before it.
    pub(crate) after: usize,
}

impl Gather {
    /// Where it goes.
    pub(crate) fn part(&self) -> Part {
        Part {
            slot: self.slot,
            offset: self.offset,
            len: self.len,
        }
    }
}

/// A stretch of a slot that one read fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The slot, as an index into [`Plan::slots`].
    pub slot: usize,
    /// The first byte, from the start of the slot.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
}

/// Where a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The tensor, as an index into [`Checkpoint::tensors`](crate::Checkpoint::tensors).
    pub tensor: usize,
    /// The slot, as an index into [`Plan::slots`].
    pub slot: usize,
    /// The tensor's first byte, from the start of the slot; a multiple of its dtype's alignment.
    pub offset: u64,
}

/// What a load will read, and where it will put it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    slots: Vec<u64>,
    places: Vec<Place>,
    reads: Vec<Read>,
    gathers: Vec<Gather>,
}

impl Plan {
    /// The sizes in bytes of the blocks of memory that the load takes. Each starts on a page.
    #[must_use]
    pub fn slots(&self) -> &[u64] {
        &self.slots
    }

    /// Where each tensor lies, in file order. A tensor without bytes has no place.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The reads, in file order.
    #[must_use]
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// What is gathered, in file order. How it is read depends on what lies where.
    #[must_use]
    pub fn gathers(&self) -> &[Gather] {
        &self.gathers
    }

    /// Packs `tensors`, which are in file order, into as few slots as their order and the rule allow.
    ///
    /// Neighbours in the file are neighbours in memory wherever that keeps them aligned, so that one read fills many of them. A
    /// tensor of a slot's size or more has a slot of its own.
    pub(crate) fn packed(tensors: &[TensorInfo], rule: SlotRule, read_bytes: u64) -> Self {
        let mut slots = Vec::new();
        let places = pack(tensors, 0..tensors.len(), rule, &mut slots);
        Self::new(tensors, slots, places, read_bytes)
    }

    /// The plan that fills `places`, which are in file order, in `slots`.
    pub(crate) fn new(
        tensors: &[TensorInfo],
        slots: Vec<u64>,
        places: Vec<Place>,
        read_bytes: u64,
    ) -> Self {
        let mut all = Reads::new(read_bytes);
        for &place in &places {
            let info = &tensors[place.tensor];
            all.add(info, 0..info.bytes, place);
        }
        Self {
            slots,
            places,
            reads: all.reads,
            gathers: all.gathers,
        }
    }

    /// The plan that brings the bytes `range` of one tensor into a slot of their own, in one read if they follow one another.
    pub(crate) fn part(info: &TensorInfo, range: Range<u64>, read_bytes: u64) -> Self {
        let len = range.end - range.start;
        let place = Place {
            tensor: 0,
            slot: 0,
            offset: 0,
        };
        let mut all = Reads::new(read_bytes.max(len + STEP));
        all.add(info, range, place);
        Self {
            slots: vec![len],
            places: vec![place],
            reads: all.reads,
            gathers: all.gathers,
        }
    }

    /// The plan that brings the bytes `range` of file number `file`, whatever they are, into a slot of their own.
    pub(crate) fn stretch(file: usize, range: Range<u64>) -> Self {
        let len = range.end - range.start;
        let part = Part {
            slot: 0,
            offset: 0,
            len,
        };
        Self {
            slots: vec![len],
            reads: vec![Read {
                file,
                offset: range.start,
                len,
                parts: vec![part],
                gaps: None,
            }],
            ..Self::default()
        }
    }

    /// Gives every one of `tensors`, which are in file order, a slot of its own, in the same order.
    pub(crate) fn separate(tensors: &[TensorInfo], read_bytes: u64) -> Self {
        let places: Vec<Place> = non_empty(tensors)
            .enumerate()
            .map(|(slot, (tensor, _))| Place {
                tensor,
                slot,
                offset: 0,
            })
            .collect();
        let slots = non_empty(tensors).map(|(_, info)| info.bytes).collect();
        Self::new(tensors, slots, places, read_bytes)
    }
}

/// The sizes in bytes of the slots that `tensors` are packed into.
pub(crate) fn packed_slots(tensors: &[TensorInfo], rule: SlotRule) -> Vec<u64> {
    let mut slots = Vec::new();
    pack(tensors, 0..tensors.len(), rule, &mut slots);
    slots
}

/// Packs some `tensors`, whose numbers rise, into new slots; adds these to `slots`.
pub(crate) fn pack(
    tensors: &[TensorInfo],
    numbers: impl IntoIterator<Item = usize>,
    rule: SlotRule,
    slots: &mut Vec<u64>,
) -> Vec<Place> {
    let mut places = Vec::new();
    let mut open: Option<OpenSlot> = None;
    for tensor in numbers {
        let info = &tensors[tensor];
        if info.bytes == 0 {
            continue;
        }
        let (slot, offset) = match &open {
            Some(open)
                if info.bytes < rule.bytes
                    && open.offset_for(info, rule) + info.bytes <= rule.bytes =>
            {
                (open.slot, open.offset_for(info, rule))
            }
            _ => (slots.len(), rule.start_from(0, info)),
        };
        if slot == slots.len() {
            slots.push(0);
        }
        slots[slot] = offset + info.bytes;
        places.push(Place {
            tensor,
            slot,
            offset,
        });
        if info.bytes < rule.bytes {
            open = Some(OpenSlot {
                slot,
                used: offset + info.bytes,
                file: info.file,
                file_end: info.offset + info.bytes,
            });
        }
    }
    places
}

/// The slot that small tensors are being packed into.
struct OpenSlot {
    slot: usize,
    used: u64,
    file: usize,
    file_end: u64,
}

impl OpenSlot {
    /// Where the next tensor would start: right behind its neighbour in the file, or where the rule wants it.
    fn offset_for(&self, info: &TensorInfo, rule: SlotRule) -> u64 {
        let follows = self.file == info.file && self.file_end == info.offset;
        if follows && self.used.is_multiple_of(info.dtype.alignment()) {
            self.used
        } else {
            rule.start_from(self.used, info)
        }
    }
}

fn non_empty(tensors: &[TensorInfo]) -> impl Iterator<Item = (usize, &TensorInfo)> {
    tensors
        .iter()
        .enumerate()
        .filter(|(_, info)| info.bytes > 0)
}

/// The size in bytes of the blocks that a resident load of `bytes` packs its tensors into, if the pool keeps so many buffers.
///
/// An eighth of the model: the next one, with tensors of other sizes, finds large blocks to divide, and threads find
/// several to fault in at once.
pub(crate) fn slot_bytes(bytes: u64, buffers: u64) -> u64 {
    let eighth = (bytes / 8).clamp(LEAST_SLOT_BYTES, USUAL_SLOT_BYTES);
    // A pool keeps a number of buffers: of a very large model it keeps all only if they are larger still.
    match buffers {
        0 => eighth,
        buffers => eighth.max(bytes / buffers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, Shard};

    /// Tensors of one file, one behind the other from `start`, of these dtypes and numbers of elements.
    fn neighbours(start: u64, described: &[(Dtype, u64)]) -> Vec<TensorInfo> {
        let mut offset = start;
        described
            .iter()
            .enumerate()
            .map(|(number, &(dtype, elements))| {
                let bytes = dtype.bytes_of(&[elements]).expect("whole bytes");
                let (name, shape) = (number.to_string(), vec![elements]);
                let info = TensorInfo::in_place(name, dtype, shape, bytes, offset);
                offset += bytes;
                info
            })
            .collect()
    }

    fn slots_of(bytes: u64) -> SlotRule {
        SlotRule {
            bytes,
            in_step: false,
        }
    }

    #[test]
    fn memory_is_in_step_with_the_file_where_alignment_allows_it() {
        let rule = SlotRule {
            bytes: 1 << 20,
            in_step: true,
        };
        let mut tensors = neighbours(5000, &[(Dtype::F32, 10), (Dtype::F32, 70_000)]);
        let after_a_gap = neighbours(400_000, &[(Dtype::F32, 3), (Dtype::F64, 20_000)]);
        tensors.extend(after_a_gap);
        let plan = Plan::packed(&tensors, rule, 1 << 20);
        let distances: Vec<u64> = (plan.places.iter().zip(&tensors))
            .map(|(place, info)| place.offset % STEP + STEP - info.offset % STEP)
            .collect();
        assert_eq!(plan.places[0].offset, 5000 - 4096);
        // The third is not worth a gap, and the fourth does not fit its dtype where its file has it.
        assert_eq!(distances[..2], [STEP, STEP]);
        assert!(plan.places[2].offset < plan.places[1].offset + 280_000 + 64);
        assert!(plan.places[3].offset.is_multiple_of(8));
        let odd = neighbours(14_291, &[(Dtype::F32, 70_000)]);
        assert_eq!(Plan::packed(&odd, rule, 1 << 20).places[0].offset, 0);
    }

    #[test]
    fn neighbours_at_an_odd_offset_are_one_read_into_one_slot() {
        let tensors = neighbours(
            14_291,
            &[(Dtype::F32, 10), (Dtype::F32, 3), (Dtype::F32, 7)],
        );
        let plan = Plan::packed(&tensors, slots_of(1 << 20), 1 << 20);
        assert_eq!(plan.slots, [80]);
        let [read] = plan.reads.as_slice() else {
            panic!("one read, not {:?}", plan.reads);
        };
        assert_eq!((read.offset, read.len), (14_291, 80));
        assert_eq!(
            read.parts,
            [Part {
                slot: 0,
                offset: 0,
                len: 80
            }]
        );
    }

    #[test]
    fn a_misaligned_neighbour_moves_in_memory_but_not_into_another_read() {
        let tensors = neighbours(8, &[(Dtype::U8, 3), (Dtype::F64, 1)]);
        let plan = Plan::packed(&tensors, slots_of(1 << 20), 1 << 20);
        assert_eq!(plan.places[1].offset, 64);
        let [read] = plan.reads.as_slice() else {
            panic!("one read, not {:?}", plan.reads);
        };
        assert_eq!(
            read.parts,
            [
                Part {
                    slot: 0,
                    offset: 0,
                    len: 3
                },
                Part {
                    slot: 0,
                    offset: 64,
                    len: 8
                }
            ]
        );
    }

    #[test]
    fn a_large_tensor_has_its_own_slot_and_many_reads() {
        let tensors = neighbours(8, &[(Dtype::U8, 10), (Dtype::U8, 1000), (Dtype::U8, 10)]);
        let plan = Plan::packed(&tensors, slots_of(500), 100);
        assert_eq!(plan.slots, [74, 1000]);
        assert_eq!(plan.reads.len(), 11);
        assert!(plan.reads.iter().all(|read| read.len <= 100));
    }

    #[test]
    fn large_tensors_are_cut_between_blocks() {
        let tensors = neighbours(14_291, &[(Dtype::U8, 100_000), (Dtype::U8, 50_000)]);
        let plan = Plan::packed(&tensors, slots_of(1 << 20), 40_000);
        let starts: Vec<u64> = plan.reads.iter().map(|read| read.offset).collect();
        assert_eq!(starts, [14_291, 53_248, 90_112, 126_976, 163_840]);
        let all = 14_291..164_291;
        for part in [all.clone(), 14_291..20_000] {
            let len = part.end - part.start;
            let info = &neighbours(part.start, &[(Dtype::U8, len)])[0];
            assert_eq!(Plan::part(info, 0..len, 1).reads.len(), 1);
        }
    }

    #[test]
    fn tensors_without_bytes_take_no_place() {
        let tensors = neighbours(8, &[(Dtype::F32, 0), (Dtype::F32, 1), (Dtype::F32, 0)]);
        let plan = Plan::separate(&tensors, 100);
        assert_eq!(plan.slots, [4]);
        assert_eq!(plan.places.len(), 1);
        assert_eq!(plan.places[0].tensor, 1);
        assert_eq!(Plan::packed(&[], slots_of(100), 100), Plan::default());
    }

    #[test]
    fn random_plans_place_every_byte_once() {
        let seed = std::env::var("CKLOAD_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("CKLOAD_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let described: Vec<(Dtype, u64)> = (0..random.usize(0..40))
                .map(|_| {
                    let dtype = Dtype::ALL[random.usize(..Dtype::ALL.len())];
                    let block = dtype.block().elements;
                    (dtype, random.u64(0..4000).next_multiple_of(block))
                })
                .collect();
            let tensors = neighbours(random.u64(8..100), &described);
            let (slot_bytes, read_bytes) = (random.u64(1..5000), random.u64(1..3000));
            for in_step in [false, true] {
                let rule = SlotRule {
                    bytes: slot_bytes,
                    in_step,
                };
                check(
                    &tensors,
                    &Plan::packed(&tensors, rule, read_bytes),
                    read_bytes,
                );
            }
            check(&tensors, &Plan::separate(&tensors, read_bytes), read_bytes);
        }
    }

    #[test]
    fn tensors_that_share_bytes_are_read_for_each() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut tensors: Vec<TensorInfo> = (0..random.usize(1..30))
                .flat_map(|_| neighbours(random.u64(8..500), &[(Dtype::F32, random.u64(0..60))]))
                .collect();
            tensors.sort_by_key(|info| info.offset);
            let read_bytes = random.u64(1..300);
            let rule = slots_of(random.u64(1..500));
            check(
                &tensors,
                &Plan::packed(&tensors, rule, read_bytes),
                read_bytes,
            );
            check(&tensors, &Plan::separate(&tensors, read_bytes), read_bytes);
        }
    }

    /// Carries the plan out on a file whose byte at each offset is that offset, and compares each tensor.
    fn check(tensors: &[TensorInfo], plan: &Plan, read_bytes: u64) {
        let mut memory: Vec<Vec<u64>> = plan
            .slots
            .iter()
            .map(|&len| vec![u64::MAX; len as usize])
            .collect();
        for read in &plan.reads {
            assert!(read.len <= read_bytes && read.parts.len() <= MAX_PARTS);
            assert!(read.gaps.is_none() || read.span() <= read_bytes);
            let mut offset = read.offset;
            let mut rest = read.gaps.map_or(u64::MAX, |gaps| gaps.first);
            for part in &read.parts {
                for at in part.offset..part.offset + part.len {
                    if let (0, Some(gaps)) = (rest, read.gaps) {
                        offset += gaps.gap;
                        rest = gaps.run;
                    }
                    let byte = &mut memory[part.slot][at as usize];
                    assert_eq!(*byte, u64::MAX, "filled twice");
                    *byte = offset;
                    offset += 1;
                    rest -= 1;
                }
            }
            assert_eq!(offset, read.offset + read.span());
        }
        for gather in &plan.gathers {
            for at in 0..gather.len {
                let byte = &mut memory[gather.slot][(gather.offset + at) as usize];
                assert_eq!(*byte, u64::MAX, "filled twice");
                *byte = offset_of(&tensors[gather.tensor], gather.from + at);
            }
        }
        // Whoever cuts slots for reads and gathers in turn finds them in rising order.
        let mut ends = vec![0; plan.slots.len()];
        let mut gathers = plan.gathers.iter().peekable();
        let mut in_turn = Vec::new();
        for (number, read) in plan.reads.iter().enumerate() {
            while let Some(gather) = gathers.next_if(|gather| gather.after <= number) {
                in_turn.push(gather.part());
            }
            in_turn.extend(&read.parts);
        }
        in_turn.extend(gathers.map(Gather::part));
        for part in in_turn {
            assert!(part.offset >= ends[part.slot]);
            ends[part.slot] = part.offset + part.len;
        }
        let placed: Vec<usize> = plan.places.iter().map(|place| place.tensor).collect();
        let expected: Vec<usize> = non_empty(tensors).map(|(tensor, _)| tensor).collect();
        assert_eq!(placed, expected);
        for place in &plan.places {
            let info = &tensors[place.tensor];
            assert!(place.offset.is_multiple_of(info.dtype.alignment()));
            for at in 0..info.bytes {
                assert_eq!(
                    memory[place.slot][(place.offset + at) as usize],
                    offset_of(info, at)
                );
            }
        }
    }

    /// Where byte `at` of a tensor is in its file.
    fn offset_of(info: &TensorInfo, at: u64) -> u64 {
        match info.stored {
            Stored::InPlace => info.offset + at,
            Stored::Runs { run, stride } => info.offset + at / run * stride + at % run,
            Stored::Scattered(_) => panic!("not of these tensors"),
        }
    }

    #[test]
    fn random_parts_are_read_exactly_once() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..60 {
            let mut at = random.u64(8..100);
            let tensors: Vec<TensorInfo> = (0..random.usize(1..12))
                .map(|number| {
                    let rows = random.u64(1..9);
                    let widths = [1..40, 40..2000, 60_000..300_000];
                    let widths = random.choice(widths).expect("not empty");
                    let columns = random.u64(widths);
                    let columns = columns.next_multiple_of(8);
                    let (bytes, shape) = (rows * columns, vec![rows, columns]);
                    let whole =
                        TensorInfo::in_place(number.to_string(), Dtype::U8, shape, bytes, at);
                    at += bytes;
                    let world_size = random.choice([1, 2, 8]).expect("not empty");
                    let shard = Shard::new(1, random.usize(..world_size), world_size);
                    whole.part(shard).expect("it is even")
                })
                .collect();
            let read_bytes = random.u64(4096..1 << 20);
            let rule = slots_of(random.u64(1..1 << 20));
            check(
                &tensors,
                &Plan::packed(&tensors, rule, read_bytes),
                read_bytes,
            );
            check(&tensors, &Plan::separate(&tensors, read_bytes), read_bytes);
            // Pieces of each.
            for info in &tensors {
                let piece = random.u64(1..=info.bytes);
                for start in (0..info.bytes).step_by(piece as usize) {
                    let range = start..(start + piece).min(info.bytes);
                    let plan = Plan::part(info, range.clone(), read_bytes);
                    let read: u64 = plan.reads.iter().map(|read| read.len).sum();
                    let gathered: u64 = plan.gathers.iter().map(|gather| gather.len).sum();
                    assert_eq!(read + gathered, range.end - range.start);
                    assert!(plan.gathers.iter().all(|gather| gather.from == start));
                    let first = plan.reads.first().map(|read| read.offset);
                    assert!(first.is_none_or(|first| first == offset_of(info, start)));
                }
            }
        }
    }

    #[test]
    fn runs_are_read_as_costs_the_least() {
        let columns_of = |columns: u64, world_size: usize| {
            let shape = vec![100, columns];
            let whole = TensorInfo::in_place("t".to_owned(), Dtype::U8, shape, 100 * columns, 64);
            let part = whole.part(Shard::new(1, 1, world_size)).expect("even");
            let plan = Plan::separate(&[part], 1 << 20);
            let spans = plan.reads.iter().map(Read::span).sum::<u64>();
            (plan.reads.len(), plan.gathers.len(), spans)
        };
        // Close together: copied out of what is read whole.
        assert_eq!(columns_of(64, 2), (0, 1, 0));
        // One read for all, or for as many as it may reach over.
        assert_eq!(columns_of(1024, 2), (1, 0, 99 * 1024 + 512));
        assert_eq!(columns_of(32 << 10, 2).0, 4);
        // Too far apart, or so long that each is worth a read.
        assert_eq!(columns_of(128 << 10, 2), (100, 0, 100 * (64 << 10)));
        assert_eq!(columns_of(600 << 10, 2), (100, 0, 100 * (300 << 10)));
    }
}
