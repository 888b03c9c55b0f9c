//! What an observer is told, and what a report says, add up.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use ckload_loaders::{
    ByteSize, Checkpoint, Dtype, Error, Io, Leased, Loader, Observer, Planned, ReadDone, Report,
    Select, Shard, Source, TensorInfo, Touch, Touched,
};
use ckload_pool::{BufferPool, Origin};
use common::{
    KIB, MIB, Sample, await_all_returned, failure, octets, random, random_checkpoint, watched,
};

#[derive(Debug)]
enum Event {
    Planned(Planned),
    Leased(Leased),
    Touched(Touched),
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

    fn leased(&self, event: &Leased) {
        self.push(Event::Leased(*event));
    }

    fn touched(&self, event: &Touched) {
        self.push(Event::Touched(*event));
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
            Event::Leased(_) | Event::Touched(_) => {}
            event => panic!("once only: {event:?}"),
        }
    }
    assert_eq!(names.len(), checkpoint.tensors().len());
    assert_eq!((report.io.reads, io_bytes(report)), (reads, bytes));
    check_report(report, checkpoint, source);
    check_places(events, checkpoint);
    check_allocations(events, report);
}

/// Checks that what was read covers every tensor, and is read once.
#[track_caller]
fn check_places(events: &[Event], checkpoint: &Checkpoint) {
    let mut read: BTreeMap<usize, Vec<Range<u64>>> = BTreeMap::new();
    for event in events {
        if let Event::Read(event) = event {
            assert!(event.bytes <= event.span, "{event:?}");
            let stretch = event.offset..event.offset + event.span;
            read.entry(event.file).or_default().push(stretch);
        }
    }
    for (file, stretches) in &mut read {
        stretches.sort_by_key(|stretch| stretch.start);
        for pair in stretches.windows(2) {
            assert!(pair[0].end <= pair[1].start, "read twice: {pair:?}");
        }
        let end = stretches.last().expect("one at least").end;
        assert!(end <= checkpoint.files()[*file].bytes);
        stretches.dedup_by(|next, last| {
            let is_joined = last.end == next.start;
            if is_joined {
                last.end = next.end;
            }
            is_joined
        });
    }
    for info in checkpoint.tensors().iter().filter(|info| info.bytes > 0) {
        let wanted = info.offset..info.offset + info.bytes;
        let covers = |have: &Range<u64>| have.start <= wanted.start && wanted.end <= have.end;
        assert!(read[&info.file].iter().any(covers), "{info:?} in {read:?}");
    }
}

/// Checks that what was told of memory adds up to what the report says.
#[track_caller]
fn check_allocations(events: &[Event], report: &Report) {
    let (mut fresh, mut reused) = ((0, 0, Duration::ZERO), (0, 0, Duration::ZERO));
    for event in events {
        match event {
            Event::Leased(event) => {
                let (sums, time) = match event.origin {
                    Origin::Fresh { time } => (&mut fresh, time),
                    _ => (&mut reused, event.duration),
                };
                assert!(time <= event.duration, "{event:?}");
                sums.0 += 1;
                sums.1 += event.bytes;
                sums.2 += time;
            }
            Event::Touched(event) => fresh.2 += event.duration,
            _ => {}
        }
    }
    let allocation = &report.allocation;
    assert_eq!(
        (allocation.fresh, allocation.fresh_bytes),
        (fresh.0, fresh.1)
    );
    assert_eq!(
        (allocation.reused, allocation.reused_bytes),
        (reused.0, reused.1)
    );
    for (told, reported) in [
        (fresh.2, allocation.fresh_seconds),
        (reused.2, allocation.reuse_seconds),
    ] {
        assert!((told.as_secs_f64() - reported).abs() < 1e-9, "{report:?}");
    }
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

/// Where the kernel tells what is cached, the two ways of reading past the page cache read in several parts what is cached in part.
#[test]
fn reads_past_the_page_cache_say_where_they_were() {
    let mut random = random();
    for _ in 0..6 {
        let sample = random_checkpoint(&mut random);
        let checkpoint = sample.open();
        for (io, threads) in [(Io::Auto, 1), (Io::Auto, 3), (Io::Direct, 3)] {
            if io == Io::Auto && checkpoint.files().len() == 1 {
                let path = &checkpoint.files()[0].path;
                forget_half_of(path);
            }
            let record = Arc::new(Record::default());
            let loader = Loader::new()
                .io(io)
                .threads(threads)
                .observer(record.clone());
            let model = loader.load(&checkpoint).expect("a valid checkpoint");
            let events = record.take();
            check_places(&events, &checkpoint);
            check_allocations(&events, model.report());
        }
    }
}

/// Makes the page cache drop the second half of a file.
fn forget_half_of(path: &std::path::Path) {
    let file = std::fs::File::open(path).expect("it is there");
    file.sync_all().expect("a disk that works");
    let middle = file.metadata().expect("a file").len() / 2;
    rustix::fs::fadvise(&file, middle, None, rustix::fs::Advice::DontNeed).expect("an advice");
}

#[test]
fn a_rank_s_reads_tell_of_what_they_leave_out() {
    let rows: Vec<u8> = (0..4 * MIB).map(|at| (at / 977) as u8).collect();
    let sample = Sample::of(vec![common::Content {
        name: "rows".to_owned(),
        dtype: Dtype::F32,
        shape: vec![8, (MIB / 8) as u64],
        bytes: rows,
    }]);
    let whole = sample.open();
    let half = Select::all()
        .shard("rows", Shard::new(1, 1, 2))
        .expect("a pattern");
    let checkpoint = whole.select(&half).expect("a valid part");
    let record = Arc::new(Record::default());
    let loader = Loader::new().io(Io::Buffered).observer(record.clone());
    let model = loader.load(&checkpoint).expect("a valid checkpoint");
    let events = record.take();
    let reads = events.iter().filter_map(|event| match event {
        Event::Read(read) => Some(read),
        _ => None,
    });
    let (mut bytes, mut span) = (0, 0);
    for read in reads {
        assert!(read.offset >= whole.tensors()[0].offset, "{read:?}");
        bytes += read.bytes;
        span += read.span;
    }
    assert_eq!(bytes, io_bytes(model.report()));
    assert!(bytes >= checkpoint.bytes() && span <= whole.bytes());
    check_allocations(&events, model.report());
}

/// Remembers who told of what lasted how long, and when.
#[derive(Default)]
struct Clock(Mutex<Vec<(ThreadId, Instant, Duration)>>);

impl Clock {
    fn note(&self, duration: Duration) {
        let mut told = self.0.lock().expect("no panic");
        told.push((thread::current().id(), Instant::now(), duration));
    }
}

impl Observer for Clock {
    fn leased(&self, event: &Leased) {
        self.note(event.duration);
    }

    fn touched(&self, event: &Touched) {
        self.note(event.duration);
    }

    fn read(&self, event: &ReadDone) {
        self.note(event.duration);
    }
}

/// Who draws a timeline takes what a thread tells of for what it did just before.
#[test]
fn what_a_thread_tells_of_it_did_after_what_it_told_before() {
    let sample = Sample::uniform(24, 300 * KIB);
    let checkpoint = sample.open();
    let clock = Arc::new(Clock::default());
    let loader = Loader::new().threads(3).observer(clock.clone());
    let begun = Instant::now();
    loader.load(&checkpoint).expect("a valid checkpoint");
    let mut stream = loader.stream(&checkpoint).expect("a valid checkpoint");
    assert!(stream.by_ref().all(|tensor| tensor.is_ok()));
    let mut last: Vec<(ThreadId, Instant)> = Vec::new();
    for &(thread, now, duration) in &*clock.0.lock().expect("no panic") {
        let start = now - duration;
        match last.iter_mut().find(|(id, _)| *id == thread) {
            Some((_, end)) => {
                // The two clocks are read one after the other.
                assert!(*end <= start + Duration::from_millis(1), "{thread:?}");
                *end = now;
            }
            None => {
                assert!(begun <= start + Duration::from_millis(1));
                last.push((thread, now));
            }
        }
    }
}

#[test]
fn locking_new_memory_is_told_and_counted() {
    let sample = Sample::uniform(3, MIB);
    let pool = BufferPool::builder().pinned_memory(true).build();
    let record = Arc::new(Record::default());
    let loader = Loader::new().pool(&pool).observer(record.clone());
    let model = loader.load(&sample.open()).expect("a valid checkpoint");
    let events = record.take();
    check_allocations(&events, model.report());
    let steps = |step| {
        let touched = events.iter().filter_map(|event| match event {
            Event::Touched(touched) if touched.step == step => Some(touched.bytes),
            _ => None,
        });
        touched.sum::<u64>()
    };
    assert_eq!(steps(Touch::Fault), sample.bytes());
    assert_eq!(steps(Touch::Lock), model.report().allocation.fresh_bytes);
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
