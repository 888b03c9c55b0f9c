//! The interface of the safetensors crate over loaded models, beside the crate itself on the same files.

#[path = "../loaders/tests/common/npy.rs"]
mod npy;

use std::fs;
use std::path::Path;

use ckload::safetensors::Views;
use ckload::synth::Gpt2;
use ckload::{Checkpoint, Error, Loader, Model, Select};
use fastrand::Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// Every type of the format, of a round number of bytes for any even shape.
const DTYPES: [Dtype; 22] = [
    Dtype::BOOL,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E5M2,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::F8_E4M3FNUZ,
    Dtype::F8_E5M2FNUZ,
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
];

fn load(path: &Path) -> Model {
    let checkpoint = Checkpoint::open(path).expect("a valid checkpoint");
    Loader::new().load(&checkpoint).expect("it loads")
}

/// A file of tensors of all types, scalars and empty ones among them.
fn write_random(path: &Path, random: &mut Rng) {
    let mut tensors = Vec::new();
    for number in 0..random.usize(0..60) {
        let dtype = DTYPES[random.usize(0..DTYPES.len())];
        let rank = random.usize(0..4);
        let mut shape: Vec<usize> = (0..rank).map(|_| random.usize(0..9)).collect();
        if !dtype.bitsize().is_multiple_of(8) {
            shape.push(4); // whole bytes
        }
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let bytes: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
        tensors.push((format!("layer.{number}"), dtype, shape, bytes));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a valid tensor");
        (name, view)
    });
    safetensors::serialize_to_file(views, None, path).expect("a disk with room");
}

#[test]
fn views_are_those_of_the_safetensors_crate() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for _ in 0..40 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let path = folder.path().join(format!("{seed}.safetensors"));
        write_random(&path, &mut Rng::with_seed(seed));

        let bytes = fs::read(&path).expect("it was written");
        let theirs = SafeTensors::deserialize(&bytes).expect("it was written by the crate");
        let model = load(&path);
        let ours = Views::of(&model).expect("types of the format");
        assert_eq!(ours.len(), theirs.len());
        assert_eq!(ours.is_empty(), theirs.is_empty());
        for (name, view) in theirs.iter() {
            assert_eq!(ours.tensor(name).expect("the same names"), view, "{name}");
        }

        let (mut names, mut expected) = (ours.names(), theirs.names());
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
        let listed: Vec<String> = ours.tensors().into_iter().map(|(name, _)| name).collect();
        assert_eq!(listed, ours.names());

        let written = safetensors::serialize(ours.tensors(), None).expect("valid tensors");
        assert!(written == bytes, "what was read is what is written");
    }
}

#[test]
fn views_are_the_models_own_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    Gpt2::TINY
        .blueprint()
        .write_file(&path, 3)
        .expect("a disk with room");
    let model = load(&path);
    let views = Views::of(&model).expect("floats");
    for tensor in model.tensors() {
        let view = views.tensor(tensor.name()).expect("it is there");
        assert_eq!(view.data().as_ptr(), tensor.bytes().as_ptr());
    }
}

#[test]
fn a_name_that_is_not_there_is_the_crates_own_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    Gpt2::TINY
        .blueprint()
        .write_file(&path, 3)
        .expect("a disk with room");
    let model = load(&path);
    let views = Views::of(&model).expect("floats");
    match views.tensor("wte") {
        Err(SafeTensorError::TensorNotFound(name)) => assert_eq!(name, "wte"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_format_is_written_as_safetensors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("array.npy");
    let values: Vec<u8> = (0..6u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    fs::write(&path, npy::npy("<f4", false, "(2, 3)", &values)).expect("a disk with room");

    let model = load(&path);
    let views = Views::of(&model).expect("floats");
    let written = safetensors::serialize(views.iter(), None).expect("valid tensors");
    let read = SafeTensors::deserialize(&written).expect("it was written by the crate");
    let view = read
        .tensor(model.tensors()[0].name())
        .expect("the same name");
    assert_eq!(
        (view.dtype(), view.shape(), view.data()),
        (Dtype::F32, &[2, 3][..], &*values)
    );
}

#[test]
fn what_safetensors_cannot_hold_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("array.npy");
    fs::write(&path, npy::npy("<c16", false, "(1,)", &[7; 16])).expect("a disk with room");
    let model = load(&path);
    let error = Views::of(&model).expect_err("complex numbers of doubles");
    assert!(matches!(&error, Error::NotInSafetensors { path: file, .. } if *file == path));
    assert_eq!(error.kind(), "not_in_safetensors");
    assert_eq!(error.path(), Some(&*path));
    let message = error.to_string();
    for part in [
        model.tensors()[0].name(),
        "C128",
        "array.npy",
        "leave it out",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }

    let none = Checkpoint::open(&path)
        .and_then(|checkpoint| checkpoint.select(&Select::all().exclude("*")?))
        .and_then(|checkpoint| Loader::new().load(&checkpoint))
        .expect("nothing to load");
    assert!(Views::of(&none).expect("nothing is refused").is_empty());
}

#[test]
fn big_endian_elements_are_refused_and_bytes_are_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("array.npy");
    fs::write(&path, npy::npy(">f4", false, "(1,)", &[0x3f, 0x80, 0, 0]))
        .expect("a disk with room");
    let error = load(&path).tensors()[0]
        .view()
        .expect_err("views are little-endian");
    assert!(matches!(error, Error::ForeignByteOrder { .. }), "{error}");

    fs::write(&path, npy::npy("|u1", false, "(4,)", &[1, 2, 3, 4])).expect("a disk with room");
    let model = load(&path);
    assert_eq!(
        model.tensors()[0]
            .view()
            .expect("bytes have no order")
            .data(),
        [1, 2, 3, 4]
    );
}
