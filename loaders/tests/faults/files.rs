//! Files that change, shrink or vanish before a load, or while it runs.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ckload_loaders::{ByteSize, Checkpoint, Error, Io, Loader, Observer, ReadDone};

use crate::common::{
    KIB, MIB, Sample, WAYS, await_all_returned, failure, octets, stream_failure, watched,
};
use crate::{check_that_good_files_load, pool, truncate};

/// Opens a checkpoint, does `harm` to its file, and returns what each way of loading says, by each way of reading.
fn failures_after(harm: impl Fn(&Path)) -> Vec<Error> {
    let mut errors = Vec::new();
    for io in [Io::Buffered, Io::Mmap, Io::Auto] {
        for way in WAYS {
            let sample = Sample::uniform(10, 100 * KIB);
            let pool = pool();
            let loader = Loader::new().pool(&pool).io(io);
            let checkpoint = sample.open();
            harm(&sample.path);
            let error = failure(way.load(&loader, &checkpoint));
            assert!(
                error.to_string().contains("model.safetensors"),
                "{way:?}, {io}: {error}"
            );
            assert_eq!(error.path(), Some(sample.path.as_path()));
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
            errors.push(error);
        }
    }
    errors
}

#[track_caller]
fn assert_changed(errors: &[Error], expected: &str) {
    for error in errors {
        match error {
            Error::Changed { what, .. } => assert!(what.contains(expected), "{error}"),
            error => panic!("{error}"),
        }
        assert!(
            error.to_string().contains("open the checkpoint again"),
            "{error}"
        );
    }
}

#[test]
fn a_file_truncated_before_the_load() {
    assert_changed(&failures_after(|path| truncate(path, 500_000)), "size");
    assert_changed(&failures_after(|path| truncate(path, 0)), "size");
}

#[test]
fn a_file_that_grew_before_the_load() {
    assert_changed(&failures_after(|path| truncate(path, 2_000_000)), "size");
}

#[test]
fn a_file_replaced_by_another_of_its_size() {
    let replace = |path: &Path| {
        let other = path.with_extension("new");
        fs::copy(path, &other).expect("room on the disk");
        fs::rename(&other, path).expect("a rename");
    };
    assert_changed(&failures_after(replace), "another file");
}

#[test]
fn a_file_written_over_before_the_load() {
    let write_over = |path: &Path| {
        let bytes = fs::read(path).expect("it is there");
        fs::write(path, bytes).expect("room on the disk");
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .expect("it is there");
        let later = SystemTime::now() + Duration::from_secs(1); // clocks of file systems are coarse
        file.set_modified(later).expect("our own file");
    };
    assert_changed(&failures_after(write_over), "modification time");
}

#[test]
fn a_file_deleted_before_the_load() {
    for error in failures_after(|path| fs::remove_file(path).expect("it is there")) {
        assert_eq!(error.kind(), "io");
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn a_file_that_may_not_be_read_any_more() {
    let forbid = |path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o000)).expect("our own file");
    };
    let probe = tempfile::NamedTempFile::new().expect("a temporary file");
    forbid(probe.path());
    if fs::read(probe.path()).is_ok() {
        println!("skipped: this user reads files without permission (root does)");
        return;
    }
    for error in failures_after(forbid) {
        assert_eq!(error.kind(), "io");
        assert!(error.to_string().contains("denied"), "{error}");
    }
}

#[test]
fn a_shard_deleted_before_the_load() {
    let sample = Sample::uniform(2, 1000);
    fs::copy(&sample.path, sample.folder.path().join("copy")).expect("room on the disk");
    let other = Sample::of(vec![octets("other", 1000)]);
    let second = sample.folder.path().join("second.safetensors");
    fs::copy(&other.path, &second).expect("room on the disk");
    let checkpoint = Checkpoint::open(sample.folder.path()).expect("two good files");
    fs::remove_file(&second).expect("it is there");
    for way in WAYS {
        let error = failure(way.load(&Loader::new(), &checkpoint));
        assert_eq!(error.path(), Some(second.as_path()), "{way:?}");
    }
}

/// Truncates a file as soon as the first read is done.
struct TruncateAfterFirstRead {
    path: PathBuf,
    bytes: u64,
    done: AtomicBool,
}

impl Observer for TruncateAfterFirstRead {
    fn read(&self, _event: &ReadDone) {
        if !self.done.swap(true, Ordering::Relaxed) {
            truncate(&self.path, self.bytes);
        }
    }
}

/// A read error of `path` that names a tensor and a range beyond the file's new end.
#[track_caller]
fn assert_names_the_place(error: &Error, path: &Path, checkpoint: &Checkpoint) {
    let Error::Read {
        path: file,
        tensor,
        range,
        source,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(file, path);
    assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    let info = checkpoint
        .tensor(tensor)
        .expect("a tensor of the checkpoint");
    assert!(
        range.start < info.offset + info.bytes && info.offset < range.end,
        "{error}"
    );
    let bytes = fs::metadata(path).expect("it is there").len();
    assert!(range.start < range.end && range.end > bytes, "{error}");
    let message = error.to_string();
    let parts = [
        "model.safetensors",
        tensor,
        &range.start.to_string(),
        &range.end.to_string(),
    ];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_file_truncated_while_it_loads() {
    watched(|| {
        for (way, threads) in WAYS.iter().flat_map(|&way| [(way, 1), (way, 2), (way, 5)]) {
            let sample = Sample::uniform(24, 900 * KIB);
            let pool = pool();
            let checkpoint = sample.open();
            let loader = Loader::new()
                .pool(&pool)
                .io(Io::Buffered)
                .threads(threads)
                .budget(ByteSize::mib(2));
            let truncating = loader.clone().observer(Arc::new(TruncateAfterFirstRead {
                path: sample.path.clone(),
                bytes: 5 * MIB as u64 + 77,
                done: AtomicBool::new(false),
            }));
            let error = failure(way.load(&truncating, &checkpoint));
            // Other threads may have read the rest before it was cut off; the file's size then tells.
            if threads == 1 || error.kind() != "changed" {
                assert_names_the_place(&error, &sample.path, &checkpoint);
            }
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
        }
    });
}

#[test]
fn a_file_truncated_while_its_stream_is_half_way() {
    watched(|| {
        for (threads, io) in [(1, Io::Buffered), (3, Io::Buffered), (2, Io::Auto)] {
            let sample = Sample::uniform(40, 512 * KIB);
            let pool = pool();
            let loader = Loader::new()
                .pool(&pool)
                .io(io)
                .threads(threads)
                .budget(ByteSize::mib(2));
            let checkpoint = sample.open();
            let mut stream = loader.stream(&checkpoint).expect("a good file");
            let mut kept = stream.next().expect("many tensors").expect("a good file");
            for _ in 0..9 {
                kept = stream.next().expect("many tensors").expect("a good file");
            }
            truncate(&sample.path, 9 * MIB as u64);
            let error = stream
                .by_ref()
                .find_map(Result::err)
                .expect("the rest is not there");
            assert_names_the_place(&error, &sample.path, &checkpoint);
            assert!(stream.next().is_none(), "an error ends the stream");
            sample.check(&kept);
            drop((stream, kept));
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
        }
    });
}

/// What arrived before the error and was not taken must not stay leased until somebody drops the stream.
#[test]
fn a_stream_that_failed_holds_nothing() {
    watched(|| {
        let sample = Sample::uniform(40, 512 * KIB);
        let pool = pool();
        let loader = Loader::new()
            .pool(&pool)
            .threads(3)
            .budget(ByteSize::mib(4));
        let mut stream = loader.stream(&sample.open()).expect("a good file");
        truncate(&sample.path, 9 * MIB as u64);
        stream
            .by_ref()
            .find_map(Result::err)
            .expect("the rest is not there");
        await_all_returned(&pool);
    });
}

/// A file that is replaced while it is open stays the one that was opened.
#[test]
fn a_file_replaced_or_deleted_while_its_stream_is_half_way() {
    watched(|| {
        for replace in [true, false] {
            let sample = Sample::uniform(40, 256 * KIB);
            let loader = Loader::new().budget(ByteSize::mib(1));
            let mut stream = loader.stream(&sample.open()).expect("a good file");
            let mut tensors = vec![
                stream
                    .next()
                    .expect("many tensors")
                    .expect("a good file")
                    .name()
                    .to_owned(),
            ];
            if replace {
                let other = sample.path.with_extension("new");
                fs::write(&other, "another model").expect("room on the disk");
                fs::rename(&other, &sample.path).expect("a rename");
            } else {
                fs::remove_file(&sample.path).expect("it is there");
            }
            for tensor in stream {
                let tensor = tensor.expect("the file is still open");
                sample.check(&tensor);
                tensors.push(tensor.name().to_owned());
            }
            assert_eq!(tensors.len(), 40);
        }
    });
}

/// Bytes that were read before and after a change do not belong together.
#[test]
fn a_file_written_over_while_it_loads() {
    struct WriteOver(PathBuf, AtomicBool);

    impl Observer for WriteOver {
        fn read(&self, _event: &ReadDone) {
            if !self.1.swap(true, Ordering::Relaxed) {
                let file = OpenOptions::new()
                    .write(true)
                    .open(&self.0)
                    .expect("it is there");
                let later = SystemTime::now() + Duration::from_secs(1);
                file.set_modified(later).expect("our own file");
            }
        }
    }

    for io in [Io::Buffered, Io::Mmap] {
        for way in WAYS {
            let sample = Sample::uniform(8, 900 * KIB);
            let pool = pool();
            let observer = Arc::new(WriteOver(sample.path.clone(), AtomicBool::new(false)));
            let loader = Loader::new()
                .pool(&pool)
                .io(io)
                .budget(ByteSize::mib(2))
                .observer(observer);
            let error = failure(way.load(&loader, &sample.open()));
            assert_eq!(error.kind(), "changed", "{way:?}, {io}: {error}");
            await_all_returned(&pool);
        }
    }
}

#[test]
fn auto_never_reads_through_a_map() {
    let sample = Sample::uniform(8, 100 * KIB);
    let model = Loader::new().load(&sample.open()).expect("a good file");
    assert_eq!(
        model.report().io.mmap_bytes,
        0,
        "a truncated file would end the process"
    );
}

#[test]
fn a_stream_fails_as_a_load_does() {
    let sample = Sample::uniform(3, 1000);
    let checkpoint = sample.open();
    truncate(&sample.path, 2000);
    assert_eq!(
        stream_failure(&Loader::new(), &checkpoint).kind(),
        "changed"
    );
}
