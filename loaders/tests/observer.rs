//! What an observer is told, and what a report says, add up.

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ckload_loaders::{
    ByteSize, Checkpoint, Error, Io, Loader, Observer, Planned, ReadDone, Report, Source,
    TensorInfo,
};
use ckload_pool::BufferPool;
use common::{
    KIB, MIB, Sample, await_all_returned, failure, octets, random, random_checkpoint, watched,
};

#[derive(Debug)]
enum Event {
    Planned(Planned),
    Read(ReadDone),
    Tensor(TensorInfo),
    Finished(Report),
}

/// Remembers everything in the order in which it was told.
#[derive(Default)]
struct Record(Mutex<Vec<Event>>);

impl Record {
    fn push(&self, event: Event) {
        self.0.lock().expect("no panic").push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl Observer for Record {
    fn planned(&self, event: &Planned) {
        self.push(Event::Planned(*event));
    }

    fn read(&self, event: &ReadDone) {
        self.push(Event::Read(*event));
    }

    fn tensor(&self, info: &TensorInfo) {
        self.push(Event::Tensor(info.clone()));
    }

    fn finished(&self, report: &Report) {
        self.push(Event::Finished(report.clone()));
    }
}

/// Checks the events of one load of all of `checkpoint` against each other and against its report.
#[track_caller]
fn check(events: &[Event], checkpoint: &Checkpoint, report: &Report, source: Source) {
    let [
        Event::Planned(planned),
        between @ ..,
        Event::Finished(finished),
    ] = events
    else {
        panic!("planned comes first and finished last: {events:?}");
    };
    assert_eq!(
        (planned.tensors, planned.bytes),
        (checkpoint.tensors().len(), checkpoint.bytes())
    );
    assert_eq!(finished, report);
    let (mut reads, mut bytes, mut names) = (0, 0, BTreeSet::new());
    for event in between {
        match event {
            Event::Read(read) => {
                assert_eq!(read.source, source);
                assert!(read.bytes > 0);
                reads += 1;
                bytes += read.bytes;
            }
            Event::Tensor(info) => {
                assert_eq!(checkpoint.tensor(&info.name), Some(info));
                assert!(
                    names.insert(info.name.clone()),
                    "{:?} comes twice",
                    info.name
                );
            }
            event => panic!("once only: {event:?}"),
        }
    }
    assert_eq!(names.len(), checkpoint.tensors().len());
    assert_eq!((report.io.reads, io_bytes(report)), (reads, bytes));
    check_report(report, checkpoint, source);
}

fn io_bytes(report: &Report) -> u64 {
    report.io.buffered_bytes + report.io.direct_bytes + report.io.mmap_bytes
}

#[track_caller]
fn check_report(report: &Report, checkpoint: &Checkpoint, source: Source) {
    let bytes = checkpoint.bytes();
    assert_eq!(report.bytes, bytes);
    assert!(io_bytes(report) >= bytes, "{report:?}");
    assert_eq!(report.io.reads > 0, bytes > 0, "{report:?}");
    match source {
        Source::Mmap => assert_eq!(report.io.mmap_bytes, io_bytes(report)),
        _ => assert_eq!(report.io.mmap_bytes, 0),
    }
    assert!(report.seconds > 0.0);
    let rate = bytes as f64 / report.seconds;
    assert!(
        (report.bytes_per_second - rate).abs() <= rate * 1e-9,
        "{report:?}"
    );
    assert!(
        (report.open_seconds - checkpoint.open_time().as_secs_f64()).abs() < 1e-9,
        "{report:?}"
    );
    let allocation = &report.allocation;
    assert_eq!(
        allocation.fresh > 0,
        allocation.fresh_bytes > 0,
        "{report:?}"
    );
    assert_eq!(
        allocation.reused > 0,
        allocation.reused_bytes > 0,
        "{report:?}"
    );
    assert!(allocation.fresh_seconds >= 0.0 && allocation.reuse_seconds >= 0.0);
}

#[track_caller]
fn check_memory(report: &Report) {
    let allocation = &report.allocation;
    assert!(
        allocation.fresh_bytes + allocation.reused_bytes >= report.bytes,
        "{report:?}"
    );
}

#[test]
fn every_way_of_loading_tells_the_same_story() {
    let mut random = random();
    let pool = BufferPool::new();
    for _ in 0..12 {
        let sample = random_checkpoint(&mut random);
        let checkpoint = sample.open();
        for (io, source) in [(Io::Buffered, Source::Buffered), (Io::Mmap, Source::Mmap)] {
            let record = Arc::new(Record::default());
            let loader = Loader::new()
                .pool(&pool)
                .io(io)
                .threads(3)
                .observer(record.clone());

            let model = loader.load(&checkpoint).expect("a valid checkpoint");
            check(&record.take(), &checkpoint, model.report(), source);
            check_memory(model.report());
            assert!(model.report().peak_pool_bytes >= checkpoint.bytes());

            let mut stream = loader.stream(&checkpoint).expect("a valid checkpoint");
            assert!(stream.by_ref().all(|tensor| tensor.is_ok()));
            check(&record.take(), &checkpoint, &stream.report(), source);
            check_memory(&stream.report());

            let infos = checkpoint.tensors();
            let mut memory: Vec<Vec<u8>> = infos
                .iter()
                .map(|info| vec![0; info.bytes as usize])
                .collect();
            let targets = infos
                .iter()
                .map(|info| info.name.as_str())
                .zip(memory.iter_mut().map(Vec::as_mut_slice));
            let report = loader
                .load_into(&checkpoint, targets)
                .expect("a valid checkpoint");
            check(&record.take(), &checkpoint, &report, source);
        }
    }
}

#[test]
fn fresh_and_reused_memory_are_counted_apart() {
    let sample = Sample::uniform(4, 2 * MIB);
    let pool = BufferPool::builder().max_bytes(16 * MIB).build();
    let loader = Loader::new().pool(&pool);
    let first = loader
        .load(&sample.open())
        .expect("a valid checkpoint")
        .report()
        .clone();
    let second = loader
        .load(&sample.open())
        .expect("a valid checkpoint")
        .report()
        .clone();
    assert_eq!((first.allocation.reused, second.allocation.fresh), (0, 0));
    assert_eq!(first.allocation.fresh, second.allocation.reused);
    assert_eq!(first.allocation.fresh_bytes, second.allocation.reused_bytes);
    assert!(
        first.allocation.fresh_seconds > 0.0 && first.allocation.reuse_seconds == 0.0,
        "{first:?}"
    );
    assert!(second.allocation.fresh_seconds == 0.0, "{second:?}");
    assert_eq!(first.peak_pool_bytes, second.peak_pool_bytes);
    assert!(first.page_faults > 0, "new memory is faulted in");
}

/// As a server without a pool would load: every buffer is new, and counted so.
#[test]
fn a_pool_that_keeps_nothing_reuses_nothing() {
    let pool = BufferPool::builder()
        .tls_cache_size(0)
        .max_buffers_per_shard(0)
        .min_buffer_size(usize::MAX)
        .huge_pages(false)
        .build();
    let sample = Sample::uniform(10, MIB + 9);
    let loader = Loader::new().pool(&pool);
    for _ in 0..3 {
        let model = loader.load(&sample.open()).expect("a valid checkpoint");
        sample.check_all(model.tensors());
        let mut stream = loader.stream(&sample.open()).expect("a valid checkpoint");
        stream
            .by_ref()
            .for_each(|tensor| sample.check(&tensor.expect("a valid checkpoint")));
        for report in [model.report(), &stream.report()] {
            assert_eq!(report.allocation.reused, 0);
            check_memory(report);
        }
        drop(model);
        assert_eq!(pool.held_bytes(), 0);
    }
}

#[test]
fn a_stream_s_report_grows_while_it_runs() {
    let sample = Sample::uniform(40, 256 * KIB);
    let mut stream = Loader::new()
        .budget(ByteSize::mib(1))
        .stream(&sample.open())
        .expect("a valid checkpoint");
    let mut last = 0;
    let mut taken = 0;
    while let Some(tensor) = stream.next() {
        taken += tensor.expect("a valid checkpoint").bytes().len() as u64;
        let bytes = stream.report().bytes;
        assert!(bytes >= taken.max(last) && bytes <= sample.bytes());
        last = bytes;
    }
    let report = stream.report();
    assert_eq!(report.bytes, sample.bytes());
    assert_eq!(stream.report(), report, "final once the stream has ended");
}

#[test]
fn a_load_that_fails_is_not_finished() {
    watched(|| {
        let sample = Sample::uniform(3, 1000);
        let checkpoint = sample.open();
        let record = Arc::new(Record::default());
        let loader = Loader::new().observer(record.clone());
        let stream = loader.stream(&checkpoint).expect("a valid checkpoint");
        drop(stream);
        common::write(&sample.path, b"gone");
        failure(loader.load(&checkpoint));
        assert!(
            !record
                .take()
                .iter()
                .any(|event| matches!(event, Event::Finished(_)))
        );
    });
}

/// Panics when it is told of the given kind of event.
struct Panics {
    on_read: bool,
    done: AtomicBool,
}

impl Panics {
    fn once(&self) {
        assert!(
            self.done.swap(true, Ordering::Relaxed),
            "the observer's own fault"
        );
    }
}

impl Observer for Panics {
    fn read(&self, _event: &ReadDone) {
        if self.on_read {
            self.once();
        }
    }

    fn tensor(&self, _info: &TensorInfo) {
        if !self.on_read {
            self.once();
        }
    }
}

#[test]
fn an_observer_that_panics_ends_the_load_and_no_more() {
    watched(|| {
        for on_read in [true, false] {
            let sample = Sample::of(
                (0..12)
                    .map(|number| octets(&number.to_string(), 600 * KIB))
                    .collect(),
            );
            let checkpoint = sample.open();
            let pool = BufferPool::builder().min_buffer_size(64 * KIB).build();
            let loader = Loader::new()
                .pool(&pool)
                .threads(2)
                .budget(ByteSize::mib(2));
            let panics = || {
                loader.clone().observer(Arc::new(Panics {
                    on_read,
                    done: AtomicBool::new(false),
                }))
            };

            let resident = catch_unwind(AssertUnwindSafe(|| panics().load(&checkpoint).map(drop)));
            assert!(
                !matches!(resident, Ok(Ok(()))),
                "a load that panicked is not whole"
            );
            await_all_returned(&pool);

            let mut stream = panics().stream(&checkpoint).expect("a valid checkpoint");
            let error = stream
                .by_ref()
                .find_map(Result::err)
                .expect("a worker panicked");
            assert!(
                matches!(&error, Error::WorkerPanicked { message } if message.contains("own fault")),
                "{error}"
            );
            assert!(stream.next().is_none(), "an error ends the stream");
            drop(stream);
            await_all_returned(&pool);

            sample.check_all(
                loader
                    .load(&checkpoint)
                    .expect("a valid checkpoint")
                    .tensors(),
            );
        }
    });
}
