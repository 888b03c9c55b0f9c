//! Digests are those of the bytes that were written, and what is damaged is named.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ckload_loaders::{
    ByteSize, Checkpoint, Digest, Dtype, Error, Io, Loader, Manifest, Mismatch, Observer, Planned,
    ReadDone, Report, Select, TensorDigest, TensorInfo, Verification, VerifyOptions,
};
use ckload_pool::BufferPool;
use common::{
    Content, KIB, MIB, Sample, Shard, await_all_returned, failure, octets, random,
    random_checkpoint, watched, write,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The SHA-256 as an independent caller of the digest's crate has it, in hexadecimal digits.
fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn verify(loader: &Loader, checkpoint: &Checkpoint) -> Verification {
    loader
        .verify(checkpoint, &VerifyOptions::default())
        .expect("a valid checkpoint")
}

/// Compares each digest with that of what was written and of what is on the disk.
#[track_caller]
fn check(sample: &Sample, found: &Verification) {
    assert_eq!(found.tensors().len(), sample.tensors.len());
    for tensor in found.tensors() {
        let content = &sample.tensors[&tensor.name];
        assert_eq!(tensor.dtype, content.dtype);
        assert_eq!(tensor.shape, content.shape);
        assert_eq!(tensor.bytes, content.bytes.len() as u64);
        assert_eq!(tensor.sha256.to_string(), sha256(&content.bytes));
        assert_eq!(tensor.non_finite, None);
    }
    for file in found.files() {
        let bytes = fs::read(&file.path).expect("it is there");
        assert_eq!(file.bytes, bytes.len() as u64);
        assert_eq!(file.sha256.to_string(), sha256(&bytes));
        assert_eq!(file.expected_sha256, None);
    }
}

/// Writes what `ckload verify --json` prints of `found`, as far as comparing needs it.
fn record(folder: &Path, found: &Verification) -> PathBuf {
    let json = serde_json::json!({
        "schema": 1, "path": "model", "files": found.files(), "tensors": found.tensors(),
    });
    let path = folder.join("recorded.json");
    write(&path, json.to_string().as_bytes());
    path
}

/// Inverts the byte at `at`.
fn damage(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[!byte[0]], at)
        .expect("a disk that works");
}

#[test]
fn random_checkpoints_have_the_digests_of_what_was_written() {
    let mut random = random();
    for _ in 0..40 {
        let sample = random_checkpoint(&mut random);
        let io = *random.choice(Io::ALL).as_ref().expect("not empty");
        let mut loader = Loader::new().io(io);
        if random.bool() {
            loader = loader.threads(random.usize(1..9));
        }
        if random.bool() {
            loader = loader.read_size(ByteSize::b(random.u64(4096..300_000)));
        }
        if random.bool() {
            loader = loader.budget(ByteSize::b(random.u64(8 << 10..1 << 20)));
        }
        let checkpoint = sample.open();
        let found = watched({
            let checkpoint = checkpoint.clone();
            move || verify(&loader, &checkpoint)
        });
        check(&sample, &found);
        let names = found.tensors().iter().map(|tensor| &tensor.name);
        assert!(names.eq(checkpoint.tensors().iter().map(|info| &info.name)));
        let bytes: u64 = checkpoint.files().iter().map(|file| file.bytes).sum();
        let report = found.report();
        assert_eq!(report.bytes, bytes);
        let read = report.io.buffered_bytes + report.io.direct_bytes + report.io.mmap_bytes;
        assert_eq!(read, bytes, "every byte is read once");
        assert!(found.mismatches().is_empty());
        let manifest = Manifest::read(record(sample.folder.path(), &found)).expect("a manifest");
        assert_eq!(manifest.mismatches(&found), []);
    }
}

#[test]
fn a_checkpoint_of_nothing_has_files_with_digests() {
    let sample = Sample::of(Vec::new());
    let found = verify(&Loader::new(), &sample.open());
    check(&sample, &found);
    assert_eq!(found.files().len(), 1);
}

#[test]
fn a_damaged_byte_names_its_tensor_and_its_file() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut shards = Vec::new();
    for number in 0..3 {
        let tensors =
            (0..4).map(|at| octets(&format!("{number}.{at}"), random.usize(1..500 * KIB)));
        let path = folder.path().join(format!("model-{number}.safetensors"));
        write(&path, &Shard::of(tensors.collect()).to_bytes());
        shards.push(path);
    }
    let open = || Checkpoint::open(folder.path()).expect("a valid checkpoint");
    let loader = Loader::new();
    let recorded = record(folder.path(), &verify(&loader, &open()));
    let manifest = Manifest::read(recorded).expect("a manifest");
    for _ in 0..8 {
        let checkpoint = open();
        let info = random.choice(checkpoint.tensors()).expect("twelve tensors");
        let path = &checkpoint.files()[info.file].path;
        let at = info.offset + random.u64(0..info.bytes);
        damage(path, at);
        let mismatches = manifest.mismatches(&verify(&loader, &open()));
        let [file, tensor] = &mismatches[..] else {
            panic!("a file and a tensor: {mismatches:?}");
        };
        assert!(matches!(file, Mismatch::FileDigest { .. }), "{file}");
        assert!(matches!(tensor, Mismatch::TensorDigest { .. }), "{tensor}");
        assert_eq!(file.file(), Some(path.as_path()));
        assert_eq!(tensor.tensor(), Some(info.name.as_str()));
        assert!(file.to_string().contains(&path.display().to_string()));
        assert!(tensor.to_string().contains(&format!("{:?}", info.name)));
        damage(path, at);
        assert_eq!(manifest.mismatches(&verify(&loader, &open())), []);
    }
    // In the header only the file differs: white space behind the object.
    let header = fs::read(&shards[1]).expect("it is there");
    let changed: Vec<u8> = [
        &(u64::from_le_bytes(header[..8].try_into().expect("8 bytes")) + 1).to_le_bytes()[..],
        b" ",
        &header[8..],
    ]
    .concat();
    write(&shards[1], &changed);
    let mismatches = manifest.mismatches(&verify(&loader, &open()));
    assert!(
        matches!(&mismatches[..], [Mismatch::FileBytes { path, .. }, Mismatch::FileDigest { .. }] if *path == shards[1]),
        "{mismatches:?}"
    );
}

#[test]
fn every_kind_of_difference_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let found_in = |name: &str, tensors: Vec<Content>| {
        let path = folder.path().join(name).join("model.safetensors");
        fs::create_dir(path.parent().expect("a folder")).expect("an empty folder");
        write(&path, &Shard::of(tensors).to_bytes());
        verify(
            &Loader::new(),
            &Checkpoint::open(path).expect("it is valid"),
        )
    };
    let of = |name: &str, dtype, shape: &[u64]| Content {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes: vec![0; 8],
    };
    let recorded = found_in(
        "recorded",
        vec![
            of("same", Dtype::U8, &[8]),
            of("shape", Dtype::U8, &[8]),
            of("dtype", Dtype::U8, &[8]),
            of("missing", Dtype::U8, &[8]),
            octets("bytes", 8),
        ],
    );
    let mut damaged = octets("bytes", 8);
    damaged.bytes[3] ^= 1;
    let found = found_in(
        "found",
        vec![
            of("same", Dtype::U8, &[8]),
            of("shape", Dtype::U8, &[2, 4]),
            of("dtype", Dtype::I8, &[8]),
            of("not recorded", Dtype::U8, &[8]),
            damaged,
        ],
    );
    let manifest = Manifest::read(record(folder.path(), &recorded)).expect("a manifest");
    let mut named = BTreeMap::new();
    for mismatch in manifest.mismatches(&found) {
        let json = serde_json::to_value(&mismatch).expect("JSON has all of it");
        let kind = json["kind"].as_str().expect("a kind").to_owned();
        let name = mismatch.tensor().map(str::to_owned);
        assert!(mismatch.tensor().is_some() != mismatch.file().is_some());
        assert!(named.insert(kind, name).is_none());
    }
    let of_tensor = |kind: &str, name: &str| (kind.to_owned(), Some(name.to_owned()));
    let expected = BTreeMap::from([
        ("file_bytes".to_owned(), None),
        ("file_digest".to_owned(), None),
        of_tensor("tensor_shape", "shape"),
        of_tensor("tensor_dtype", "dtype"),
        of_tensor("tensor_missing", "missing"),
        of_tensor("tensor_extra", "not recorded"),
        of_tensor("tensor_digest", "bytes"),
    ]);
    assert_eq!(named, expected);
    let select = Select::all().include("s*").expect("a glob");
    let shapes: Vec<TensorDigest> = found
        .tensors()
        .iter()
        .filter(|tensor| select.admits(&tensor.name))
        .cloned()
        .collect();
    let mismatches = manifest.tensor_mismatches(&shapes, &select);
    assert!(
        matches!(&mismatches[..], [Mismatch::TensorShape { .. }]),
        "{mismatches:?}"
    );
}

/// A Hugging Face cache with one model of one file, of which the name of the blob is `name`.
fn cache(bytes: &[u8], name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("models--org--name");
    let snapshot = model.join("snapshots/0123456789abcdef");
    fs::create_dir_all(model.join("blobs")).expect("an empty folder");
    fs::create_dir_all(&snapshot).expect("an empty folder");
    write(&model.join("blobs").join(name), bytes);
    let link = snapshot.join("model.safetensors");
    symlink(Path::new("../../blobs").join(name), &link).expect("a file system with links");
    (folder, link)
}

#[test]
fn a_blob_is_compared_with_its_name() {
    let bytes = Shard::of(vec![octets("t", 100 * KIB)]).to_bytes();
    let name = sha256(&bytes);
    let (_folder, path) = cache(&bytes, &name);
    let open = || Checkpoint::open(&path).expect("it is valid");
    assert_eq!(open().files()[0].hub_blob, Some(name.clone()));
    let found = verify(&Loader::new(), &open());
    assert_eq!(found.files()[0].expected_sha256, name.parse().ok());
    assert_eq!(found.mismatches(), []);

    damage(&path, bytes.len() as u64 - 1);
    let found = verify(&Loader::new(), &open());
    let mismatches = found.mismatches();
    let [
        Mismatch::BlobName {
            path: culprit,
            expected,
            ..
        },
    ] = &mismatches[..]
    else {
        panic!("the file: {mismatches:?}");
    };
    assert_eq!((culprit, expected.to_string()), (&path, name));
}

#[test]
fn what_is_not_named_by_its_sha_256_is_not_compared_with_its_name() {
    let bytes = Shard::of(vec![octets("t", 10)]).to_bytes();
    let (_folder, path) = cache(&bytes, &"0".repeat(40)); // git's digest of a small file
    let checkpoint = Checkpoint::open(&path).expect("it is valid");
    assert_eq!(checkpoint.files()[0].hub_blob, Some("0".repeat(40)));
    let found = verify(&Loader::new(), &checkpoint);
    assert_eq!(found.files()[0].expected_sha256, None);
    assert_eq!(found.mismatches(), []);

    // A link to elsewhere, with such a name.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("0".repeat(64));
    write(&target, &bytes);
    let link = folder.path().join("model.safetensors");
    symlink(&target, &link).expect("a file system with links");
    let checkpoint = Checkpoint::open(&link).expect("it is valid");
    assert_eq!(checkpoint.files()[0].hub_blob, None);
    assert_eq!(verify(&Loader::new(), &checkpoint).mismatches(), []);
}

#[test]
fn lists_of_sha256sum_are_compared_by_the_names_of_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let odd = "back\\slash\nnew line.safetensors";
    for name in ["a.safetensors", "b.safetensors", odd] {
        let tensor = octets(&format!("tensor of {name}"), 10);
        write(
            &folder.path().join(name),
            &Shard::of(vec![tensor]).to_bytes(),
        );
    }
    let found = verify(
        &Loader::new(),
        &Checkpoint::open(folder.path()).expect("it is valid"),
    );
    let digest = |name: &str| sha256(&fs::read(folder.path().join(name)).expect("it is there"));
    let (a, b, c) = (
        digest("a.safetensors"),
        digest("b.safetensors"),
        digest(odd),
    );
    let compared = |list: String| {
        let path = folder.path().join("SHA256SUMS");
        write(&path, list.as_bytes());
        let manifest = Manifest::read(path).expect("a list");
        assert!(!manifest.has_tensors());
        manifest.mismatches(&found)
    };
    let escaped = r"back\\slash\nnew line.safetensors";
    let other = "0".repeat(64);
    let good = format!(
        "# made long ago\n{a}  ./a.safetensors\r\n\nSHA256 (elsewhere/b.safetensors) = {b}\n\\{c} *{escaped}\n{other}  config.json\n"
    );
    assert_eq!(compared(good.clone()), []);
    let mismatches = compared(good.replace(&b, &other));
    assert!(
        matches!(&mismatches[..], [Mismatch::FileDigest { path, .. }] if path.ends_with("b.safetensors")),
        "{mismatches:?}"
    );
    let mismatches = compared(good.replace("b.safetensors", "c.safetensors"));
    assert!(
        matches!(&mismatches[..], [Mismatch::FileExtra { .. }, Mismatch::FileMissing { path }] if path == "elsewhere/c.safetensors"),
        "{mismatches:?}"
    );
}

#[test]
fn files_of_one_name_are_told_by_their_folders() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for part in ["one", "two"] {
        fs::create_dir(folder.path().join(part)).expect("an empty folder");
        let bytes = Shard::of(vec![octets(part, 10)]).to_bytes();
        write(&folder.path().join(part).join("model.safetensors"), &bytes);
    }
    let path = folder.path().join("model.safetensors.index.json");
    let index = common::index([
        ("one", "one/model.safetensors"),
        ("two", "two/model.safetensors"),
    ]);
    write(&path, index.as_bytes());
    let found = verify(
        &Loader::new(),
        &Checkpoint::open(&path).expect("it is valid"),
    );
    let list = folder.path().join("SHA256SUMS");
    let line = |part: &str| {
        let digest = sha256(&fs::read(folder.path().join(part)).expect("it is there"));
        format!("{digest}  elsewhere/{part}\n")
    };
    let lines = [line("two/model.safetensors"), line("one/model.safetensors")];
    write(&list, lines.concat().as_bytes());
    let manifest = Manifest::read(&list).expect("a list");
    assert_eq!(manifest.mismatches(&found), []);
}

#[test]
fn a_malformed_manifest_says_where_and_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("list");
    let digest = "a".repeat(64);
    let entry = format!(r#"{{"name":"t","dtype":"U8","shape":[1],"bytes":1,"sha256":"{digest}"}}"#);
    let object = |schema: u32, tensors: &str| {
        format!(r#"{{"schema":{schema},"files":[],"tensors":[{tensors}]}}"#)
    };
    for (content, says) in [
        (String::new(), "it names no file"),
        ("\n\n".to_owned(), "it names no file"),
        ("hello".to_owned(), "line 1"),
        (format!("{digest}  a\n{digest}\n"), "line 2"),
        (format!("{}  a", &digest[1..]), "line 1"),
        (format!("{digest}  "), "line 1"),
        (format!("\\{digest}  \\x"), "line 1"),
        (format!("SHA256 (a) = {}", &digest[1..]), "line 1"),
        (format!("MD5 (a) = {digest}"), "line 1"),
        ("{".to_owned(), "EOF"),
        ("{}".to_owned(), "missing field `schema`"),
        (
            r#"{"schema":1,"error":{}}"#.to_owned(),
            "missing field `files`",
        ),
        (object(2, ""), "its schema is 2"),
        (object(1, &format!("{entry},{entry}")), "recorded twice"),
        (
            object(1, &entry.replace("aaaa", "")),
            "64 hexadecimal digits",
        ),
        (object(1, &entry.replace("[1]", "[-1]")), "invalid value"),
        (object(1, &entry) + "x", "trailing characters"),
    ] {
        write(&path, content.as_bytes());
        let error = failure(Manifest::read(&path));
        let message = error.to_string();
        assert!(
            matches!(error, Error::Manifest { .. }),
            "{content:?}: {message}"
        );
        assert_eq!(error.kind(), "manifest");
        assert_eq!(error.path(), Some(path.as_path()));
        assert!(message.contains(says), "{content:?}: {message}");
    }
    write(&path, b"\xff\xfe");
    assert!(failure(Manifest::read(&path)).to_string().contains("UTF-8"));
    for missing in ["/nowhere/list", "/"] {
        assert!(
            matches!(failure(Manifest::read(missing)), Error::Io { .. }),
            "{missing}"
        );
    }
}

/// Values of a float type: a NaN, an infinity where there is one, and finite ones, in this order.
fn floats(dtype: Dtype) -> Option<(Vec<u8>, u64, u64)> {
    let (bytes, nan, infinite): (&[&[u8]], _, _) = match dtype {
        Dtype::F8_E5M2 => (&[&[0x7f], &[0xfc], &[0x7b], &[0]], 1, 1),
        Dtype::F8_E4M3 => (&[&[0xff], &[0x7e], &[0x80]], 1, 0),
        Dtype::F8_E8M0 => (&[&[0xff], &[0x7f], &[0xfe]], 1, 0),
        Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => (&[&[0x80], &[0x7f], &[0xff]], 1, 0),
        Dtype::F16 => (&[&[1, 0x7c], &[0, 0xfc], &[0, 0x3c]], 1, 1),
        Dtype::BF16 => (&[&[0xc0, 0xff], &[0x80, 0x7f], &[0x80, 0x3f]], 1, 1),
        Dtype::F32 | Dtype::C64 => {
            let values = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, f32::MAX];
            return Some((values.map(f32::to_le_bytes).concat(), 1, 2));
        }
        Dtype::F64 => {
            let values = [f64::NAN, -f64::NAN, f64::INFINITY, f64::MAX];
            return Some((values.map(f64::to_le_bytes).concat(), 2, 1));
        }
        _ => return None,
    };
    Some((bytes.concat(), nan, infinite))
}

#[test]
fn what_is_not_finite_is_counted_for_every_float_type() {
    let mut expected = BTreeMap::new();
    let mut tensors = vec![octets("odd", 3)]; // so that no other is aligned
    for dtype in common::safetensors_dtypes() {
        let (bytes, counts) = match floats(dtype) {
            Some((bytes, nan, infinite)) => {
                (bytes.repeat(1000), Some((1000 * nan, 1000 * infinite)))
            }
            None => (vec![0xff; 24_000], None),
        };
        let elements = bytes.len() as u64 * 8 / common::bits(dtype);
        tensors.push(Content {
            name: dtype.to_string(),
            dtype,
            shape: vec![elements],
            bytes,
        });
        expected.insert(dtype.to_string(), counts);
    }
    let sample = Sample::of(tensors);
    let options = VerifyOptions::default().finite(true);
    let loader = Loader::new().read_size(ByteSize::kib(4));
    let found = loader
        .verify(&sample.open(), &options)
        .expect("it is valid");
    for tensor in &found.tensors()[1..] {
        let counts = tensor
            .non_finite
            .map(|counts| (counts.nan, counts.infinite));
        assert_eq!(counts, expected[&tensor.name], "{}", tensor.name);
    }
    let named: Vec<Mismatch> = found.mismatches();
    assert_eq!(named.len(), 10, "one for each float type: {named:?}");
    let of_doubles = Mismatch::NotFinite {
        name: "F64".to_owned(),
        nan: 2000,
        infinite: 1000,
    };
    assert!(named.contains(&of_doubles));
    assert!(of_doubles.to_string().contains("\"F64\""), "{of_doubles}");

    let finite = Sample::of(vec![Content {
        name: "t".to_owned(),
        dtype: Dtype::F32,
        shape: vec![2],
        bytes: [1.0f32, -0.0].map(f32::to_le_bytes).concat(),
    }]);
    let found = loader
        .verify(&finite.open(), &options)
        .expect("it is valid");
    assert_eq!(found.mismatches(), []);
    assert!(
        found.tensors()[0]
            .non_finite
            .is_some_and(|counts| counts.is_none())
    );
}

#[test]
fn memory_is_bounded_and_given_back() {
    let mut random = random();
    for io in Io::ALL {
        let sample = Sample::uniform(6, MIB);
        let budget = random.usize(16 * KIB..MIB);
        let pool = BufferPool::builder()
            .min_buffer_size(4 * KIB)
            .max_bytes(2 * MIB)
            .build();
        let loader = Loader::new()
            .pool(&pool)
            .io(io)
            .budget(ByteSize::b(budget as u64));
        let found = watched({
            let (loader, checkpoint) = (loader.clone(), sample.open());
            move || verify(&loader, &checkpoint)
        });
        check(&sample, &found);
        let peak = found.report().peak_pool_bytes;
        assert!(peak <= budget as u64, "{peak} of {budget}");
        await_all_returned(&pool);
    }
    let sample = Sample::uniform(1, 10);
    let loader = Loader::new().budget(ByteSize::b(100));
    let error = failure(loader.verify(&sample.open(), &VerifyOptions::default()));
    assert!(matches!(error, Error::BudgetTooSmall { .. }), "{error}");
}

/// Cuts a file off, or adds to it, when the first bytes of it have been read.
struct Meddles {
    path: PathBuf,
    len: u64,
    reads: AtomicU64,
}

impl Observer for Meddles {
    fn read(&self, _event: &ReadDone) {
        if self.reads.fetch_add(1, Relaxed) == 0 {
            let file = OpenOptions::new().write(true).open(&self.path);
            let resized = file.expect("it is there").set_len(self.len);
            resized.expect("a disk that works");
        }
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_an_error_and_memory_goes_back() {
    for io in [Io::Auto, Io::Buffered, Io::Direct] {
        for grows in [false, true] {
            let sample = Sample::uniform(8, MIB);
            let bytes = sample.path.metadata().expect("it is there").len();
            let pool = BufferPool::new();
            let meddles = Meddles {
                path: sample.path.clone(),
                len: if grows { bytes + 1 } else { 5 * MIB as u64 },
                reads: AtomicU64::new(0),
            };
            let loader = Loader::new()
                .pool(&pool)
                .io(io)
                .read_size(ByteSize::kib(64))
                .observer(Arc::new(meddles));
            let checkpoint = sample.open();
            let error =
                watched(move || failure(loader.verify(&checkpoint, &VerifyOptions::default())));
            match error {
                Error::Read { ref tensor, .. } if !grows => {
                    assert!(tensor.starts_with('t'), "{error}");
                }
                Error::Changed { .. } if grows => {}
                other => panic!("{io}, grows: {grows}: {other}"),
            }
            await_all_returned(&pool);
        }
    }
}

#[derive(Default)]
struct Counts {
    planned: AtomicU64,
    read: AtomicU64,
    tensors: AtomicU64,
    finished: AtomicU64,
}

impl Observer for Counts {
    fn planned(&self, event: &Planned) {
        self.planned.fetch_add(event.bytes, Relaxed);
    }

    fn read(&self, event: &ReadDone) {
        self.read.fetch_add(event.bytes, Relaxed);
    }

    fn tensor(&self, _info: &TensorInfo) {
        self.tensors.fetch_add(1, Relaxed);
    }

    fn finished(&self, _report: &Report) {
        self.finished.fetch_add(1, Relaxed);
    }
}

#[test]
fn the_observer_is_told() {
    let sample = Sample::uniform(5, 700 * KIB);
    let counts = Arc::new(Counts::default());
    let loader = Loader::new().observer(Arc::clone(&counts) as Arc<dyn Observer>);
    let found = verify(&loader, &sample.open());
    let bytes = found.files()[0].bytes;
    assert_eq!(counts.planned.load(Relaxed), bytes);
    assert_eq!(counts.read.load(Relaxed), bytes);
    assert_eq!(counts.tensors.load(Relaxed), 5);
    assert_eq!(counts.finished.load(Relaxed), 1);
    let report = found.report();
    assert!(report.digest_seconds > Some(0.0) && report.read_seconds > 0.0);
}

struct Panics;

impl Observer for Panics {
    fn read(&self, _event: &ReadDone) {
        panic!("the observer's");
    }
}

#[test]
fn a_panic_of_the_observer_is_an_error() {
    let pool = BufferPool::new();
    let loader = Loader::new().pool(&pool).observer(Arc::new(Panics));
    let sample = Sample::uniform(5, 700 * KIB);
    let checkpoint = sample.open();
    let error = watched(move || failure(loader.verify(&checkpoint, &VerifyOptions::default())));
    assert!(matches!(error, Error::WorkerPanicked { .. }), "{error}");
    await_all_returned(&pool);
}

#[test]
fn loads_hash_what_they_deliver_if_asked() {
    let mut random = random();
    for _ in 0..10 {
        let sample = random_checkpoint(&mut random);
        let checkpoint = sample.open();
        let loader = Loader::new().digests(true);
        let model = loader.load(&checkpoint).expect("it is valid");
        sample.check_all(model.tensors());
        let mut stream = loader.stream(&checkpoint).expect("it is valid");
        let streamed: Vec<_> = stream
            .by_ref()
            .map(|tensor| tensor.expect("it loads"))
            .collect();
        sample.check_all(&streamed);
        for tensor in model.tensors().iter().chain(&streamed) {
            let expected = sha256(&sample.tensors[tensor.name()].bytes);
            let found = tensor.sha256().map(Digest::to_string);
            assert_eq!(found, Some(expected), "{tensor:?}");
            let digest = TensorDigest::of(tensor).expect("it was hashed");
            assert_eq!(digest.shape, tensor.shape());
        }
        for report in [model.report(), &stream.report()] {
            assert_eq!(report.digest_seconds.is_some(), !sample.tensors.is_empty());
        }
    }
}

#[test]
fn loads_hash_nothing_unless_asked() {
    let sample = Sample::uniform(2, 100);
    let checkpoint = sample.open();
    let model = Loader::new().load(&checkpoint);
    let model = model.expect("it is valid");
    assert!(
        model
            .tensors()
            .iter()
            .all(|tensor| tensor.sha256().is_none())
    );
    assert!(TensorDigest::of(&model.tensors()[0]).is_none());
    assert_eq!(model.report().digest_seconds, None);
    let json = serde_json::to_value(model.report()).expect("JSON has all of it");
    assert!(json.get("digest_seconds").is_none());
}
