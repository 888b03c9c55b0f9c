//! The `safetensors` crate as oracle: what it writes we load, what we accept it reads alike, what it refuses we refuse.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ckload_loaders::{Checkpoint, Dtype, Loader};
use common::{Content, Sample, Shard, by_name, check_metadata, random, random_shard, write};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

#[test]
fn what_the_oracle_writes_loads_alike() {
    let mut random = random();
    for _ in 0..60 {
        let shard = random_shard(&mut random, &mut BTreeSet::new());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        // With an empty map and no tensors the oracle writes what is no JSON.
        let metadata = shard
            .metadata
            .clone()
            .filter(|metadata| !metadata.is_empty());
        let metadata = metadata.map(HashMap::from_iter);
        safetensors::serialize_to_file(views(&shard.tensors), metadata, &path)
            .expect("valid tensors");
        let sample = Sample {
            folder,
            path,
            metadata: shard.metadata.unwrap_or_default(),
            tensors: by_name(shard.tensors),
        };
        let checkpoint = sample.open();
        check_metadata(&checkpoint, sample.metadata.clone());
        let model = Loader::new()
            .load(&checkpoint)
            .expect("the oracle's file is valid");
        sample.check_all(model.tensors());
    }
}

fn views(tensors: &[Content]) -> Vec<(&str, TensorView<'_>)> {
    tensors
        .iter()
        .map(|content| {
            let shape = content.shape.iter().map(|&dim| dim as usize).collect();
            let dtype = content.dtype.to_safetensors().expect("the format has it");
            let view = TensorView::new(dtype, shape, &content.bytes).expect("a valid tensor");
            (content.name.as_str(), view)
        })
        .collect()
}

#[test]
fn what_our_writer_writes_the_oracle_reads_alike() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    for _ in 0..60 {
        let bytes = random_shard(&mut random, &mut BTreeSet::new()).to_bytes();
        let oracle = SafeTensors::deserialize(&bytes).expect("valid for the oracle");
        write(&path, &bytes);
        let checkpoint = Checkpoint::open(&path).expect("valid for us");
        assert_agree(&checkpoint, &oracle);
        assert_metadata_agree(&checkpoint, &bytes);
    }
}

#[test]
fn what_the_oracle_refuses_we_refuse() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let mut refused = 0;
    for _ in 0..1_000 {
        let mut bytes = small_shard(&mut random).to_bytes();
        corrupt(&mut bytes, &mut random);
        write(&path, &bytes);
        match (SafeTensors::deserialize(&bytes), Checkpoint::open(&path)) {
            (Err(_), Err(_)) => refused += 1,
            (Err(oracle), Ok(_)) => panic!(
                "the oracle says {oracle}: {:?}",
                String::from_utf8_lossy(&bytes)
            ),
            (Ok(oracle), Ok(checkpoint)) => assert_agree(&checkpoint, &oracle),
            (Ok(_), Err(_)) => {} // we are stricter, as tests/malformed.rs says
        }
    }
    assert!(refused > 100, "only {refused} files were refused");
}

fn small_shard(random: &mut fastrand::Rng) -> Shard {
    let tensor = |name: &str, dtype, shape: &[u64]| {
        let bits = shape.iter().product::<u64>() * common::bits(dtype);
        Content {
            dtype,
            shape: shape.to_vec(),
            ..common::octets(name, bits as usize / 8)
        }
    };
    let mut shard = Shard::of(vec![
        tensor("a", Dtype::F32, &[2, 3]),
        tensor("b", Dtype::U8, &[]),
        tensor("empty", Dtype::F64, &[0, 9]),
        tensor("packed", Dtype::F6_E2M3, &[4, 1]),
    ]);
    shard.metadata = random
        .bool()
        .then(|| BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
    shard
}

/// Changes what matters: a digit, a byte of the header, the length, or the file's end.
fn corrupt(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let header_end = 8 + usize::from(bytes[0]) + 256 * usize::from(bytes[1]);
    match random.u8(..8) {
        0 => bytes.truncate(random.usize(..bytes.len())),
        1 => bytes.extend(std::iter::repeat_n(b' ', random.usize(1..9))),
        2 => bytes[0] = random.u8(..),
        3..=5 => {
            let digits: Vec<usize> = (8..header_end)
                .filter(|&at| bytes[at].is_ascii_digit())
                .collect();
            let at = digits[random.usize(..digits.len())];
            bytes[at] = random.u8(b'0'..=b'9');
        }
        _ => {
            let at = random.usize(8..header_end);
            bytes[at] = random.u8(b' '..0x80);
        }
    }
}

fn assert_agree(checkpoint: &Checkpoint, oracle: &SafeTensors) {
    let model = Loader::new()
        .threads(1)
        .load(checkpoint)
        .expect("valid for us");
    assert_eq!(model.tensors().len(), oracle.len());
    for tensor in model.tensors() {
        let theirs = oracle.tensor(tensor.name()).expect("the oracle has it");
        let shape: Vec<u64> = theirs.shape().iter().map(|&dim| dim as u64).collect();
        assert_eq!(tensor.dtype().to_safetensors(), Some(theirs.dtype()));
        assert_eq!(tensor.shape(), shape);
        assert!(
            tensor.bytes() == theirs.data(),
            "the bytes of {tensor:?} differ"
        );
    }
}

fn assert_metadata_agree(checkpoint: &Checkpoint, bytes: &[u8]) {
    let (_, header) = SafeTensors::read_metadata(bytes).expect("valid for the oracle");
    let theirs = header.metadata().clone().unwrap_or_default();
    check_metadata(checkpoint, theirs);
}
