//! GGUF files: what was written comes back byte for byte, however it is loaded.

#[path = "../common/mod.rs"]
mod common;
mod malformed;
mod split;

use std::collections::BTreeMap;

use ckload_loaders::{ByteOrder, Checkpoint, Dtype, Error, Format, Io, Loader, MetadataValue};
use common::{
    Content, GGML_TYPES, Gguf, Sample, Value, WAYS, by_name, failure, octets, random, random_gguf,
    write,
};

/// A tensor of `len` bytes, as type `I8`: the format has no unsigned one.
fn bytes(name: &str, len: usize) -> Content {
    Content {
        dtype: Dtype::I8,
        ..octets(name, len)
    }
}

/// A small file with a bit of everything.
fn small() -> Gguf {
    Gguf::new()
        .value("general.architecture", Value::string("llama"))
        .value("general.alignment", Value::U32(32))
        .value("list", Value::Array(2, vec![Value::U16(1), Value::U16(2)]))
        .tensor(&bytes("token_embd.weight", 40))
        .tensor(&bytes("output.weight", 33))
}

fn open(file: &Gguf) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("the-model.gguf");
    write(&path, &file.to_bytes());
    Checkpoint::open(path)
}

fn sample(file: &Gguf, tensors: Vec<Content>) -> Sample {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("the-model.gguf");
    write(&path, &file.to_bytes());
    Sample {
        folder,
        path,
        tensors: by_name(tensors),
        metadata: BTreeMap::new(),
    }
}

fn written_metadata(file: &Gguf) -> BTreeMap<String, MetadataValue> {
    let text = |key: &Vec<u8>| String::from_utf8(key.clone()).expect("UTF-8");
    let values = file.values.iter();
    values
        .map(|(key, value)| (text(key), value.read()))
        .collect()
}

#[test]
fn random_files_come_back_however_they_are_loaded() {
    let mut random = random();
    for _ in 0..60 {
        let (file, tensors) = random_gguf(&mut random);
        let sample = sample(&file, tensors);
        let checkpoint = sample.open();
        assert_eq!(checkpoint.format(), Format::Gguf);
        assert_eq!(checkpoint.metadata(), &written_metadata(&file));
        assert_eq!(checkpoint.bytes(), sample.bytes());
        let infos = checkpoint.tensors();
        assert!(infos.is_sorted_by_key(|info| info.offset));
        assert!(infos.iter().all(|info| info.byte_order == file.order));
        for way in WAYS {
            for io in Io::ALL {
                let threads = random.usize(1..5);
                let loader = Loader::new().io(io).threads(threads);
                way.load_checked(&loader, &checkpoint, &sample)
                    .expect("a valid file");
            }
        }
    }
}

#[test]
fn every_type_has_the_block_that_ggml_gives_it() {
    for (number, dtype, elements, bytes) in GGML_TYPES {
        let block = dtype.block();
        assert_eq!((block.elements, block.bytes), (elements, bytes), "{dtype}");
        let mut content = octets(dtype.name(), 6 * bytes as usize);
        content.dtype = dtype;
        content.shape = vec![2, 3 * elements];
        let file = Gguf::of(std::slice::from_ref(&content));
        assert_eq!(file.entries[0].kind, number);
        let sample = sample(&file, vec![content]);
        let model = Loader::new().load(&sample.open()).expect("a valid file");
        sample.check_all(model.tensors());
    }
    let names: Vec<&str> = GGML_TYPES
        .iter()
        .map(|(_, dtype, ..)| dtype.name())
        .collect();
    assert!(names.contains(&"IQ2_XXS") && names.contains(&"Q4_K") && names.contains(&"MXFP4"));
    // The format's own 4-bit floats are another thing.
    assert_ne!(Dtype::MXFP4.block(), Dtype::F4.block());
    assert_eq!(Dtype::MXFP4.to_safetensors(), None);
}

#[test]
fn every_type_of_value_in_both_versions_and_byte_orders() {
    let nested = Value::Array(
        9,
        vec![
            Value::Array(5, vec![Value::I32(-1), Value::I32(i32::MAX)]),
            Value::Array(8, vec![Value::string("a"), Value::string("")]),
            Value::Array(9, vec![Value::Array(7, vec![Value::Bool(true)])]),
            Value::Array(12, vec![]),
        ],
    );
    let values = [
        Value::U8(200),
        Value::I8(-100),
        Value::U16(60_000),
        Value::I16(-30_000),
        Value::U32(4_000_000_000),
        Value::I32(-2_000_000_000),
        Value::F32(1e-5),
        Value::Bool(true),
        Value::Bool(false),
        Value::string("Ġthe\n模型"),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.1),
        Value::Array(6, vec![Value::F32(0.0), Value::F32(f32::INFINITY)]),
        nested,
    ];
    for version in [2, 3] {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let mut file = Gguf::of(&[bytes("a", 10)]);
            (file.version, file.order) = (version, order);
            for (number, value) in values.iter().enumerate() {
                file = file.value(&format!("key.{number}"), value.clone());
            }
            let checkpoint = open(&file).expect("a valid file");
            assert_eq!(checkpoint.metadata(), &written_metadata(&file));
            assert_eq!(checkpoint.tensors()[0].byte_order, order);
        }
    }
}

/// The elements of a file in the other byte order are not handed out as if they were of this one.
#[test]
fn elements_in_the_other_byte_order_are_refused_and_their_bytes_are_not() {
    let mut content = octets("a", 8);
    (content.dtype, content.shape) = (Dtype::F32, vec![2]);
    let mut file = Gguf::of(std::slice::from_ref(&content));
    file.order = ByteOrder::Big;
    let sample = sample(&file, vec![content]);
    let model = Loader::new().load(&sample.open()).expect("a valid file");
    let tensor = model.tensor("a").expect("it is there");
    assert_eq!(
        failure(tensor.as_slice::<f32>()).kind(),
        "foreign_byte_order"
    );
    sample.check(tensor);
}

#[test]
fn dimensions_are_outermost_first() {
    let mut content = bytes("a", 24);
    content.shape = vec![2, 3, 4];
    let file = Gguf::of(&[content]);
    assert_eq!(file.entries[0].dims, [4, 3, 2]);
    let checkpoint = open(&file).expect("a valid file");
    assert_eq!(checkpoint.tensors()[0].shape, [2, 3, 4]);
}

#[test]
fn a_vocabulary_without_tensors_loads() {
    let tokens = (0..150_000).map(|number| Value::String(format!("▁{number}").into_bytes()));
    let scores = (0..150_000).map(|number| Value::F32(-(number as f32)));
    let file = Gguf::new()
        .value("tokenizer.ggml.tokens", Value::Array(8, tokens.collect()))
        .value("tokenizer.ggml.scores", Value::Array(6, scores.collect()));
    let sample = sample(&file, vec![]);
    let checkpoint = sample.open();
    assert_eq!(checkpoint.metadata(), &written_metadata(&file));
    for way in WAYS {
        way.load_checked(&Loader::new(), &checkpoint, &sample)
            .expect("a valid file");
    }
}

/// As llama.cpp reads them, or Python's `gguf`.
#[test]
fn unusual_files_that_are_valid() {
    let accept = |what: &str, file: &Gguf| match open(file) {
        Ok(checkpoint) => checkpoint,
        Err(error) => panic!("{what}: {error}"),
    };
    accept("nothing at all", &Gguf::new());
    accept("no values", &Gguf::of(&[bytes("a", 1)]));

    let mut file = small();
    file.data.extend(b"whatever");
    accept("bytes behind the last tensor", &file);

    let mut scalar = bytes("scalar", 1);
    scalar.shape = vec![];
    let mut empty = bytes("empty", 0);
    empty.shape = vec![0, 7, 1 << 40];
    let also_empty = Content {
        name: "also empty".to_owned(),
        ..empty.clone()
    };
    let file = Gguf::of(&[scalar, empty, also_empty, bytes("last", 3)]);
    let checkpoint = accept("a scalar, and tensors without elements", &file);
    let shapes: Vec<&[u64]> = (checkpoint.tensors().iter())
        .map(|info| &info.shape[..])
        .collect();
    let none: &[u64] = &[0, 7, 1 << 40];
    assert_eq!(shapes, [&[][..], none, none, &[3]]);

    accept("an empty name", &Gguf::of(&[bytes("", 5)]));
    accept("a long name", &Gguf::of(&[bytes(&"n".repeat(300), 5)]));

    let mut file = small();
    file.entries.reverse();
    let checkpoint = accept("tensors in another order than their bytes", &file);
    assert_eq!(checkpoint.tensors()[0].name, "token_embd.weight");

    let token = Value::String(b"\xe2\x96".to_vec());
    let file = Gguf::new().value("token", token);
    let checkpoint = accept("a string that is not UTF-8", &file);
    assert_eq!(checkpoint.metadata()["token"].as_str(), Some("\u{fffd}"));

    let file = Gguf::new().value("two", Value::Raw(7, vec![2]));
    let checkpoint = accept("a boolean that is neither 0 nor 1", &file);
    assert_eq!(checkpoint.metadata()["two"], MetadataValue::Bool(true));

    let mut file = Gguf::new().value("general.alignment", Value::U32(1));
    file.alignment = 1;
    let file = file.tensor(&bytes("a", 3)).tensor(&bytes("b", 3));
    assert_eq!(accept("no alignment", &file).tensors()[1].bytes, 3);

    let deep = (0..15).fold(Value::Array(0, vec![Value::U8(1)]), |inner, _| {
        Value::Array(9, vec![inner])
    });
    accept("arrays sixteen deep", &Gguf::new().value("deep", deep));
}
