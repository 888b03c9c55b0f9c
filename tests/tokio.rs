//! Loads of asynchronous code: the same bytes as the blocking loads', an end at any moment, and nothing left behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use ckload::synth::Gpt2;
use ckload::tokio::Incoming;
use ckload::{BufferPool, ByteSize, Cancel, Checkpoint, Error, Loader, Observer, ReadDone, Tensor};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Only a hang lasts so long.
const HANG: Duration = Duration::from_secs(120);

/// Nobody waits so long.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

const MIB: usize = 1 << 20;

/// A checkpoint of 20 MB.
fn gpt2() -> (TempDir, Checkpoint) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let shape = Gpt2 {
        layers: 4,
        width: 256,
        vocabulary: 5000,
        positions: 256,
    };
    let written = shape.blueprint().write_file(&path, 3);
    written.expect("a disk with room");
    let checkpoint = Checkpoint::open(&path).expect("a valid checkpoint");
    (folder, checkpoint)
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().build();
    runtime.expect("a runtime needs nothing")
}

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs `work` and fails if it hangs.
fn watched(work: impl FnOnce() + Send + 'static) {
    let (done, result) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        // Nobody listens to one that has been given up.
        let _ = done.send(());
    });
    if result.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("hangs");
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

#[track_caller]
fn until(what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < HANG, "hangs: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn await_leased(pool: &BufferPool, bytes: usize) {
    until("all memory back", || pool.stats().leased_bytes == bytes);
}

fn by_name<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> BTreeMap<&'a str, &'a [u8]> {
    let pairs = tensors.into_iter();
    pairs
        .map(|tensor| (tensor.name(), &tensor.bytes()[..]))
        .collect()
}

async fn all<T: Send + 'static>(mut incoming: Incoming<T>) -> Result<Vec<T>, Error> {
    let mut items = Vec::new();
    while let Some(item) = incoming.next().await {
        items.push(item?);
    }
    assert!(incoming.next().await.is_none(), "it has ended");
    Ok(items)
}

/// Loads in every way and compares with what a blocking load gives.
async fn compare(path: std::path::PathBuf) {
    let loader = Loader::new().budget(ByteSize::mib(64));
    let checkpoint = ckload::tokio::open(&path).await.expect("it is valid");
    let expected = loader.load(&checkpoint).expect("it loads");
    let expected = by_name(expected.tensors());
    assert!(expected.len() > 50);

    let model = ckload::tokio::load(&loader, &checkpoint).await;
    let model = model.expect("it loads");
    assert!(by_name(model.tensors()) == expected);
    assert_eq!(model.report().bytes, checkpoint.bytes());

    let tensors = all(ckload::tokio::stream(&loader, &checkpoint)).await;
    assert!(by_name(&tensors.expect("it loads")) == expected);

    let backwards: Vec<&str> = expected.keys().rev().copied().collect();
    let wanted = backwards.iter().copied();
    let tensors = ckload::tokio::stream_in_order_of(&loader, &checkpoint, wanted);
    let tensors = all(tensors).await.expect("it loads");
    assert!(tensors.iter().map(Tensor::name).eq(backwards));
    assert!(by_name(&tensors) == expected);

    let chunks = loader.clone().chunk_size(ByteSize::kib(64));
    let chunks = all(ckload::tokio::chunks(&chunks, &checkpoint)).await;
    let mut bytes = 0;
    for chunk in chunks.expect("it loads") {
        let whole = expected[chunk.tensor().name.as_str()];
        assert!(whole[chunk.offset() as usize..].starts_with(chunk.bytes()));
        bytes += chunk.bytes().len() as u64;
    }
    assert_eq!(bytes, checkpoint.bytes());
}

#[test]
fn it_loads_what_a_blocking_load_does() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        runtime().block_on(compare(checkpoint.path().to_owned()));
    });
}

/// Wakes a thread that waits for one future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn no_runtime_is_needed() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(compare(checkpoint.path().to_owned()));
        while future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            thread::park();
        }
    });
}

#[test]
fn a_load_that_is_dropped_at_any_moment_gives_everything_back() {
    watched(|| {
        let seed = fastrand::u64(..);
        #[allow(clippy::print_stdout)] // shown when the test fails
        {
            println!("seed {seed}");
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let (_folder, checkpoint) = gpt2();
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool).budget(ByteSize::mib(12));
        for _ in 0..60 {
            let delay = Duration::from_micros(random.u64(..10_000));
            let mut load = pin!(Some(ckload::tokio::load(&loader, &checkpoint)));
            if random.bool() {
                let pending = load.as_mut().as_pin_mut().expect("it is there");
                let _ = poll(pending);
            }
            thread::sleep(delay);
            load.set(None);
            await_leased(&pool, 0);

            let mut tensors = ckload::tokio::stream(&loader, &checkpoint);
            runtime().block_on(async {
                for _ in 0..random.usize(..20) {
                    let tensor = tensors.next().await.expect("there are more");
                    drop(tensor.expect("it loads"));
                }
            });
            if random.bool() {
                // One is on its way when the stream goes.
                let _ = poll(pin!(tensors.next()));
            }
            drop(tensors);
            await_leased(&pool, 0);
        }
        // The loader and its pool are as good as before.
        let model = runtime().block_on(ckload::tokio::load(&loader, &checkpoint));
        assert_eq!(model.expect("it loads").report().bytes, checkpoint.bytes());
    });
}

/// Stops every read until it is let go.
struct Halt {
    reached: mpsc::Sender<()>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl Observer for Halt {
    fn read(&self, _event: &ReadDone) {
        let _ = self.reached.send(());
        // An error is the release: the other end is gone.
        let _ = self.release.lock().expect("no panic").recv();
    }
}

#[test]
fn who_drops_a_load_does_not_wait_for_its_reads() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        for streamed in [false, true] {
            let pool = BufferPool::new();
            let (reached, reads) = mpsc::channel();
            let (let_go, release) = mpsc::channel::<()>();
            let halt = Arc::new(Halt {
                reached,
                release: Mutex::new(release),
            });
            let loader = Loader::new().pool(&pool).observer(halt);
            // Each is dropped while a read is under way, which ends only afterwards.
            if streamed {
                let mut tensors = ckload::tokio::stream(&loader, &checkpoint);
                assert!(poll(pin!(tensors.next())).is_pending());
                reads.recv().expect("a read comes");
                drop(tensors);
            } else {
                let mut load = Box::pin(ckload::tokio::load(&loader, &checkpoint));
                assert!(poll(load.as_mut()).is_pending());
                reads.recv().expect("a read comes");
                drop(load);
            }
            assert!(pool.stats().leased_bytes > 0, "the read has its memory");
            drop(let_go);
            await_leased(&pool, 0);
            assert!(reads.try_iter().count() < 64, "no further read begins");
        }
    });
}

#[test]
fn a_load_that_waits_for_memory_leaves_the_line_when_it_is_dropped() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        let pool = BufferPool::builder().max_bytes(64 * MIB).build();
        let held = pool.get(60 * MIB);
        let loader = Loader::new().pool(&pool).patience(FOR_EVER);
        let mut load = Box::pin(ckload::tokio::load(&loader, &checkpoint));
        assert!(poll(load.as_mut()).is_pending());
        until("a request in line", || pool.stats().waiting > 0);
        drop(load);
        until("an empty line", || pool.stats().waiting == 0);
        await_leased(&pool, 60 * MIB);
        drop(held);
    });
}

#[test]
fn a_file_that_is_cut_off_is_an_error_with_its_name() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        let path = checkpoint.path().to_owned();
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool);
        let file = File::options().write(true).open(&path);
        let cut = file.and_then(|file| file.set_len(5 << 20));
        cut.expect("it is ours");
        runtime().block_on(async {
            let reopened = ckload::tokio::open(&path).await;
            assert!(matches!(reopened, Err(Error::Truncated { .. })));
            let load = ckload::tokio::load(&loader, &checkpoint).await;
            let error = load.expect_err("it is cut off");
            assert_eq!(error.path(), Some(&*path), "{error}");
            let stream = all(ckload::tokio::stream(&loader, &checkpoint)).await;
            let error = stream.expect_err("it is cut off");
            assert_eq!(error.path(), Some(&*path), "{error}");
            let chunks = all(ckload::tokio::chunks(&loader, &checkpoint)).await;
            let error = chunks.expect_err("it is cut off");
            assert_eq!(error.path(), Some(&*path), "{error}");
            let unknown = ckload::tokio::stream_in_order_of(&loader, &checkpoint, ["no such"]);
            let error = all(unknown).await.expect_err("there is none");
            assert!(matches!(error, Error::UnknownTensor { .. }), "{error}");
        });
        await_leased(&pool, 0);
    });
}

#[test]
fn a_slow_consumer_is_waited_for_within_the_budget() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        let budget = 8 * MIB;
        let pool = BufferPool::builder().max_bytes(budget).build();
        let loader = Loader::new()
            .pool(&pool)
            .budget(ByteSize::b(budget as u64))
            .patience(Duration::from_millis(1));
        runtime().block_on(async {
            let mut tensors = ckload::tokio::stream(&loader, &checkpoint);
            let mut bytes = 0;
            while let Some(tensor) = tensors.next().await {
                // Longer than the load would wait for a consumer that waits for it.
                let tensor = tensor.expect("what it takes is no fault of the consumer's");
                thread::sleep(Duration::from_millis(5));
                assert!(pool.held_bytes() <= budget);
                bytes += tensor.bytes().len() as u64;
            }
            assert_eq!(bytes, checkpoint.bytes());

            let kept = all(ckload::tokio::stream(&loader, &checkpoint)).await;
            let error = kept.expect_err("20 MB do not fit");
            assert!(matches!(error, Error::BudgetHeld { .. }), "{error}");
        });
        assert!(pool.stats().peak_bytes <= budget);
        await_leased(&pool, 0);
    });
}

#[test]
fn a_runtime_that_ends_takes_its_loads_with_it() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        let pool = BufferPool::builder().max_bytes(64 * MIB).build();
        let held = pool.get(60 * MIB);
        let patient = Loader::new().pool(&pool).patience(FOR_EVER);
        let runtime = runtime();
        // One waits for memory that never comes, one has a tensor in its hands when it is ended.
        let waiting = runtime.spawn(ckload::tokio::load(&patient, &checkpoint));
        let streamed = BufferPool::new();
        let streaming = Loader::new().pool(&streamed).budget(ByteSize::mib(8));
        let mut tensors = ckload::tokio::stream(&streaming, &checkpoint);
        let (first, arrived) = mpsc::channel();
        let idle = runtime.spawn(async move {
            let tensor = tensors.next().await.expect("there is one");
            first.send(tensor.is_ok()).expect("somebody listens");
            std::future::pending::<()>().await;
            drop((tensor, tensors));
        });
        runtime.block_on(async {
            while arrived.try_recv() != Ok(true) {
                tokio::task::yield_now().await;
            }
        });
        until("a request in line", || pool.stats().waiting > 0);
        drop((runtime, waiting, idle));
        await_leased(&streamed, 0);
        until("an empty line", || pool.stats().waiting == 0);
        await_leased(&pool, 60 * MIB);
        drop(held);
    });
}

#[test]
fn the_loaders_own_handle_counts_as_well() {
    watched(|| {
        let (_folder, checkpoint) = gpt2();
        let cancel = Cancel::new();
        let loader = Loader::new().cancel_with(&cancel);
        cancel.cancel();
        runtime().block_on(async {
            let load = ckload::tokio::load(&loader, &checkpoint).await;
            assert!(matches!(load, Err(Error::Cancelled)));
            let stream = all(ckload::tokio::stream(&loader, &checkpoint)).await;
            assert!(matches!(stream, Err(Error::Cancelled)));
        });
    });
}
