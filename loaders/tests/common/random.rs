//! Random checkpoints: everything that the format allows.

use std::collections::{BTreeMap, BTreeSet};

use ckload_loaders::Dtype;
use fastrand::Rng;

use super::{
    Content, Escapes, KIB, MIB, Sample, Shard, Style, bits, by_name, index, safetensors_dtypes,
    write,
};

/// What names are made of: usual ones, and all that JSON has to escape or that is longer than a byte.
const LETTERS: &[&str] = &[
    "h", "0", ".", "weight", "_", "/", "\\", "\"", " ", "\n", "\t", "\0", "\u{1f}", "\u{7f}", "ß",
    "模型", "🦀", "\u{202e}", "e\u{301}", "{}",
];

/// A checkpoint in 1 to 20 files, with an index or without.
pub(crate) fn random_checkpoint(random: &mut Rng) -> Sample {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let count = if random.bool() {
        1
    } else {
        random.usize(1..=20)
    };
    let mut names = BTreeSet::new();
    let shards: Vec<(String, Shard)> = (1..=count)
        .map(|number| {
            let file = format!("model-{number:05}-of-{count:05}.safetensors");
            (file, random_shard(random, &mut names))
        })
        .collect();
    for (file, shard) in &shards {
        write(&folder.path().join(file), &shard.to_bytes());
    }
    let indexed = random.bool();
    let index_path = folder.path().join("model.safetensors.index.json");
    if indexed {
        let places = shards.iter().flat_map(|(file, shard)| {
            shard
                .tensors
                .iter()
                .map(|content| (content.name.as_str(), file.as_str()))
        });
        write(&index_path, index(places).as_bytes());
    }
    let path = match (indexed, random.bool()) {
        (true, true) => index_path,
        (false, true) if count == 1 => folder.path().join(&shards[0].0),
        _ => folder.path().to_owned(),
    };
    let mut metadata = BTreeMap::new();
    let mut tensors = Vec::new();
    for (_, shard) in shards {
        if indexed && shard.tensors.is_empty() {
            continue; // no index names a file without tensors
        }
        for (key, value) in shard.metadata.unwrap_or_default() {
            metadata.entry(key).or_insert(value);
        }
        tensors.extend(shard.tensors);
    }
    Sample {
        folder,
        path,
        tensors: by_name(tensors),
        metadata,
    }
}

/// One file whose tensors have none of the `names`, which they join.
pub(crate) fn random_shard(random: &mut Rng, names: &mut BTreeSet<String>) -> Shard {
    let mut tensors = Vec::new();
    for _ in 0..random.usize(0..25) {
        let name = random_name(random);
        if names.insert(name.clone()) {
            tensors.push(random_tensor(random, name));
        }
    }
    let metadata = random.bool().then(|| {
        (0..random.usize(0..4))
            .map(|_| (random_name(random), random_name(random)))
            .collect()
    });
    let style = random_style(random, tensors.len());
    Shard {
        tensors,
        metadata,
        style,
    }
}

fn random_style(random: &mut Rng, tensors: usize) -> Style {
    let mut order: Vec<usize> = (0..tensors).collect();
    if random.bool() {
        random.shuffle(&mut order);
    }
    Style {
        order,
        gap: random.choice(["", "", " ", "\n\t\r "]).expect("not empty"),
        before: random.usize(0..3),
        behind: random.usize(0..=16),
        escapes: if random.u8(..4) == 0 {
            Escapes::All
        } else {
            Escapes::Needed
        },
        metadata_last: random.bool(),
        offsets_first: random.bool(),
    }
}

fn random_name(random: &mut Rng) -> String {
    let name: String = (0..random.usize(0..8))
        .map(|_| *random.choice(LETTERS).expect("not empty"))
        .collect();
    match random.u8(..16) {
        0 => name.repeat(50),
        _ => name,
    }
}

fn random_tensor(random: &mut Rng, name: String) -> Content {
    let dtype = random.choice(safetensors_dtypes()).expect("not empty");
    let most = match random.u8(..32) {
        0 => 2 * MIB,
        1..=6 => 100 * KIB,
        _ => 2 * KIB,
    };
    let shape = random_shape(random, dtype, most as u64 * 8 / bits(dtype));
    let elements: u64 = shape.iter().product();
    let mut bytes = vec![0; (elements * bits(dtype) / 8) as usize];
    random.fill(&mut bytes);
    Content {
        name,
        dtype,
        shape,
        bytes,
    }
}

/// A shape of rank 0 to 4 with about `most` elements or fewer, on whole bytes.
fn random_shape(random: &mut Rng, dtype: Dtype, most: u64) -> Vec<u64> {
    let packed = !bits(dtype).is_multiple_of(8);
    let rank = random.usize(usize::from(packed)..=4);
    let mut shape: Vec<u64> = (0..rank).map(|_| random.u64(1..4)).collect();
    if let Some(last) = shape.last_mut() {
        *last = random.u64(1..=most.div_ceil(27));
        if packed {
            *last = last.next_multiple_of(4);
        }
        if random.u8(..8) == 0 {
            *last = 0;
        }
    }
    random.shuffle(&mut shape);
    shape
}
