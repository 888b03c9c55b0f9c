//! Storage that fails, falls silent or vanishes while it is read: a real file system, and whatever it may do.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use ckload_loaders::{ByteSize, Checkpoint, Error, Io, Loader, Observer, ReadDone};
use ckload_pool::BufferPool;
use rustix::io::Errno;

use crate::common::{
    KIB, MIB, Sample, Shard, WAYS, Way, await_all_returned, by_name, entry, failure, header,
    octets, safetensors_bytes, write,
};
use crate::served::{Conduct, Fault, Opens, Reads, Served, When, with_file_systems};
use crate::{check_that_good_files_load, pool, truncate};

/// Every way of reading but maps, behind which an error of the storage ends the process.
const BUT_MAPS: [Io; 3] = [Io::Auto, Io::Buffered, Io::Direct];

const OPENS: [Opens; 3] = [Opens::AsAsked, Opens::NeverDirect, Opens::AlwaysDirect];

/// A byte in the middle of the sample.
const MIDDLE: u64 = 5 * MIB as u64 + 77;

/// The most that the kernel asks of a file system at a time, in bytes.
const REQUEST: u64 = MIB as u64;

fn sample() -> Sample {
    let tensors = (0..10).map(|number| octets(&format!("t{number}"), 900 * KIB));
    Sample::of(tensors.collect())
}

/// One way of loading.
#[derive(Clone, Copy, Debug)]
struct Setting {
    io: Io,
    way: Way,
    threads: Option<usize>,
}

impl Setting {
    fn loader(self, pool: &BufferPool) -> Loader {
        let loader = Loader::new().pool(pool).io(self.io);
        let loader = loader.budget(ByteSize::mib(3));
        match self.threads {
            Some(threads) => loader.threads(threads),
            None => loader,
        }
    }
}

/// Every way of loading with these ways of reading, by one thread and by as many as a network wants.
fn settings(modes: &[Io]) -> impl Iterator<Item = Setting> {
    modes.iter().flat_map(|&io| {
        WAYS.into_iter()
            .flat_map(move |way| [Some(1), None].map(|threads| Setting { io, way, threads }))
    })
}

/// Has a load fail, checks that its error names the place, and that nothing is lost with it.
#[track_caller]
fn check_failure(
    setting: Setting,
    path: &Path,
    load: impl FnOnce(&Loader, &Checkpoint) -> Result<(), Error>,
    check: impl FnOnce(&Error),
) {
    let pool = pool();
    let loader = setting.loader(&pool);
    let checkpoint = Checkpoint::open(path).expect("the header can be read");
    let error = failure(load(&loader, &checkpoint));
    check_place(setting, &error, &checkpoint, path);
    check(&error);
    await_all_returned(&pool);
    check_that_good_files_load(&loader);
}

/// Checks that `error` names file, tensor and bytes.
#[track_caller]
fn check_place(setting: Setting, error: &Error, checkpoint: &Checkpoint, path: &Path) {
    let Error::Read {
        path: file,
        tensor,
        range,
        ..
    } = error
    else {
        panic!("{setting:?}: {error}");
    };
    assert_eq!(file, path);
    let info = checkpoint
        .tensor(tensor)
        .expect("a tensor of the checkpoint");
    assert!(
        info.offset <= range.start && range.start < (info.offset + info.bytes).min(range.end),
        "{setting:?}: {error}"
    );
    let message = error.to_string();
    let parts = [
        path.to_str().expect("an ordinary name"),
        tensor,
        &range.start.to_string(),
        &range.end.to_string(),
    ];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

/// The system's answer that made a read fail.
#[track_caller]
fn errno(error: &Error) -> Errno {
    let Error::Read { source, .. } = error else {
        panic!("{error}");
    };
    Errno::from_io_error(source).unwrap_or_else(|| panic!("{error}"))
}

/// The byte from which on a failed read brought nothing, and the end of what it wanted.
#[track_caller]
fn wanted(error: &Error) -> (u64, u64) {
    let Error::Read { range, .. } = error else {
        panic!("{error}");
    };
    (range.start, range.end)
}

#[test]
fn a_good_file_is_read_byte_for_byte() {
    let name = "vanishing::a_good_file_is_read_byte_for_byte";
    with_file_systems(name, || {
        let sample = Sample::uniform(10, 300 * KIB);
        let mut served = Served::start(name, &sample.path);
        for (setting, opens) in settings(&Io::ALL).flat_map(|one| OPENS.map(|opens| (one, opens))) {
            let manners = match setting.io {
                Io::Mmap => &[Reads::Whole, Reads::Late][..], // there, interruptions are errors
                _ => &[Reads::Whole, Reads::Late, Reads::InPieces],
            };
            for &reads in manners {
                served.tell(Conduct {
                    opens,
                    reads,
                    ..Conduct::default()
                });
                let pool = pool();
                let loader = setting.loader(&pool).drop_cache(reads == Reads::Late);
                let checkpoint = Checkpoint::open(&served.path).expect("a good file");
                let loaded = setting.way.load_checked(&loader, &checkpoint, &sample);
                match (setting.io, opens) {
                    (Io::Mmap, Opens::AlwaysDirect) => {
                        let error = failure(loaded);
                        assert!(
                            matches!(&error, Error::Io { action: "map", path, .. } if *path == served.path),
                            "{setting:?}: {error}"
                        );
                    }
                    _ => loaded.unwrap_or_else(|error| {
                        panic!("{setting:?}, {opens:?}, {reads:?}: {error}")
                    }),
                }
                await_all_returned(&pool);
            }
        }
    });
}

#[test]
fn it_is_read_past_the_page_cache_if_it_may_be() {
    let name = "vanishing::it_is_read_past_the_page_cache_if_it_may_be";
    with_file_systems(name, || {
        let sample = sample();
        let mut served = Served::start(name, &sample.path);
        for (opens, io, is_direct) in [
            (Opens::AsAsked, Io::Auto, true),
            (Opens::AsAsked, Io::Direct, true),
            (Opens::AsAsked, Io::Buffered, false),
            (Opens::NeverDirect, Io::Auto, false),
            (Opens::NeverDirect, Io::Direct, false),
        ] {
            served.tell(Conduct {
                opens,
                ..Conduct::default()
            });
            let checkpoint = Checkpoint::open(&served.path).expect("a good file");
            let model = Loader::new().io(io).load(&checkpoint).expect("a good file");
            sample.check_all(model.tensors());
            let report = &model.report().io;
            let bytes = if is_direct {
                report.direct_bytes
            } else {
                report.buffered_bytes
            };
            assert_eq!(bytes, checkpoint.bytes(), "{opens:?}, {io}: {report:?}");
        }
    });
}

/// A first half that was read before, and stays in the page cache of a file system that allows it.
#[test]
fn a_half_that_the_page_cache_has_is_not_asked_for_again() {
    let name = "vanishing::a_half_that_the_page_cache_has_is_not_asked_for_again";
    with_file_systems(name, || {
        let sample = sample();
        for setting in settings(&[Io::Auto, Io::Buffered]) {
            let mut served = Served::start(name, &sample.path);
            let keeping = Conduct {
                keeps_pages: true,
                ..Conduct::default()
            };
            served.tell(keeping);
            let checkpoint = Checkpoint::open(&served.path).expect("a good file");
            let mut half = vec![0; MIDDLE as usize];
            let file = File::open(&served.path).expect("a good file");
            file.read_exact_at(&mut half, 0).expect("a good file");
            let fault = (Fault::Error(Errno::IO.raw_os_error()), When::After(0));
            served.tell(Conduct {
                fault: Some(fault),
                ..keeping
            });
            let pool = pool();
            let loader = setting.loader(&pool);
            let error = failure(setting.way.load_checked(&loader, &checkpoint, &sample));
            check_place(setting, &error, &checkpoint, &served.path);
            let (start, end) = wanted(&error);
            assert!(end > MIDDLE, "{setting:?}: {error}");
            if setting.io == Io::Buffered {
                assert!(start >= MIDDLE / 4096 * 4096, "{setting:?}: {error}");
            }
            served.tell(keeping);
            let loaded = setting.way.load_checked(&loader, &checkpoint, &sample);
            loaded.unwrap_or_else(|error| panic!("{setting:?}: {error}"));
            await_all_returned(&pool);
        }
    });
}

#[test]
fn it_is_taken_for_another_machine_s() {
    let name = "vanishing::it_is_taken_for_another_machine_s";
    with_file_systems(name, || {
        const BYTES: u64 = 4 << 30; // nearly all of it a hole
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("large.safetensors");
        let header = header(&[entry("hole", "U8", &format!("[{BYTES}]"), 0..BYTES)]);
        let head = safetensors_bytes(header, &[]);
        write(&path, &head);
        truncate(&path, head.len() as u64 + BYTES);
        let served = Served::start(name, &path);
        let policy = |path: &Path| {
            let checkpoint = Checkpoint::open(path).expect("a good file");
            Loader::new().policy(&checkpoint)
        };
        let (here, there) = (policy(&path), policy(&served.path));
        assert!(there.is_remote && there.waiting_threads >= 32, "{there:?}");
        assert!(
            !here.is_remote && here.read_bytes < there.read_bytes,
            "{here:?}"
        );
        assert_eq!(here.threads, there.threads);
        // A link from a folder that is here leads there as well.
        let link = folder.path().join("link.safetensors");
        symlink(&served.path, &link).expect("a link");
        assert_eq!(policy(&link), there);
    });
}

#[test]
fn an_error_from_a_byte_on() {
    let name = "vanishing::an_error_from_a_byte_on";
    with_file_systems(name, || {
        let sample = sample();
        let mut served = Served::start(name, &sample.path);
        let errors = [
            Errno::IO,
            Errno::STALE,
            Errno::NOENT,
            Errno::AGAIN,
            Errno::ACCESS,
            Errno::TIMEDOUT,
            Errno::INVAL,
        ];
        for ((setting, opens), answer) in settings(&BUT_MAPS)
            .flat_map(|setting| OPENS.map(|opens| (setting, opens)))
            .zip(errors.into_iter().cycle())
        {
            let fault = Some((Fault::Error(answer.raw_os_error()), When::From(MIDDLE)));
            served.tell(Conduct {
                opens,
                fault,
                ..Conduct::default()
            });
            check_failure(
                setting,
                &served.path,
                |loader, checkpoint| setting.way.load_checked(loader, checkpoint, &sample),
                |error| {
                    assert_eq!(errno(error), answer, "{setting:?}, {opens:?}");
                    let (start, end) = wanted(error);
                    // A file system fails in whole requests.
                    assert!(end + REQUEST > MIDDLE, "{setting:?}, {opens:?}: {error}");
                    if setting.threads == Some(1) {
                        assert!(start <= MIDDLE, "{setting:?}, {opens:?}: {error}");
                    }
                },
            );
        }
    });
}

#[test]
fn an_error_after_some_reads() {
    let name = "vanishing::an_error_after_some_reads";
    with_file_systems(name, || {
        let sample = sample();
        let mut served = Served::start(name, &sample.path);
        for (setting, opens) in settings(&BUT_MAPS).flat_map(|one| OPENS.map(|opens| (one, opens)))
        {
            for reads in [0, 1, 7] {
                served.tell(Conduct {
                    opens,
                    ..Conduct::default()
                });
                let fault = Some((Fault::Error(Errno::IO.raw_os_error()), When::After(reads)));
                check_failure(
                    setting,
                    &served.path.clone(),
                    |loader, checkpoint| {
                        served.tell(Conduct {
                            opens,
                            fault,
                            ..Conduct::default()
                        });
                        setting.way.load_checked(loader, checkpoint, &sample)
                    },
                    |error| assert_eq!(errno(error), Errno::IO, "{setting:?}, {opens:?}"),
                );
            }
        }
    });
}

#[test]
fn data_that_end_before_the_file_does() {
    let name = "vanishing::data_that_end_before_the_file_does";
    with_file_systems(name, || {
        let sample = sample();
        for (setting, opens) in settings(&BUT_MAPS).flat_map(|one| OPENS.map(|opens| (one, opens)))
        {
            // The kernel believes what it finds, and remembers the file as shorter.
            let mut served = Served::start(name, &sample.path);
            let fault = Some((Fault::End, When::From(MIDDLE)));
            served.tell(Conduct {
                opens,
                fault,
                ..Conduct::default()
            });
            check_failure(
                setting,
                &served.path,
                |loader, checkpoint| setting.way.load_checked(loader, checkpoint, &sample),
                |error| {
                    let Error::Read { source, .. } = error else {
                        panic!("{error}");
                    };
                    assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
                    assert!(wanted(error).1 > MIDDLE, "{setting:?}, {opens:?}: {error}");
                },
            );
        }
    });
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The server dies.
    Killed,
    /// Somebody loses patience: `umount -f`.
    Unmounted,
}

fn sever(served: &mut Served, end: End) {
    match end {
        End::Killed => served.kill(),
        End::Unmounted => served.unmount_by_force(),
    }
}

#[test]
fn a_server_that_falls_silent_and_is_gone() {
    let name = "vanishing::a_server_that_falls_silent_and_is_gone";
    with_file_systems(name, || {
        let sample = sample();
        for (setting, opens) in settings(&BUT_MAPS).flat_map(|one| OPENS.map(|opens| (one, opens)))
        {
            for (reads, end) in [(0, End::Unmounted), (7, End::Killed)] {
                let mut served = Served::start(name, &sample.path);
                let path = served.path.clone();
                let fault = Some((Fault::Silence, When::After(reads)));
                check_failure(
                    setting,
                    &path,
                    |loader, checkpoint| {
                        served.tell(Conduct {
                            opens,
                            fault,
                            ..Conduct::default()
                        });
                        thread::scope(|scope| {
                            scope.spawn(|| {
                                served.await_silence();
                                sever(&mut served, end);
                            });
                            setting.way.load_checked(loader, checkpoint, &sample)
                        })
                    },
                    |error| {
                        let errno = errno(error);
                        let is_gone =
                            [Errno::CONNABORTED, Errno::NOTCONN, Errno::IO].contains(&errno);
                        assert!(is_gone, "{setting:?}, {opens:?}, {end:?}: {error}");
                    },
                );
            }
        }
    });
}
/// Who has no patience with a silent server drops the stream and goes on.
#[test]
fn a_stream_is_dropped_while_the_server_is_silent() {
    let name = "vanishing::a_stream_is_dropped_while_the_server_is_silent";
    with_file_systems(name, || {
        let sample = sample();
        for setting in settings(&BUT_MAPS).filter(|setting| setting.way == Way::Stream) {
            let mut served = Served::start(name, &sample.path);
            let pool = pool();
            let loader = setting.loader(&pool);
            let checkpoint = Checkpoint::open(&served.path).expect("a good file");
            let fault = Some((Fault::Silence, When::After(0)));
            served.tell(Conduct {
                fault,
                ..Conduct::default()
            });
            let stream = loader.stream(&checkpoint).expect("it begins");
            served.await_silence();
            drop(stream);
            served.kill();
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
        }
    });
}

/// Does something when so many bytes are there.
struct AtBytes<F> {
    bytes: u64,
    harm: F,
    so_far: AtomicUsize,
}

impl<F: Fn() + Send + Sync> Observer for AtBytes<F> {
    fn read(&self, event: &ReadDone) {
        let before = self.so_far.fetch_add(event.bytes as usize, Relaxed) as u64;
        if (before..before + event.bytes).contains(&(self.bytes - 1)) {
            (self.harm)();
        }
    }
}

/// What cannot be looked at any more cannot be known to be what was opened.
#[test]
fn a_server_that_is_gone_before_the_file_is_opened_or_after_the_last_read() {
    let name = "vanishing::a_server_that_is_gone_before_the_file_is_opened_or_after_the_last_read";
    with_file_systems(name, || {
        let sample = sample();
        for (setting, end) in
            settings(&BUT_MAPS).zip([End::Killed, End::Unmounted].into_iter().cycle())
        {
            let mut served = Served::start(name, &sample.path);
            served.tell(Conduct {
                forgets_attributes: true,
                ..Conduct::default()
            });
            let path = served.path.clone();
            let served = Arc::new(Mutex::new(served));
            let pool = pool();
            let loader = setting.loader(&pool);
            let checkpoint = Checkpoint::open(&path).expect("a good file");
            let harmed = Arc::clone(&served);
            let at_last = loader.clone().observer(Arc::new(AtBytes {
                bytes: checkpoint.bytes(),
                harm: move || sever(&mut harmed.lock().expect("no panic"), end),
                so_far: AtomicUsize::new(0),
            }));
            let error = failure(setting.way.load_checked(&at_last, &checkpoint, &sample));
            drop(at_last);
            assert_eq!(
                (error.kind(), error.path()),
                ("io", Some(&*path)),
                "{setting:?}: {error}"
            );
            await_all_returned(&pool);
            let error = failure(setting.way.load_checked(&loader, &checkpoint, &sample));
            assert_eq!(
                (error.kind(), error.path()),
                ("io", Some(&*path)),
                "{setting:?}: {error}"
            );
            await_all_returned(&pool);
            let error = failure(Checkpoint::open(&path));
            assert_eq!(error.path(), Some(&*path), "{error}");
            check_that_good_files_load(&loader);
        }
    });
}

#[test]
fn one_of_several_files_vanishes() {
    let name = "vanishing::one_of_several_files_vanishes";
    with_file_systems(name, || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let elsewhere = Sample::of(vec![octets("1.0", 700 * KIB), octets("1.1", 700 * KIB)]);
        let mut tensors: Vec<_> = elsewhere.tensors.values().cloned().collect();
        for number in [0, 2, 3] {
            let some = [0, 1].map(|at| octets(&format!("{number}.{at}"), 700 * KIB));
            let path = folder.path().join(format!("{number}.safetensors"));
            write(&path, &Shard::of(some.to_vec()).to_bytes());
            tensors.extend(some);
        }
        let link = folder.path().join("1.safetensors");
        let sample = Sample {
            path: folder.path().to_owned(),
            folder,
            tensors: by_name(tensors),
            metadata: Default::default(),
        };
        for setting in settings(&BUT_MAPS) {
            let mut served = Served::start(name, &elsewhere.path);
            let _ = fs::remove_file(&link);
            symlink(&served.path, &link).expect("a link");
            let pool = pool();
            let loader = setting.loader(&pool);
            let checkpoint = sample.open();
            assert!(loader.policy(&checkpoint).is_remote);
            let loaded = setting.way.load_checked(&loader, &checkpoint, &sample);
            loaded.unwrap_or_else(|error| panic!("{setting:?}: {error}"));
            let fault = (Fault::Silence, When::From(1000 * KIB as u64));
            served.tell(Conduct {
                fault: Some(fault),
                ..Conduct::default()
            });
            let error = thread::scope(|scope| {
                let ending = scope.spawn(|| {
                    served.await_silence();
                    served.kill();
                });
                let error = failure(setting.way.load_checked(&loader, &checkpoint, &sample));
                ending.join().expect("no panic");
                error
            });
            check_place(setting, &error, &checkpoint, &link);
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
        }
    });
}

#[test]
fn reads_that_bring_less_than_a_block() {
    let name = "vanishing::reads_that_bring_less_than_a_block";
    with_file_systems(name, || {
        let sample = Sample::uniform(3, 30 * KIB);
        let mut served = Served::start(name, &sample.path);
        for (setting, opens) in settings(&BUT_MAPS).flat_map(|one| OPENS.map(|opens| (one, opens)))
        {
            served.tell(Conduct {
                opens,
                ..Conduct::default()
            });
            let checkpoint = Checkpoint::open(&served.path).expect("a good file");
            served.tell(Conduct {
                opens,
                reads: Reads::InCrumbs,
                ..Conduct::default()
            });
            let pool = pool();
            let loaded = setting
                .way
                .load_checked(&setting.loader(&pool), &checkpoint, &sample);
            loaded.unwrap_or_else(|error| panic!("{setting:?}, {opens:?}: {error}"));
            await_all_returned(&pool);
        }
    });
}
