//! Tensors as burn's, without a backend, beside burn-store's own readers. Modules are loaded by the tests in `examples/burn`.

#[path = "../loaders/tests/common/npy.rs"]
mod npy;

use std::fs;
use std::path::{Path, PathBuf};

use burn_core::tensor::{DType, TensorData};
use burn_store::burn_pack::{Reader, Writer};
use burn_store::{KeyRemapper, ModuleStore, SafetensorsStore, bridge};
use ckload::burn::{CheckpointStore, Error, pack_tensor, tensor_data};
use ckload::synth::Gpt2;
use ckload::{BufferPool, Checkpoint, Loader, Model, Select};
use fastrand::Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// What burn-store reads of safetensors. (It refuses `U16`, which burn has.)
const DTYPES: [Dtype; 12] = [
    Dtype::BOOL,
    Dtype::U8,
    Dtype::I8,
    Dtype::I16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
];

fn load(path: &Path) -> Model {
    let checkpoint = Checkpoint::open(path).expect("a valid checkpoint");
    Loader::new().load(&checkpoint).expect("it loads")
}

fn gpt2(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    let blueprint = Gpt2::TINY.blueprint();
    blueprint.write_file(&path, 5).expect("a disk with room");
    path
}

fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], &[u8])]) {
    let views = tensors.iter().map(|&(name, dtype, shape, bytes)| {
        let view = TensorView::new(dtype, shape.to_vec(), bytes).expect("a valid tensor");
        (name, view)
    });
    safetensors::serialize_to_file(views, None, path).expect("a disk with room");
}

/// Tensors of all types, scalars and empty ones among them, in lists with gaps.
fn write_random(path: &Path, random: &mut Rng) {
    let mut tensors = Vec::new();
    for number in 0..random.usize(1..40) {
        let dtype = DTYPES[random.usize(0..DTYPES.len())];
        let shape: Vec<usize> = (0..random.usize(0..4))
            .map(|_| random.usize(0..9))
            .collect();
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let last = if dtype == Dtype::BOOL { 1 } else { 255 };
        let bytes: Vec<u8> = (0..bytes).map(|_| random.u8(..=last)).collect();
        tensors.push((
            format!("encoder.{}.weight", 3 * number),
            dtype,
            shape,
            bytes,
        ));
    }
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (&**name, *dtype, &**shape, &**bytes))
        .collect();
    write(path, &tensors);
}

/// The same type, shape and bytes; floats are compared as bits.
#[track_caller]
fn assert_same(ours: &TensorData, theirs: &TensorData) {
    assert_eq!(ours.dtype(), theirs.dtype());
    assert_eq!(ours.shape(), theirs.shape());
    assert!(ours.as_bytes() == theirs.as_bytes());
}

#[test]
fn tensors_are_those_of_burn_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for _ in 0..40 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let path = folder.path().join(format!("{seed}.safetensors"));
        write_random(&path, &mut Rng::with_seed(seed));
        let model = load(&path);

        let mut theirs = SafetensorsStore::from_file(&path);
        let mut ours = CheckpointStore::from_file(&path);
        assert_eq!(
            ours.keys().expect("it opens"),
            theirs.keys().expect("it opens")
        );
        let ours = ours.get_all_tensors().expect("types of burn");
        for (name, tensor) in theirs.get_all_tensors().expect("types of burn") {
            let expected = bridge::to_data(tensor).expect("it can be read");
            assert_same(
                &bridge::to_data(&ours[name]).expect("it can be read"),
                &expected,
            );
            let loaded = model.tensor(name).expect("it is there");
            assert_same(&tensor_data(loaded).expect("a type of burn"), &expected);
            let packed = pack_tensor(loaded).expect("a type of burn");
            assert_eq!(packed.name, *name);
            assert_same(&bridge::into_data(packed).expect("it is there"), &expected);
        }
    }
}

#[test]
fn names_are_mapped_as_burn_store_maps_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    write_random(&path, &mut Rng::with_seed(seed));

    let mut theirs = SafetensorsStore::from_file(&path)
        .with_key_remapping(r"^encoder\.", "layers.")
        .with_key_remapping(r"\.(weight)$", ".inner.$1")
        .map_indices_contiguous(true);
    let mut ours = CheckpointStore::from_file(&path)
        .with_key_remapping(r"^encoder\.", "layers.")
        .with_key_remapping(r"\.(weight)$", ".inner.$1")
        .map_indices_contiguous(true);
    assert_eq!(
        ours.keys().expect("it opens"),
        theirs.keys().expect("it opens")
    );
    let ours = ours.get_all_tensors().expect("types of burn");
    for (name, tensor) in theirs.get_all_tensors().expect("types of burn") {
        let expected = bridge::to_data(tensor).expect("it can be read");
        assert_same(
            &bridge::to_data(&ours[name]).expect("it can be read"),
            &expected,
        );
    }

    let mut theirs = SafetensorsStore::from_file(&path)
        .map_indices_contiguous(true)
        .map_indices_contiguous_except("^encoder$");
    let mut ours = CheckpointStore::from_file(&path)
        .map_indices_contiguous(true)
        .map_indices_contiguous_except("^encoder$");
    assert_eq!(
        ours.keys().expect("it opens"),
        theirs.keys().expect("it opens")
    );
}

#[test]
fn bytes_are_the_pools_and_go_back_to_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pool = BufferPool::new();
    let checkpoint = Checkpoint::open(gpt2(folder.path())).expect("a valid checkpoint");
    let model = Loader::new()
        .pool(&pool)
        .load(&checkpoint)
        .expect("it loads");
    let leased = pool.stats().leased_bytes;
    assert!(leased as u64 >= checkpoint.bytes());

    let wte = model.tensor("wte.weight").expect("it is there").clone();
    let data = tensor_data(&wte).expect("floats");
    assert_eq!(data.as_bytes().as_ptr(), wte.bytes().as_ptr(), "no copy");
    let packed = pack_tensor(&wte).expect("floats");
    let shared = packed.clone().into_bytes().expect("it is there");
    assert_eq!(shared.as_ptr(), wte.bytes().as_ptr(), "no copy");

    drop((model, wte, shared, packed));
    assert!(pool.stats().leased_bytes > 0, "burn has the tensor still");
    drop(data);
    assert_eq!(pool.stats().leased_bytes, 0);
    assert_eq!(pool.stats().idle_bytes, leased);
}

#[test]
fn a_tensor_that_burn_changes_is_copied_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = load(&gpt2(folder.path()));
    let wte = model.tensor("wte.weight").expect("it is there");
    let before = wte.bytes().to_vec();
    let mut data = tensor_data(wte).expect("floats");
    data.as_mut_slice::<f32>().expect("floats").fill(1.0);
    assert!(
        data.as_slice::<f32>()
            .expect("floats")
            .iter()
            .all(|&value| value == 1.0)
    );
    assert!(wte.bytes() == &before, "others see the checkpoint's values");
}

#[test]
fn a_burnpack_file_holds_what_was_loaded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = load(&gpt2(folder.path()));
    let tensors: Result<Vec<_>, _> = model.tensors().iter().map(pack_tensor).collect();
    let path = folder.path().join("model.bpk");
    Writer::new(tensors.expect("floats"))
        .write_to_file(&path)
        .expect("a disk with room");

    let reader = Reader::from_file(&path).expect("it was written by the crate");
    let read = reader.into_tensors().expect("it was written by the crate");
    assert_eq!(read.len(), model.tensors().len());
    for tensor in read {
        let loaded = model.tensor(&tensor.name).expect("the same names");
        assert_eq!(tensor.dtype, DType::F32);
        assert!(tensor.into_bytes().expect("it can be read")[..] == loaded.bytes()[..]);
    }
}

#[test]
fn types_that_burn_lacks_are_refused_by_name_and_only_when_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(
        &path,
        &[
            ("scale", Dtype::F8_E8M0, &[4], &[1; 4]),
            ("weight", Dtype::F32, &[1], &[0; 4]),
        ],
    );
    let mut store = CheckpointStore::from_file(&path);
    assert_eq!(store.keys().expect("it opens"), ["scale", "weight"]);
    assert!(store.get_tensor("weight").expect("floats").is_some());
    assert!(store.get_tensor("bias").expect("it opens").is_none());
    let model = load(&path);
    let scale = model.tensor("scale").expect("it is there");
    for refused in [
        store.get_tensor("scale").map(drop),
        store.get_all_tensors().map(drop),
        tensor_data(scale).map(drop),
        pack_tensor(scale).map(drop),
    ] {
        let error = refused.expect_err("no such type");
        let message = error.to_string();
        for part in ["scale", "F8_E8M0", "model.safetensors", "leave it out"] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert!(matches!(error, Error::NoSuchDtype { .. }));
    }
    let select = Select::all().exclude("scale").expect("a valid glob");
    let mut store = CheckpointStore::from_file(&path).select(select);
    assert_eq!(store.get_all_tensors().expect("floats").len(), 1);
}

#[test]
fn booleans_are_zero_or_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(&path, &[("mask", Dtype::BOOL, &[3], &[1, 0, 2])]);
    let model = load(&path);
    let error = tensor_data(&model.tensors()[0]).expect_err("2 is no boolean");
    assert!(
        matches!(&error, Error::NotBoolean { tensor, at: 2, value: 2, .. } if tensor == "mask")
    );
    let mut store = CheckpointStore::from_file(&path);
    let mask = store
        .get_tensor("mask")
        .expect("it opens")
        .expect("it is there");
    let message = mask.to_bytes().expect_err("2 is no boolean").to_string();
    assert!(
        message.contains("mask") && message.contains("neither 0 nor 1"),
        "{message}"
    );
}

#[test]
fn bytes_in_another_order_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("array.npy");
    let array = npy::npy(">f4", false, "(1,)", &[0x3f, 0x80, 0, 0]);
    fs::write(&path, array).expect("a disk with room");
    let error = tensor_data(&load(&path).tensors()[0]).expect_err("nothing is swapped");
    assert!(
        matches!(error, Error::Load(ckload::Error::ForeignByteOrder { .. })),
        "{error}"
    );
    assert!(CheckpointStore::from_file(&path).get_all_tensors().is_err());
}

#[test]
fn what_is_wrong_with_a_store_is_told_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = gpt2(folder.path());
    let keys = |mut store: CheckpointStore| store.keys().map(drop);

    for store in [
        CheckpointStore::from_file(&path).with_regex("h.["),
        CheckpointStore::from_file(&path).with_key_remapping("h.[", ""),
        CheckpointStore::from_file(&path).map_indices_contiguous_except("h.["),
    ] {
        let error = keys(store).expect_err("no regular expression");
        assert!(
            matches!(&error, Error::Pattern { pattern, .. } if pattern == "h.["),
            "{error}"
        );
    }

    let error = keys(CheckpointStore::from_file(&path).with_top_level_key("state_dict"));
    assert!(
        matches!(&error, Err(Error::NoSuchKey { key, .. }) if key == "state_dict"),
        "{error:?}"
    );
    let mut store = CheckpointStore::from_file(&path).with_top_level_key("h");
    assert!(
        store
            .keys()
            .expect("it is there")
            .contains(&"0.attn.c_attn.bias".to_owned())
    );

    let same = KeyRemapper::new()
        .add_pattern("ln_[12]", "ln")
        .expect("a valid pattern");
    match keys(CheckpointStore::from_file(&path).remap(same)) {
        Err(Error::NameTaken {
            name,
            first,
            second,
            ..
        }) => {
            assert_ne!(first, second);
            assert!(name.contains(".ln."), "{name}");
        }
        other => panic!("{other:?}"),
    }

    let missing = folder.path().join("missing.safetensors");
    assert!(matches!(
        keys(CheckpointStore::from_file(missing)),
        Err(Error::Load(_))
    ));
    fs::write(
        folder.path().join("cut.safetensors"),
        &fs::read(&path).expect("it is there")[..5000],
    )
    .expect("a disk with room");
    let cut = keys(CheckpointStore::from_file(
        folder.path().join("cut.safetensors"),
    ));
    assert!(matches!(
        cut,
        Err(Error::Load(
            ckload::Error::Truncated { .. } | ckload::Error::Malformed { .. }
        ))
    ));
}

#[test]
fn a_file_that_changes_after_opening_is_an_error_of_the_draw() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = gpt2(folder.path());
    let mut store = CheckpointStore::new(&Checkpoint::open(&path).expect("a valid checkpoint"));
    let wte = store
        .get_tensor("wte.weight")
        .expect("it opens")
        .expect("it is there");
    fs::write(&path, b"gone").expect("a disk with room");
    let message = wte.to_bytes().expect_err("the file is another").to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}
