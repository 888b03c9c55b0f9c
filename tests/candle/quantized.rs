//! GGUF against candle's own reader.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use ckload::{Checkpoint, Loader};
use tempfile::TempDir;

use crate::support::{bits, message};

const TYPES: [GgmlDType; 15] = [
    GgmlDType::F32,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q8_1,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::Q8K,
];

fn write() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let mut tensors = Vec::new();
    for dtype in TYPES {
        for shape in [&[256][..], &[6, 512], &[2, 3, 256]] {
            let values = Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).expect("numbers");
            let tensor = QTensor::quantize(&values, dtype).expect("whole blocks");
            tensors.push((format!("{dtype:?}.{}", shape.len()), tensor));
        }
    }
    let tensors: Vec<(&str, &QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = File::create(&path).expect("a disk with room");
    gguf_file::write(&mut file, &[], &tensors).expect("a disk with room");
    (folder, path)
}

fn open(path: &Path) -> (File, gguf_file::Content) {
    let mut file = File::open(path).expect("just written");
    let content = gguf_file::Content::read(&mut file).expect("a valid file");
    (file, content)
}

#[test]
fn every_type_loads_as_candle_loads_it() {
    let (_folder, path) = write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let ours = ckload::candle::load_quantized(&Loader::new(), &checkpoint, &Device::Cpu);
    let ours = ours.expect("candle has all types");
    let (mut file, content) = open(&path);
    assert_eq!(ours.len(), 3 * TYPES.len());
    assert_eq!(ours.len(), content.tensor_infos.len());
    for (name, ours) in &ours {
        let theirs = content
            .tensor(&mut file, name, &Device::Cpu)
            .expect("it is there");
        assert_eq!(
            (ours.dtype(), ours.shape()),
            (theirs.dtype(), theirs.shape()),
            "{name}"
        );
        let (ours, theirs) = (ours.data().expect("bytes"), theirs.data().expect("bytes"));
        assert!(ours == theirs, "{name}");
    }
}

#[test]
fn a_builder_gives_what_is_not_quantised_and_refuses_the_rest_by_name() {
    let (_folder, path) = write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let loader = Loader::new();
    let vb = ckload::candle::var_builder(&loader, &checkpoint, DType::F32, &Device::Cpu);
    let vb = vb.expect("a thread");
    let (mut file, content) = open(&path);
    for dtype in TYPES {
        let name = format!("{dtype:?}.2");
        let got = vb.get((6, 512), &name);
        if matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
            let theirs = content.tensor(&mut file, &name, &Device::Cpu);
            let theirs = theirs.and_then(|theirs| theirs.dequantize(&Device::Cpu));
            assert!(
                bits(&got.expect("a float")) == bits(&theirs.expect("a float")),
                "{name}"
            );
        } else {
            let error = message(&got.expect_err("it is quantised"));
            assert!(
                error.contains(&name) && error.contains("load_quantized"),
                "{error}"
            );
        }
    }
}

#[test]
fn types_that_candle_lacks_are_named() {
    let (_folder, path) = write();
    let mut bytes = fs::read(&path).expect("just written");
    // `F32.2` becomes a tensor of I32: behind its name are the number of dimensions, two of them, and the type.
    let name = b"F32.2";
    let at = bytes.windows(name.len()).position(|window| window == name);
    let at = at.expect("its name is there") + name.len() + 4 + 2 * 8;
    assert_eq!(bytes[at..at + 4], [0; 4]);
    bytes[at] = 26;
    fs::write(&path, bytes).expect("a disk with room");
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let error = ckload::candle::load_quantized(&Loader::new(), &checkpoint, &Device::Cpu);
    let error = message(&error.expect_err("candle has no such block"));
    assert!(error.contains("\"F32.2\" is I32"), "{error}");
}

#[test]
fn a_file_cut_short_is_an_error() {
    let (_folder, path) = write();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let len = fs::metadata(&path).expect("just written").len();
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(len - 100))
        .expect("our own file");
    let error = ckload::candle::load_quantized(&Loader::new(), &checkpoint, &Device::Cpu);
    let error = message(&error.expect_err("it is not whole"));
    assert!(error.contains("model.gguf"), "{error}");
}
