//! What it takes to know a checkpoint of many tensors, before a byte of them is read.
//!
//! 100,000 tensors in 160 shards with an index, as in a large mixture of experts; the files are sparse and take next to no room. For
//! comparison the same headers, in memory already, are only parsed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;

use ckload::synth::{Blueprint, Element, TensorSpec};
use ckload::{Checkpoint, Loader};
use criterion::{Criterion, Throughput};
use safetensors::tensor::Metadata;

const SHARDS: usize = 160;
const TENSORS: usize = 100_000;

fn main() {
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
    let tensors = if small() { TENSORS / 100 } else { TENSORS };
    let texts = write_checkpoint(folder.path(), tensors).expect("sparse files take no room");

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("planning");
    group.throughput(Throughput::Elements(tensors as u64));
    group.bench_function("parse_as_values", |bencher| {
        bencher.iter_with_large_drop(|| texts.parse::<serde_json::Value>());
    });
    group.bench_function("parse_as_safetensors", |bencher| {
        bencher.iter_with_large_drop(|| texts.parse::<Metadata>());
    });
    group.bench_function("open", |bencher| {
        bencher.iter_with_large_drop(|| open(folder.path()));
    });
    let checkpoint = open(folder.path());
    let loader = Loader::new();
    group.bench_function("plan", |bencher| {
        bencher.iter_with_large_drop(|| loader.plan(&checkpoint));
    });
    group.bench_function("open_and_plan", |bencher| {
        bencher.iter_with_large_drop(|| {
            let checkpoint = open(folder.path());
            let plan = loader.plan(&checkpoint);
            (checkpoint, plan)
        });
    });
    group.finish();
    criterion.final_summary();
}

fn small() -> bool {
    std::env::var_os("CKLOAD_BENCH_SMALL").is_some_and(|value| value != "0")
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder).expect("the checkpoint is valid")
}

/// The JSON of a checkpoint's headers and of its index.
struct Texts {
    headers: Vec<Vec<u8>>,
    index: Vec<u8>,
}

impl Texts {
    /// Parses all of it, each header as a `T`, and does nothing with it.
    fn parse<T: serde::de::DeserializeOwned>(&self) -> (Vec<T>, serde_json::Value) {
        let headers = self.headers.iter().map(|header| parse(header)).collect();
        (headers, parse(black_box(&self.index)))
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> T {
    serde_json::from_slice(black_box(json)).expect("the JSON was just written")
}

/// Writes shards of `tensors` tensors in all, and an index, into `folder`.
fn write_checkpoint(folder: &Path, tensors: usize) -> io::Result<Texts> {
    let mut headers = Vec::new();
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for shard in 0..SHARDS {
        let name = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        let blueprint = Blueprint::new(
            (0..tensors / SHARDS)
                .map(|number| expert(shard, number))
                .collect(),
        );
        let header = blueprint.header();
        let mut file = File::create(folder.join(&name))?;
        file.write_all(&header)?;
        file.set_len(blueprint.file_bytes())?; // the data is a hole
        headers.push(header[8..].to_vec());
        total_size += blueprint.data_bytes();
        for tensor in blueprint.tensors() {
            weight_map.insert(tensor.name.clone(), name.clone());
        }
    }
    let index =
        serde_json::json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
    let index = serde_json::to_vec(&index)?;
    fs::write(folder.join("model.safetensors.index.json"), &index)?;
    Ok(Texts { headers, index })
}

/// One matrix of one expert, or the scales that go with it.
fn expert(shard: usize, number: usize) -> TensorSpec {
    let (expert, part) = (number / 6, number % 6);
    let projection = ["gate_proj", "up_proj", "down_proj"][part / 2];
    let prefix = format!("model.layers.{shard}.mlp.experts.{expert}.{projection}");
    if part.is_multiple_of(2) {
        TensorSpec::random(format!("{prefix}.weight"), Element::Bf16, [2048, 768])
    } else {
        TensorSpec::random(format!("{prefix}.weight_scale_inv"), Element::F32, [16, 6])
    }
}
