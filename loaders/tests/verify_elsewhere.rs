//! Digests of tensors that do not lie in their files as they will in memory: parts, views, and what is compressed.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ckload_loaders::{
    ByteSize, Checkpoint, Digest, Error, Io, Loader, Manifest, Observer, ReadDone, Select, Shard,
    TensorDigest, Verification, VerifyOptions,
};
use ckload_pool::BufferPool;
use common::npy::npy;
use common::pickle::dict;
use common::torch::{Saved, Storage};
use common::zip::{Packing, TORCH, Zip};
use common::{KIB, MIB, Sample, await_all_returned, failure, octets, random, watched, write};
use tempfile::TempDir;

const DEFLATED: Packing = Packing {
    deflated: true,
    descriptor: false,
    large: false,
    aligned: 0,
};

/// A checkpoint, and the bytes of its tensors as a load has to bring them.
struct Views {
    _folder: TempDir,
    path: PathBuf,
    checkpoint: Checkpoint,
    expected: BTreeMap<String, Vec<u8>>,
}

impl Views {
    fn new(
        name: &str,
        file: &[u8],
        expected: impl IntoIterator<Item = (&'static str, Vec<u8>)>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        write(&path, file);
        let expected = expected.into_iter();
        Self {
            _folder: folder,
            checkpoint: Checkpoint::open(&path).expect("a valid checkpoint"),
            path,
            expected: expected
                .map(|(name, bytes)| (name.to_owned(), bytes))
                .collect(),
        }
    }

    #[track_caller]
    fn check(&self, name: &str, sha256: &Digest) {
        assert_eq!(*sha256, Digest::of(&self.expected[name]), "{name}");
    }

    #[track_caller]
    fn check_found(&self, found: &Verification) {
        assert_eq!(found.tensors().len(), self.expected.len());
        for tensor in found.tensors() {
            self.check(&tensor.name, &tensor.sha256);
        }
        let bytes = fs::read(&self.path).expect("it is there");
        assert_eq!(found.files()[0].sha256, Digest::of(&bytes));
    }

    /// The bytes of the file, and those that are loaded after it.
    fn bytes(&self, elsewhere: &[&str]) -> u64 {
        let loaded = elsewhere.iter().map(|&name| self.expected[name].len());
        self.checkpoint.files()[0].bytes + loaded.sum::<usize>() as u64
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The bytes of a matrix whose elements a function of row and column gives, and those of its transpose.
fn matrix(rows: u16, columns: u16, element: impl Fn(u16, u16) -> f32) -> (Vec<u8>, Vec<u8>) {
    let by_rows = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let by_rows: Vec<f32> = by_rows.map(|(row, column)| element(row, column)).collect();
    let by_columns = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
    let by_columns: Vec<f32> = by_columns
        .map(|(row, column)| element(row, column))
        .collect();
    (bytes_of(&by_rows), bytes_of(&by_columns))
}

/// Arrays of NumPy: in place and in Fortran's order, plain and deflated, small, empty and large.
fn arrays() -> Views {
    let (by_rows, by_columns) = matrix(700, 500, |row, column| {
        f32::from(row) + f32::from(column) / 512.0
    });
    let mut zip = Zip::default();
    let shape = "(700, 500)";
    zip.member(
        "in_place.npy",
        &npy("<f4", false, shape, &by_rows),
        Packing::default(),
    );
    zip.member(
        "fortran.npy",
        &npy("<f4", true, shape, &by_columns),
        Packing::default(),
    );
    zip.member(
        "deflated.npy",
        &npy("<f4", false, shape, &by_rows),
        DEFLATED,
    );
    zip.member(
        "deflated_fortran.npy",
        &npy("<f4", true, shape, &by_columns),
        DEFLATED,
    );
    zip.member(
        "scalar.npy",
        &npy("<f4", false, "()", &by_rows[4..8]),
        DEFLATED,
    );
    zip.member("empty.npy", &npy("<f4", true, "(3, 0)", &[]), DEFLATED);
    let expected = [
        ("in_place", by_rows.clone()),
        ("fortran", by_rows.clone()),
        ("deflated", by_rows.clone()),
        ("deflated_fortran", by_rows.clone()),
        ("scalar", by_rows[4..8].to_vec()),
        ("empty", Vec::new()),
    ];
    Views::new("arrays.npz", &zip.finish(), expected)
}

/// Views of one storage of PyTorch, as a packing stores it.
fn views(packing: Packing) -> Views {
    let s = Storage::floats("0", 300 * 400, 7);
    let element = |at: usize| s.bytes[4 * at..][..4].to_vec();
    let gathered = |positions: Vec<usize>| positions.into_iter().flat_map(element).collect();
    let transposed = (0..400).flat_map(|row| (0..300).map(move |column| column * 400 + row));
    let strided = (0..300).flat_map(|row| (0..100).map(move |column| row * 400 + 3 + 4 * column));
    let expected = [
        ("whole", s.bytes.clone()),
        ("again", s.bytes.clone()),
        ("transposed", gathered(transposed.collect())),
        ("strided", gathered(strided.collect())),
        (
            "column",
            gathered((0..300).map(|row| 5 + 400 * row).collect()),
        ),
        ("repeated", gathered(vec![119_999; 14])),
        ("nothing", Vec::new()),
    ];
    let saved = Saved {
        object: dict(vec![
            ("whole", s.view(0, &[300, 400], &[400, 1])),
            ("again", s.view(0, &[120_000], &[1])),
            ("transposed", s.view(0, &[400, 300], &[1, 400])),
            ("strided", s.view(3, &[300, 100], &[400, 4])),
            ("column", s.view(5, &[300], &[400])),
            ("repeated", s.view(119_999, &[7, 2], &[0, 0])),
            ("nothing", s.view(0, &[0, 7], &[1, 9])),
        ]),
        storages: vec![s],
    };
    Views::new(
        "model.pt",
        &saved.archive_packed(packing, Some("little")),
        expected,
    )
}

/// A sample, and the tensors of it that are not in place.
type Case = (Views, &'static [&'static str]);

fn cases() -> [Case; 3] {
    [
        (
            arrays(),
            &["fortran", "deflated", "deflated_fortran", "scalar"],
        ),
        (
            views(TORCH),
            &["transposed", "strided", "column", "repeated"],
        ),
        (
            views(DEFLATED),
            &[
                "whole",
                "again",
                "transposed",
                "strided",
                "column",
                "repeated",
            ],
        ),
    ]
}

#[test]
fn whatever_is_not_in_place_has_the_digest_of_what_a_load_brings() {
    watched(|| {
        for (views, elsewhere) in cases() {
            for io in Io::ALL {
                for threads in [1, 5] {
                    let pool = BufferPool::new();
                    let loader = Loader::new().pool(&pool).io(io).threads(threads);
                    let found = loader.verify(&views.checkpoint, &VerifyOptions::default());
                    let found = found.expect("it is valid");
                    views.check_found(&found);
                    assert_eq!(found.report().bytes, views.bytes(elsewhere));
                    let folder = tempfile::tempdir().expect("a temporary folder");
                    let path = folder.path().join("recorded.json");
                    let json = serde_json::json!({
                        "schema": 1, "path": "x", "files": found.files(), "tensors": found.tensors(),
                    });
                    write(&path, json.to_string().as_bytes());
                    let manifest = Manifest::read(path).expect("a manifest");
                    assert_eq!(manifest.mismatches(&found), []);
                    await_all_returned(&pool);
                }
            }
        }
    });
}

#[test]
fn loads_hash_whatever_they_gather_or_inflate() {
    watched(|| {
        for (views, _) in cases() {
            let checkpoint = &views.checkpoint;
            for threads in [1, 5] {
                let loader = Loader::new().threads(threads).digests(true);
                let model = loader.load(checkpoint).expect("it is valid");
                let stream = loader.stream(checkpoint).expect("it is valid");
                let streamed: Result<Vec<_>, _> = stream.in_order().collect();
                let streamed = streamed.expect("it is valid");
                assert_eq!(streamed.len(), model.tensors().len());
                for tensor in model.tensors().iter().chain(&streamed) {
                    assert!(
                        tensor.bytes() == &views.expected[tensor.name()],
                        "{tensor:?}"
                    );
                    views.check(tensor.name(), tensor.sha256().expect("it was asked for"));
                    assert!(TensorDigest::of(tensor).is_some());
                }
            }
        }
    });
}

#[test]
fn a_rank_s_part_has_the_digest_of_its_bytes() {
    let sample = Sample::of(vec![octets("a", 6 * 1000), octets("b", 60 * KIB)]);
    let file = fs::read(&sample.path).expect("it is there");
    let text = String::from_utf8_lossy(&file).into_owned();
    // The same bytes as matrices, in a header of the same length.
    let header = text.split_once("}}").expect("a header").0.to_owned();
    let reshaped = header
        .replace("[6000]", "[6,1000]")
        .replace("[61440]", "[60,1024]");
    let longer = reshaped.len() - header.len();
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let padded = format!("{}}}}}{}", &reshaped[8..], " ".repeat(8 - longer % 8));
    let mut bytes = (padded.len() as u64).to_le_bytes().to_vec();
    bytes.extend(padded.as_bytes());
    bytes.extend(&file[8 + length..]);
    write(&sample.path, &bytes);
    let part = |name: &str, columns: usize| -> Vec<u8> {
        let rows = sample.tensors[name].bytes.chunks(columns);
        rows.flat_map(|row| &row[columns / 2..]).copied().collect()
    };
    let select = Select::all().shard("*", Shard::new(1, 1, 2));
    let checkpoint = sample.open().select(&select.expect("a rule"));
    let checkpoint = checkpoint.expect("they are even");
    let found = Loader::new().verify(&checkpoint, &VerifyOptions::default());
    let found = found.expect("it is valid");
    for (tensor, expected) in found
        .tensors()
        .iter()
        .zip([part("a", 1000), part("b", 1024)])
    {
        assert_eq!(tensor.sha256, Digest::of(&expected), "{}", tensor.name);
    }
    let parts = (3000 + 30 * KIB) as u64;
    assert_eq!(found.report().bytes, bytes.len() as u64 + parts);
}

#[test]
fn values_that_are_not_finite_are_counted_wherever_they_lie() {
    let (_, by_columns) = matrix(100, 300, |row, column| match (row, column) {
        (3, _) => f32::NAN,
        (_, 7 | 9) => f32::NEG_INFINITY,
        _ => 1.0,
    });
    let big: Vec<u8> = by_columns
        .chunks(4)
        .flat_map(|value| value.iter().rev().copied())
        .collect();
    for (descr, stored) in [("<f4", &by_columns), (">f4", &big)] {
        for packing in [Packing::default(), DEFLATED] {
            let mut zip = Zip::default();
            zip.member("a.npy", &npy(descr, true, "(100, 300)", stored), packing);
            let views = Views::new("a.npz", &zip.finish(), []);
            let options = VerifyOptions::default().finite(true);
            let found = Loader::new().verify(&views.checkpoint, &options);
            let found = found.expect("it is valid");
            let counts = found.tensors()[0].non_finite.expect("a float");
            assert_eq!((counts.nan, counts.infinite), (300, 2 * 99));
            assert_eq!(found.mismatches().len(), 1);
        }
    }
}

#[test]
fn the_report_has_the_memory_of_what_is_loaded_afterwards() {
    let side = vec![0; 4 * MIB];
    let array = npy("|u1", true, "(2048, 2048)", &side);
    let views = Views::new("a.npy", &array, []);
    let pool = BufferPool::new();
    let loader = Loader::new()
        .pool(&pool)
        .threads(2)
        .read_size(ByteSize::kib(64));
    let found = loader.verify(&views.checkpoint, &VerifyOptions::default());
    let report = found.expect("it is valid").report().clone();
    let stats = pool.stats();
    assert_eq!(report.allocation.fresh_bytes, stats.fresh_bytes);
    assert_eq!(report.allocation.fresh, stats.fresh);
    assert_eq!(report.peak_pool_bytes, stats.peak_bytes as u64);
    assert!(report.peak_pool_bytes >= 4 * MIB as u64);
}

#[derive(Default)]
struct Reads(AtomicU64);

impl Observer for Reads {
    fn read(&self, _event: &ReadDone) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_budget_too_small_for_a_tensor_that_is_not_in_place_names_it() {
    let array = npy("|u1", true, "(2048, 512)", &vec![0; MIB]);
    let views = Views::new("a.npy", &array, []);
    let reads = Arc::new(Reads::default());
    let loader = Loader::new()
        .budget(ByteSize::kib(512))
        .observer(Arc::clone(&reads) as Arc<dyn Observer>);
    let error = failure(loader.verify(&views.checkpoint, &VerifyOptions::default()));
    assert!(
        matches!(&error, Error::BudgetTooSmall { tensor, .. } if tensor == "array"),
        "{error}"
    );
    assert_eq!(reads.0.load(Relaxed), 0, "it could have been known before");
}

#[test]
fn damaged_compressed_data_are_an_error_that_names_the_tensor() {
    let mut random = random();
    let mut content = vec![0; 300 * KIB];
    random.fill(&mut content);
    let mut zip = Zip::default();
    let elements = format!("({},)", content.len());
    let at = zip.member("a.npy", &npy("|u1", false, &elements, &content), DEFLATED);
    let mut file = zip.finish();
    // Random bytes do not get smaller: what is inverted is stored blocks' headers as well.
    for byte in &mut file[at.start + 200 * KIB..at.end - 5000] {
        *byte = !*byte;
    }
    let views = Views::new("a.npz", &file, []);
    let pool = BufferPool::new();
    let loader = Loader::new().pool(&pool).threads(2);
    let error = failure(loader.verify(&views.checkpoint, &VerifyOptions::default()));
    assert!(
        matches!(&error, Error::Read { path, tensor, .. } if *path == views.path && tensor == "a"),
        "{error}"
    );
    await_all_returned(&pool);
}
