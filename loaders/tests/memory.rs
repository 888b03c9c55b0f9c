//! Memory is bounded, lent and given back, as the pool counts it.

mod common;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ckload_loaders::{ByteSize, Checkpoint, Error, Io, Loader, Model, Stream, Tensor};
use ckload_pool::BufferPool;
use common::{
    Content, KIB, MIB, Sample, await_all_returned, await_leased, entry, failure, header, octets,
    random, smallest_budget, stream_failure, watched,
};

const SHORT: Duration = Duration::from_millis(300);

/// A pool that keeps small buffers too, so that tests get by with small files.
fn pool() -> BufferPool {
    BufferPool::builder().min_buffer_size(64 * KIB).build()
}

/// A pool that never holds more than `bytes`.
fn capped(bytes: usize) -> BufferPool {
    BufferPool::builder()
        .min_buffer_size(64 * KIB)
        .max_bytes(bytes)
        .build()
}

fn stream(loader: &Loader, checkpoint: &Checkpoint) -> Stream {
    loader.stream(checkpoint).expect("a valid checkpoint")
}

fn load(loader: &Loader, checkpoint: &Checkpoint) -> Model {
    loader.load(checkpoint).expect("a valid checkpoint")
}

/// Streams everything past a consumer that compares each tensor and drops it.
fn consume(sample: &Sample, stream: &mut Stream) {
    let mut tensors = 0;
    for tensor in stream {
        sample.check(&tensor.expect("a valid checkpoint"));
        tensors += 1;
    }
    assert_eq!(tensors, sample.tensors.len());
}

/// Tensors of every size up to `largest`, `bytes` together or a little more.
fn mixed(bytes: usize, largest: usize) -> Sample {
    let mut random = random();
    let mut tensors = vec![octets("largest", largest)];
    let mut sum = largest;
    while sum < bytes {
        let len = random.usize(0..=largest) >> random.u8(0..10);
        tensors.push(octets(&tensors.len().to_string(), len));
        sum += len;
    }
    Sample::of(tensors)
}

/// A thread that watches the leases of a pool and remembers the most.
struct Watcher {
    done: Arc<AtomicBool>,
    most: JoinHandle<usize>,
}

impl Watcher {
    fn of(pool: &BufferPool) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (pool, until) = (pool.clone(), Arc::clone(&done));
        let most = thread::spawn(move || {
            let mut most = 0;
            while !until.load(Ordering::Relaxed) {
                most = most.max(pool.stats().leased_bytes);
                thread::yield_now();
            }
            most
        });
        Self { done, most }
    }

    fn most_leased(self) -> usize {
        self.done.store(true, Ordering::Relaxed);
        self.most.join().expect("the watcher only watches")
    }
}

#[test]
fn a_stream_of_twenty_times_its_budget_stays_within_it() {
    let budget = 2 * MIB;
    for sample in [Sample::uniform(90, 512 * KIB), mixed(41 * MIB, budget)] {
        assert!(sample.bytes() >= 20 * budget as u64);
        let checkpoint = sample.open();
        for threads in [1, 2, 5] {
            let pool = capped(budget);
            let watcher = Watcher::of(&pool);
            let loader = Loader::new()
                .pool(&pool)
                .threads(threads)
                .budget(ByteSize::b(budget as u64));
            let mut stream = stream(&loader, &checkpoint);
            consume(&sample, &mut stream);
            assert!(watcher.most_leased() <= budget);
            assert!(pool.stats().peak_bytes <= budget, "{:?}", pool.stats());
            let report = stream.report();
            assert!(
                (1..=budget as u64).contains(&report.peak_pool_bytes),
                "{report:?}"
            );
            // Of random sizes, with one that takes all of the pool, none may fit what another left.
            assert!(
                report.allocation.reused > 0 || sample.tensors.contains_key("largest"),
                "{report:?}"
            );
        }
    }
}

/// The budget is the stream's own promise: it holds in a pool that would give more.
#[test]
fn a_stream_stays_within_its_budget_in_a_pool_without_a_limit() {
    let budget = 2 * MIB;
    for sample in [Sample::uniform(90, 512 * KIB), mixed(41 * MIB, budget)] {
        let checkpoint = sample.open();
        for threads in [1, 5] {
            let pool = BufferPool::builder()
                .min_buffer_size(64 * KIB)
                .tls_cache_size(0)
                .build();
            drop(pool.get(9 * MIB / 4)); // a pool may lend an eighth more than was asked for
            let watcher = Watcher::of(&pool);
            let loader = Loader::new()
                .pool(&pool)
                .threads(threads)
                .budget(ByteSize::b(budget as u64));
            consume(&sample, &mut stream(&loader, &checkpoint));
            let most = watcher.most_leased();
            assert!(
                most <= budget,
                "{most} bytes were leased of a budget of {budget}"
            );
        }
    }
}

#[test]
fn a_consumer_that_keeps_tensors_past_the_budget_gets_an_error() {
    watched(|| {
        for (count, len) in [(40, 512 * KIB), (4000, 2 * KIB), (25, 900 * KIB)] {
            let sample = Sample::uniform(count, len);
            for (pool, threads) in [
                (pool(), 1),
                (pool(), 5),
                (capped(2 * MIB), 1),
                (capped(2 * MIB), 5),
            ] {
                let budget = ByteSize::b(2 * MIB as u64);
                let loader = Loader::new()
                    .pool(&pool)
                    .threads(threads)
                    .budget(budget)
                    .patience(SHORT);
                let mut stream = stream(&loader, &sample.open());
                let mut kept: Vec<Tensor> = Vec::new();
                let error = loop {
                    match stream.next().expect("more than the budget") {
                        Ok(tensor) => kept.push(tensor),
                        Err(error) => break error,
                    }
                };
                let bytes: usize = kept.iter().map(|tensor| tensor.bytes().len()).sum();
                assert!(bytes <= 2 * MIB, "{bytes} bytes were kept");
                assert!(!kept.is_empty());
                let Error::BudgetHeld {
                    held,
                    needed,
                    budget,
                    waited,
                    ..
                } = &error
                else {
                    panic!("{error}");
                };
                assert!(
                    *held >= bytes as u64 && held + needed > budget.as_u64(),
                    "{error}"
                );
                assert!(*waited >= SHORT, "{error}");
                assert!(error.to_string().contains("raise the budget"), "{error}");
                assert!(stream.next().is_none(), "an error ends the stream");
                kept.iter().for_each(|tensor| sample.check(tensor));
                drop((kept, stream));
                await_all_returned(&pool);
            }
        }
    });
}

/// Only a consumer that keeps tensors is at fault: one that takes its time is not, however long.
#[test]
fn a_consumer_that_is_slow_gets_every_tensor() {
    watched(|| {
        let budget = 2 * MIB;
        for sample in [Sample::uniform(12, 700 * KIB), mixed(12 * MIB, budget)] {
            for pool in [pool(), capped(budget)] {
                let loader = Loader::new().pool(&pool).threads(3);
                let loader = loader
                    .budget(ByteSize::b(budget as u64))
                    .patience(Duration::from_millis(50));
                let mut stream = stream(&loader, &sample.open());
                for turn in 0..sample.tensors.len() {
                    let tensor = stream
                        .next()
                        .expect("not all have come")
                        .expect("a valid checkpoint");
                    if turn % 16 == 3 {
                        thread::sleep(Duration::from_millis(200)); // an upload that takes long
                    }
                    sample.check(&tensor);
                }
                assert!(stream.next().is_none());
            }
        }
    });
}

/// The pool may lend a buffer an eighth larger than a tensor; a budget that forgets this admits what the pool cannot give.
#[test]
fn buffers_larger_than_their_tensors_are_no_surprise() {
    watched(|| {
        let lens = [1152, 1152]
            .into_iter()
            .chain([1024, 200].into_iter().cycle().take(12));
        let tensors = lens
            .enumerate()
            .map(|(number, len)| octets(&format!("t{number}"), len * KIB));
        let sample = Sample::of(tensors.collect());
        let budget = 2 * 1152 * KIB;
        let pool = capped(budget);
        let loader = Loader::new()
            .pool(&pool)
            .threads(3)
            .patience(Duration::from_millis(50));
        let loader = loader.budget(ByteSize::b(budget as u64));
        for tensor in stream(&loader, &sample.open()) {
            thread::sleep(Duration::from_millis(120));
            sample.check(&tensor.expect("the consumer holds one tensor at a time"));
        }
    });
}

#[test]
fn a_consumer_may_drop_tensors_late_on_another_thread() {
    let sample = Sample::uniform(60, 256 * KIB);
    let pool = capped(2 * MIB);
    let loader = Loader::new().pool(&pool).budget(ByteSize::mib(2));
    let (send, receive) = std::sync::mpsc::channel::<Tensor>();
    let stream = stream(&loader, &sample.open());
    thread::scope(|scope| {
        scope.spawn(|| {
            for tensor in stream {
                send.send(tensor.expect("a valid checkpoint"))
                    .expect("the consumer listens");
            }
            drop(send);
        });
        for tensor in receive {
            thread::sleep(Duration::from_millis(1));
            sample.check(&tensor);
        }
    });
    await_all_returned(&pool);
}

#[test]
fn a_budget_that_is_too_small_names_the_one_that_works() {
    watched(|| {
        for largest in [MIB, MIB + 1, 3 * MIB + 4097, 300 * KIB + 5, 1000] {
            let sample = Sample::of(vec![
                octets("a", 100),
                octets("the largest", largest),
                octets("b", largest / 2),
            ]);
            let checkpoint = sample.open();
            let loader = Loader::new().pool(&pool()).patience(SHORT);
            let error = stream_failure(
                &loader.clone().budget(ByteSize::b(largest as u64 - 1)),
                &checkpoint,
            );
            let Error::BudgetTooSmall { tensor, needed, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(tensor, "the largest");
            assert!(
                error
                    .to_string()
                    .contains(&format!("budget that works is {needed}")),
                "{error}"
            );

            let error =
                stream_failure(&loader.clone().budget(ByteSize::b(needed - 1)), &checkpoint);
            assert_eq!(error.kind(), "budget_too_small", "{needed} is the smallest");

            for pool in [pool(), capped(*needed as usize)] {
                let loader = Loader::new()
                    .pool(&pool)
                    .budget(ByteSize::b(*needed))
                    .patience(SHORT);
                consume(&sample, &mut stream(&loader, &checkpoint));
            }
        }
    });
}

#[test]
fn the_default_budget_admits_every_tensor() {
    let sample = Sample::of(vec![octets("a", 3 * MIB), octets("b", 10)]);
    let checkpoint = sample.open();
    let loader = Loader::new();
    let budget = loader.default_budget(&checkpoint);
    assert!(budget.as_u64() >= 3 * MIB as u64);
    let mut stream = stream(&loader, &checkpoint);
    assert_eq!(stream.budget(), budget);
    consume(&sample, &mut stream);
}

/// A budget beyond the pool's limit is no promise that the pool can keep; the stream gets by with what there is.
#[test]
fn a_stream_gets_by_with_a_pool_smaller_than_its_budget() {
    watched(|| {
        let sample = Sample::uniform(30, 512 * KIB);
        for threads in [1, 5] {
            let pool = capped(2 * MIB);
            let loader = Loader::new().pool(&pool).threads(threads).patience(SHORT);
            consume(&sample, &mut stream(&loader, &sample.open()));
        }
    });
}

#[test]
fn a_pool_smaller_than_the_model_is_refused_at_once() {
    let sample = Sample::uniform(4, MIB);
    let pool = capped(3 * MIB);
    let error = failure(Loader::new().pool(&pool).load(&sample.open()));
    let Error::PoolTooSmall { needed, max_bytes } = error else {
        panic!("{error}");
    };
    assert_eq!(max_bytes, 3 * MIB as u64);
    assert_eq!(pool.stats().gets, 0);
    let model = load(
        &Loader::new().pool(&capped(needed as usize)),
        &sample.open(),
    );
    sample.check_all(model.tensors());
}

#[test]
fn memory_that_others_hold_is_waited_for_and_not_forever() {
    watched(|| {
        let sample = Sample::uniform(2, MIB);
        let checkpoint = sample.open();
        let pool = capped(3 * MIB);
        let others = pool.get(5 * MIB / 2);
        let loader = Loader::new().pool(&pool).patience(SHORT);
        assert_eq!(failure(loader.load(&checkpoint)).kind(), "memory");
        assert_eq!(
            stream_failure(&loader.clone().budget(ByteSize::mib(2)), &checkpoint).kind(),
            "memory"
        );

        let loader = Loader::new().pool(&pool);
        let loading = thread::spawn(move || load(&loader, &checkpoint));
        thread::sleep(SHORT);
        drop(others);
        sample.check_all(loading.join().expect("no panic").tensors());
        await_all_returned(&pool);
    });
}

/// The distinct places of a model's tensors.
fn addresses(model: &Model) -> BTreeSet<usize> {
    model
        .tensors()
        .iter()
        .map(|tensor| tensor.bytes().as_ptr().addr())
        .collect()
}

#[test]
fn the_next_load_reuses_a_dropped_model_s_buffers() {
    for (count, len) in [
        (8, 4 * MIB),
        (1, 5 * MIB),
        (3, MIB),
        (1, 2 * MIB),
        (50, 3 * KIB),
    ] {
        let sample = Sample::uniform(count, len);
        let checkpoint = sample.open();
        for pool in [pool(), capped(64 * MIB)] {
            let loader = Loader::new().pool(&pool).threads(2);
            let model = load(&loader, &checkpoint);
            let first = addresses(&model);
            assert!(model.report().allocation.fresh > 0);
            assert_eq!(model.report().allocation.reused, 0);
            drop(model);
            assert_eq!(pool.stats().leased_bytes, 0);

            let fresh = pool.stats().fresh;
            let model = load(&loader, &checkpoint);
            let what = format!("{count} × {len} bytes: {:?}", model.report().allocation);
            assert_eq!(model.report().allocation.fresh, 0, "{what}");
            assert!(model.report().allocation.reused > 0, "{what}");
            assert!(
                model.report().allocation.reused_bytes >= sample.bytes(),
                "{what}"
            );
            assert_eq!(pool.stats().fresh, fresh, "{what}");
            assert_eq!(addresses(&model), first, "{what}");
            sample.check_all(model.tensors());
        }
    }
}

#[test]
fn a_model_dropped_on_another_thread_is_reused_too() {
    for len in [MIB, 3 * MIB, 9 * MIB] {
        let sample = Sample::uniform(1, len);
        let checkpoint = sample.open();
        let pool = pool();
        let loader = Loader::new().pool(&pool);
        let (send, receive) = std::sync::mpsc::channel::<Model>();
        let (dropped, wait) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                for model in receive {
                    drop(model);
                    dropped.send(()).expect("the test waits");
                }
            });
            for round in 0..3 {
                let model = load(&loader, &checkpoint);
                let fresh = u64::from(round == 0);
                assert_eq!(
                    model.report().allocation.fresh,
                    fresh,
                    "round {round} of {len} bytes"
                );
                send.send(model).expect("the thread listens");
                wait.recv().expect("the thread drops");
            }
            drop(send);
        });
    }
}

#[test]
fn a_second_stream_reuses_what_the_first_one_took() {
    let sample = Sample::uniform(30, MIB);
    // A tensor begins in its buffer as far from a page's start as in its file.
    let budget = 4 * (MIB + 4096);
    let pool = capped(budget);
    let loader = Loader::new().pool(&pool).budget(ByteSize::b(budget as u64));
    let mut first = stream(&loader, &sample.open());
    // A slow reader might get by with fewer buffers than the budget allows.
    await_leased(&pool, budget);
    consume(&sample, &mut first);
    await_all_returned(&pool);
    let mut second = stream(&loader, &sample.open());
    consume(&sample, &mut second);
    assert_eq!(second.report().allocation.fresh, 0, "{:?}", second.report());
    assert_eq!(second.report().allocation.reused, 30);
}

#[test]
fn a_tensor_outlives_its_model_and_keeps_its_buffer() {
    let sample = Sample::uniform(5, MIB);
    let pool = pool();
    let loader = Loader::new().pool(&pool);
    let model = load(&loader, &sample.open());
    let kept = model.tensor("t3").expect("it is there").clone();
    let bytes = kept.bytes().slice(100..200);
    drop(model);
    assert!(pool.stats().leased_bytes >= MIB);

    let others: Vec<Model> = (0..3).map(|_| load(&loader, &sample.open())).collect();
    sample.check(&kept);
    for model in &others {
        assert!(!addresses(model).contains(&kept.bytes().as_ptr().addr()));
    }
    drop((others, kept));
    assert!(
        pool.stats().leased_bytes >= MIB,
        "a slice of a tensor's bytes keeps them too"
    );
    assert_eq!(&bytes[..], &sample.tensors["t3"].bytes[100..200]);
    drop(bytes);
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
fn a_model_s_tensors_go_on_without_it() {
    let sample = Sample::uniform(5, MIB);
    let pool = pool();
    let tensors = load(&Loader::new().pool(&pool), &sample.open()).into_tensors();
    sample.check_all(&tensors);
    drop(tensors);
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
fn memory_outlives_the_pool_and_the_loader() {
    let sample = Sample::uniform(3, MIB);
    let (model, streamed) = {
        let loader = Loader::new();
        let streamed: Result<Vec<Tensor>, Error> = stream(&loader, &sample.open()).collect();
        (
            load(&loader, &sample.open()),
            streamed.expect("a valid checkpoint"),
        )
    };
    sample.check_all(model.tensors());
    sample.check_all(&streamed);
}

#[test]
fn two_loads_at_once_share_a_pool() {
    watched(|| {
        let samples = [Sample::uniform(20, 300 * KIB), mixed(8 * MIB, MIB)];
        let pool = capped(32 * MIB);
        let shared = Loader::new()
            .pool(&pool)
            .threads(2)
            .budget(ByteSize::mib(4));
        let own = Loader::new()
            .pool(&pool)
            .threads(2)
            .budget(ByteSize::mib(4));
        thread::scope(|scope| {
            for (sample, loader) in samples
                .iter()
                .flat_map(|sample| [(sample, &shared), (sample, &own)])
            {
                scope.spawn(|| {
                    let checkpoint = sample.open();
                    for _ in 0..5 {
                        sample.check_all(load(loader, &checkpoint).tensors());
                        consume(sample, &mut stream(loader, &checkpoint));
                    }
                });
            }
        });
        await_all_returned(&pool);
        assert!(pool.stats().peak_bytes <= 32 * MIB);
        assert!(pool.stats().hits() > 0);
    });
}

/// A file of zeros that takes no room on disk: one tensor for each of `lens`.
fn sparse(lens: &[u64]) -> Sample {
    let sample = Sample::of(Vec::new());
    let mut end = 0;
    let entries: Vec<String> = lens
        .iter()
        .enumerate()
        .map(|(number, len)| {
            end += len;
            entry(
                &format!("t{number}"),
                "U8",
                &format!("[{len}]"),
                end - len..end,
            )
        })
        .collect();
    let header = header(&entries);
    let file = OpenOptions::new()
        .write(true)
        .open(&sample.path)
        .expect("it was written");
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)
        .expect("room on the disk");
    file.write_all_at(header.as_bytes(), 8)
        .expect("room on the disk");
    file.set_len(8 + header.len() as u64 + end)
        .expect("room on the disk");
    sample
}

/// Neither may take a part of its memory and then wait for what the other has.
#[test]
fn two_loads_that_need_most_of_the_pool_take_turns() {
    watched(|| {
        let sample = sparse(&[40 * MIB as u64; 4]);
        let checkpoint = sample.open();
        for _ in 0..4 {
            let pool = capped(200 * MIB); // new each time: memory that has to be faulted in leaves time to meet
            let loader = Loader::new().pool(&pool).patience(Duration::from_secs(10));
            assert!(
                loader.plan(&checkpoint).slots().len() > 1,
                "one block alone tests nothing"
            );
            let together = Barrier::new(2);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let own_threads = loader.clone().threads(2);
                        together.wait();
                        drop(load(&own_threads, &checkpoint));
                    });
                }
            });
            await_all_returned(&pool);
        }
    });
}

#[test]
fn a_stream_dropped_half_way_gives_every_buffer_back() {
    watched(|| {
        let sample = mixed(20 * MIB, MIB);
        let checkpoint = sample.open();
        for taken in [0, 1, 7, sample.tensors.len() - 1] {
            for pool in [pool(), capped(4 * MIB)] {
                let loader = Loader::new()
                    .pool(&pool)
                    .threads(3)
                    .budget(ByteSize::mib(4));
                let mut stream = stream(&loader, &checkpoint);
                let last = stream.by_ref().take(taken).last();
                drop(stream);
                if let Some(tensor) = last {
                    sample.check(&tensor.expect("a valid checkpoint"));
                }
                await_all_returned(&pool);
                consume(&sample, &mut self::stream(&loader, &checkpoint));
            }
        }
    });
}

#[test]
fn small_tensors_that_are_kept_keep_no_large_buffers() {
    watched(|| {
        let bias = |number| Content {
            name: format!("{number}.bias"),
            ..octets("bias", 64)
        };
        let weight = |number: usize| octets(&format!("{number}.weight"), 900 * KIB);
        let sample = Sample::of(
            (0..30)
                .flat_map(|number| [bias(number), weight(number)])
                .collect(),
        );
        for pool in [pool(), capped(4 * MIB)] {
            let loader = Loader::new()
                .pool(&pool)
                .budget(ByteSize::mib(4))
                .patience(SHORT);
            let biases: Vec<Tensor> = stream(&loader, &sample.open())
                .map(|tensor| tensor.expect("small tensors leave room for all"))
                .filter(|tensor| tensor.bytes().len() == 64)
                .collect();
            assert_eq!(biases.len(), 30);
            let leased = pool.stats().leased_bytes;
            assert!(
                leased <= 30 * 4096,
                "{leased} bytes are leased for {} bytes",
                30 * 64
            );
            biases.iter().for_each(|tensor| sample.check(tensor));
        }
    });
}

/// Buffers that are lent again still hold the last model: none of it may be seen.
#[test]
fn recycled_memory_shows_nothing_of_the_last_model() {
    let pool = pool();
    for round in 0..6_usize {
        let count = 3 + round % 3;
        let tensors =
            (0..count).map(|number| octets(&format!("{round}.{number}"), 700 * KIB + 13 * round));
        let sample = Sample::of(tensors.collect());
        for io in [Io::Buffered, Io::Mmap] {
            let loader = Loader::new().pool(&pool).io(io);
            sample.check_all(load(&loader, &sample.open()).tensors());
            consume(&sample, &mut stream(&loader, &sample.open()));
        }
    }
}

#[test]
fn a_load_into_the_caller_s_memory_takes_none() {
    let sample = Sample::uniform(3, MIB);
    let pool = pool();
    let mut memory = vec![0; MIB];
    let report = Loader::new()
        .pool(&pool)
        .load_into(&sample.open(), [("t1", &mut memory[..])]);
    assert!(memory == sample.tensors["t1"].bytes);
    assert_eq!(pool.stats().gets, 0);
    assert_eq!(report.expect("a valid checkpoint").allocation.fresh, 0);
}

#[test]
fn a_budget_counts_only_what_has_bytes() {
    let sample = Sample::of(
        (0..50)
            .map(|number| octets(&number.to_string(), 0))
            .collect(),
    );
    let loader = Loader::new();
    let least = smallest_budget(&loader, &sample.open());
    consume(&sample, &mut stream(&loader.budget(least), &sample.open()));
    let loader = Loader::new().budget(ByteSize::b(0));
    let kept: Result<Vec<Tensor>, Error> = stream(&loader, &sample.open()).collect();
    sample.check_all(&kept.expect("nothing to hold"));
}

#[test]
fn handles_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    fn moves<T: Send + 'static>() {}
    crosses::<Checkpoint>();
    crosses::<Loader>();
    crosses::<Model>();
    crosses::<Tensor>();
    crosses::<Error>();
    moves::<Stream>();
}
