//! Where a resident load's memory comes from: which of the pool's idle buffers it divides among its tensors, and what is new.
//!
//! A model's tensors are not of the sizes of the model before, but together they are about as large. So tensors are packed into what
//! that one left: the largest first, each where it leaves the least room, tensors that are small and neighbours in the file together.
//! What fits nowhere goes into new slots, as if the pool were empty.
//!
//! Pure functions: nothing here takes memory, and what is planned with may be gone when it is asked for.

use std::ops::Range;

use crate::TensorInfo;
use crate::plan::{Place, Plan, STEP, SlotRule, pack};

/// Neighbours in the file stay together up to about this many bytes, so that small tensors do not make small reads.
const GROUP_BYTES: u64 = 4 << 20;

/// A tensor of this many bytes or more is packed alone.
const ALONE_BYTES: u64 = 16 << 20;

/// How much memory a load may take, and what a new slot takes of it.
pub(crate) struct Limits<'a> {
    /// Capacity of a new buffer for so many bytes.
    pub(crate) capacity_for: &'a dyn Fn(u64) -> u64,
    /// Whether an idle buffer of a capacity would be lent for so many bytes without being asked for by its capacity.
    pub(crate) serves: &'a dyn Fn(u64, u64) -> bool,
    /// The most bytes that the pool may hold, if there is a limit.
    pub(crate) max_bytes: Option<u64>,
    /// How new slots are made.
    pub(crate) slots: SlotRule,
    pub(crate) read_bytes: u64,
}

/// A plan, and for each of its slots the capacity of the idle buffer that it takes; `None` for a slot that is asked for by its size.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) plan: Plan,
    pub(crate) idle: Vec<Option<u64>>,
}

impl Layout {
    /// The layout that takes the most from `idle` buffers, given by their capacities: `plain`, the plan for an empty pool, or another.
    ///
    /// It never takes more than the pool may hold, nor more than an eighth above what new memory would come to.
    pub(crate) fn new(
        tensors: &[TensorInfo],
        plain: Plan,
        idle: &[u64],
        limits: &Limits<'_>,
    ) -> Self {
        let needed = limits.capacity_of(plain.slots());
        let most = needed
            .saturating_add(needed / 8)
            .min(limits.max_bytes.unwrap_or(u64::MAX))
            .max(needed);
        // A model that comes back finds its own buffers. It asks for each by its capacity, lest a slot be lent a larger one that another needs.
        let found_again = limits.found_again(plain.slots(), idle);
        let slots = plain.slots().iter().zip(&found_again);
        let found_bytes: u64 = slots
            .filter(|(_, found)| found.is_some())
            .map(|(&bytes, _)| bytes)
            .sum();
        let packing = Packing::new(tensors, idle, limits, most);
        if packing.bytes() > found_bytes {
            packing.layout()
        } else {
            Self {
                plan: plain,
                idle: found_again,
            }
        }
    }
}

impl Limits<'_> {
    fn capacity_of(&self, slots: &[u64]) -> u64 {
        slots.iter().map(|&bytes| (self.capacity_for)(bytes)).sum()
    }

    /// For each of `slots` the capacity of the smallest idle buffer that would serve it as it is, each buffer for one.
    fn found_again(&self, slots: &[u64], idle: &[u64]) -> Vec<Option<u64>> {
        let mut idle = idle.to_vec();
        let mut smallest = |bytes| {
            let serving = idle.iter().enumerate();
            let serving = serving.filter(|&(_, &capacity)| (self.serves)(capacity, bytes));
            let (index, _) = serving.min_by_key(|&(_, &capacity)| capacity)?;
            Some(idle.swap_remove(index))
        };
        slots.iter().map(|&bytes| smallest(bytes)).collect()
    }
}

/// Tensors that stay together.
#[derive(Debug)]
struct Group {
    /// Their numbers.
    tensors: Range<usize>,
    /// Where each starts, those with bytes, from the group's start.
    offsets: Vec<Place>,
    /// Up to where the next group may start.
    bytes: u64,
    /// Of these bytes, the tensors'.
    tensor_bytes: u64,
}

impl Group {
    fn new(tensors: &[TensorInfo], range: Range<usize>, rule: SlotRule) -> Self {
        let rule = SlotRule {
            bytes: u64::MAX,
            ..rule
        };
        let mut slots = Vec::new();
        let offsets = pack(tensors, range.clone(), rule, &mut slots);
        Self {
            tensor_bytes: tensors[range.clone()].iter().map(|info| info.bytes).sum(),
            tensors: range,
            offsets,
            bytes: slots
                .first()
                .map_or(0, |bytes| bytes.next_multiple_of(STEP)),
        }
    }

    /// Divides `tensors` into groups, in file order.
    fn all(tensors: &[TensorInfo], rule: SlotRule) -> Vec<Self> {
        let mut groups = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (number, info) in tensors.iter().enumerate() {
            let alone = info.bytes >= ALONE_BYTES;
            if start < number && (alone || bytes >= GROUP_BYTES) {
                groups.push(Self::new(tensors, start..number, rule));
                (start, bytes) = (number, 0);
            }
            bytes += info.bytes;
        }
        groups.push(Self::new(tensors, start..tensors.len(), rule));
        groups.retain(|group| group.bytes > 0);
        groups
    }
}

/// An idle buffer that is being filled.
#[derive(Debug)]
struct Bin {
    capacity: u64,
    used: u64,
    /// By number.
    groups: Vec<usize>,
}

/// Tensors on their way into idle buffers.
struct Packing<'a> {
    tensors: &'a [TensorInfo],
    limits: &'a Limits<'a>,
    groups: Vec<Group>,
    bins: Vec<Bin>,
}

impl<'a> Packing<'a> {
    /// Packs what fits, and no more than that the load takes at most `most` bytes.
    fn new(tensors: &'a [TensorInfo], idle: &[u64], limits: &'a Limits<'a>, most: u64) -> Self {
        let mut packing = Self {
            tensors,
            limits,
            groups: Group::all(tensors, limits.slots),
            bins: idle
                .iter()
                .map(|&capacity| Bin {
                    capacity,
                    used: 0,
                    groups: Vec::new(),
                })
                .collect(),
        };
        packing.fill();
        // What a buffer has in excess counts as well. With one less the others fill up more.
        while packing.capacity() > most && packing.drop_worst() {
            packing.fill();
        }
        packing
    }

    /// Best fit, in decreasing order, from empty.
    fn fill(&mut self) {
        for bin in &mut self.bins {
            bin.used = 0;
            bin.groups.clear();
        }
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by_key(|&group| std::cmp::Reverse(self.groups[group].bytes));
        for number in order {
            let group = &self.groups[number];
            let best = self
                .bins
                .iter_mut()
                .filter(|bin| bin.capacity - bin.used >= group.bytes)
                .min_by_key(|bin| bin.capacity - bin.used);
            if let Some(bin) = best {
                bin.used += group.bytes;
                bin.groups.push(number);
            }
        }
        self.bins.retain(|bin| bin.used > 0);
    }

    /// Gives up the buffer with the most unused bytes; `false` if none is left.
    fn drop_worst(&mut self) -> bool {
        let unused = |bin: &Bin| bin.capacity - bin.used;
        let worst = (0..self.bins.len()).max_by_key(|&bin| unused(&self.bins[bin]));
        worst.map(|bin| self.bins.swap_remove(bin)).is_some()
    }

    /// Tensor bytes in idle buffers.
    fn bytes(&self) -> u64 {
        let placed = self.bins.iter().flat_map(|bin| &bin.groups);
        placed.map(|&group| self.groups[group].tensor_bytes).sum()
    }

    /// The memory that the load would take.
    fn capacity(&self) -> u64 {
        let bins: u64 = self.bins.iter().map(|bin| bin.capacity).sum();
        let mut slots = Vec::new();
        self.pack_rest(&mut slots);
        bins + self.limits.capacity_of(&slots)
    }

    /// Packs what is in no idle buffer into new slots.
    fn pack_rest(&self, slots: &mut Vec<u64>) -> Vec<Place> {
        let mut rest = vec![true; self.groups.len()];
        for &group in self.bins.iter().flat_map(|bin| &bin.groups) {
            rest[group] = false;
        }
        let groups = self.groups.iter().zip(rest).filter(|(_, rest)| *rest);
        let numbers = groups.flat_map(|(group, _)| group.tensors.clone());
        pack(self.tensors, numbers, self.limits.slots, slots)
    }

    fn layout(mut self) -> Layout {
        let mut slots: Vec<u64> = self.bins.iter().map(|bin| bin.used).collect();
        let mut idle: Vec<Option<u64>> = self.bins.iter().map(|bin| Some(bin.capacity)).collect();
        let mut places = self.pack_rest(&mut slots);
        idle.resize(slots.len(), None);
        for (slot, bin) in self.bins.iter_mut().enumerate() {
            // In file order, so that neighbours which meet again are read together.
            bin.groups.sort_unstable();
            let mut start = 0;
            for group in bin.groups.iter().map(|&group| &self.groups[group]) {
                places.extend(group.offsets.iter().map(|place| Place {
                    slot,
                    offset: start + place.offset,
                    ..*place
                }));
                start += group.bytes;
            }
        }
        places.sort_by_key(|place| place.tensor);
        Layout {
            plan: Plan::new(self.tensors, slots, places, self.limits.read_bytes),
            idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    const MIB: u64 = 1 << 20;

    /// The dimensions of a decoder, as published in its `config.json`; all tensors are bf16.
    struct Decoder {
        layers: u64,
        hidden: u64,
        intermediate: u64,
        key_value: u64,
        vocabulary: u64,
        /// Whether queries, keys and values have biases.
        biases: bool,
    }

    const LLAMA_2_7B: Decoder = Decoder {
        layers: 32,
        hidden: 4096,
        intermediate: 11_008,
        key_value: 4096,
        vocabulary: 32_000,
        biases: false,
    };
    const LLAMA_3_8B: Decoder = Decoder {
        layers: 32,
        hidden: 4096,
        intermediate: 14_336,
        key_value: 1024,
        vocabulary: 128_256,
        biases: false,
    };
    const MISTRAL_7B: Decoder = Decoder {
        layers: 32,
        hidden: 4096,
        intermediate: 14_336,
        key_value: 1024,
        vocabulary: 32_000,
        biases: false,
    };
    const QWEN_2_7B: Decoder = Decoder {
        layers: 28,
        hidden: 3584,
        intermediate: 18_944,
        key_value: 512,
        vocabulary: 152_064,
        biases: true,
    };

    impl Decoder {
        fn tensors(&self) -> Vec<TensorInfo> {
            let (hidden, wide, narrow) = (self.hidden, self.intermediate, self.key_value);
            let mut elements = vec![self.vocabulary * hidden];
            for _ in 0..self.layers {
                elements.extend([hidden, hidden * wide, hidden * wide, hidden * wide, hidden]);
                elements.extend([
                    narrow * hidden,
                    hidden * hidden,
                    hidden * hidden,
                    narrow * hidden,
                ]);
                if self.biases {
                    elements.extend([hidden, narrow, narrow]);
                }
            }
            elements.extend([hidden, self.vocabulary * hidden]);
            of_sizes(elements.into_iter().map(|elements| 2 * elements))
        }
    }

    /// Tensors of these many bytes, one behind the other in one file.
    fn of_sizes(sizes: impl IntoIterator<Item = u64>) -> Vec<TensorInfo> {
        let mut offset = 8;
        sizes
            .into_iter()
            .enumerate()
            .map(|(number, bytes)| {
                let (name, shape) = (number.to_string(), vec![bytes]);
                let info = TensorInfo::in_place(name, Dtype::U8, shape, bytes, offset);
                offset += bytes;
                info
            })
            .collect()
    }

    fn total(tensors: &[TensorInfo]) -> u64 {
        tensors.iter().map(|info| info.bytes).sum()
    }

    fn capacity_for(bytes: u64) -> u64 {
        let granule = if bytes < 16 * MIB { 4096 } else { 2 * MIB };
        bytes.next_multiple_of(granule)
    }

    /// A pool that only counts.
    struct Counted {
        idle: Vec<u64>,
        max_bytes: u64,
    }

    impl Counted {
        /// Loads and drops a model; returns the share of its bytes that came from reused memory.
        fn load(&mut self, tensors: &[TensorInfo]) -> f64 {
            let limits = Limits {
                capacity_for: &capacity_for,
                serves: &|capacity, bytes| (bytes..=capacity_for(bytes)).contains(&capacity),
                max_bytes: Some(self.max_bytes),
                slots: SlotRule {
                    bytes: crate::plan::slot_bytes(total(tensors), 32),
                    in_step: true,
                },
                read_bytes: 4 * MIB,
            };
            let plain = Plan::packed(tensors, limits.slots, limits.read_bytes);
            let layout = Layout::new(tensors, plain, &self.idle, &limits);
            check(tensors, &layout, &self.idle);
            let mut rest = self.idle.clone();
            let (mut held, mut reused) = (Vec::new(), 0);
            for (&bytes, &idle) in layout.plan.slots().iter().zip(&layout.idle) {
                let serving = match idle {
                    Some(capacity) => rest.iter().position(|&other| other == capacity),
                    None => rest.iter().position(|&other| (limits.serves)(other, bytes)),
                };
                if let Some(index) = serving {
                    held.push(rest.swap_remove(index));
                    reused += bytes;
                } else {
                    held.push(capacity_for(bytes));
                }
            }
            let leased: u64 = held.iter().sum();
            assert!(leased <= self.max_bytes, "{leased} of {}", self.max_bytes);
            // Idle buffers go until the rest fits; which ones is the pool's business.
            rest.sort_unstable();
            while leased + rest.iter().sum::<u64>() > self.max_bytes {
                rest.remove(0);
            }
            held.extend(rest);
            self.idle = held;
            reused as f64 / total(tensors) as f64
        }
    }

    /// Every tensor has a place of its own in its slot, and every slot fits its buffer.
    fn check(tensors: &[TensorInfo], layout: &Layout, idle: &[u64]) {
        let mut ends = vec![Vec::new(); layout.plan.slots().len()];
        for place in layout.plan.places() {
            let info = &tensors[place.tensor];
            assert!(place.offset.is_multiple_of(info.dtype.alignment()));
            ends[place.slot].push((place.offset, place.offset + info.bytes));
        }
        let mut idle = idle.to_vec();
        for (slot, ends) in ends.iter_mut().enumerate() {
            ends.sort_unstable();
            assert!(
                ends.windows(2).all(|pair| pair[0].1 <= pair[1].0),
                "they overlap"
            );
            let used = layout.plan.slots()[slot];
            assert!(ends.last().is_some_and(|&(_, end)| end <= used));
            if let Some(capacity) = layout.idle[slot] {
                assert!(used <= capacity);
                let index = idle.iter().position(|&other| other == capacity);
                idle.swap_remove(index.expect("each idle buffer is used once"));
            }
        }
        let placed = layout.plan.places().iter().map(|place| place.tensor);
        assert!(placed.eq((0..tensors.len()).filter(|&tensor| tensors[tensor].bytes > 0)));
    }

    #[test]
    fn a_model_that_comes_back_asks_for_its_own_buffers() {
        let tensors = of_sizes([70 * MIB, 66 * MIB, 68 * MIB]);
        let limits = Limits {
            capacity_for: &capacity_for,
            // As a pool without a limit lends them.
            serves: &|capacity, bytes| (bytes..=bytes + bytes / 8).contains(&capacity),
            max_bytes: None,
            slots: SlotRule {
                bytes: 64 * MIB,
                in_step: false,
            },
            read_bytes: 4 * MIB,
        };
        let plain = Plan::packed(&tensors, limits.slots, limits.read_bytes);
        let idle = [70, 68, 66].map(|mib| mib * MIB);
        let layout = Layout::new(&tensors, plain, &idle, &limits);
        check(&tensors, &layout, &idle);
        let own = [70, 66, 68].map(|mib| Some(mib * MIB));
        assert_eq!(layout.idle, own);
    }

    #[test]
    fn published_models_of_similar_size_reuse_each_other_s_memory() {
        let models = [
            ("Llama 2 7B", LLAMA_2_7B.tensors()),
            ("Mistral 7B", MISTRAL_7B.tensors()),
            ("Llama 3 8B", LLAMA_3_8B.tensors()),
            ("Qwen2 7B", QWEN_2_7B.tensors()),
        ];
        assert_eq!(total(&models[0].1), 13_476_831_232);
        assert_eq!(total(&models[2].1), 16_060_522_496);
        for (first, a) in &models {
            for (second, b) in &models {
                let larger = total(a).max(total(b));
                for percent in [105, 110, 150] {
                    let mut pool = Counted {
                        idle: Vec::new(),
                        max_bytes: larger / 100 * percent,
                    };
                    assert_eq!(pool.load(a), 0.0);
                    for tensors in [b, a, b] {
                        let largest = tensors.iter().map(|info| info.bytes).max().unwrap_or(0);
                        let fits = pool.idle.iter().any(|&capacity| capacity >= largest);
                        // The part by which the second is larger cannot be there yet.
                        let there = pool.idle.iter().sum::<u64>().min(total(tensors));
                        let there = there as f64 / total(tensors) as f64;
                        let reused = pool.load(tensors);
                        let floor = there * if fits { 0.95 } else { 0.80 };
                        let case = format!("{first}, {second}, {percent} %");
                        println!("{case}: {:.1} % of its bytes", 100.0 * reused);
                        assert!(reused >= floor, "{case}: {reused:.3} of {floor:.3}");
                    }
                }
            }
        }
    }
}
