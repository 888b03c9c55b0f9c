//! The tensors of decoders that are published in several files.

use super::{Element, ShardedBlueprint, TensorSpec};

/// The dimensions of a model of the Llama family, with tied embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Llama {
    /// Number of transformer blocks.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width within a block's gated part.
    pub intermediate: u64,
    /// Width of keys and of values.
    pub key_value: u64,
    /// Number of tokens.
    pub vocabulary: u64,
    /// Number of files.
    pub shards: usize,
}

/// A bfloat16 checkpoint of 4 GB in 4 files: the names and shapes of Llama 3.2 3B as its `config.json` gives them, with 16 of its 28 blocks.
pub fn llama() -> ShardedBlueprint {
    Llama::SMALL.blueprint()
}

impl Llama {
    /// What [`llama`] writes: 4,009,433,088 bytes.
    pub const SMALL: Self = Self {
        layers: 16,
        hidden: 3072,
        intermediate: 8192,
        key_value: 1024,
        vocabulary: 128_256,
        shards: 4,
    };

    /// A model of 1 MB with the same kinds of tensors, for tests.
    pub const TINY: Self = Self {
        layers: 3,
        hidden: 96,
        intermediate: 256,
        key_value: 32,
        vocabulary: 1024,
        shards: 4,
    };

    /// The files of such a model.
    pub fn blueprint(&self) -> ShardedBlueprint {
        let (hidden, wide, narrow) = (self.hidden, self.intermediate, self.key_value);
        let mut tensors = vec![(
            "model.embed_tokens".to_owned(),
            vec![self.vocabulary, hidden],
        )];
        for layer in 0..self.layers {
            let of_layer = [
                ("input_layernorm", vec![hidden]),
                ("mlp.down_proj", vec![hidden, wide]),
                ("mlp.gate_proj", vec![wide, hidden]),
                ("mlp.up_proj", vec![wide, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.k_proj", vec![narrow, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.v_proj", vec![narrow, hidden]),
            ];
            let named =
                of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape));
            tensors.extend(named);
        }
        tensors.push(("model.norm".to_owned(), vec![hidden]));
        let specs = tensors.into_iter().map(|(name, shape)| {
            TensorSpec::random(format!("{name}.weight"), Element::Bf16, shape)
        });
        ShardedBlueprint::new(specs.collect(), self.shards)
    }
}

/// The dimensions of a mixture-of-experts model with many small tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moe {
    /// Number of transformer blocks.
    pub layers: u64,
    /// Number of experts in each block.
    pub experts: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width within an expert.
    pub intermediate: u64,
    /// Number of files.
    pub shards: usize,
}

/// A checkpoint of 100,100 small tensors in 160 files, 0.8 GB: the names of DeepSeek-V3, whose 256 experts a block have three matrices each
/// with an inverse scale, but narrow, and in bfloat16 and float32.
pub fn moe() -> ShardedBlueprint {
    Moe::SMALL.blueprint()
}

impl Moe {
    /// What [`moe`] writes.
    pub const SMALL: Self = Self {
        layers: 65,
        experts: 256,
        hidden: 128,
        intermediate: 64,
        shards: 160,
    };

    /// A model of 150 tensors with the same names, for tests.
    pub const TINY: Self = Self {
        layers: 3,
        experts: 8,
        hidden: 32,
        intermediate: 16,
        shards: 5,
    };

    /// The files of such a model.
    pub fn blueprint(&self) -> ShardedBlueprint {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let weight = |name: String, shape: Vec<u64>| {
            TensorSpec::random(format!("{name}.weight"), Element::Bf16, shape)
        };
        let mut tensors = Vec::new();
        for layer in 0..self.layers {
            let of_layer = |name: &str| format!("model.layers.{layer}.{name}");
            tensors.push(weight(of_layer("input_layernorm"), vec![hidden]));
            tensors.push(weight(of_layer("post_attention_layernorm"), vec![hidden]));
            tensors.push(weight(of_layer("mlp.gate"), vec![self.experts, hidden]));
            tensors.push(weight(of_layer("self_attn.o_proj"), vec![hidden, hidden]));
            for expert in 0..self.experts {
                for (name, shape) in [
                    ("down_proj", vec![hidden, wide]),
                    ("gate_proj", vec![wide, hidden]),
                    ("up_proj", vec![wide, hidden]),
                ] {
                    let name = of_layer(&format!("mlp.experts.{expert}.{name}"));
                    let scale = format!("{name}.weight_scale_inv");
                    tensors.push(weight(name, shape));
                    tensors.push(TensorSpec::random(scale, Element::F32, vec![1, 1]));
                }
            }
        }
        ShardedBlueprint::new(tensors, self.shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_llama_of_four_gigabytes_in_four_files_of_like_size() {
        let blueprint = llama();
        assert_eq!(blueprint.tensor_count(), 16 * 9 + 2);
        assert_eq!(blueprint.data_bytes(), 4_009_433_088);
        for shard in blueprint.shards() {
            let share = shard.data_bytes() as f64 / blueprint.data_bytes() as f64;
            assert!((0.2..0.3).contains(&share), "{share}");
            assert_eq!(shard.header().len() % 8, 0);
        }
    }

    #[test]
    fn a_hundred_thousand_tensors_in_160_files() {
        let blueprint = moe();
        assert_eq!(blueprint.tensor_count(), 100_100);
        assert_eq!(blueprint.shards().len(), 160);
        assert!(
            blueprint
                .shards()
                .iter()
                .all(|shard| !shard.tensors().is_empty())
        );
        assert!(blueprint.data_bytes() < 1 << 30);
    }
}
