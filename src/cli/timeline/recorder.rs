//! Records what loads do.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ckload::pool::Origin;
use ckload::{Leased, Observer, Planned, ReadDone, Report, Source, TensorInfo, Touch, Touched};

use super::{Kind, Place, Span, Timeline, Worker};

/// Threads share a part of the record only from this many on.
const PARTS: usize = 64;

/// Remembers what a load's threads do, and passes it on.
pub(crate) struct Recorder {
    inner: Option<Arc<dyn Observer>>,
    parts: [Mutex<Part>; PARTS],
    frame: Mutex<Frame>,
}

/// What some threads did.
#[derive(Default)]
struct Part {
    entries: Vec<Entry>,
    names: BTreeMap<usize, String>,
}

/// A span, as it is told.
struct Entry {
    thread: usize,
    end: Instant,
    duration: Duration,
    kind: Kind,
    bytes: u64,
    place: Option<Place>,
}

/// When the loads of a record ran.
#[derive(Default)]
struct Frame {
    start: Option<Instant>,
    end: Option<Instant>,
    open_seconds: f64,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Self::around(None)
    }

    /// A recorder that tells `inner` whatever it is told.
    pub(crate) fn around(inner: Option<Arc<dyn Observer>>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            parts: std::array::from_fn(|_| Mutex::default()),
            frame: Mutex::default(),
        })
    }

    /// Takes what was recorded so far, and begins anew; between loads.
    pub(crate) fn timeline(&self) -> Timeline {
        let frame = std::mem::take(&mut *lock(&self.frame));
        let mut by_thread: BTreeMap<usize, (String, Vec<Entry>)> = BTreeMap::new();
        for part in &self.parts {
            let Part { entries, mut names } = std::mem::take(&mut *lock(part));
            for entry in entries {
                let thread = by_thread.entry(entry.thread).or_insert_with(|| {
                    let name = names.remove(&entry.thread);
                    (name.unwrap_or_default(), Vec::new())
                });
                thread.1.push(entry);
            }
        }
        let entries = || by_thread.values().flat_map(|(_, entries)| entries);
        let earliest = entries().map(Entry::start).min();
        let latest = entries().map(|entry| entry.end).max();
        let start = frame.start.into_iter().chain(earliest).min();
        let end = frame.end.into_iter().chain(latest).max();
        let (Some(start), Some(end)) = (start, end) else {
            return Timeline::default();
        };
        let mut workers: Vec<Worker> = by_thread
            .into_values()
            .map(|(name, entries)| Worker {
                name,
                spans: spans(&entries, start),
            })
            .collect();
        workers.sort_by_cached_key(|worker| sorted_as(&worker.name));
        Timeline {
            seconds: (end - start).as_secs_f64(),
            open_seconds: frame.open_seconds,
            workers,
        }
    }

    fn record(&self, kind: Kind, duration: Duration, bytes: u64, place: Option<Place>) {
        let end = Instant::now();
        let thread = this_thread();
        let mut part = lock(&self.parts[thread % PARTS]);
        part.names
            .entry(thread)
            .or_insert_with(|| name_of_this_thread(thread));
        part.entries.push(Entry {
            thread,
            end,
            duration,
            kind,
            bytes,
            place,
        });
    }
}

impl Observer for Recorder {
    fn planned(&self, event: &Planned) {
        lock(&self.frame).start.get_or_insert_with(Instant::now);
        if let Some(inner) = &self.inner {
            inner.planned(event);
        }
    }

    fn leased(&self, event: &Leased) {
        let kind = match event.origin {
            Origin::Fresh { .. } => Kind::FreshMemory,
            _ => Kind::RecycledMemory,
        };
        self.record(kind, event.duration, event.bytes, None);
        if let Some(inner) = &self.inner {
            inner.leased(event);
        }
    }

    fn touched(&self, event: &Touched) {
        let kind = match event.step {
            Touch::Lock => Kind::Lock,
            _ => Kind::FirstTouch,
        };
        self.record(kind, event.duration, event.bytes, None);
        if let Some(inner) = &self.inner {
            inner.touched(event);
        }
    }

    fn read(&self, event: &ReadDone) {
        let kind = match event.source {
            Source::Direct => Kind::Disk,
            Source::Mmap => Kind::Map,
            _ => Kind::PageCache,
        };
        let place = Place {
            file: event.file,
            offset: event.offset,
        };
        self.record(kind, event.duration, event.bytes, Some(place));
        if let Some(inner) = &self.inner {
            inner.read(event);
        }
    }

    fn tensor(&self, info: &TensorInfo) {
        if let Some(inner) = &self.inner {
            inner.tensor(info);
        }
    }

    fn finished(&self, report: &Report) {
        let now = Instant::now();
        let mut frame = lock(&self.frame);
        // A load begins before it is planned.
        let start = now.checked_sub(Duration::from_secs_f64(report.seconds));
        frame.start = frame.start.into_iter().chain(start).min();
        frame.end = Some(now);
        frame.open_seconds = report.open_seconds;
        drop(frame);
        if let Some(inner) = &self.inner {
            inner.finished(report);
        }
    }
}

impl Entry {
    fn start(&self) -> Instant {
        self.end.checked_sub(self.duration).unwrap_or(self.end)
    }
}

/// The spans of one thread, in order.
fn spans(entries: &[Entry], start: Instant) -> Vec<Span> {
    let mut spans: Vec<Span> = entries
        .iter()
        .map(|entry| Span {
            kind: entry.kind,
            start: (entry.start() - start).as_secs_f64(),
            seconds: entry.duration.as_secs_f64(),
            bytes: entry.bytes,
            place: entry.place,
        })
        .collect();
    // A span is told a little after it has ended, so that the next may seem to begin before.
    spans.sort_by(|one, other| one.start.total_cmp(&other.start));
    for number in 1..spans.len() {
        let next = spans[number].start;
        let last = &mut spans[number - 1];
        last.seconds = last.seconds.min(next - last.start).max(0.0);
    }
    spans
}

/// A number that no other thread has.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

fn name_of_this_thread(number: usize) -> String {
    let thread = thread::current();
    thread
        .name()
        .map_or_else(|| format!("thread {number}"), str::to_owned)
}

/// `ckload-2` comes before `ckload-10`, and the thread that loads before those that read for it.
fn sorted_as(name: &str) -> (bool, String, u64) {
    let text = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = name[text.len()..].parse().unwrap_or(0);
    (name != "main", text.to_owned(), number)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use ckload::synth::Gpt2;
    use ckload::{BufferPool, Checkpoint, Loader};

    use super::*;

    #[derive(Default)]
    struct Counting {
        reads: AtomicUsize,
        finished: AtomicUsize,
    }

    impl Observer for Counting {
        fn read(&self, _event: &ReadDone) {
            self.reads.fetch_add(1, Relaxed);
        }

        fn finished(&self, _report: &Report) {
            self.finished.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn each_timeline_is_of_what_came_after_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let counting = Arc::new(Counting::default());
        let recorder = Recorder::around(Some(Arc::clone(&counting) as Arc<dyn Observer>));
        let loader = Loader::new()
            .pool(&BufferPool::new())
            .observer(Arc::clone(&recorder) as Arc<dyn Observer>);
        assert_eq!(recorder.timeline().seconds, 0.0);
        for number in 1..=3 {
            let report = loader.load(&checkpoint).unwrap().report().clone();
            let timeline = recorder.timeline();
            assert!(timeline.seconds >= report.seconds - 1e-6);
            assert_eq!(timeline.open_seconds, report.open_seconds);
            let of = |kind| timeline.spans().filter(move |span| span.kind == kind);
            let reads = timeline.spans().filter(|span| span.kind.is_read());
            assert_eq!(reads.count() as u64, report.io.reads);
            let leased = |kind| of(kind).map(|span| span.bytes).sum::<u64>();
            assert_eq!(leased(Kind::FreshMemory), report.allocation.fresh_bytes);
            assert_eq!(leased(Kind::RecycledMemory), report.allocation.reused_bytes);
            for worker in &timeline.workers {
                assert!(worker.name.starts_with("ckload-"), "{}", worker.name);
                assert!(
                    worker
                        .spans
                        .is_sorted_by(|one, next| one.start + one.seconds <= next.start)
                );
            }
            assert_eq!(counting.finished.load(Relaxed), number);
            assert_eq!(
                counting.reads.load(Relaxed) as u64,
                report.io.reads * number as u64
            );
        }
        assert!(recorder.timeline().workers.is_empty());
    }

    #[test]
    fn threads_stand_in_the_order_of_their_numbers() {
        let mut names = ["ckload-10", "ckload-2", "worker", "main", "ckload-0"];
        names.sort_by_cached_key(|name| sorted_as(name));
        assert_eq!(
            names,
            ["main", "ckload-0", "ckload-2", "ckload-10", "worker"]
        );
    }
}
