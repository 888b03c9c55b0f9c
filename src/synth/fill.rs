//! The values of a tensor's elements.

use super::{Element, Fill, TensorSpec};

/// Elements are drawn chunk by chunk, each chunk from a generator of its own, so that the bytes of a file do not
/// depend on how many threads draw them.
pub(super) const CHUNK_BYTES: u64 = 1 << 20;

/// A part of one tensor, small enough that many threads have work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    tensor: &'a TensorSpec,
    /// Where this chunk's random numbers come from.
    seed: u64,
    first_element: u64,
    pub(super) bytes: usize,
}

/// The chunks of all tensors, in file order.
pub(super) fn chunks(tensors: &[TensorSpec], seed: u64) -> impl Iterator<Item = Chunk<'_>> {
    let mut seeds = fastrand::Rng::with_seed(seed);
    tensors.iter().flat_map(move |tensor| {
        let bytes = tensor.bytes();
        let chunk_seeds: Vec<u64> = (0..bytes.div_ceil(CHUNK_BYTES))
            .map(|_| seeds.u64(..))
            .collect();
        chunk_seeds
            .into_iter()
            .zip((0..bytes).step_by(CHUNK_BYTES as usize))
            .map(move |(seed, begin)| Chunk {
                tensor,
                seed,
                first_element: begin / tensor.element.bytes(),
                bytes: CHUNK_BYTES.min(bytes - begin) as usize,
            })
    })
}

impl Chunk<'_> {
    /// Writes the chunk's elements, little-endian, to `out`, which is as long as the chunk.
    pub(super) fn fill(&self, out: &mut [u8]) {
        match self.tensor.fill {
            Fill::Random => self.fill_random(out),
            Fill::CausalMask => self.fill_causal_mask(out),
        }
    }

    fn fill_random(&self, out: &mut [u8]) {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        match self.tensor.element {
            // Two elements from each random number.
            Element::F32 => {
                for pair in out.chunks_mut(8) {
                    let bits = rng.u64(..);
                    let values = [weight(bits as u32), weight((bits >> 32) as u32)];
                    for (element, value) in pair.chunks_exact_mut(4).zip(values) {
                        element.copy_from_slice(&value.to_le_bytes());
                    }
                }
            }
            Element::Bf16 => {
                for element in out.chunks_exact_mut(2) {
                    element.copy_from_slice(&bf16(weight(rng.u32(..))));
                }
            }
        }
    }

    fn fill_causal_mask(&self, out: &mut [u8]) {
        let [.., rows, columns] = self.tensor.shape[..] else {
            panic!("a mask has at least two dimensions: {}", self.tensor.name);
        };
        let width = self.tensor.element.bytes() as usize;
        for (index, element) in (self.first_element..).zip(out.chunks_exact_mut(width)) {
            let row = index / columns % rows;
            let value = if index % columns <= row { 1.0_f32 } else { 0.0 };
            match self.tensor.element {
                Element::F32 => element.copy_from_slice(&value.to_le_bytes()),
                Element::Bf16 => element.copy_from_slice(&bf16(value)),
            }
        }
    }
}

/// The upper 24 bits as a number in [-0.05, 0.05).
fn weight(bits: u32) -> f32 {
    const STEP: f32 = 0.1 / (1 << 24) as f32;
    ((bits >> 8) as i32 - (1 << 23)) as f32 * STEP
}

fn bf16(value: f32) -> [u8; 2] {
    let [_, _, low, high] = value.to_le_bytes();
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(tensor: &TensorSpec, seed: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for chunk in chunks(std::slice::from_ref(tensor), seed) {
            let begin = bytes.len();
            bytes.resize(begin + chunk.bytes, 0);
            chunk.fill(&mut bytes[begin..]);
        }
        bytes
    }

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .copied()
            .map(f32::from_le_bytes)
            .collect()
    }

    #[test]
    fn random_values_are_small_finite_and_spread() {
        let tensor = TensorSpec::random("w", Element::F32, [600_001]);
        let values = f32s(&filled(&tensor, 7));
        assert_eq!(values.len(), 600_001);
        assert!(values.iter().all(|value| (-0.05..=0.05).contains(value)));
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 1e-3, "mean {mean}");
        assert!(
            values.iter().any(|&value| value > 0.049) && values.iter().any(|&value| value < -0.049)
        );
        assert_ne!(values[0], 0.0);
        assert_ne!(values[600_000], 0.0, "an odd last element is drawn too");
    }

    #[test]
    fn the_seed_decides_the_bytes() {
        let tensor = TensorSpec::random("w", Element::Bf16, [1000]);
        assert_eq!(filled(&tensor, 1), filled(&tensor, 1));
        assert_ne!(filled(&tensor, 1), filled(&tensor, 2));
        assert!(
            filled(&tensor, 1)
                .as_chunks::<2>()
                .0
                .iter()
                .all(|&[low, high]| { f32::from_le_bytes([0, 0, low, high]).abs() <= 0.05 })
        );
    }

    #[test]
    fn masks_are_lower_triangles_across_chunks() {
        let tensor = TensorSpec {
            name: "mask".into(),
            element: Element::F32,
            shape: vec![1, 2, 600, 600],
            fill: Fill::CausalMask,
        };
        let values = f32s(&filled(&tensor, 0));
        for (index, &value) in values.iter().enumerate() {
            let (row, column) = (index / 600 % 600, index % 600);
            assert_eq!(
                value,
                f32::from(u8::from(column <= row)),
                "row {row}, column {column}"
            );
        }
    }
}
