//! A load that is cancelled ends, whatever it is doing or waiting for, and leaves nothing.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ckload_loaders::{
    ByteSize, Cancel, Checkpoint, Error, Io, Loader, Observer, ReadDone, Select, Shard,
    VerifyOptions,
};
use ckload_pool::BufferPool;
use common::{
    HANG, MIB, Sample, WAYS, await_all_returned, failure, random, random_checkpoint, watched,
};

/// Nobody waits so long.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Cancels at a read of some number, and counts all that come.
struct AtRead {
    cancel: Cancel,
    at: u64,
    reads: AtomicU64,
}

impl AtRead {
    fn new(at: u64) -> Arc<Self> {
        Arc::new(Self {
            cancel: Cancel::new(),
            at,
            reads: AtomicU64::new(0),
        })
    }
}

impl Observer for AtRead {
    fn read(&self, _event: &ReadDone) {
        if self.reads.fetch_add(1, Relaxed) + 1 == self.at {
            self.cancel.cancel();
        }
    }
}

fn until(what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < HANG, "hangs: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn assert_cancelled<T>(result: Result<T, Error>) {
    let error = failure(result);
    assert!(matches!(error, Error::Cancelled), "not {error}");
}

#[test]
fn no_read_begins_after_it_whatever_way_is_taken() {
    const THREADS: u64 = 3;
    watched(|| {
        let sample = Sample::uniform(3, 8 * MIB);
        let checkpoint = sample.open();
        for way in WAYS {
            for io in [Io::Buffered, Io::Auto, Io::Mmap] {
                let pool = BufferPool::new();
                let observer = AtRead::new(5);
                let loader = Loader::new()
                    .pool(&pool)
                    .io(io)
                    .threads(THREADS as usize)
                    .read_size(ByteSize::kib(16))
                    .chunk_size(ByteSize::kib(64))
                    .cancel_with(&observer.cancel)
                    .observer(observer.clone());
                assert_cancelled(way.load(&loader, &checkpoint));
                await_all_returned(&pool);
                let reads = observer.reads.load(Relaxed);
                // Each other thread may be in a read, of which each part is told: cached and not. One that waits for a stream reads as well.
                assert!(
                    reads <= 5 + 2 * (THREADS + 1),
                    "{way:?} {io}: {reads} reads"
                );
            }
        }
    });
}

#[test]
fn a_tensor_that_is_being_gathered_is_given_up() {
    watched(|| {
        let sample = Sample::of(vec![common::Content {
            shape: vec![4096, 4096],
            ..common::octets("wide", 16 * MIB)
        }]);
        let select = Select::all().shard_rest(Shard::new(1, 0, 2));
        let checkpoint = sample
            .open()
            .select(&select.expect("there are two ranks"))
            .expect("it can be divided");
        for way in WAYS {
            let pool = BufferPool::new();
            let observer = AtRead::new(3);
            let loader = Loader::new()
                .pool(&pool)
                .cancel_with(&observer.cancel)
                .observer(observer.clone());
            assert_cancelled(way.load(&loader, &checkpoint));
            await_all_returned(&pool);
        }
    });
}

#[test]
fn what_is_cancelled_before_takes_no_memory() {
    watched(|| {
        let sample = Sample::uniform(3, MIB);
        let checkpoint = sample.open();
        let cancel = Cancel::new();
        cancel.clone().cancel();
        assert!(cancel.is_cancelled());
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool);
        let ended = loader.clone().cancel_with(&cancel);
        for way in WAYS {
            assert_cancelled(way.load(&ended, &checkpoint));
        }
        assert_eq!(pool.stats().gets, 0);
        let options = VerifyOptions::default();
        assert_cancelled(ended.verify(&checkpoint, &options));
        await_all_returned(&pool);
        // A clone that was never told of it does not mind, and shares the threads.
        for way in WAYS {
            way.load_checked(&loader, &checkpoint, &sample)
                .expect("it loads");
        }
        // Of several handles any will do.
        let several = loader.cancel_with(&Cancel::new()).cancel_with(&cancel);
        assert_cancelled(several.load(&checkpoint));
    });
}

#[test]
fn who_waits_for_memory_is_let_go() {
    watched(|| {
        let sample = Sample::uniform(2, 4 * MIB);
        let checkpoint = sample.open();
        let pool = BufferPool::builder().max_bytes(9 * MIB).build();
        let held = pool.get(8 * MIB); // what is left is too little for a chunk, too
        let loader = Loader::new().pool(&pool).patience(FOR_EVER);
        for way in &WAYS[..3] {
            let cancel = Cancel::new();
            let waiting = loader.clone().cancel_with(&cancel);
            thread::scope(|scope| {
                let load = scope.spawn(|| way.load(&waiting, &checkpoint));
                until("a request in line", || pool.stats().waiting > 0);
                cancel.cancel();
                assert_cancelled(load.join().expect("no panic"));
            });
            until("leaving the line", || pool.stats().waiting == 0);
            until("all going back", || pool.stats().leased_bytes == 8 * MIB);
        }
        drop(held);
        await_all_returned(&pool);
    });
}

#[test]
fn who_waits_for_a_turn_at_memory_is_let_go_and_the_other_loads() {
    watched(|| {
        let sample = Sample::uniform(2, 4 * MIB);
        let checkpoint = sample.open();
        let pool = BufferPool::builder().max_bytes(10 * MIB).build();
        let held = pool.get(8 * MIB);
        let loader = Loader::new().pool(&pool).patience(FOR_EVER);
        let cancel = Cancel::new();
        let second = loader.clone().cancel_with(&cancel);
        thread::scope(|scope| {
            let first = scope.spawn(|| loader.load(&checkpoint));
            until("a request in line", || pool.stats().waiting > 0);
            let second = scope.spawn(|| second.load(&checkpoint));
            cancel.cancel();
            assert_cancelled(second.join().expect("no panic"));
            assert!(!first.is_finished());
            drop(held);
            let model = first.join().expect("no panic").expect("there is room");
            sample.check_all(model.tensors());
        });
    });
}

#[test]
fn who_waits_for_a_stream_that_cannot_go_on_is_let_go() {
    watched(|| {
        let sample = Sample::uniform(8, MIB);
        let checkpoint = sample.open();
        let pool = BufferPool::new();
        let cancel = Cancel::new();
        let loader = Loader::new()
            .pool(&pool)
            .patience(FOR_EVER)
            .budget(ByteSize::mib(3))
            .cancel_with(&cancel);
        let stream = loader.stream(&checkpoint).expect("it begins");
        thread::scope(|scope| {
            let consumer = scope.spawn(|| {
                let mut kept = Vec::new();
                while let Some(tensor) = stream.receive() {
                    match tensor {
                        Ok(tensor) => kept.push(tensor),
                        Err(error) => return (kept.len(), error),
                    }
                }
                panic!("8 MiB do not fit 3");
            });
            until("a full budget", || pool.stats().leased_bytes >= 2 * MIB);
            cancel.cancel();
            let (kept, error) = consumer.join().expect("no panic");
            assert!(kept < 8, "{kept}");
            assert!(matches!(error, Error::Cancelled), "not {error}");
        });
        assert!(stream.receive().is_none(), "nothing comes after an error");
        await_all_returned(&pool);
    });
}

#[test]
fn a_consumer_that_others_are_always_ahead_of_does_not_end_the_load() {
    const TENSORS: usize = 60;
    watched(|| {
        let sample = Sample::uniform(TENSORS, MIB);
        let checkpoint = sample.open();
        let loader = Loader::new()
            .patience(Duration::from_millis(200))
            .budget(ByteSize::kib(2 * 1024 + 64)) // for two of three consumers
            .cancel_with(&Cancel::new());
        let stream = loader.stream(&checkpoint).expect("it begins");
        let consume = || {
            let mut taken = 0;
            while let Some(tensor) = stream.receive() {
                let tensor = tensor.expect("nobody keeps a tensor for long");
                thread::sleep(Duration::from_millis(30));
                drop(tensor);
                taken += 1;
            }
            taken
        };
        let taken: usize = thread::scope(|scope| {
            let consumers = [(); 3].map(|()| scope.spawn(consume));
            let taken = consumers.into_iter().map(thread::ScopedJoinHandle::join);
            taken.map(|taken| taken.expect("no panic")).sum()
        });
        assert_eq!(taken, TENSORS);
    });
}

#[test]
fn at_any_moment_a_load_is_whole_or_cancelled() {
    watched(|| {
        let mut random = random();
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool);
        let mut ends = [0; 2];
        for _ in 0..150 {
            let sample = random_checkpoint(&mut random);
            let checkpoint: Checkpoint = sample.open();
            let cancel = Cancel::new();
            let ended = loader.clone().digests(random.bool()).cancel_with(&cancel);
            let way = WAYS[random.usize(..WAYS.len())];
            let delay = Duration::from_micros(random.u64(..3000));
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(delay);
                    cancel.cancel();
                });
                match way.load_checked(&ended, &checkpoint, &sample) {
                    Ok(()) => ends[0] += 1,
                    Err(Error::Cancelled) => ends[1] += 1,
                    Err(error) => panic!("{way:?}: {error}"),
                }
            });
            await_all_returned(&pool);
        }
        assert!(ends.iter().all(|&count| count > 0), "{ends:?}");
    });
}
