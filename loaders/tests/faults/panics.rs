//! Code that panics where a load calls it, and around a load: the load becomes an error, and nothing is lost with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use ckload_loaders::{
    ByteSize, Checkpoint, Error, Io, Leased, Loader, Observer, Planned, ReadDone, Report,
    TensorInfo, Touched,
};

use crate::common::{KIB, Sample, WAYS, Way, await_all_returned, failure, watched};
use crate::{check_that_good_files_load, pool, truncate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Planned,
    Leased,
    Touched,
    Read,
    Tensor,
    Finished,
}

/// Panics in the call of this kind with this number, and in each after it.
struct Panics {
    kind: Call,
    from: usize,
    calls: AtomicUsize,
}

impl Panics {
    fn called(&self, kind: Call) {
        assert!(
            kind != self.kind || self.calls.fetch_add(1, Relaxed) < self.from,
            "the observer's own fault"
        );
    }
}

impl Observer for Panics {
    fn planned(&self, _event: &Planned) {
        self.called(Call::Planned);
    }

    fn leased(&self, _event: &Leased) {
        self.called(Call::Leased);
    }

    fn touched(&self, _event: &Touched) {
        self.called(Call::Touched);
    }

    fn read(&self, _event: &ReadDone) {
        self.called(Call::Read);
    }

    fn tensor(&self, _info: &TensorInfo) {
        self.called(Call::Tensor);
    }

    fn finished(&self, _report: &Report) {
        self.called(Call::Finished);
    }
}

#[test]
fn an_observer_that_panics_makes_the_load_an_error() {
    watched(|| {
        let sample = Sample::uniform(12, 600 * KIB);
        let checkpoint = sample.open();
        let pool = pool();
        for threads in [1, 3] {
            let loader = Loader::new()
                .pool(&pool)
                .threads(threads)
                .budget(ByteSize::mib(2));
            let kinds = [
                (Call::Planned, 0),
                (Call::Read, 0),
                (Call::Read, 2),
                (Call::Tensor, 0),
                (Call::Tensor, 7),
                (Call::Finished, 0),
            ];
            for ((kind, from), io) in kinds.iter().flat_map(|&kind| Io::ALL.map(|io| (kind, io))) {
                for way in WAYS {
                    let observer = Panics {
                        kind,
                        from,
                        calls: AtomicUsize::new(0),
                    };
                    let panicking = loader.clone().io(io).observer(Arc::new(observer));
                    let error = failure(way.load(&panicking, &checkpoint));
                    assert!(
                        matches!(&error, Error::WorkerPanicked { message } if message.contains("own fault")),
                        "{kind:?} {from}, {way:?}, {io}: {error}"
                    );
                    await_all_returned(&pool);
                }
            }
            check_that_good_files_load(&loader);
        }
    });
}

/// Memory of the caller's is neither leased nor touched.
#[test]
fn an_observer_that_panics_about_memory_leaves_none_behind() {
    watched(|| {
        let sample = Sample::uniform(12, 600 * KIB);
        let checkpoint = sample.open();
        for (kind, from) in [
            (Call::Leased, 0),
            (Call::Leased, 2),
            (Call::Touched, 0),
            (Call::Touched, 2),
        ] {
            for way in [Way::Resident, Way::Stream, Way::Chunks] {
                let pool = pool();
                let loader = Loader::new().pool(&pool).threads(3);
                let observer = Panics {
                    kind,
                    from,
                    calls: AtomicUsize::new(0),
                };
                let panicking = loader.clone().observer(Arc::new(observer));
                let loaded = way.load(&panicking, &checkpoint);
                // A resident load may find room for everything in less memory than that, and a quick stream need not touch more than once.
                let is_called = kind == Call::Leased && way != Way::Resident;
                if from == 0 || is_called {
                    let error = failure(loaded);
                    assert!(
                        matches!(&error, Error::WorkerPanicked { message } if message.contains("own fault")),
                        "{kind:?} {from}, {way:?}: {error}"
                    );
                }
                await_all_returned(&pool);
                check_that_good_files_load(&loader);
            }
        }
    });
}

/// What a caller's own iterator does is the caller's.
#[test]
fn a_panic_of_the_caller_s_own_iterator_is_passed_on() {
    let sample = Sample::uniform(2, 100 * KIB);
    let loader = Loader::new();
    let checkpoint = sample.open();
    let run = catch_unwind(AssertUnwindSafe(|| {
        let targets = std::iter::from_fn(|| -> Option<(&str, &mut [u8])> { panic!("own fault") });
        loader.load_into(&checkpoint, targets)
    }));
    let panic = run.expect_err("not ours to judge");
    assert_eq!(panic.downcast_ref(), Some(&"own fault"));
    check_that_good_files_load(&loader);
}

/// Takes some tensors, and panics with them in hand.
fn panicking_consumer(loader: &Loader, checkpoint: &Checkpoint, taken: usize) {
    let stream = loader.stream(checkpoint).expect("a good file");
    let _held: Vec<_> = stream.take(taken).collect();
    panic!("the consumer's own fault");
}

#[test]
fn a_consumer_that_panics_takes_nothing_with_it() {
    watched(|| {
        let sample = Sample::uniform(20, 300 * KIB);
        let checkpoint = sample.open();
        let pool = pool();
        for threads in [1, 3] {
            let loader = Loader::new()
                .pool(&pool)
                .threads(threads)
                .budget(ByteSize::mib(2));
            for taken in [0, 1, 5] {
                let consume = || panicking_consumer(&loader, &checkpoint, taken);
                catch_unwind(AssertUnwindSafe(consume)).expect_err("it panics");
                await_all_returned(&pool);
                thread::scope(|scope| scope.spawn(consume).join()).expect_err("it panics");
                await_all_returned(&pool);
            }
            // A stream outlives the thread that panicked with its tensors, and goes on.
            let mut stream = loader.stream(&checkpoint).expect("a good file");
            let held: Vec<_> = stream.by_ref().take(3).collect();
            let holder = thread::spawn(move || {
                let _held = held;
                panic!("the holder's own fault");
            });
            let rest = stream.map(|tensor| sample.check(&tensor.expect("a good file")));
            assert_eq!(rest.count(), 17);
            holder.join().expect_err("it panics");
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
        }
    });
}

/// A resident model whose holder panics.
#[test]
fn a_server_that_panics_gives_its_model_back() {
    watched(|| {
        let sample = Sample::uniform(20, 300 * KIB);
        let pool = pool();
        let loader = Loader::new().pool(&pool);
        let checkpoint = sample.open();
        let model = loader.load(&checkpoint).expect("a good file");
        let server = thread::spawn(move || {
            let _model = model;
            panic!("the server's own fault");
        });
        server.join().expect_err("it panics");
        await_all_returned(&pool);
        check_that_good_files_load(&loader);
    });
}

/// Two workers are past their reads; one fails, and the other is kept from delivering until the consumer knows.
#[test]
fn what_arrives_after_the_error_is_not_kept() {
    struct Late {
        calls: AtomicUsize,
        both: Barrier,
        go: std::sync::Mutex<mpsc::Receiver<()>>,
    }

    impl Observer for Late {
        fn tensor(&self, _info: &TensorInfo) {
            let call = self.calls.fetch_add(1, Relaxed);
            if call < 2 {
                self.both.wait();
            }
            match call {
                0 => panic!("the first one's own fault"),
                1 => self
                    .go
                    .lock()
                    .expect("no panic")
                    .recv()
                    .expect("told to go on"),
                _ => {}
            }
        }
    }

    watched(|| {
        let sample = Sample::uniform(2, 512 * KIB);
        let pool = pool();
        let (go, wait) = mpsc::channel();
        let observer = Arc::new(Late {
            calls: AtomicUsize::new(0),
            both: Barrier::new(2),
            go: std::sync::Mutex::new(wait),
        });
        let loader = Loader::new()
            .pool(&pool)
            .threads(2)
            .io(Io::Buffered) // else the consumer reads as well, and cannot tell it to go on
            .budget(ByteSize::mib(2))
            .observer(observer);
        let mut stream = loader.stream(&sample.open()).expect("a good file");
        let error = stream.next().expect("two tensors").expect_err("it panics");
        assert_eq!(error.kind(), "worker_panicked");
        go.send(()).expect("it waits");
        await_all_returned(&pool);
        assert!(stream.next().is_none());
    });
}

#[test]
fn a_file_error_is_not_hidden_by_a_panic_after_it() {
    watched(|| {
        let sample = Sample::uniform(4, 100 * KIB);
        let checkpoint = sample.open();
        truncate(&sample.path, 1000);
        let observer = Panics {
            kind: Call::Finished,
            from: 0,
            calls: AtomicUsize::new(0),
        };
        let loader = Loader::new().observer(Arc::new(observer));
        for way in WAYS {
            assert_eq!(failure(way.load(&loader, &checkpoint)).kind(), "changed");
        }
    });
}
