//! Memory that goes from one model to the next.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use ckload::candle::Storages;
use ckload::synth::Gpt2;
use ckload::{ByteSize, Checkpoint, Loader};
use tempfile::TempDir;

use crate::support::bits;

/// Two models of the same shapes and other values.
fn two() -> (TempDir, [PathBuf; 2]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = [1, 2].map(|seed| {
        let path = folder.path().join(format!("{seed}.safetensors"));
        Gpt2::TINY
            .blueprint()
            .write_file(&path, seed)
            .expect("a disk with room");
        path
    });
    (folder, paths)
}

/// All tensors, as a model.
fn all(checkpoint: &Checkpoint, vb: &VarBuilder<'_>) -> Result<Vec<Tensor>> {
    let names = checkpoint.tensors().iter();
    names.map(|info| vb.get_unchecked(&info.name)).collect()
}

fn open(path: &PathBuf) -> Checkpoint {
    Checkpoint::open(path).expect("a valid file")
}

#[test]
fn memory_is_reused_and_holds_the_new_models_values() {
    let (_folder, paths) = two();
    let (loader, storages) = (Loader::new(), Storages::new(ByteSize::mib(64)));
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for round in 0..4 {
            let checkpoint = open(&paths[round % 2]);
            let model = storages.build(&loader, &checkpoint, dtype, |vb| all(&checkpoint, &vb));
            let model = model.expect("it loads");
            let plain = ckload::candle::var_builder(&loader, &checkpoint, dtype, &Device::Cpu);
            let plain = all(&checkpoint, &plain.expect("a thread")).expect("it loads");
            for (ours, plain) in model.iter().zip(&plain) {
                assert!(bits(ours) == bits(plain));
            }
            assert_eq!(storages.stats().kept, u64::from(dtype != DType::F32));
        }
    }
    // One storage for F32, one for both types of two bytes.
    let stats = storages.stats();
    assert_eq!((stats.fresh, stats.reused, stats.kept), (2, 10, 2));
    assert_eq!(stats.fresh_bytes, stats.kept_bytes);
    storages.clear();
    let stats = storages.stats();
    assert_eq!((stats.kept, stats.kept_bytes), (0, 0));
    assert_eq!(stats.freed_bytes, stats.fresh_bytes);
}

#[test]
fn memory_in_use_is_not_refilled() {
    let (_folder, paths) = two();
    let (loader, storages) = (Loader::new(), Storages::new(ByteSize::mib(64)));
    let build = |number: usize| {
        let checkpoint = open(&paths[number]);
        let model = storages.build(&loader, &checkpoint, DType::F32, |vb| all(&checkpoint, &vb));
        model.expect("it loads")
    };
    let first = build(0);
    let before: Vec<_> = first.iter().map(bits).collect();
    let second = build(1);
    assert_eq!(storages.stats().fresh, 2);
    assert!(first.iter().map(bits).eq(before.iter().cloned()));
    assert!(!second.iter().map(bits).eq(before.iter().cloned()));
    drop(first);
    let third = build(0);
    assert_eq!((storages.stats().fresh, storages.stats().reused), (2, 1));
    assert!(third.iter().map(bits).eq(before));
}

#[test]
fn a_clone_that_outlives_its_model_is_empty_and_an_error() {
    let (_folder, paths) = two();
    let (loader, storages) = (Loader::new(), Storages::new(ByteSize::mib(64)));
    let checkpoint = open(&paths[0]);
    let model = storages.build(&loader, &checkpoint, DType::F32, |vb| {
        vb.get((257, 96), "wte.weight")
    });
    let model = model.expect("it loads");
    let (clone, view) = (Tensor::clone(&model), model.t().expect("a matrix"));
    let (copy, values) = (model.copy().expect("room"), bits(&model));
    drop(model);
    let next = storages.build(&loader, &checkpoint, DType::F32, |vb| all(&checkpoint, &vb));
    let next = next.expect("it loads");
    assert_eq!(storages.stats().reused, 1);
    clone.matmul(&view).expect_err("nothing is left");
    clone.add(&clone).expect_err("nothing is left");
    clone.sum_all().expect_err("nothing is left");
    clone.to_vec2::<f32>().expect_err("nothing is left");
    clone
        .contiguous()
        .and_then(|x| x.sqrt())
        .expect_err("nothing is left");
    view.contiguous().expect_err("nothing is left");
    view.to_dtype(DType::F16).expect_err("nothing is left");
    Tensor::cat(&[&clone, &clone], 0).expect_err("nothing is left");
    clone
        .index_select(&Tensor::new(&[0_u32], &Device::Cpu).expect("a number"), 0)
        .expect_err("nothing is left");
    clone.broadcast_add(&copy).expect_err("nothing is left");
    assert!(bits(&copy) == values);
    drop(next);
}

#[test]
fn a_build_that_fails_gives_its_memory_back() {
    let (_folder, paths) = two();
    let (loader, storages) = (Loader::new(), Storages::new(ByteSize::mib(64)));
    let checkpoint = open(&paths[0]);
    let failed = storages.build(&loader, &checkpoint, DType::F32, |vb| {
        vb.get((257, 96), "wte.weight")?;
        vb.get((1, 2), "wte.weight")
    });
    failed.expect_err("the shape is another");
    assert_eq!((storages.stats().fresh, storages.stats().kept), (1, 1));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let built = storages.build(&loader, &checkpoint, DType::F32, |vb| -> Result<()> {
            vb.get((257, 96), "wte.weight")?;
            panic!("the model's fault");
        });
        drop(built);
    }));
    panicked.expect_err("it panics");
    let stats = storages.stats();
    assert_eq!((stats.fresh, stats.reused, stats.kept), (1, 1, 1));
    File::options()
        .write(true)
        .open(&paths[0])
        .and_then(|file| file.set_len(100_000))
        .expect("our own file");
    let failed = storages.build(&loader, &checkpoint, DType::F32, |vb| {
        vb.get_unchecked("wte.weight")
    });
    failed.expect_err("the file is cut short");
    let stats = storages.stats();
    assert_eq!((stats.fresh, stats.reused, stats.kept), (1, 2, 1));
}

#[test]
fn no_more_is_kept_than_was_allowed() {
    let (_folder, paths) = two();
    let loader = Loader::new();
    let checkpoint = open(&paths[0]);
    let storages = Storages::new(ByteSize::kib(10));
    let model = storages.build(&loader, &checkpoint, DType::F32, |vb| all(&checkpoint, &vb));
    drop(model.expect("it loads"));
    let stats = storages.stats();
    assert_eq!((stats.kept, stats.kept_bytes), (0, 0));
    assert_eq!(stats.freed_bytes, stats.fresh_bytes);
    // What has lain the longest goes first.
    let storages = Storages::new(ByteSize::b(stats.fresh_bytes));
    for dtype in [DType::F32, DType::F16, DType::F32, DType::F16] {
        let model = storages.build(&loader, &checkpoint, dtype, |vb| all(&checkpoint, &vb));
        drop(model.expect("it loads"));
        assert!(storages.stats().kept_bytes <= stats.fresh_bytes);
    }
    assert_eq!(storages.stats().fresh, 4);
}

#[test]
fn a_model_taken_out_keeps_its_memory() {
    let (_folder, paths) = two();
    let (loader, storages) = (Loader::new(), Storages::new(ByteSize::mib(64)));
    let checkpoint = open(&paths[0]);
    let model = storages.build(&loader, &checkpoint, DType::F32, |vb| {
        vb.get((257, 96), "wte.weight")
    });
    let model = model.expect("it loads");
    let values = bits(&model);
    let tensor = model.into_inner();
    assert!(bits(&tensor) == values);
    assert_eq!(storages.stats().kept, 0);
}

#[test]
fn a_model_may_keep_its_builder_but_gets_nothing_more_from_it() {
    let (_folder, paths) = two();
    let (loader, storages) = (Loader::new(), Storages::new(ByteSize::mib(64)));
    let checkpoint = open(&paths[0]);
    let model = storages.build(&loader, &checkpoint, DType::F32, |vb| {
        let wte = vb.get((257, 96), "wte.weight")?;
        Ok((vb, wte))
    });
    let model = model.expect("it loads");
    model
        .0
        .get(96, "ln_f.bias")
        .expect_err("the load has ended");
    let values = bits(&model.1);
    let wte = model.1.copy().expect("room");
    drop(model);
    assert!(bits(&wte) == values);
    assert_eq!(storages.stats().kept, 1);
}
