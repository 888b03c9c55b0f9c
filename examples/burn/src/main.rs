//! Loads a burn module from a checkpoint, once by burn-store's own store and once through ckload: the scores are the same.
//!
//! `cargo run --manifest-path examples/burn/Cargo.toml`

use std::error::Error;

use burn_core::tensor::{Device, Distribution, Tensor};
use burn_nn::LinearLayout;
use burn_store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use ckload::burn::CheckpointStore;
use ckload_example_burn::{Classifier, WIDTH, blueprint};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    blueprint().write_file(&path, 0)?;
    let device = Device::default();

    let mut theirs = Classifier::new(LinearLayout::Row, &device);
    let mut store = SafetensorsStore::from_file(&path)
        .with_key_remapping(r"^classifier\.", "")
        .with_from_adapter(PyTorchToBurnAdapter)
        .map_indices_contiguous(true);
    theirs.load_from(&mut store)?;

    // The same with another name before `from_file`, and the same settings after it.
    let mut ours = Classifier::new(LinearLayout::Row, &device);
    let mut store = CheckpointStore::from_file(&path)
        .with_key_remapping(r"^classifier\.", "")
        .with_from_adapter(PyTorchToBurnAdapter)
        .map_indices_contiguous(true);
    let result = ours.load_from(&mut store)?;
    println!("{} tensors from {}", result.applied.len(), path.display());

    let rows = Tensor::<2>::random([4, WIDTH], Distribution::Default, &device);
    let expected = theirs.forward(rows.clone()).into_data();
    let scores = ours.forward(rows).into_data();
    assert_eq!(scores, expected);
    println!("both stores give the same scores: {scores}");
    Ok(())
}
