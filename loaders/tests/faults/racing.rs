//! Files that change while they load.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use ckload_loaders::{ByteSize, Checkpoint, Error, Io, Loader, Observer, ReadDone};

use crate::common::{
    KIB, MIB, Sample, Shard, WAYS, Way, await_all_returned, by_name, failure, octets, watched,
    write,
};
use crate::{check_that_good_files_load, pool, truncate};

/// Does something when so many reads are done, and counts them.
struct AtRead<F> {
    number: usize,
    reads: AtomicUsize,
    harm: F,
}

impl<F: Fn() + Send + Sync> Observer for AtRead<F> {
    fn read(&self, _event: &ReadDone) {
        if self.reads.fetch_add(1, Relaxed) == self.number {
            (self.harm)();
        }
    }
}

/// One load that is disturbed, and how it went.
struct Disturbed {
    sample: Sample,
    checkpoint: Checkpoint,
    way: Way,
    io: Io,
    threads: usize,
    /// When the file was disturbed, in reads that were done.
    number: usize,
    result: Result<(), Error>,
}

impl Disturbed {
    fn case(&self) -> String {
        let Self {
            way,
            io,
            threads,
            number,
            ..
        } = self;
        format!("{way:?}, {io}, {threads} threads, after read {number}")
    }
}

/// Does `harm` to a file after one of its reads, first and last included, in every way of loading it, and has `check` look at each outcome.
fn disturb(modes: &[Io], harm: fn(&Path), check: impl Fn(&Disturbed)) {
    let tensors: Vec<_> = (0..10)
        .map(|number| octets(&format!("t{number}"), 900 * KIB))
        .collect();
    for &io in modes {
        for way in WAYS {
            // Only one way of reading asks what the page cache has.
            let settings = match io {
                Io::Auto => &[(1, false), (1, true), (3, true)][..],
                _ => &[(1, false), (3, false)],
            };
            for &(threads, is_cold) in settings {
                let pool = pool();
                let loader = Loader::new()
                    .pool(&pool)
                    .io(io)
                    .threads(threads)
                    .budget(ByteSize::mib(2));
                let mut last = 0;
                let mut number = 0;
                while number <= last {
                    let sample = Sample::of(tensors.clone());
                    // Clocks of file systems are coarse: a change must not look as old as the file.
                    let earlier = SystemTime::now() - Duration::from_secs(10);
                    let file = OpenOptions::new().append(true).open(&sample.path);
                    file.and_then(|file| file.set_modified(earlier))
                        .expect("our own file");
                    let checkpoint = sample.open();
                    if is_cold {
                        sample.forget_cached();
                    }
                    let path = sample.path.clone();
                    let observer = Arc::new(AtRead {
                        number,
                        reads: AtomicUsize::new(0),
                        harm: move || harm(&path),
                    });
                    let disturbed = loader.clone().observer(observer.clone());
                    let result = way.load_checked(&disturbed, &checkpoint, &sample);
                    await_all_returned(&pool);
                    let reads = observer.reads.load(Relaxed);
                    if reads > number {
                        check(&Disturbed {
                            sample,
                            checkpoint,
                            way,
                            io,
                            threads,
                            number,
                            result,
                        });
                    } else {
                        result.expect("nobody touched the file");
                    }
                    if number == 0 {
                        // How many reads there are, if none fails.
                        let sample = Sample::of(tensors.clone());
                        let count = Arc::new(AtRead {
                            number: usize::MAX,
                            reads: AtomicUsize::new(0),
                            harm: || (),
                        });
                        let counted = loader.clone().observer(count.clone());
                        way.load(&counted, &sample.open()).expect("a good file");
                        last = count.reads.load(Relaxed) - 1;
                    }
                    number += (last / 2).max(1);
                }
                check_that_good_files_load(&loader);
            }
        }
    }
}

const BUT_MAPS: [Io; 3] = [Io::Auto, Io::Buffered, Io::Direct];

#[test]
fn a_file_truncated_while_it_loads() {
    watched(|| {
        for cut in [
            |path: &Path| truncate(path, 5 * MIB as u64 + 77),
            |path: &Path| truncate(path, 0),
            |path: &Path| {
                let bytes = fs::metadata(path).expect("it is there").len();
                truncate(path, bytes - 1);
            },
        ] {
            disturb(&BUT_MAPS, cut, |load| {
                let error = load.result.as_ref().expect_err("bytes are missing");
                assert_names_the_place(error, &load.sample.path, &load.checkpoint);
            });
        }
    });
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
        &*path.file_name().expect("a file").to_string_lossy(),
        tensor,
        &range.start.to_string(),
        &range.end.to_string(),
    ];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
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

/// The file that was opened is read to its end, wherever its name leads by then, and whoever may open it.
#[test]
fn a_file_replaced_removed_or_forbidden_while_it_loads() {
    watched(|| {
        for harm in [
            |path: &Path| {
                let other = path.with_extension("new");
                fs::write(&other, "another model").expect("room on the disk");
                fs::rename(&other, path).expect("a rename");
            },
            |path: &Path| fs::remove_file(path).expect("it is there"),
            |path: &Path| {
                fs::set_permissions(path, Permissions::from_mode(0o000)).expect("our own file");
            },
        ] {
            disturb(&Io::ALL, harm, |load| {
                if let Err(error) = &load.result {
                    panic!("{}: {error}", load.case());
                }
            });
        }
    });
}

/// Bytes that were read before and after a change do not belong together; and a stream must not deliver what was read after it.
#[test]
fn a_file_written_over_or_grown_while_it_loads() {
    watched(|| {
        for harm in [
            |path: &Path| {
                let file = OpenOptions::new().write(true).open(path);
                let file = file.expect("it is there");
                let bytes = file.metadata().expect("it is there").len();
                let other = vec![7; bytes as usize];
                file.write_all_at(&other, 0).expect("room on the disk");
            },
            |path: &Path| {
                let file = OpenOptions::new().append(true).open(path);
                let mut file = file.expect("it is there");
                file.write_all(&[0; 10 * KIB]).expect("room on the disk");
            },
        ] {
            disturb(&Io::ALL, harm, |load| {
                let error = load.result.as_ref().expect_err("it is another file now");
                assert_eq!(error.kind(), "changed", "{}: {error}", load.case());
                assert_eq!(error.path(), Some(load.sample.path.as_path()));
            });
        }
    });
}

/// The error names the file that is to blame, not the one that was read when it happened.
#[test]
fn one_of_several_files_truncated_while_they_load() {
    watched(|| {
        for io in BUT_MAPS {
            for way in WAYS {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let mut tensors = Vec::new();
                for number in 0..4 {
                    let some = [0, 1].map(|at| octets(&format!("{number}.{at}"), 700 * KIB));
                    let path = folder.path().join(format!("{number}.safetensors"));
                    write(&path, &Shard::of(some.to_vec()).to_bytes());
                    tensors.extend(some);
                }
                let sample = Sample {
                    path: folder.path().to_owned(),
                    folder,
                    tensors: by_name(tensors),
                    metadata: Default::default(),
                };
                let pool = pool();
                let loader = Loader::new()
                    .pool(&pool)
                    .io(io)
                    .threads(1)
                    .budget(ByteSize::mib(2));
                let third = sample.path.join("2.safetensors");
                let path = third.clone();
                let truncating = loader.clone().observer(Arc::new(AtRead {
                    number: 1,
                    reads: AtomicUsize::new(0),
                    harm: move || truncate(&path, 800 * KIB as u64),
                }));
                let checkpoint = sample.open();
                let error = failure(way.load_checked(&truncating, &checkpoint, &sample));
                assert_names_the_place(&error, &third, &checkpoint);
                assert!(error.to_string().contains("\"2.1\""), "{error}");
                await_all_returned(&pool);
                check_that_good_files_load(&loader);
            }
        }
    });
}
