//! Modules loaded through ckload, beside burn-store's own stores on the same files. The backend is burn-flex, which keeps shared bytes.

#[path = "../../../loaders/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn_core as burn;
use burn_core::module::{Module, Param};
use burn_core::tensor::{Bool, Device, Int, Tensor, TensorData};
use burn_nn::{LayerNorm, LayerNormConfig, LinearLayout};
use burn_store::{
    ApplyResult, IdentityAdapter, ModuleSnapshot, PathFilter, PyTorchToBurnAdapter, PytorchStore,
    SafetensorsStore, bridge,
};
use ckload::burn::{CheckpointStore, Error, pack_tensor};
use ckload::{BufferPool, ByteSize, Checkpoint, Loader};
use ckload_example_burn::{Classifier, blueprint};
use common::pickle::{dict, ordered};
use common::torch::{Saved, Storage};
use common::{Content, Gguf, KIB};
use safetensors::tensor::TensorView;
use tempfile::TempDir;

fn row() -> Classifier {
    Classifier::new(LinearLayout::Row, &Device::default())
}

fn col() -> Classifier {
    Classifier::new(LinearLayout::Col, &Device::default())
}

/// The classifier's checkpoint.
fn classifier() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    blueprint()
        .write_file(&path, seed)
        .expect("a disk with room");
    (folder, path)
}

fn theirs(path: &Path) -> SafetensorsStore {
    SafetensorsStore::from_file(path)
        .with_key_remapping(r"^classifier\.", "")
        .with_from_adapter(PyTorchToBurnAdapter)
        .map_indices_contiguous(true)
}

fn ours(path: &Path) -> CheckpointStore {
    CheckpointStore::from_file(path)
        .with_key_remapping(r"^classifier\.", "")
        .with_from_adapter(PyTorchToBurnAdapter)
        .map_indices_contiguous(true)
}

/// All tensors of a module by their paths.
fn values(module: &impl ModuleSnapshot) -> BTreeMap<String, TensorData> {
    let tensors = module.collect(None, None, false).into_iter();
    tensors
        .map(|tensor| {
            let name = tensor.name.clone();
            (name, bridge::into_data(tensor).expect("it can be read"))
        })
        .collect()
}

#[track_caller]
fn assert_same<M: ModuleSnapshot>(ours: (&M, &ApplyResult), theirs: (&M, &ApplyResult)) {
    assert_eq!(ours.1.applied, theirs.1.applied);
    assert_eq!(ours.1.skipped, theirs.1.skipped);
    assert_eq!(ours.1.missing, theirs.1.missing);
    assert_eq!(ours.1.unused, theirs.1.unused);
    assert_eq!(
        format!("{:?}", ours.1.errors),
        format!("{:?}", theirs.1.errors)
    );
    let (ours, theirs) = (values(ours.0), values(theirs.0));
    assert_eq!(ours.len(), theirs.len());
    for (name, value) in &theirs {
        assert_eq!(&ours[name], value, "{name}");
    }
}

#[test]
fn a_module_is_the_one_that_burn_store_loads() {
    let (_folder, path) = classifier();
    let mut expected = row();
    let result = expected.load_from(&mut theirs(&path)).expect("it fits");
    assert_eq!(result.applied.len(), 8);
    for streamed in [false, true] {
        let mut module = row();
        let mut store = ours(&path).streamed(streamed);
        for _ in 0..2 {
            let found = module.load_from(&mut store).expect("it fits");
            assert_same((&module, &found), (&expected, &result));
        }
    }
}

#[test]
fn filters_and_partial_loads_are_those_of_burn_store() {
    let (_folder, path) = classifier();
    let start = row();
    for streamed in [false, true] {
        let mut expected = start.clone();
        let mut store = theirs(&path)
            .with_regex("^layers")
            .with_full_path("head.bias");
        let result = expected.load_from(&mut store).expect("it fits");
        assert_eq!((result.applied.len(), result.skipped.len()), (5, 3));
        let mut module = start.clone();
        let mut store = ours(&path)
            .with_regex("^layers")
            .with_full_path("head.bias")
            .streamed(streamed);
        let found = module.load_from(&mut store).expect("it fits");
        assert_same((&module, &found), (&expected, &result));

        // Without the adapter norms keep their names, and square weights still fit.
        let filter = PathFilter::new().with_regex("layers|norm");
        let mut expected = start.clone();
        let mut store = theirs(&path)
            .with_from_adapter(IdentityAdapter)
            .filter(filter.clone())
            .allow_partial(true);
        let result = expected.load_from(&mut store).expect("it fits in part");
        assert_eq!((result.applied.len(), result.missing.len()), (4, 2));
        let mut module = start.clone();
        let mut store = ours(&path)
            .with_from_adapter(IdentityAdapter)
            .filter(filter)
            .allow_partial(true)
            .streamed(streamed);
        let found = module.load_from(&mut store).expect("it fits in part");
        assert_same((&module, &found), (&expected, &result));
    }
}

#[test]
fn what_does_not_fit_is_an_error_or_a_result() {
    let (_folder, path) = classifier();
    let mut module = row();
    let error = module.load_from(&mut CheckpointStore::from_file(&path));
    match error {
        Err(Error::Missing { path: file, result }) => {
            assert_eq!(
                (file, result.missing.len(), result.unused.len()),
                (path.clone(), 8, 8)
            );
        }
        other => panic!("{other:?}"),
    }
    let mut store = ours(&path).with_from_adapter(IdentityAdapter);
    match module.load_from(&mut store) {
        Err(Error::Unfit { result, .. }) => assert_eq!(result.errors.len(), 1), // head.weight
        other => panic!("{other:?}"),
    }
    let mut store = store.validate(false).allow_partial(true);
    let result = module
        .load_from(&mut store)
        .expect("it is told in the result");
    assert_eq!((result.errors.len(), result.missing.len()), (1, 2));
}

#[test]
fn saving_is_refused() {
    let (_folder, path) = classifier();
    let error = row()
        .save_into(&mut ours(&path))
        .expect_err("ckload only loads");
    assert!(matches!(error, Error::ReadOnly));
    assert!(error.to_string().contains("BurnpackStore"));
}

#[test]
fn a_module_of_flex_keeps_the_pools_memory_and_gives_it_back() {
    let (_folder, path) = classifier();
    // With a limit a pool leaves nothing to one thread alone. By default it keeps nothing as small as this model.
    let pool = BufferPool::builder()
        .max_bytes(64 << 20)
        .min_buffer_size(64 * KIB)
        .build();
    let loader = Loader::new().pool(&pool);
    let renamed = || {
        CheckpointStore::from_file(&path)
            .with_key_remapping(r"^classifier\.", "")
            .with_key_remapping(r"norm\.weight", "norm.gamma")
            .with_key_remapping(r"norm\.bias", "norm.beta")
            .map_indices_contiguous(true)
            .loader(&loader)
    };
    let mut expected = row();
    expected.load_from(&mut theirs(&path)).expect("it fits");
    let input = Tensor::<2>::ones([3, ckload_example_burn::WIDTH], &Device::default());
    let expected = expected.forward(input.clone()).into_data();

    // PyTorch's weights as they are, with nothing to transpose.
    let mut module = col();
    module.load_from(&mut renamed()).expect("it fits");
    let leased = pool.stats().leased_bytes;
    assert!(
        leased >= 2 * 256 * KIB,
        "{leased} bytes: the two large weights are the pool's"
    );
    let scores = module.forward(input).into_data();
    scores.assert_approx_eq::<f32>(&expected, burn_core::tensor::Tolerance::default());
    drop(module);
    assert_eq!(pool.stats().leased_bytes, 0);

    let fresh = pool.stats().fresh;
    let mut module = col();
    module.load_from(&mut renamed()).expect("it fits");
    assert_eq!(
        pool.stats().fresh,
        fresh,
        "the second load reuses the first one's memory"
    );
}

#[test]
fn transposed_weights_leave_nothing_in_the_pool() {
    let (_folder, path) = classifier();
    let pool = BufferPool::new();
    let mut module = row();
    let mut store = ours(&path).loader(&Loader::new().pool(&pool));
    module.load_from(&mut store).expect("it fits");
    assert!(pool.stats().fresh > 0);
    assert_eq!(pool.stats().leased_bytes, 0, "small tensors keep no block");
}

#[test]
fn a_stream_stays_within_its_budget() {
    let (_folder, path) = classifier();
    let budget = ByteSize::kib(400);
    let pool = BufferPool::builder().max_bytes(400 * KIB).build();
    let loader = Loader::new().pool(&pool).budget(budget);
    let mut module = row();
    let mut store = ours(&path).loader(&loader).streamed(true);
    let found = module
        .load_from(&mut store)
        .expect("each weight is transposed and dropped");
    let mut expected = row();
    let result = expected.load_from(&mut theirs(&path)).expect("it fits");
    assert_same((&module, &found), (&expected, &result));
}

#[test]
fn a_stream_into_a_module_that_keeps_more_than_the_budget_is_an_error() {
    let (_folder, path) = classifier();
    let loader = Loader::new()
        .budget(ByteSize::kib(400))
        .patience(Duration::from_millis(20));
    let mut store = ours(&path)
        .with_from_adapter(IdentityAdapter)
        .loader(&loader)
        .streamed(true)
        .validate(false);
    match row().load_from(&mut store) {
        Err(Error::Load(ckload::Error::BudgetHeld { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_the_module_wants_is_read() {
    let (folder, path) = classifier();
    let bytes = fs::read(&path).expect("it was written");
    let read = safetensors::SafeTensors::deserialize(&bytes).expect("it is valid");
    let huge = vec![0; 64 << 20];
    let more =
        TensorView::new(safetensors::Dtype::F32, vec![4096, 4096], &huge).expect("it is valid");
    let views = read.iter().chain([("huge", more)]);
    let path = folder.path().join("with_huge.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("a disk with room");

    let pool = BufferPool::new();
    let mut store = ours(&path).loader(&Loader::new().pool(&pool));
    let result = row().load_from(&mut store).expect("it fits");
    assert_eq!(result.unused, ["huge"]);
    assert!(pool.stats().peak_bytes < 16 << 20);
}

#[test]
fn a_load_that_fails_leaves_the_module_as_it_was() {
    let (_folder, path) = classifier();
    let checkpoint = Checkpoint::open(&path).expect("a valid checkpoint");
    let bytes = fs::read(&path).expect("it was written");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("a disk with room");
    let store = |streamed| {
        CheckpointStore::new(&checkpoint)
            .with_key_remapping(r"^classifier\.", "")
            .with_from_adapter(PyTorchToBurnAdapter)
            .map_indices_contiguous(true)
            .validate(false)
            .allow_partial(true)
            .streamed(streamed)
    };
    let start = row();
    let mut module = start.clone();
    for streamed in [false, true] {
        let error = module
            .load_from(&mut store(streamed))
            .expect_err("the file is cut");
        assert!(
            matches!(error, Error::Load(ckload::Error::Changed { .. })),
            "{error}"
        );
        assert_eq!(values(&module), values(&start));
    }
}

#[test]
fn a_stream_that_breaks_off_is_the_loads_error_whatever_is_validated() {
    let (_folder, path) = classifier();
    let mut module = row();
    let file = path.clone();
    // The stream's first tensors are drawn before the file is cut; the budget keeps the others out.
    let cutting = CuttingAdapter { file };
    let mut store = ours(&path)
        .with_from_adapter(cutting)
        .loader(&Loader::new().budget(ByteSize::kib(300)))
        .streamed(true)
        .validate(false)
        .allow_partial(true);
    let error = module.load_from(&mut store).expect_err("the file is cut");
    assert!(matches!(error, Error::Load(_)), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn a_tensor_that_is_drawn_twice_comes_twice() {
    let (_folder, path) = classifier();
    let mut expected = row();
    let result = expected.load_from(&mut theirs(&path)).expect("it fits");
    for streamed in [false, true] {
        let mut module = row();
        let mut store = ours(&path)
            .with_from_adapter(PeekingAdapter)
            .streamed(streamed);
        let found = module.load_from(&mut store).expect("it fits");
        assert_same((&module, &found), (&expected, &result));
    }
}

/// Looks at each tensor's bytes before it adapts it.
#[derive(Clone)]
struct PeekingAdapter;

impl burn_store::ModuleAdapter for PeekingAdapter {
    fn adapt(
        &self,
        tensor: burn_store::burn_pack::Tensor,
        context: burn_store::ModuleContext<'_>,
    ) -> burn_store::burn_pack::Tensor {
        let bytes = tensor.to_bytes().expect("it can be read");
        assert_eq!(bytes.len(), tensor.byte_len());
        PyTorchToBurnAdapter.adapt(tensor, context)
    }

    fn get_alternative_param_name(&self, parameter: &str, module: &str) -> Option<String> {
        PyTorchToBurnAdapter.get_alternative_param_name(parameter, module)
    }

    fn clone_box(&self) -> Box<dyn burn_store::ModuleAdapter> {
        Box::new(self.clone())
    }
}

/// Cuts the checkpoint's file when the first tensor has come.
#[derive(Clone)]
struct CuttingAdapter {
    file: PathBuf,
}

impl burn_store::ModuleAdapter for CuttingAdapter {
    fn adapt(
        &self,
        tensor: burn_store::burn_pack::Tensor,
        context: burn_store::ModuleContext<'_>,
    ) -> burn_store::burn_pack::Tensor {
        let name = tensor.name.clone();
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        let file = self.file.clone();
        let tensor = bridge::map_data(tensor, name, dtype, shape, move |data| {
            let file = fs::OpenOptions::new().write(true).open(&file);
            file.and_then(|file| file.set_len(5000))
                .expect("a file of ours");
            data
        });
        PyTorchToBurnAdapter.adapt(tensor, context)
    }

    fn get_alternative_param_name(&self, parameter: &str, module: &str) -> Option<String> {
        PyTorchToBurnAdapter.get_alternative_param_name(parameter, module)
    }

    fn clone_box(&self) -> Box<dyn burn_store::ModuleAdapter> {
        Box::new(self.clone())
    }
}

/// Every kind of parameter, behind an enum.
#[derive(Module, Debug)]
struct Kinds {
    float: Param<Tensor<2>>,
    int: Param<Tensor<1, Int>>,
    bool: Param<Tensor<1, Bool>>,
    norm: Norm,
}

#[derive(Module, Debug)]
enum Norm {
    Layer(LayerNorm),
}

fn kinds() -> Kinds {
    let device = Device::default();
    Kinds {
        float: Param::from_tensor(Tensor::zeros([2, 3], &device)),
        int: Param::initialized(
            burn_core::module::ParamId::new(),
            Tensor::zeros([3], &device),
        ),
        bool: Param::initialized(
            burn_core::module::ParamId::new(),
            Tensor::<1, Int>::zeros([2], &device).bool(),
        ),
        norm: Norm::Layer(LayerNormConfig::new(4).init(&device)),
    }
}

#[test]
fn pytorch_files_load_as_pytorch_store_loads_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of = |class, element, key, count| Storage::of(class, element, key, count, 1);
    let (float, int) = (of("FloatStorage", 4, "0", 6), of("LongStorage", 8, "1", 3));
    let mut bool = of("BoolStorage", 1, "2", 2);
    bool.bytes = vec![1, 0];
    let (gamma, beta) = (of("FloatStorage", 4, "3", 4), of("FloatStorage", 4, "4", 4));
    let state = ordered(vec![
        ("float", float.view(0, &[2, 3], &[1, 2])), // transposed in its file
        ("int", int.whole()),
        ("bool", bool.whole()),
        ("norm.weight", gamma.whole()),
        ("norm.bias", beta.whole()),
    ]);
    let saved = Saved {
        object: dict(vec![("state_dict", state)]),
        storages: vec![float, int, bool, gamma, beta],
    };
    for (name, bytes) in [("new.pt", saved.archive()), ("old.pt", saved.legacy())] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a disk with room");
        let mut expected = kinds();
        let mut store = PytorchStore::from_file(&path).with_top_level_key("state_dict");
        let result = expected.load_from(&mut store).expect("it fits");
        assert_eq!(result.applied.len(), 5);
        for streamed in [false, true] {
            let mut module = kinds();
            let mut store = CheckpointStore::from_pytorch(&path)
                .with_top_level_key("state_dict")
                .streamed(streamed);
            let found = module.load_from(&mut store).expect("it fits");
            assert_same((&module, &found), (&expected, &result));
        }
    }
}

fn content(name: &str, dtype: ckload_loaders::Dtype, shape: &[u64], bytes: Vec<u8>) -> Content {
    Content {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

#[test]
fn gguf_loads_where_no_block_is_wanted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let floats: Vec<u8> = (1..=6u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let gguf = Gguf::of(&[
        content("float", ckload_loaders::Dtype::F32, &[2, 3], floats),
        content("blocks", ckload_loaders::Dtype::Q4_0, &[32], vec![7; 18]),
        content("int", ckload_loaders::Dtype::Q4_0, &[32], vec![7; 18]),
    ]);
    fs::write(&path, gguf.to_bytes()).expect("a disk with room");

    let mut module = kinds();
    let store = || CheckpointStore::from_file(&path).allow_partial(true);
    match module.load_from(&mut store()) {
        Err(Error::NoSuchDtype {
            path: file, tensor, ..
        }) => {
            assert_eq!((file, &*tensor), (path.clone(), "int"));
        }
        other => panic!("{other:?}"),
    }
    let result = module
        .load_from(&mut store().with_regex("float|norm"))
        .expect("blocks are not wanted");
    assert_eq!(result.applied, ["float"]);
    assert_eq!(result.unused, ["blocks"]);
    assert_eq!(result.skipped, ["int"]);
    let floats = module.float.val().into_data();
    assert_eq!(
        floats,
        TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]])
    );
}

#[test]
fn tensors_can_be_applied_without_a_store() {
    let (_folder, path) = classifier();
    let checkpoint = Checkpoint::open(&path).expect("a valid checkpoint");
    let model = Loader::new().load(&checkpoint).expect("it loads");
    let tensors = model.tensors().iter().map(|tensor| {
        let mut tensor = pack_tensor(tensor).expect("floats");
        let name = tensor
            .name
            .strip_prefix("classifier.layers.")
            .unwrap_or("none");
        tensor.name = format!("layers.{}", name.replace("2.", "1."));
        tensor
    });
    let mut module = row();
    let adapter = Box::new(PyTorchToBurnAdapter);
    let result = module.apply(tensors.collect(), None, Some(adapter), false);
    assert_eq!(result.applied.len(), 4);
    let mut expected = row();
    expected.load_from(&mut theirs(&path)).expect("it fits");
    for name in &result.applied {
        assert_eq!(values(&module)[name], values(&expected)[name], "{name}");
    }
}
