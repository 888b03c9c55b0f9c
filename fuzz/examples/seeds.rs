//! Writes the seeds of the corpora: small files of each format, by the tests' own writers.

#[path = "../../loaders/tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ckload_loaders::Dtype;
use common::{Content, GGML_TYPES, Gguf, Shard, Value, octets, random_gguf, random_shard};
use fastrand::Rng;

/// The largest seed, in bytes: mutating a larger one mostly changes data.
const MOST_BYTES: usize = 2048;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("safetensors", safetensors()),
        ("gguf", gguf()),
        ("index", index()),
        ("manifest", manifest()),
    ] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("a folder that can be written");
        for (name, bytes) in seeds {
            let path = folder.join(format!("seed-{name}"));
            fs::write(path, bytes).expect("a folder that can be written");
        }
    }
}

/// Files by their names.
type Seeds = Vec<(String, Vec<u8>)>;

fn named(seeds: Vec<(&str, impl Into<Vec<u8>>)>) -> Seeds {
    let seeds = seeds.into_iter();
    seeds
        .map(|(name, bytes)| (name.to_owned(), bytes.into()))
        .collect()
}

/// A tensor of this shape with bytes that are always the same.
fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Content {
    let block = dtype.block();
    let bytes = shape.iter().product::<u64>() / block.elements * block.bytes;
    Content {
        dtype,
        shape: shape.to_vec(),
        ..octets(name, bytes as usize)
    }
}

/// The first `count` small files that `draw` gives.
fn small(count: usize, draw: impl Fn(&mut Rng) -> Vec<u8>) -> Seeds {
    let mut random = Rng::with_seed(1);
    let files = std::iter::repeat_with(|| draw(&mut random));
    let files = files.filter(|bytes| bytes.len() <= MOST_BYTES).take(count);
    files
        .enumerate()
        .map(|(number, bytes)| (format!("random-{number}"), bytes))
        .collect()
}

fn safetensors() -> Seeds {
    let mut model = Shard::of(vec![
        tensor("wte.weight", Dtype::F32, &[3, 4]),
        tensor("ln.bias", Dtype::BF16, &[5]),
        tensor("scalar", Dtype::I64, &[]),
        tensor("none", Dtype::F16, &[0, 7]),
        tensor("packed", Dtype::F6_E2M3, &[4, 2]),
    ]);
    model.metadata = Some(BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
    let mut all = Vec::new();
    for dtype in common::safetensors_dtypes() {
        all.push(tensor(dtype.name(), dtype, &[4]));
    }
    let mut seeds = named(vec![
        ("model", model.to_bytes()),
        ("empty", Shard::default().to_bytes()),
        ("dtypes", Shard::of(all).to_bytes()),
        (
            "lfs",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".into(),
        ),
        ("html", "<!DOCTYPE html><html></html>".into()),
    ]);
    seeds.extend(small(6, |random| {
        random_shard(random, &mut BTreeSet::new()).to_bytes()
    }));
    seeds
}

fn gguf() -> Seeds {
    let model = Gguf::new()
        .value("general.architecture", Value::string("llama"))
        .value("general.alignment", Value::U32(64))
        .value(
            "tokenizer.ggml.tokens",
            Value::Array(8, vec![Value::string("a"), Value::string("b")]),
        )
        .value(
            "nested",
            Value::Array(9, vec![Value::Array(4, vec![Value::U32(7)])]),
        );
    let model = Gguf {
        alignment: 64,
        ..model
    }
    .tensor(&tensor("token_embd.weight", Dtype::Q4_0, &[2, 32]))
    .tensor(&tensor("norm.weight", Dtype::F32, &[8]));
    let part = Gguf::of(&[tensor("a", Dtype::F32, &[1])]).part(0, 1, 1);
    let blocks: Vec<Content> = GGML_TYPES
        .into_iter()
        .map(|(_, dtype, elements, _)| tensor(dtype.name(), dtype, &[0, elements]))
        .collect();
    let mut seeds = named(vec![
        ("model", model.to_bytes()),
        ("part", part.to_bytes()),
        (
            "vocabulary",
            Gguf::new().value("k", Value::Bool(true)).to_bytes(),
        ),
        ("types", Gguf::of(&blocks).to_bytes()),
    ]);
    seeds.extend(small(8, |random| random_gguf(random).0.to_bytes()));
    seeds
}

fn index() -> Seeds {
    named(vec![
        ("two", common::index([("x", "a"), ("y", "a"), ("z", "b")])),
        ("below", common::index([("x", "d/c"), ("z", "./b")])),
        ("outside", common::index([("x", "../e")])),
        ("absolute", common::index([("x", "/dev/null")])),
        ("folder", common::index([("x", "d")])),
        ("absent", common::index([("x", "q")])),
        ("other", common::index([("q", "a")])),
        ("none", common::index([])),
        (
            "itself",
            common::index([("x", "model.safetensors.index.json")]),
        ),
        ("twice", r#"{"weight_map":{"x":"a","x":"b"}}"#.to_owned()),
    ])
}

fn manifest() -> Seeds {
    let digest = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";
    let tensor =
        format!(r#"{{"name":"t","dtype":"U8","shape":[4],"bytes":4,"sha256":"{digest}"}}"#);
    let file = format!(r#"{{"path":"m/0","bytes":68,"sha256":"{digest}","expected_sha256":null}}"#);
    named(vec![
        (
            "json",
            format!(r#"{{"schema":1,"path":"m","files":[{file}],"tensors":[{tensor}]}}"#),
        ),
        (
            "twice",
            format!(r#"{{"schema":1,"files":[],"tensors":[{tensor},{tensor}]}}"#),
        ),
        (
            "schema",
            r#"{"schema":2,"files":[],"tensors":[]}"#.to_owned(),
        ),
        (
            "list",
            format!("# comment\n{digest}  model/a\n{digest} *b\n\n"),
        ),
        ("escaped", format!("\\{digest}  a\\nb\\\\c\n")),
        ("tag", format!("SHA256 (model/a) = {digest}\n")),
        ("no-digest", "0123  a\n".to_owned()),
    ])
}
