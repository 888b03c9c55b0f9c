//! What the system or the pool refuses: memory, descriptors, threads, locked pages.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ckload_loaders::{ByteSize, Checkpoint, Error, Io, Loader};
use ckload_pool::{BufferPool, GetError, PinMemory};
use rustix::process::Resource;

use crate::child::{User, in_child, limited};
use crate::common::{
    HANG, KIB, MIB, Sample, Shard, WAYS, Way, await_all_returned, by_name, failure, index, octets,
    write,
};
use crate::{check_that_good_files_load, pool};

/// The address space of this process in bytes.
fn address_space() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages = statm.split(' ').next().expect("a line of numbers");
    pages.parse::<u64>().expect("a number") * rustix::param::page_size() as u64
}

fn open_descriptors() -> usize {
    let entries = fs::read_dir("/proc/self/fd").expect("Linux tells");
    entries.count() - 1 // the folder itself
}

/// A job that is just ending may still have files open.
fn await_descriptors(wanted: usize) {
    let start = Instant::now();
    while open_descriptors() != wanted {
        assert!(start.elapsed() < HANG, "{} are open", open_descriptors());
        thread::yield_now();
    }
}

/// Does `work` with no more than `bytes` of new address space.
fn with_memory<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    limited(Resource::As, address_space() + bytes as u64, work)
}

#[test]
fn the_system_has_no_memory_for_the_tensors() {
    in_child(
        "limits::the_system_has_no_memory_for_the_tensors",
        User::Same,
        || {
            let sample = Sample::uniform(8, 8 * MIB);
            let checkpoint = sample.open();
            for io in Io::ALL {
                let pool = pool();
                let loader = Loader::new().pool(&pool).threads(2).io(io);
                check_that_good_files_load(&loader); // the threads are there
                for way in [Way::Resident, Way::Stream] {
                    pool.clear();
                    let error = with_memory(4 * MIB, || failure(way.load(&loader, &checkpoint)));
                    match &error {
                        Error::Memory {
                            source: GetError::Refused { requested, .. },
                        } => assert!(*requested >= 8 * MIB, "{error}"),
                        // The map of the file has no room, either.
                        Error::Io { path, action, .. } if io == Io::Mmap => {
                            assert_eq!((path, *action), (&sample.path, "map"));
                        }
                        error => panic!("{way:?}, {io}: {error}"),
                    }
                    await_all_returned(&pool);
                    way.load_checked(&loader, &checkpoint, &sample)
                        .expect("there is memory again");
                }
            }
        },
    );
}

/// Bytes that pass through staging on their way: without memory for that they go through the page cache.
#[test]
fn the_system_has_no_memory_for_staging() {
    in_child(
        "limits::the_system_has_no_memory_for_staging",
        User::Same,
        || {
            let sample = Sample::uniform(3, 2 * MIB + 5);
            let checkpoint = sample.open();
            for io in Io::ALL {
                for cold in [false, true] {
                    let loader = Loader::new().threads(2).io(io);
                    // Threads there, no staging yet.
                    let warm = Sample::of(vec![octets("empty", 0)]).open();
                    loader.load(&warm).expect("a good file");
                    if cold {
                        sample.forget_cached();
                    }
                    let mut memory = vec![vec![0; 2 * MIB + 5]; 3];
                    let targets = ["t0", "t1", "t2"];
                    let targets = targets
                        .into_iter()
                        .zip(memory.iter_mut().map(Vec::as_mut_slice));
                    let loaded = with_memory(512 * KIB, || loader.load_into(&checkpoint, targets));
                    match loaded {
                        Err(Error::Io { action: "map", .. }) if io == Io::Mmap => {}
                        loaded => {
                            loaded.unwrap_or_else(|error| panic!("{io}, {cold}: {error}"));
                            for (number, bytes) in memory.iter().enumerate() {
                                let content = &sample.tensors[&format!("t{number}")];
                                assert!(*bytes == content.bytes, "{io}, {cold}");
                            }
                        }
                    }
                    check_that_good_files_load(&loader);
                }
            }
        },
    );
}

/// Tensors too small for the pool have memory of the allocator, which ends a process that asks for too much if it is not asked politely.
#[test]
fn the_system_has_no_memory_for_many_small_tensors() {
    in_child(
        "limits::the_system_has_no_memory_for_many_small_tensors",
        User::Same,
        || {
            let sample = Sample::uniform(200, 60 * KIB);
            let checkpoint = sample.open();
            for threads in [1, 2] {
                let loader = Loader::new().threads(threads).io(Io::Buffered);
                check_that_good_files_load(&loader);
                let mut held = Vec::with_capacity(200);
                let error = with_memory(3 * MIB, || {
                    let mut stream = loader.stream(&checkpoint).expect("a good file");
                    stream.find_map(|tensor| tensor.map(|tensor| held.push(tensor)).err())
                });
                let error = error.expect("there is memory for a quarter of them");
                assert!(
                    matches!(
                        &error,
                        Error::Memory {
                            source: GetError::Refused { .. }
                        }
                    ),
                    "{error}"
                );
                held.iter().for_each(|tensor| sample.check(tensor));
                drop(held);
                check_that_good_files_load(&loader);
            }
        },
    );
}

#[test]
fn the_pool_may_not_hold_the_tensors() {
    let sample = Sample::uniform(4, 2 * MIB);
    let checkpoint = sample.open();
    for io in Io::ALL {
        let pool = BufferPool::builder().max_bytes(3 * MIB).build();
        let loader = Loader::new().pool(&pool).io(io);
        let error = failure(loader.load(&checkpoint));
        assert!(
            matches!(error, Error::PoolTooSmall { needed, max_bytes } if needed >= 8 * MIB as u64 && max_bytes == 3 * MIB as u64),
            "{error}"
        );
        let one = Loader::new().pool(&BufferPool::builder().max_bytes(MIB).build());
        let error = failure(Way::Stream.load(&one, &checkpoint));
        assert!(matches!(error, Error::PoolTooSmall { .. }), "{error}");
        let budget = loader.clone().budget(ByteSize::mib(1));
        let error = failure(Way::Stream.load(&budget, &checkpoint));
        assert!(
            matches!(&error, Error::BudgetTooSmall { tensor, needed, .. } if tensor.starts_with('t') && *needed >= 2 * MIB as u64),
            "{error}"
        );
        for way in [Way::Stream, Way::Into] {
            way.load_checked(&loader, &checkpoint, &sample)
                .expect("one at a time fits");
        }
        await_all_returned(&pool);
        check_that_good_files_load(&loader);
    }
}

#[test]
fn others_hold_what_the_pool_has() {
    let sample = Sample::uniform(4, 2 * MIB);
    let checkpoint = sample.open();
    let pool = BufferPool::builder().max_bytes(12 * MIB).build();
    let loader = Loader::new()
        .pool(&pool)
        .patience(Duration::from_millis(20));
    for way in [Way::Resident, Way::Stream] {
        let held = pool.get(11 * MIB);
        let error = failure(way.load(&loader, &checkpoint));
        assert!(
            matches!(
                &error,
                Error::Memory {
                    source: GetError::AtCapacity { .. }
                }
            ),
            "{way:?}: {error}"
        );
        drop(held);
        await_all_returned(&pool);
        way.load_checked(&loader, &checkpoint, &sample)
            .expect("there is room again");
    }
}

#[test]
fn nothing_may_be_locked() {
    in_child("limits::nothing_may_be_locked", User::Unprivileged, || {
        let pool = BufferPool::builder().pinned_memory(true).build();
        let loader = Loader::new().pool(&pool);
        let sample = Sample::uniform(4, MIB);
        let checkpoint = sample.open();
        limited(Resource::Memlock, 0, || {
            for way in WAYS {
                way.load_checked(&loader, &checkpoint, &sample)
                    .expect("pinning degrades");
            }
        });
        let stats = pool.stats();
        assert_eq!(stats.pinned_bytes, 0);
        assert!(stats.pin_failures > 0 && stats.last_pin_error.is_some());
        await_all_returned(&pool);
        check_that_good_files_load(&loader);
    });
}

/// A driver that registers nothing.
#[derive(Debug)]
struct Refuses;

impl PinMemory for Refuses {
    fn pin(&self, _: &[u8]) -> io::Result<()> {
        Err(io::Error::other("no"))
    }

    fn unpin(&self, _: &[u8]) {
        panic!("nothing was pinned");
    }
}

#[test]
fn whoever_pins_may_refuse() {
    let pool = BufferPool::builder().pin_with(Refuses).build();
    let loader = Loader::new().pool(&pool);
    let sample = Sample::uniform(4, MIB);
    let checkpoint = sample.open();
    for way in WAYS {
        way.load_checked(&loader, &checkpoint, &sample)
            .expect("pinning degrades");
    }
    await_all_returned(&pool);
    let stats = pool.stats();
    assert_eq!(stats.pinned_bytes, 0);
    assert!(stats.pin_failures > 0);
    assert_eq!(stats.last_pin_error.as_deref(), Some("no"));
}

#[test]
fn no_thread_may_be_started() {
    in_child(
        "limits::no_thread_may_be_started",
        User::Unprivileged,
        || {
            let sample = Sample::uniform(4, 100 * KIB);
            let checkpoint = sample.open();
            for threads in [1, 4] {
                for way in WAYS {
                    let pool = pool();
                    let loader = Loader::new().pool(&pool).threads(threads);
                    let load = || failure(way.load(&loader, &checkpoint));
                    let error = limited(Resource::Nproc, 1, load);
                    assert!(matches!(error, Error::Threads { .. }), "{way:?}: {error}");
                    await_all_returned(&pool);
                    check_that_good_files_load(&loader);
                }
            }
        },
    );
}

#[test]
fn there_is_no_memory_for_a_thread_s_stack() {
    in_child(
        "limits::there_is_no_memory_for_a_thread_s_stack",
        User::Same,
        || {
            let sample = Sample::uniform(4, 100 * KIB);
            let checkpoint = sample.open();
            // The C library keeps the stacks of threads that have ended; while the loaders live it has none to keep.
            let mut kept = Vec::new();
            for way in WAYS {
                let pool = pool();
                let loader = Loader::new().pool(&pool).threads(3).io(Io::Buffered);
                let load = || failure(way.load(&loader, &checkpoint));
                let error = with_memory(MIB, load);
                assert!(matches!(error, Error::Threads { .. }), "{way:?}: {error}");
                await_all_returned(&pool);
                check_that_good_files_load(&loader);
                kept.push(loader);
            }
        },
    );
}

/// A checkpoint in as many files as a large mixture of experts has.
fn sharded(shards: usize) -> Sample {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut tensors = Vec::new();
    let mut places = Vec::new();
    for number in 0..shards {
        let file = format!("model-{number:05}.safetensors");
        let content = octets(&format!("expert.{number}"), 3000);
        write(
            &folder.path().join(&file),
            &Shard::of(vec![content.clone()]).to_bytes(),
        );
        places.push((content.name.clone(), file));
        tensors.push(content);
    }
    let path = folder.path().join("model.safetensors.index.json");
    let places = places
        .iter()
        .map(|(name, file)| (name.as_str(), file.as_str()));
    write(&path, index(places).as_bytes());
    Sample {
        folder,
        path,
        tensors: by_name(tensors),
        metadata: Default::default(),
    }
}

/// The files of a checkpoint are open together while it loads, each once to know it by and at most twice to read from.
#[test]
fn there_are_too_few_descriptors() {
    in_child("limits::there_are_too_few_descriptors", User::Same, || {
        const SHARDS: usize = 160;
        let sample = sharded(SHARDS);
        let open = open_descriptors();
        // Eight headers are read at a time, each of one file.
        let checkpoint = limited(Resource::Nofile, open as u64 + 10, || {
            Checkpoint::open(&sample.path).expect("no more files are open than headers are read")
        });
        for (io, each) in [
            (Io::Auto, 3),
            (Io::Buffered, 2),
            (Io::Direct, 3),
            (Io::Mmap, 1),
        ] {
            for way in WAYS {
                let pool = pool();
                let loader = Loader::new().pool(&pool).io(io);
                check_that_good_files_load(&loader);
                let error = limited(Resource::Nofile, open as u64 + SHARDS as u64 / 2, || {
                    failure(way.load(&loader, &checkpoint))
                });
                let Error::Io { path, source, .. } = &error else {
                    panic!("{way:?}, {io}: {error}")
                };
                assert!(
                    checkpoint.files().iter().any(|file| file.path == *path),
                    "{error}"
                );
                assert!(
                    source.to_string().contains("Too many open files"),
                    "{error}"
                );
                await_descriptors(open);
                await_all_returned(&pool);
                let enough = open + each * SHARDS + 1;
                limited(Resource::Nofile, enough as u64, || {
                    way.load_checked(&loader, &checkpoint, &sample)
                        .unwrap_or_else(|error| panic!("{way:?}, {io}: {error}"));
                });
            }
        }
    });
}
