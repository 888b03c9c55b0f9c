//! The tensors of GPT-2.

use std::collections::HashMap;

use super::{Blueprint, Element, Fill, TensorSpec};

/// The dimensions of a model of the GPT-2 family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpt2 {
    /// Number of transformer blocks.
    pub layers: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Number of tokens.
    pub vocabulary: u64,
    /// Longest sequence.
    pub positions: u64,
}

/// The published GPT-2 checkpoint, file `model.safetensors` of `openai-community/gpt2`: its 160 tensors with their
/// names, shapes and offsets, and a header of the same length, after which the data starts at the odd offset 14,291.
///
/// The published file was written from a hash map, so its tensors lie in an order that no rule gives. Only which of the
/// twelve masks, all equal, lies where is ours: by layer.
pub fn gpt2() -> Blueprint {
    let mut tensors = Gpt2::SMALL.tensors();
    let position: HashMap<&str, usize> = PUBLISHED_ORDER.lines().zip(0..).collect();
    tensors.sort_by_key(|tensor| position[tensor.name.as_str()]);
    with_published_metadata(tensors)
}

/// Names of the tensors of [`gpt2`], one a line, as their data lies in the file.
const PUBLISHED_ORDER: &str = include_str!("gpt2_order.txt");

fn with_published_metadata(tensors: Vec<TensorSpec>) -> Blueprint {
    Blueprint::new(tensors).with_metadata("format", "pt")
}

impl Gpt2 {
    /// The smallest published model: 124 million parameters, 548,090,880 bytes with its masks.
    pub const SMALL: Self = Self {
        layers: 12,
        width: 768,
        vocabulary: 50_257,
        positions: 1024,
    };

    /// A model of 1 MB with the same kinds of tensors, for tests.
    pub const TINY: Self = Self {
        layers: 2,
        width: 96,
        vocabulary: 257,
        positions: 64,
    };

    /// The tensors of such a model, by name.
    pub fn blueprint(&self) -> Blueprint {
        let mut tensors = self.tensors();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        with_published_metadata(tensors)
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let mut tensors: Vec<TensorSpec> = (0..self.layers)
            .flat_map(|layer| self.layer(layer))
            .collect();
        for (name, shape) in [
            ("ln_f.bias", vec![self.width]),
            ("ln_f.weight", vec![self.width]),
            ("wpe.weight", vec![self.positions, self.width]),
            ("wte.weight", vec![self.vocabulary, self.width]),
        ] {
            tensors.push(TensorSpec::random(name, Element::F32, shape));
        }
        tensors
    }

    fn layer(&self, layer: u64) -> Vec<TensorSpec> {
        let width = self.width;
        let mask = TensorSpec {
            name: format!("h.{layer}.attn.bias"),
            element: Element::F32,
            shape: vec![1, 1, self.positions, self.positions],
            fill: Fill::CausalMask,
        };
        let weights = [
            ("attn.c_attn.bias", vec![3 * width]),
            ("attn.c_attn.weight", vec![width, 3 * width]),
            ("attn.c_proj.bias", vec![width]),
            ("attn.c_proj.weight", vec![width, width]),
            ("ln_1.bias", vec![width]),
            ("ln_1.weight", vec![width]),
            ("ln_2.bias", vec![width]),
            ("ln_2.weight", vec![width]),
            ("mlp.c_fc.bias", vec![4 * width]),
            ("mlp.c_fc.weight", vec![width, 4 * width]),
            ("mlp.c_proj.bias", vec![width]),
            ("mlp.c_proj.weight", vec![4 * width, width]),
        ]
        .map(|(name, shape)| TensorSpec::random(format!("h.{layer}.{name}"), Element::F32, shape));
        std::iter::once(mask).chain(weights).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_file() {
        let blueprint = gpt2();
        assert_eq!(blueprint.tensors().len(), 160);
        assert_eq!(blueprint.data_bytes(), 548_090_880);
        assert_eq!(
            blueprint.header().len(),
            14_291,
            "8 bytes and 14,283 of JSON"
        );
        assert_eq!(blueprint.file_bytes(), 548_105_171);
        let header = String::from_utf8(blueprint.header()[8..].to_vec()).unwrap();
        assert!(header.starts_with(r#"{"__metadata__":{"format":"pt"},"h.3.attn.c_proj.bias":{"#));
        // Two entries of the published header, as the documentation of safetensors quotes them.
        for published in [
            r#""h.10.ln_1.weight":{"dtype":"F32","shape":[768],"data_offsets":[223154176,223157248]}"#,
            r#""h.2.attn.c_attn.weight":{"dtype":"F32","shape":[768,2304],"data_offsets":[541012992,548090880]}}"#,
        ] {
            assert!(header.contains(published), "{published}");
        }
    }

    #[test]
    fn other_sizes_lie_by_name() {
        let blueprint = Gpt2::TINY.blueprint();
        let names: Vec<&str> = blueprint
            .tensors()
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        assert_eq!(names.len(), 30);
        assert!(names.is_sorted());
        assert_eq!(names[29], "wte.weight");
        assert_eq!(blueprint.tensors()[29].shape, [257, 96]);
    }
}
