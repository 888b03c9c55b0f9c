//! What the tests share: files whose every byte is known, of each format, random checkpoints, and a watch against hangs.

#![allow(dead_code, unused_imports)] // each test file uses a part

mod gguf;
pub(crate) mod npy;
pub(crate) mod pickle;
mod random;
pub(crate) mod torch;
mod way;
mod writer;
pub(crate) mod zip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ckload_loaders::{ByteSize, Checkpoint, Dtype, Error, Loader, MetadataValue, Tensor};
use ckload_pool::BufferPool;
use tempfile::TempDir;

pub(crate) use gguf::{Entry, GGML_TYPES, Gguf, Value, random_gguf};
pub(crate) use random::{random_checkpoint, random_shard};
pub(crate) use way::{WAYS, Way};
pub(crate) use writer::{Escapes, Shard, Style, entry, header, safetensors_bytes};

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// Far beyond what any test takes: only a hang lasts so long.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// The element types that a safetensors file can hold.
pub(crate) fn safetensors_dtypes() -> Vec<Dtype> {
    let held = |dtype: &Dtype| dtype.to_safetensors().is_some();
    Dtype::ALL.into_iter().filter(held).collect()
}

/// The bits of one element.
pub(crate) fn bits(dtype: Dtype) -> u64 {
    let block = dtype.block();
    8 * block.bytes / block.elements
}

/// A tensor as it was written: what a load has to bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// A checkpoint on disk and what it holds.
pub(crate) struct Sample {
    pub(crate) folder: TempDir,
    /// What to open: a file, an index or the folder.
    pub(crate) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, Content>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Sample {
    /// One file, `model.safetensors`, with these tensors in this order.
    pub(crate) fn of(tensors: Vec<Content>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let shard = Shard::of(tensors);
        write(&path, &shard.to_bytes());
        Self {
            folder,
            path,
            metadata: shard.metadata.clone().unwrap_or_default(),
            tensors: by_name(shard.tensors),
        }
    }

    /// `count` tensors of `len` bytes each, called `t0`, `t1`, …
    pub(crate) fn uniform(count: usize, len: usize) -> Self {
        Self::of(
            (0..count)
                .map(|number| octets(&format!("t{number}"), len))
                .collect(),
        )
    }

    pub(crate) fn open(&self) -> Checkpoint {
        Checkpoint::open(&self.path).expect("a valid checkpoint")
    }

    /// Makes the page cache drop the one file of the sample.
    pub(crate) fn forget_cached(&self) {
        let file = std::fs::File::open(&self.path).expect("it is there");
        file.sync_all().expect("a disk that works");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("an advice");
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|content| content.bytes.len() as u64)
            .sum()
    }

    /// Compares a loaded tensor with what was written.
    #[track_caller]
    pub(crate) fn check(&self, tensor: &Tensor) {
        let content = &self.tensors[tensor.name()];
        assert_eq!(tensor.dtype(), content.dtype, "{:?}", tensor.name());
        assert_eq!(tensor.shape(), content.shape, "{:?}", tensor.name());
        assert!(
            tensor.bytes() == &content.bytes,
            "the bytes of {tensor:?} differ"
        );
        let address = tensor.bytes().as_ptr().addr() as u64;
        assert!(
            tensor.bytes().is_empty() || address.is_multiple_of(tensor.dtype().alignment()),
            "{tensor:?} is not aligned"
        );
    }

    /// Compares loaded tensors, in any order, with all that was written.
    #[track_caller]
    pub(crate) fn check_all<'a>(&self, tensors: impl IntoIterator<Item = &'a Tensor>) {
        let mut missing: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        for tensor in tensors {
            self.check(tensor);
            let at = missing
                .binary_search(&tensor.name())
                .expect("no tensor comes twice");
            missing.remove(at);
        }
        assert!(missing.is_empty(), "not loaded: {missing:?}");
    }
}

pub(crate) fn by_name(tensors: Vec<Content>) -> BTreeMap<String, Content> {
    tensors
        .into_iter()
        .map(|content| (content.name.clone(), content))
        .collect()
}

/// Compares what a checkpoint's headers say besides tensors.
pub(crate) fn check_metadata(
    checkpoint: &Checkpoint,
    written: impl IntoIterator<Item = (String, String)>,
) {
    let written = written.into_iter();
    let written: BTreeMap<String, MetadataValue> =
        written.map(|(key, value)| (key, value.into())).collect();
    assert_eq!(checkpoint.metadata(), &written);
}

/// A tensor of `len` unsigned 8-bit integers, random but the same each time.
pub(crate) fn octets(name: &str, len: usize) -> Content {
    let seed = name.bytes().fold(len as u64, |seed, byte| {
        seed.wrapping_mul(31) + u64::from(byte)
    });
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    Content {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: vec![len as u64],
        bytes,
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// An index that places each tensor in a file.
pub(crate) fn index<'a>(places: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let weight_map: BTreeMap<&str, &str> = places.into_iter().collect();
    serde_json::json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string()
}

/// Why `result` failed.
#[track_caller]
pub(crate) fn failure<T>(result: Result<T, Error>) -> Error {
    result.err().expect("this has to fail")
}

/// Why a stream failed, at its start or later; what it brought before is dropped.
#[track_caller]
pub(crate) fn stream_failure(loader: &Loader, checkpoint: &Checkpoint) -> Error {
    match loader.stream(checkpoint) {
        Err(error) => error,
        Ok(mut stream) => stream.find_map(Result::err).expect("this has to fail"),
    }
}

/// The least budget with which `checkpoint` streams, as the loader itself names it.
pub(crate) fn smallest_budget(loader: &Loader, checkpoint: &Checkpoint) -> ByteSize {
    match loader.clone().budget(ByteSize::b(1)).stream(checkpoint) {
        Err(Error::BudgetTooSmall { needed, .. }) => ByteSize::b(needed),
        Err(error) => panic!("a budget of one byte: {error}"),
        Ok(_) => ByteSize::b(1),
    }
}

/// Waits until nobody leases anything from `pool`.
#[track_caller]
pub(crate) fn await_all_returned(pool: &BufferPool) {
    await_leased(pool, 0);
}

/// Waits until exactly `bytes` of the pool are out.
#[track_caller]
pub(crate) fn await_leased(pool: &BufferPool, bytes: usize) {
    let start = Instant::now();
    while pool.stats().leased_bytes != bytes {
        assert!(
            start.elapsed() < HANG,
            "not {bytes} leased: {:?}",
            pool.stats()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `work` and fails if it hangs.
#[track_caller]
pub(crate) fn watched<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let worker = thread::spawn(move || done.send(work()));
    match result.recv_timeout(HANG) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = worker.join().expect_err("only a panic sends nothing");
            std::panic::resume_unwind(panic)
        }
    }
}

/// Random numbers from a seed that is printed, and that `CKLOAD_SEED` sets.
#[allow(clippy::print_stdout)] // shown when the test fails
pub(crate) fn random() -> fastrand::Rng {
    let given = std::env::var("CKLOAD_SEED").ok();
    let seed = given.map_or_else(
        || fastrand::u64(..),
        |seed| seed.parse().expect("CKLOAD_SEED is a number"),
    );
    println!("CKLOAD_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
