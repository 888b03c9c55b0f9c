//! Files that fail while they load, and builders that are dropped before they are done.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use ckload::synth::Gpt2;
use ckload::{Checkpoint, Loader, Observer, ReadDone};
use tempfile::TempDir;

use crate::support::message;

fn gpt2() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    Gpt2::TINY
        .blueprint()
        .write_file(&path, 3)
        .expect("a disk with room");
    (folder, path)
}

/// Whether a background load of this process still runs.
fn is_loading() -> bool {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .into_iter()
        .any(|name| name.trim_end() == "ckload-candle")
}

#[test]
fn a_file_cut_short_fails_every_get_and_hangs_none() {
    for dtype in [DType::F32, DType::F16] {
        let (_folder, path) = gpt2();
        let checkpoint = Checkpoint::open(&path).expect("a valid file");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(200_000))
            .expect("our own file");
        let loader = Loader::new();
        let vb = ckload::candle::var_builder(&loader, &checkpoint, dtype, &Device::Cpu);
        let vb = vb.expect("a thread");
        for name in ["wte.weight", "ln_f.bias", "h.0.attn.c_attn.weight"] {
            let error = vb.get_unchecked(name).expect_err("it is not whole");
            assert!(message(&error).contains("model.safetensors"), "{error}");
        }
        ckload::candle::load(&loader, &checkpoint, &Device::Cpu).expect_err("it is not whole");
    }
}

#[test]
fn a_file_that_is_gone_fails_every_get() {
    let (_folder, path) = gpt2();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    fs::remove_file(&path).expect("our own file");
    let loader = Loader::new();
    let vb = ckload::candle::var_builder(&loader, &checkpoint, DType::F32, &Device::Cpu);
    let vb = vb.expect("a thread");
    for _ in 0..2 {
        let error = vb.get((257, 96), "wte.weight").expect_err("it is gone");
        assert!(message(&error).contains("model.safetensors"), "{error}");
        let kind = ckload::candle::cause(&error).map(ckload::Error::kind);
        assert_eq!(kind, Some("io"));
    }
}

#[test]
fn a_file_that_was_replaced_is_not_mixed_with_the_one_that_was_opened() {
    let (_folder, path) = gpt2();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let other = path.with_extension("other");
    Gpt2::TINY
        .blueprint()
        .write_file(&other, 4)
        .expect("a disk with room");
    fs::rename(&other, &path).expect("our own file");
    let loader = Loader::new();
    let vb = ckload::candle::var_builder(&loader, &checkpoint, DType::F32, &Device::Cpu);
    let error = vb.expect("a thread").get((257, 96), "wte.weight");
    let error = error.expect_err("it is another file");
    assert!(message(&error).contains("model.safetensors"), "{error}");
}

/// Panics at the first read.
struct Panicking;

impl Observer for Panicking {
    fn read(&self, _: &ReadDone) {
        panic!("the observer's fault");
    }
}

#[test]
fn a_panic_in_the_background_is_an_error_of_every_get() {
    let (_folder, path) = gpt2();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let loader = Loader::new().observer(Arc::new(Panicking));
    for dtype in [DType::F32, DType::BF16] {
        let vb = ckload::candle::var_builder(&loader, &checkpoint, dtype, &Device::Cpu);
        let vb = vb.expect("a thread");
        for name in ["wte.weight", "ln_f.bias"] {
            let error = vb.get_unchecked(name).expect_err("nothing was loaded");
            assert!(message(&error).contains("the observer's fault"), "{error}");
        }
    }
}

#[test]
fn a_builder_that_is_dropped_early_ends_its_load() {
    let (_folder, path) = gpt2();
    drop_early(&path);
}

fn drop_early(path: &Path) {
    let checkpoint = Checkpoint::open(path).expect("a valid file");
    let loader = Loader::new();
    for number in 0..40 {
        let dtype = [DType::F32, DType::F16][number % 2];
        let vb = ckload::candle::var_builder(&loader, &checkpoint, dtype, &Device::Cpu);
        let vb = vb.expect("a thread");
        if number % 3 == 0 {
            vb.get((257, 96), "wte.weight").expect("it loads");
        }
    }
    // Other tests of this process load as well, and end.
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_loading() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!is_loading(), "a load goes on that no one waits for");
}
