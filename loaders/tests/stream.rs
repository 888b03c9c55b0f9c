//! Streams: orders, several consumers, chunks, and the ends that they can come to.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use ckload_loaders::{ByteSize, Checkpoint, Chunk, Error, Io, Loader};
use ckload_pool::BufferPool;
use common::{
    KIB, MIB, Sample, await_all_returned, failure, octets, random, random_checkpoint,
    smallest_budget, watched,
};
use parking_lot::Mutex;

/// One large tensor, and many of every other size.
fn mixed() -> Sample {
    let sizes = [
        3 * MIB + 5,
        0,
        7,
        100 * KIB,
        MIB,
        2 * KIB,
        9 * MIB,
        64 * KIB,
        1,
        0,
        5 * MIB,
    ];
    let tensors = sizes.iter().enumerate();
    Sample::of(
        tensors
            .map(|(number, &len)| octets(&format!("t{number:02}"), len))
            .collect(),
    )
}

fn in_file_order(checkpoint: &Checkpoint) -> Vec<String> {
    let infos = checkpoint.tensors().iter();
    infos.map(|info| info.name.clone()).collect()
}

#[test]
fn tensors_come_in_file_order_if_asked() {
    watched(|| {
        let sample = mixed();
        let checkpoint = sample.open();
        let pool = BufferPool::new();
        let least = smallest_budget(&Loader::new(), &checkpoint);
        for budget in [least, ByteSize::mib(64)] {
            for threads in [1, 2, 7] {
                let loader = Loader::new().pool(&pool).threads(threads).budget(budget);
                let stream = loader.stream(&checkpoint).expect("it begins").in_order();
                let mut names = Vec::new();
                for tensor in stream {
                    let tensor = tensor.expect("it loads");
                    sample.check(&tensor);
                    names.push(tensor.name().to_owned());
                }
                assert_eq!(names, in_file_order(&checkpoint));
            }
        }
        await_all_returned(&pool);
    });
}

#[test]
fn tensors_come_in_the_order_of_their_names() {
    watched(|| {
        let sample = mixed();
        let checkpoint = sample.open();
        let mut random = random();
        for _ in 0..10 {
            let mut names = in_file_order(&checkpoint);
            random.shuffle(&mut names);
            names.truncate(random.usize(0..=names.len()));
            let loader = Loader::new().threads(random.usize(1..5));
            let wanted = names.iter().map(String::as_str);
            let stream = loader.stream_in_order_of(&checkpoint, wanted);
            let arrived: Vec<String> = stream
                .expect("all are known")
                .map(|tensor| {
                    let tensor = tensor.expect("it loads");
                    sample.check(&tensor);
                    tensor.name().to_owned()
                })
                .collect();
            assert_eq!(arrived, names);
        }
        let loader = Loader::new();
        let unknown = failure(loader.stream_in_order_of(&checkpoint, ["t00", "none"]));
        assert!(matches!(unknown, Error::UnknownTensor { tensor, .. } if tensor == "none"));
        let slip = failure(loader.stream_in_order_of(&checkpoint, ["t00", "t000"]));
        let says = slip.to_string();
        assert!(
            says.ends_with("has no tensor \"t000\"; did you mean \"t00\"?"),
            "{says}"
        );
        let twice = failure(loader.stream_in_order_of(&checkpoint, ["t00", "t00"]));
        assert!(matches!(twice, Error::NamedTwice { tensor } if tensor == "t00"));
    });
}

#[test]
fn several_threads_share_a_stream_and_each_tensor_goes_to_one() {
    watched(|| {
        let sample = Sample::uniform(60, 200 * KIB);
        let checkpoint = sample.open();
        let pool = BufferPool::new();
        for ordered in [false, true] {
            let loader = Loader::new().pool(&pool).budget(ByteSize::mib(2));
            let mut stream = loader.stream(&checkpoint).expect("it begins");
            if ordered {
                stream = stream.in_order();
            }
            let arrived = Mutex::new(Vec::new());
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while let Some(tensor) = stream.receive() {
                            let tensor = tensor.expect("it loads");
                            sample.check(&tensor);
                            arrived.lock().push(tensor.name().to_owned());
                        }
                    });
                }
            });
            let mut arrived = arrived.into_inner();
            arrived.sort();
            let mut all = in_file_order(&checkpoint);
            all.sort();
            assert_eq!(arrived, all);
            assert!(stream.receive().is_none());
            assert_eq!(stream.report().bytes, checkpoint.bytes());
        }
        await_all_returned(&pool);
    });
}

#[test]
fn an_error_ends_the_stream_for_every_consumer() {
    watched(|| {
        let sample = Sample::uniform(60, 200 * KIB);
        let checkpoint = sample.open();
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool).budget(ByteSize::mib(2));
        let stream = loader.stream(&checkpoint).expect("it begins");
        let file = File::options().write(true).open(&sample.path);
        file.and_then(|file| file.set_len(6 * MIB as u64))
            .expect("it is ours");
        let failures = Mutex::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(tensor) = stream.receive() {
                        if tensor.is_err() {
                            *failures.lock() += 1;
                        }
                    }
                });
            }
        });
        assert_eq!(failures.into_inner(), 1);
        drop(stream);
        await_all_returned(&pool);
    });
}

#[test]
fn who_holds_too_much_is_told_which_tensors() {
    watched(|| {
        let sample = Sample::uniform(12, MIB);
        let checkpoint = sample.open();
        // A page more for each, so that it lies in step with its file.
        let loader = Loader::new()
            .budget(ByteSize::b(8 * (MIB as u64 + 4096)))
            .patience(Duration::from_millis(50));
        let mut kept = Vec::new();
        let mut stream = loader.stream(&checkpoint).expect("it begins");
        let error = loop {
            match stream.next().expect("there are more than fit") {
                Ok(tensor) => kept.push(tensor),
                Err(error) => break error,
            }
        };
        let Error::BudgetHeld {
            tensors, others, ..
        } = &error
        else {
            panic!("not {error}")
        };
        assert_eq!((kept.len(), tensors.len(), *others), (8, 5, 3));
        let is_kept = |name: &String| kept.iter().any(|tensor| tensor.name() == name);
        assert!(tensors.iter().all(is_kept), "{tensors:?}");
        let text = error.to_string();
        assert!(
            text.contains(&tensors[0]) && text.contains("and 3 more"),
            "{text}"
        );
        assert!(stream.next().is_none());
    });
}

#[test]
fn a_budget_for_all_tensors_lets_a_consumer_keep_all() {
    watched(|| {
        // Smaller ones could share the buffers of the large one, but then the last has no room.
        let mut tensors = vec![octets("large", MIB)];
        tensors.extend((0..24).map(|number| octets(&format!("t{number:02}"), 960 * KIB)));
        let sample = Sample::of(tensors);
        let checkpoint = sample.open();
        let all = (MIB + 24 * 960 * KIB) as u64;
        for budget in [all, all + 100_000, all * 9 / 8] {
            for threads in [1, 4] {
                let loader = Loader::new()
                    .budget(ByteSize::b(budget))
                    .threads(threads)
                    .patience(Duration::from_millis(200));
                let stream = loader.stream(&checkpoint).expect("it begins");
                let kept: Result<Vec<_>, _> = stream.collect();
                sample.check_all(&kept.expect("all of it fits the budget"));
            }
        }
    });
}

#[test]
fn consumers_who_hold_too_much_together_are_told_once() {
    watched(|| {
        let sample = Sample::uniform(30, 100 * KIB);
        let checkpoint = sample.open();
        for _ in 0..300 {
            let loader = Loader::new()
                .budget(ByteSize::kib(6 * 104))
                .patience(Duration::from_millis(2));
            let stream = loader.stream(&checkpoint).expect("it begins");
            let (failures, kept) = (Mutex::new(0), Mutex::new(Vec::new()));
            thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| {
                        while let Some(tensor) = stream.receive() {
                            match tensor {
                                Ok(tensor) => kept.lock().push(tensor),
                                Err(_) => *failures.lock() += 1,
                            }
                        }
                    });
                }
            });
            assert_eq!((failures.into_inner(), kept.into_inner().len()), (1, 6));
        }
    });
}

/// Puts chunks together again, and checks each tensor.
#[derive(Default)]
struct Assembly {
    tensors: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
}

impl Assembly {
    fn add(&mut self, chunk: &Chunk) {
        let parts = self.tensors.entry(chunk.tensor().name.clone()).or_default();
        parts.push((chunk.offset(), chunk.bytes().to_vec()));
    }

    fn check(mut self, sample: &Sample) {
        assert_eq!(self.tensors.len(), sample.tensors.len());
        for (name, parts) in &mut self.tensors {
            parts.sort();
            let mut whole = Vec::new();
            for (offset, bytes) in parts {
                assert_eq!(*offset, whole.len() as u64, "{name}");
                whole.extend_from_slice(bytes);
            }
            assert!(whole == sample.tensors[name].bytes, "{name}");
        }
    }
}

#[test]
fn chunks_are_every_byte_once_within_any_budget() {
    watched(|| {
        let sample = mixed();
        let checkpoint = sample.open();
        for io in Io::ALL {
            for budget in [8 * KIB, 100 * KIB, MIB, 64 * MIB] {
                let pool = BufferPool::builder().max_bytes(budget).build();
                let budget = ByteSize::b(budget as u64);
                let loader = Loader::new().pool(&pool).io(io).budget(budget);
                let mut assembly = Assembly::default();
                let mut chunks = loader.chunks(&checkpoint).expect("it begins");
                for chunk in chunks.by_ref() {
                    let chunk = chunk.expect("it loads");
                    assert!(chunk.bytes().len() as u64 <= budget.as_u64() / 2);
                    assembly.add(&chunk);
                }
                assembly.check(&sample);
                assert_eq!(chunks.report().bytes, checkpoint.bytes());
                assert_eq!(pool.stats().leased_bytes, 0);
                assert!(pool.stats().peak_bytes as u64 <= budget.as_u64());
            }
        }
    });
}

#[test]
fn chunks_of_random_checkpoints_are_their_tensors() {
    watched(|| {
        let mut random = random();
        for _ in 0..25 {
            let sample = random_checkpoint(&mut random);
            let checkpoint = sample.open();
            let loader = Loader::new()
                .threads(random.usize(1..6))
                .chunk_size(ByteSize::b(random.u64(1..200_000)))
                .budget(ByteSize::b(random.u64(8192..4_000_000)));
            let mut assembly = Assembly::default();
            for chunk in loader.chunks(&checkpoint).expect("it begins") {
                assembly.add(&chunk.expect("it loads"));
            }
            assembly.check(&sample);
        }
    });
}

#[test]
fn chunks_come_from_few_buffers() {
    watched(|| {
        let sample = Sample::uniform(2, 40 * MIB);
        let checkpoint = sample.open();
        let pool = BufferPool::new();
        let loader = Loader::new()
            .pool(&pool)
            .threads(2)
            .chunk_size(ByteSize::mib(1));
        let mut chunks = loader.chunks(&checkpoint).expect("it begins");
        for chunk in chunks.by_ref() {
            drop(chunk.expect("it loads"));
        }
        // Four at a time; each of the three threads that read may keep as many to itself.
        assert!(chunks.report().allocation.fresh <= 3 * 4);
        assert!(pool.stats().peak_bytes <= 3 * 4 * MIB);
    });
}

#[test]
fn a_chunk_stream_that_is_dropped_or_fails_leaves_nothing() {
    watched(|| {
        let sample = Sample::uniform(3, 8 * MIB);
        let checkpoint = sample.open();
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool).chunk_size(ByteSize::kib(64));
        let mut chunks = loader.chunks(&checkpoint).expect("it begins");
        let first = chunks.next().expect("there are many").expect("it loads");
        drop(chunks);
        // All but a tensor's first begin with a block of the file.
        let in_file = first.tensor().offset + first.offset();
        assert!(first.offset() == 0 || in_file.is_multiple_of(4096));
        assert!(first.bytes().len() <= 64 * KIB);
        drop(first);
        await_all_returned(&pool);

        let consumer = catch_unwind(AssertUnwindSafe(|| {
            let mut held = Vec::new();
            for chunk in loader.chunks(&checkpoint).expect("it begins") {
                held.push(chunk.expect("it loads"));
                assert!(held.len() < 5, "a consumer's own trouble");
            }
        }));
        assert!(consumer.is_err());
        await_all_returned(&pool);

        let opened = loader.chunks(&checkpoint).expect("it begins");
        let file = File::options().write(true).open(&sample.path);
        file.and_then(|file| file.set_len(9 * MIB as u64))
            .expect("it is ours");
        let error = opened
            .filter_map(Result::err)
            .next()
            .expect("it is cut off");
        let Error::Read {
            path,
            tensor,
            range,
            ..
        } = &error
        else {
            panic!("not {error}")
        };
        assert_eq!(*path, sample.path);
        assert!(sample.tensors.contains_key(tensor), "{tensor}");
        assert!(range.end > 9 * MIB as u64);
        await_all_returned(&pool);
        let too_small = failure(loader.budget(ByteSize::b(4000)).chunks(&checkpoint));
        assert!(matches!(too_small, Error::BudgetTooSmall { .. }));
    });
}

#[test]
fn what_has_arrived_comes_without_waiting_and_the_rest_later() {
    watched(|| {
        let sample = Sample::uniform(40, 256 * KIB);
        let checkpoint = sample.open();
        let loader = Loader::new().budget(ByteSize::mib(4));
        let names: Vec<String> = sample.tensors.keys().rev().cloned().collect();
        let named = || names.iter().map(String::as_str);
        let streams = [
            loader.stream(&checkpoint),
            loader.stream_in_order_of(&checkpoint, named()),
        ];
        for (stream, is_ordered) in streams.into_iter().zip([false, true]) {
            let stream = stream.expect("it begins");
            let mut arrived = Vec::new();
            let mut at_once = 0;
            while let Some(first) = stream.receive() {
                let others = std::iter::from_fn(|| stream.try_receive());
                for tensor in std::iter::once(first).chain(others) {
                    let tensor = tensor.expect("it loads");
                    sample.check(&tensor);
                    arrived.push(tensor.name().to_owned());
                    at_once += 1;
                }
                at_once -= 1;
                // The workers go on meanwhile.
                thread::sleep(Duration::from_millis(1));
            }
            assert!(stream.try_receive().is_none(), "it has ended");
            assert!(at_once > 0, "nothing was there already");
            if is_ordered {
                assert_eq!(arrived, names);
            }
            arrived.sort();
            assert!(arrived.iter().eq(sample.tensors.keys()), "{arrived:?}");
        }
        let chunks = loader.chunk_size(ByteSize::kib(64)).chunks(&checkpoint);
        let chunks = chunks.expect("it begins");
        let mut bytes = 0;
        while let Some(first) = chunks.receive() {
            let others = std::iter::from_fn(|| chunks.try_receive());
            for chunk in std::iter::once(first).chain(others) {
                bytes += chunk.expect("it loads").bytes().len() as u64;
            }
        }
        assert_eq!(bytes, sample.bytes());
    });
}
