//! Thousands of loads, many of which fail: what succeeds is right, what must fail does, and the process stays as it was.
//!
//! The process is measured as a whole, so this is the only test in it.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr)] // says which load of two thousand failed

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ckload_loaders::{
    ByteSize, Checkpoint, Dtype, Error, Io, Loader, Model, Observer, Planned, ReadDone, Report,
    TensorInfo,
};
use ckload_pool::BufferPool;
use fastrand::Rng;
use tempfile::TempDir;

use common::{
    Content, HANG, KIB, MIB, Sample, Shard, WAYS, Way, await_all_returned, by_name, index, random,
    smallest_budget, write,
};

const LOADS: usize = 2000;

/// By then every buffer, thread and list has its size.
const WARM_UP: usize = 400;

/// The process is looked at each time after so many loads.
const LOOK_EVERY: usize = 400;

/// What the allocator may keep in one look and not in another, in bytes. A leak of 6 KiB a load is more.
const MOST_GROWTH: usize = 8 * MIB;

/// The threads of the loaders that last.
const THREADS: [usize; 3] = [1, 2, 4];

const POOL_BYTES: usize = 64 * MIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Before the checkpoint is opened.
    Missing,
    DamagedHeader,
    CutOff,
    /// Between opening and loading.
    Truncated,
    Grown,
    Removed,
    /// While it loads, when the first bytes are there.
    TruncatedLater,
    RemovedLater,
    /// In the code that uses the loader.
    Budget,
    Dropped,
    ConsumerPanics,
    ObserverPanics(Call),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Planned,
    Read,
    Tensor,
    Finished,
}

const FAULTS: [Fault; 15] = [
    Fault::Missing,
    Fault::DamagedHeader,
    Fault::CutOff,
    Fault::Truncated,
    Fault::Grown,
    Fault::Removed,
    Fault::TruncatedLater,
    Fault::RemovedLater,
    Fault::Budget,
    Fault::Dropped,
    Fault::ConsumerPanics,
    Fault::ObserverPanics(Call::Planned),
    Fault::ObserverPanics(Call::Read),
    Fault::ObserverPanics(Call::Tensor),
    Fault::ObserverPanics(Call::Finished),
];

/// Does `first` at the first read, and panics in calls of one kind, if any.
struct Meddler<F> {
    first: F,
    is_done: AtomicBool,
    panics: Option<Call>,
}

impl<F> Meddler<F> {
    fn called(&self, call: Call) {
        if self.panics == Some(call) {
            panic_quietly();
        }
    }
}

impl<F: Fn() + Send + Sync> Observer for Meddler<F> {
    fn planned(&self, _event: &Planned) {
        self.called(Call::Planned);
    }

    fn read(&self, _event: &ReadDone) {
        if !self.is_done.swap(true, Relaxed) {
            (self.first)();
        }
        self.called(Call::Read);
    }

    fn tensor(&self, _info: &TensorInfo) {
        self.called(Call::Tensor);
    }

    fn finished(&self, _report: &Report) {
        self.called(Call::Finished);
    }
}

/// Panics without the message that the hook prints.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("their own fault"))
}

/// One checkpoint, written once; loads that harm it get a copy.
struct Original {
    sample: Sample,
    /// The file names of the shards that hold bytes.
    with_bytes: Vec<String>,
    is_indexed: bool,
}

impl Original {
    fn new(random: &mut Rng, noise: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let count = random.usize(1..=3);
        let mut shards = vec![Vec::new(); count];
        for number in 0..random.usize(0..=40) {
            let len = match random.u8(..32) {
                0 => random.usize(..3 * MIB),
                1..8 => random.usize(..200 * KIB),
                8 => 0,
                _ => random.usize(..10 * KIB),
            };
            let start = random.usize(..noise.len() - len);
            shards[random.usize(..count)].push(Content {
                name: format!("t{number}"),
                dtype: Dtype::U8,
                shape: vec![len as u64],
                bytes: noise[start..start + len].to_vec(),
            });
        }
        let named: Vec<(String, Vec<Content>)> = shards
            .into_iter()
            .enumerate()
            .map(|(number, tensors)| (format!("model-{number}.safetensors"), tensors))
            .collect();
        for (name, tensors) in &named {
            let bytes = Shard::of(tensors.clone()).to_bytes();
            write(&folder.path().join(name), &bytes);
        }
        let is_indexed = random.bool();
        if is_indexed {
            let places = named.iter().flat_map(|(file, tensors)| {
                tensors
                    .iter()
                    .map(|content| (content.name.as_str(), file.as_str()))
            });
            let path = folder.path().join("model.safetensors.index.json");
            write(&path, index(places).as_bytes());
        }
        let with_bytes = named
            .iter()
            .filter(|(_, tensors)| tensors.iter().any(|content| !content.bytes.is_empty()))
            .map(|(file, _)| file.clone())
            .collect();
        Self {
            sample: Sample {
                path: folder.path().to_owned(),
                folder,
                tensors: by_name(named.into_iter().flat_map(|(_, tensors)| tensors).collect()),
                metadata: Default::default(),
            },
            with_bytes,
            is_indexed,
        }
    }

    fn copy(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(&self.sample.path).expect("our folder") {
            let entry = entry.expect("our folder");
            fs::copy(entry.path(), folder.path().join(entry.file_name()))
                .expect("room on the disk");
        }
        folder
    }
}

/// One load and everything that was drawn for it.
struct Case<'a> {
    way: Way,
    io: Io,
    fault: Fault,
    loader: &'a Loader,
    /// The shard that is harmed.
    victim: Option<&'a str>,
    /// A number for whatever wants one.
    dice: usize,
}

fn writable(path: &Path) -> fs::File {
    let file = OpenOptions::new().write(true).open(path);
    file.expect("our own file")
}

fn shorten(path: &Path, dice: usize) {
    let file = writable(path);
    let bytes = file.metadata().expect("our own file").len();
    file.set_len(dice as u64 % bytes).expect("our own file");
}

impl Case<'_> {
    /// Loads `original`, or what a fault makes of it, and judges what comes of that; returns a model to keep for a while.
    fn run(&self, original: &Original) -> Option<Model> {
        let harms_files = matches!(
            self.fault,
            Fault::Missing
                | Fault::DamagedHeader
                | Fault::CutOff
                | Fault::Truncated
                | Fault::Grown
                | Fault::Removed
                | Fault::TruncatedLater
                | Fault::RemovedLater
        );
        let copy = harms_files.then(|| original.copy());
        let folder = copy
            .as_ref()
            .map_or(original.sample.path.as_path(), TempDir::path);
        let victim = folder.join(self.victim.unwrap_or("nothing to harm"));
        match self.fault {
            Fault::Missing => fs::remove_file(&victim).expect("our own file"),
            Fault::DamagedHeader => {
                let place = [7, 8, 9][self.dice % 3];
                let file = writable(&victim);
                file.write_all_at(&[0xff], place).expect("our own file");
            }
            Fault::CutOff => shorten(&victim, self.dice),
            _ => {}
        }
        let checkpoint = match (Checkpoint::open(folder), self.fault) {
            (Err(error), Fault::Missing | Fault::DamagedHeader | Fault::CutOff) => {
                assert!(error.path().is_some(), "{error}");
                return None;
            }
            (Ok(_), Fault::Missing | Fault::DamagedHeader | Fault::CutOff) => panic!("opened"),
            (checkpoint, _) => checkpoint.expect("good files"),
        };
        match self.fault {
            Fault::Truncated => shorten(&victim, self.dice),
            Fault::Grown => {
                let file = OpenOptions::new().append(true).open(&victim);
                file.and_then(|mut file| file.write_all(b"more"))
                    .expect("our own file");
            }
            Fault::Removed => fs::remove_file(&victim).expect("our own file"),
            _ => {}
        }
        self.load(original, &checkpoint, victim)
    }

    fn load(&self, original: &Original, checkpoint: &Checkpoint, victim: PathBuf) -> Option<Model> {
        let sample = &original.sample;
        let (fault, dice) = (self.fault, self.dice);
        let meddler = Meddler {
            first: move || match fault {
                Fault::TruncatedLater => shorten(&victim, dice),
                Fault::RemovedLater => fs::remove_file(&victim).expect("our own file"),
                _ => {}
            },
            is_done: AtomicBool::new(false),
            panics: match fault {
                Fault::ObserverPanics(call) => Some(call),
                _ => None,
            },
        };
        let mut loader = self.loader.clone().io(self.io).observer(Arc::new(meddler));
        if dice.is_multiple_of(2) {
            // Chunks want two pages, of whatever size the tensors are.
            let smallest = smallest_budget(self.loader, checkpoint).as_u64();
            let smallest = smallest.max(8 * KIB as u64);
            loader = loader.budget(ByteSize::b(smallest + (dice as u64 % MIB as u64)));
        }
        let kinds: &[&str] = match fault {
            Fault::Truncated | Fault::Grown => &["changed"],
            Fault::Removed => &["io"],
            Fault::TruncatedLater => &["read"],
            Fault::ObserverPanics(_) => &["worker_panicked"],
            Fault::Budget => {
                loader = loader.budget(ByteSize::b(1));
                &["budget_too_small"]
            }
            Fault::Dropped => {
                let stream = loader.stream(checkpoint).expect("good files");
                for tensor in stream.take(dice % 7) {
                    sample.check(&tensor.expect("good files"));
                }
                return None;
            }
            Fault::ConsumerPanics => {
                // Who holds more than the budget is told so, sooner or later.
                let loader = loader.patience(Duration::from_millis(20));
                let consume = || -> () {
                    let stream = loader.stream(checkpoint).expect("good files");
                    let _held: Vec<_> = stream.take(dice % 3).collect();
                    panic_quietly();
                };
                if dice.is_multiple_of(5) {
                    let joined = thread::scope(|scope| scope.spawn(consume).join());
                    joined.expect_err("it panics");
                } else {
                    catch_unwind(AssertUnwindSafe(consume)).expect_err("it panics");
                }
                return None;
            }
            _ if self.way == Way::Resident && dice.is_multiple_of(3) => {
                return Some(loader.load(checkpoint).expect("good files"));
            }
            _ => &[],
        };
        let result = self.way.load_checked(&loader, checkpoint, sample);
        let kind = result.as_ref().err().map(Error::kind);
        let is_right = match kind {
            None => kinds.is_empty(),
            Some(kind) => kinds.contains(&kind),
        };
        assert!(is_right, "{kinds:?} expected: {result:?}");
        None
    }
}

/// What a leak would make grow.
#[derive(Clone, Copy, Debug)]
struct Look {
    resident_bytes: usize,
    descriptors: usize,
    threads: usize,
}

impl Look {
    fn now() -> Self {
        let entries = |path| fs::read_dir(path).expect("Linux tells").count();
        let statm = fs::read_to_string("/proc/self/statm").expect("Linux tells");
        let pages = statm.split(' ').nth(1).expect("a line of numbers");
        Self {
            resident_bytes: pages.parse::<usize>().expect("a number") * rustix::param::page_size(),
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }

    /// Looks until there are no more descriptors and threads than that: a loader that is gone, and what a dropped stream reads, take a
    /// moment to end.
    fn settled(descriptors: usize, threads: usize) -> Self {
        let start = Instant::now();
        loop {
            let look = Self::now();
            if look.descriptors <= descriptors && look.threads <= threads || start.elapsed() > HANG
            {
                return look;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Draws what is to go wrong with a load of `original`, and in which way and mode it is loaded.
fn draw(random: &mut Rng, original: &Original) -> (Fault, Way, Io) {
    let way = random.choice(WAYS).expect("not empty");
    let io = random.choice(Io::ALL).expect("not empty");
    let fault = match random.bool() {
        true => random.choice(FAULTS).expect("not empty"),
        false => Fault::None,
    };
    let has_bytes = !original.with_bytes.is_empty();
    let can_happen = match fault {
        Fault::None | Fault::Dropped | Fault::ConsumerPanics => true,
        Fault::ObserverPanics(Call::Planned | Call::Finished) => true,
        // Without an index nobody knows that a file should be there.
        Fault::Missing => has_bytes && original.is_indexed,
        // Who truncates a mapped file ends the process.
        Fault::TruncatedLater => has_bytes && io != Io::Mmap,
        _ => has_bytes,
    };
    match (can_happen, fault) {
        (false, _) => (Fault::None, way, io),
        (true, Fault::Budget) => (fault, Way::Stream, io),
        (true, _) => (fault, way, io),
    }
}

#[allow(clippy::print_stdout)] // shown when the test fails
fn soak(mut random: Rng, progress: &Sender<usize>) {
    let mut noise = vec![0; 4 * MIB];
    random.fill(&mut noise);
    let originals: Vec<Original> = (0..32)
        .map(|_| Original::new(&mut random, &noise))
        .collect();
    let pool = BufferPool::builder()
        .min_buffer_size(64 * KIB)
        .max_bytes(POOL_BYTES)
        .build();
    let before = Look::now();
    let loaders = THREADS.map(|threads| Loader::new().pool(&pool).threads(threads));
    let mut serving: Option<(Model, &Original)> = None;
    let mut looks: Vec<Look> = Vec::new();
    for number in 1..=LOADS {
        let original = random.choice(&originals).expect("not empty");
        let (fault, way, io) = draw(&mut random, original);
        let is_new = random.u8(..20) == 0;
        let own = is_new.then(|| Loader::new().pool(&pool).threads(3));
        let case = Case {
            way,
            io,
            fault,
            loader: own
                .as_ref()
                .unwrap_or_else(|| random.choice(&loaders).expect("not empty")),
            victim: random.choice(&original.with_bytes).map(String::as_str),
            dice: random.usize(..1 << 40),
        };
        let model = catch_unwind(AssertUnwindSafe(|| case.run(original))).unwrap_or_else(|panic| {
            println!(
                "load {number} failed: {way:?}, {io}, {fault:?}, {}",
                case.dice
            );
            resume_unwind(panic)
        });
        // A model serves until the next is there: its bytes must have stayed what they were.
        if let Some((model, original)) = serving.take() {
            original.sample.check_all(model.tensors());
        }
        serving = model.map(|model| (model, original));
        if serving.is_none() {
            await_all_returned(&pool);
        }
        if number.is_multiple_of(LOOK_EVERY) {
            drop((serving.take(), own));
            await_all_returned(&pool);
            pool.clear();
            assert_eq!(pool.held_bytes(), 0);
            looks.push(Look::settled(
                before.descriptors,
                before.threads + THREADS.iter().sum::<usize>(),
            ));
        }
        progress.send(number).expect("somebody watches");
    }
    judge(before, &looks);
}

#[allow(clippy::print_stdout)] // shown when the test fails
fn judge(before: Look, looks: &[Look]) {
    println!("{before:?}, then {looks:#?}");
    let warm = looks[WARM_UP / LOOK_EVERY - 1];
    for look in looks {
        assert_eq!(look.descriptors, before.descriptors);
        assert_eq!(look.threads, before.threads + THREADS.iter().sum::<usize>());
        assert!(look.resident_bytes <= warm.resident_bytes + MOST_GROWTH);
    }
}

#[test]
fn thousands_of_loads_leave_the_process_as_it_was() {
    let random = random();
    let (progress, ticks) = mpsc::channel();
    let soaking = thread::spawn(move || soak(random, &progress));
    let mut last = 0;
    loop {
        match ticks.recv_timeout(HANG) {
            Ok(number) => last = number,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("hangs after load {last}"),
        }
    }
    soaking.join().unwrap_or_else(|panic| resume_unwind(panic));
    assert_eq!(last, LOADS);
}
