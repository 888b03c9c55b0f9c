//! Ranks' parts against candle's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use candle_core::{DType, Device, Error};
use candle_nn::var_builder::{Shard, ShardedSafeTensors, ShardedVarBuilder};
use ckload::{Checkpoint, Io, Loader, Observer, ReadDone, Select};
use fastrand::Rng;
use safetensors::Dtype;
use tempfile::TempDir;

use crate::support::{Content, PLAIN, bits, message, seed, write};

#[allow(unsafe_code)]
fn candles(path: &Path, dtype: DType) -> ShardedVarBuilder<'static> {
    // SAFETY: The file is this test's own, and nothing changes it.
    let vb = unsafe { ShardedSafeTensors::var_builder(&[path], dtype, &Device::Cpu) };
    vb.expect("a valid file")
}

fn model() -> (TempDir, PathBuf) {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let mut contents = Vec::new();
    for (dtype, _) in PLAIN {
        for (kind, shape) in [
            ("matrix", &[24, 12][..]),
            ("cube", &[4, 8, 3]),
            ("bias", &[24]),
        ] {
            let name = format!("{dtype:?}.{kind}");
            contents.push(Content::random(&name, dtype, shape, &mut random));
        }
    }
    write(&path, &contents);
    (folder, path)
}

const fn shard(dim: usize, rank: usize, world_size: usize) -> Shard {
    Shard {
        dim,
        rank,
        world_size,
    }
}

#[test]
fn parts_are_candles_bit_by_bit() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let loader = Loader::new();
    for dtype in [DType::F32, DType::BF16] {
        let theirs = candles(&path, dtype);
        let ours = ckload::candle::sharded_var_builder(&loader, &checkpoint, dtype, &Device::Cpu);
        let ours = ours.expect("headers only");
        for (of, _) in PLAIN {
            for (kind, shape) in [
                ("matrix", &[24, 12][..]),
                ("cube", &[4, 8, 3]),
                ("bias", &[24]),
            ] {
                let name = format!("{of:?}.{kind}");
                let dims = 0..shape.len().min(2);
                let shards = dims.flat_map(|dim| (0..4).map(move |rank| shard(dim, rank, 4)));
                for shard in shards.chain([Shard::default(), shard(7, 7, 1)]) {
                    let theirs = theirs.get_with_hints(shape, &name, shard);
                    let ours = ours.get_with_hints(shape, &name, shard);
                    let (ours, theirs) = (ours.expect("a part"), theirs.expect("a part"));
                    assert!(bits(&ours) == bits(&theirs), "{name} {shard:?}");
                }
            }
        }
    }
}

#[test]
fn candle_does_not_divide_along_the_third_dimension_but_we_do() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let vb =
        ckload::candle::sharded_var_builder(&Loader::new(), &checkpoint, DType::F32, &Device::Cpu);
    let vb = vb.expect("headers only");
    let whole = vb.get((4, 8, 3), "F32.cube").expect("it is there");
    for rank in 0..3 {
        let part = vb.get_with_hints((4, 8, 3), "F32.cube", shard(2, rank, 3));
        let wanted = whole.narrow(2, rank, 1).and_then(|part| part.contiguous());
        assert!(bits(&part.expect("a part")) == bits(&wanted.expect("a part")));
    }
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let theirs = candles(&path, DType::F32);
    let ours =
        ckload::candle::sharded_var_builder(&Loader::new(), &checkpoint, DType::F32, &Device::Cpu);
    let ours = ours.expect("headers only");
    for (name, shard) in [
        ("F32.matrix", shard(0, 0, 5)),
        ("F32.matrix", shard(1, 1, 7)),
        ("F32.matrix", shard(0, 4, 7)),
        ("F32.none", shard(0, 0, 2)),
    ] {
        let theirs = theirs.get_with_hints((24, 12), name, shard);
        let ours = ours.get_with_hints((24, 12), name, shard);
        let (ours, theirs) = (ours.expect_err("no part"), theirs.expect_err("no part"));
        assert_eq!(message(&ours), message(&theirs), "{name} {shard:?}");
    }
    let wrong = |shape: (usize, usize), shard| {
        let error = ours.get_with_hints(shape, "F32.matrix", shard);
        error.expect_err("no such part")
    };
    // Candle looks at the shape only here.
    let theirs = theirs
        .get((12, 24), "F32.matrix")
        .expect_err("the shape is another");
    assert_eq!(
        message(&wrong((12, 24), Shard::default())),
        message(&theirs)
    );
    // Here candle panics, or says less.
    assert!(message(&wrong((24, 12), shard(2, 0, 2))).contains("shard"));
    assert!(message(&wrong((24, 12), shard(0, 2, 2))).contains("of 2 ranks the last is 1"));
    assert!(message(&wrong((24, 12), shard(0, 0, 0))).contains("of 0 ranks"));
    let error = ours
        .get_unchecked("F32.matrix")
        .expect_err("no part is meant");
    assert!(matches!(error, Error::Msg(_) | Error::WithBacktrace { .. }));
}

/// Counts what is read.
#[derive(Default)]
struct Counting {
    bytes: AtomicU64,
}

impl Observer for Counting {
    fn read(&self, done: &ReadDone) {
        self.bytes.fetch_add(done.bytes, Relaxed);
    }
}

#[test]
fn a_rank_reads_its_own_part_only() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let contents = [Content::random("x", Dtype::F32, &[1024, 512], &mut random)];
    write(&path, &contents);
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let counting = Arc::new(Counting::default());
    let loader = Loader::new().io(Io::Buffered).observer(counting.clone());
    let vb = ckload::candle::sharded_var_builder(&loader, &checkpoint, DType::F32, &Device::Cpu);
    let vb = vb.expect("headers only");
    vb.get_with_hints((1024, 512), "x", shard(0, 1, 4))
        .expect("a part");
    assert_eq!(counting.bytes.load(Relaxed), 1024 * 512);
}

#[test]
fn parts_that_were_selected_are_loaded_ahead_and_no_others_are_given() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let select = Select::all()
        .shard("*.matrix", ckload::Shard::new(1, 2, 3))
        .and_then(|select| select.shard("*.cube", ckload::Shard::new(0, 1, 2)));
    let mine = checkpoint
        .select(&select.expect("rules"))
        .expect("it is even");
    for dtype in [DType::F32, DType::F16] {
        let theirs = candles(&path, dtype);
        let ours = ckload::candle::sharded_var_builder(&Loader::new(), &mine, dtype, &Device::Cpu);
        let ours = ours.expect("a thread");
        for (of, _) in PLAIN {
            for (kind, shape, shard) in [
                ("matrix", &[24, 12][..], shard(1, 2, 3)),
                ("cube", &[4, 8, 3], shard(0, 1, 2)),
                ("bias", &[24], Shard::default()),
                ("bias", &[24], shard(0, 3, 4)),
            ] {
                let name = format!("{of:?}.{kind}");
                let theirs = theirs.get_with_hints(shape, &name, shard);
                let ours = ours.get_with_hints(shape, &name, shard);
                let (ours, theirs) = (ours.expect("a part"), theirs.expect("a part"));
                assert!(bits(&ours) == bits(&theirs), "{name} {shard:?}");
            }
        }
        for other in [shard(1, 1, 3), shard(0, 2, 3)] {
            let error = ours.get_with_hints((24, 12), "F32.matrix", other);
            let error = message(&error.expect_err("another part"));
            assert!(error.contains("for the part 1:2/3 only"), "{error}");
        }
        // The whole is not there either.
        ours.get((24, 12), "F32.matrix").expect_err("only a part");
    }
}
