//! Loads in every state of the page cache and of the pool, each beside the limit of the machine in that state.
//!
//! `cargo bench --bench load_states` takes a GPT-2-shaped checkpoint (548 MB, data at an odd offset), or any other whose path is given
//! behind `--`, as may be the states: `warm`, `new` (memory), `stream`, `cold`, `half` (cached). A *limit* is the best of plain loops of `pread`, buffered or past the page cache (`O_DIRECT`), with 1 to 16 threads and pieces of
//! 1 to 8 MiB: the best is picked anew in every run and then takes its turn with the loaders. Memory: about three times the checkpoint.
//!
//! A row that is to find a file cold asks the kernel whether it is, and the program ends if it is not. With `CKLOAD_BENCH_SMALL=1` the
//! model has 20 MB and the rounds are few: a smoke test.

#![allow(clippy::print_stdout)] // the tables are what this program is for

mod side_by_side;

use std::fs::File;
use std::hint::black_box;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ckload::synth::{self, Gpt2};
use ckload::{BufferPool, Checkpoint, Io, Loader, Observer, ReadDone, TensorInfo, usage};
use io_uring::{IoUring, opcode, types};
use memmap2::{Mmap, MmapMut};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::fs::{Advice, OFlags, fadvise};
use safetensors::SafeTensors;

use side_by_side::setup::{
    Mode, aligned, checkpoint, checksum, huge_pages, refill_page_cache, touch_and_free,
    untouched_huge_pages,
};
use side_by_side::{Comparison, Goal, Row, Sample, machine, timed};

/// What a smoke test loads: a model of GPT-2's kind of 20 MB.
const SMALL: Gpt2 = Gpt2 {
    layers: 4,
    width: 256,
    vocabulary: 5000,
    positions: 256,
};

const MIB: usize = 1 << 20;

/// A tensor of more bytes than this does not stay in a CPU's cache.
const CACHED_BYTES: u64 = 32 << 20;

fn main() {
    let mode = Mode::from_arguments();
    if mode == Mode::List {
        return;
    }
    let (paths, states): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .partition(|word| Path::new(word).exists());
    let given = paths.into_iter().next();
    let path = match (given, mode) {
        (Some(path), _) => PathBuf::from(path),
        (None, Mode::Full) => checkpoint(&synth::gpt2(), "gpt2.safetensors"),
        (None, _) => checkpoint(&SMALL.blueprint(), "gpt2-20mb.safetensors"),
    };
    let bench = Bench::new(path, mode);
    println!("{}", machine::describe());
    println!(
        "{}: {} files, {} tensors, {} bytes\n",
        bench.path.display(),
        bench.files.len(),
        bench.opened.tensors().len(),
        bench.opened.bytes()
    );
    let all: [State; 5] = [
        ("warm", Bench::warm_pool),
        ("new", Bench::new_pool),
        ("stream", Bench::stream),
        ("cold", Bench::cold),
        ("half", Bench::half_cached),
    ];
    for (name, measure) in all {
        if states.is_empty() || states.iter().any(|state| state == name) {
            measure(&bench);
            bench.pool.clear();
        }
    }
}

/// What measures a state, by the word that asks for it.
type State = (&'static str, fn(&Bench));

/// An observer that counts, as a progress bar does.
#[derive(Default)]
struct Counter {
    reads: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    tensors: AtomicU64,
}

impl Observer for Counter {
    fn read(&self, event: &ReadDone) {
        self.reads.fetch_add(1, Relaxed);
        self.bytes.fetch_add(event.bytes, Relaxed);
        let time = event.duration.as_nanos() as u64;
        self.nanoseconds.fetch_add(time, Relaxed);
    }

    fn tensor(&self, _tensor: &TensorInfo) {
        self.tensors.fetch_add(1, Relaxed);
    }
}

/// A way of reading files without anything around it.
#[derive(Clone, Copy, Debug)]
struct Loop {
    threads: usize,
    piece: usize,
    direct: bool,
}

/// What each piece of the files is read into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Into {
    /// Memory of its own.
    Memory,
    /// The same, but the tensors alone, to where their types' alignments allow them to lie: beside a file of an odd offset the
    /// processor copies between addresses that do not agree, which some do more slowly.
    Suited,
    /// One buffer of each thread, which stays in the CPU's cache.
    Cached,
    /// The same, tensor by tensor: one buffer of each thread, as large as a tensor. What is larger than the cache has memory of its own.
    Tensors,
}

struct Bench {
    path: PathBuf,
    opened: Checkpoint,
    files: Arc<Vec<OneFile>>,
    rounds: usize,
    /// The memory of the limits.
    memory: Arc<Mutex<MmapMut>>,
    /// The memory of all resident loads: of a large checkpoint there is no room for one pool each.
    pool: BufferPool,
}

struct OneFile {
    path: PathBuf,
    bytes: usize,
    /// Where its bytes go in the memory of the limits.
    start: usize,
    /// The ranges of its tensors, small neighbours together.
    tensors: Vec<Range<u64>>,
}

/// Which part of every file.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    FirstHalf,
    SecondHalf,
}

impl Bench {
    fn new(path: PathBuf, mode: Mode) -> Self {
        let opened = Checkpoint::open(&path).expect("the checkpoint is valid");
        let rounds = match mode {
            Mode::Full if opened.bytes() > 1 << 30 => 5,
            Mode::Full => 9,
            _ => 1,
        };
        let mut files = Vec::new();
        let mut start = 0;
        for (number, file) in opened.files().iter().enumerate() {
            refill_page_cache(&file.path).expect("the checkpoint is there");
            let tensors = opened.tensors().iter().filter(|info| info.file == number);
            files.push(OneFile {
                path: file.path.clone(),
                bytes: file.bytes as usize,
                start,
                tensors: joined(tensors.map(|info| info.offset..info.offset + info.bytes)),
            });
            start += (file.bytes as usize).next_multiple_of(16 * MIB);
        }
        Self {
            path,
            opened,
            files: Arc::new(files),
            rounds,
            memory: Arc::new(Mutex::new(huge_pages(start))),
            pool: BufferPool::new(),
        }
    }

    fn bytes(&self) -> u64 {
        self.opened.bytes()
    }

    fn compare(&self, title: &str, mut rows: Vec<Row>, goals: &[Goal]) -> Comparison {
        println!("## {title}\n");
        let comparison = Comparison::run(&mut rows, self.rounds);
        comparison.print(self.bytes(), 'l');
        println!();
        if self.bytes() > 100 << 20 {
            comparison.print_goals(goals);
            println!();
        }
        comparison
    }

    /// The file in the page cache, memory used before.
    fn warm_pool(&self) {
        self.warm();
        let limit = self.best(false, Into::Memory, Part::Whole, || {});
        let mut rows = vec![
            self.limit_row('l', limit, Into::Memory, Part::Whole, || {}),
            self.limit_row('x', limit, Into::Suited, Part::Whole, || {}),
            self.resident('a', "auto", Loader::new(), || {}),
        ];
        for (key, io) in [('b', Io::Buffered), ('d', Io::Direct), ('m', Io::Mmap)] {
            rows.push(self.resident(key, io_name(io), Loader::new().io(io), || {}));
        }
        let observed = Loader::new().observer(Arc::new(Counter::default()));
        rows.push(self.resident('o', "observed", observed, || {}));
        rows.extend(self.ring_row('u', limit, || {}));
        let within = |of, factor| Goal::Within {
            row: 'a',
            of,
            factor,
        };
        let goals = [
            within('l', 1.1),
            within('x', 1.1),
            within('b', 1.03),
            within('d', 1.03),
            within('m', 1.03),
            Goal::Within {
                row: 'o',
                of: 'a',
                factor: 1.01,
            },
        ];
        self.compare("File cached, pool warm, resident", rows, &goals);
    }

    /// The file in the page cache, all memory fresh.
    fn new_pool(&self) {
        self.warm();
        let bytes = self.bytes();
        let path = self.path.clone();
        let files = Arc::clone(&self.files);
        let threads = num_cpus::get();
        let fresh = {
            let files = Arc::clone(&self.files);
            let pool = workers(threads);
            move || {
                touch_and_free(bytes);
                timed(|| {
                    let len: usize = files
                        .iter()
                        .map(|file| file.bytes.next_multiple_of(16 * MIB))
                        .sum();
                    let mut map = untouched_huge_pages(len);
                    let way = Loop {
                        threads,
                        piece: 4 * MIB,
                        direct: false,
                    };
                    read_all(
                        &pool,
                        &files,
                        way,
                        Into::Memory,
                        Part::Whole,
                        aligned(&mut map),
                    );
                    map
                })
            }
        };
        let rows = vec![
            row(
                'l',
                "the limit: parallel `pread` into fresh huge pages",
                "map, touch, read",
                fresh,
            ),
            row(
                'a',
                "ckload, resident, new loader and new pool",
                "make both, open, load; freeing is not",
                move || {
                    touch_and_free(bytes);
                    timed(|| {
                        let loader = Loader::new().pool(&BufferPool::new());
                        let opened = Checkpoint::open(&path).expect("the checkpoint is valid");
                        let model = loader.load(&opened).expect("the checkpoint loads");
                        black_box(sum_of(&model));
                        (model, loader)
                    })
                },
            ),
            self.new_process('p'),
            row(
                'f',
                "`std::fs::read` + `SafeTensors::deserialize` of each file",
                "open, allocate, read, parse; freeing is not",
                move || {
                    touch_and_free(bytes);
                    timed(|| {
                        let read = |file: &OneFile| {
                            let bytes = std::fs::read(&file.path).expect("the file is there");
                            let tensors = SafeTensors::deserialize(&bytes).expect("it is valid");
                            black_box(checksum(tensors.iter().map(|(_, tensor)| tensor.data())));
                            bytes
                        };
                        files.iter().map(read).collect::<Vec<_>>()
                    })
                },
            ),
        ];
        let within = |row| Goal::Within {
            row,
            of: 'l',
            factor: 1.4,
        };
        let faster = |row| Goal::Faster {
            row,
            than: 'f',
            factor: 4.0,
        };
        let goals = [within('a'), within('p'), faster('a'), faster('p')];
        self.compare("File cached, fresh memory, resident", rows, &goals);
    }

    /// The command, started anew for each load.
    fn new_process(&self, key: char) -> Row {
        let path = self.path.clone();
        let bytes = self.bytes();
        row(
            key,
            "`ckload --resident`, a new process",
            "open, load, as it reports; starting and ending the process is not",
            move || {
                touch_and_free(bytes);
                let output = Command::new(env!("CARGO_BIN_EXE_ckload"))
                    .args(["--resident", "--json", "--quiet"])
                    .arg(&path)
                    .output()
                    .expect("the command runs");
                assert!(output.status.success(), "{output:?}");
                let report: serde_json::Value =
                    serde_json::from_slice(&output.stdout).expect("a report");
                let run = &report["runs"][0];
                let seconds = |key: &str| run[key].as_f64().expect("a number");
                let elapsed = seconds("seconds") + seconds("open_seconds");
                Sample {
                    elapsed: Duration::from_secs_f64(elapsed),
                    cpu: None,
                    page_faults: run["page_faults"].as_u64().expect("a number"),
                }
            },
        )
    }

    /// The file in the page cache, past a consumer.
    fn stream(&self) {
        self.warm();
        let limit = self.best(false, Into::Cached, Part::Whole, || {});
        let by_tensor = self.best(false, Into::Tensors, Part::Whole, || {});
        let rows = vec![
            self.limit_row('l', limit, Into::Cached, Part::Whole, || {}),
            self.limit_row('w', by_tensor, Into::Tensors, Part::Whole, || {}),
            self.streamed('s', Loader::new(), || {}),
            self.chunked('c', || {}),
        ];
        let within = |row, of| Goal::Within {
            row,
            of,
            factor: 1.25,
        };
        let goals = [within('s', 'w'), within('c', 'l')];
        self.compare("File cached, stream of tensors", rows, &goals);
    }

    /// The file on the disk.
    fn cold(&self) {
        let evict = {
            let files = Arc::clone(&self.files);
            move || files.iter().for_each(OneFile::evict)
        };
        let limit = self.best(true, Into::Memory, Part::Whole, evict.clone());
        let mut rows = vec![
            self.limit_row('l', limit, Into::Memory, Part::Whole, evict.clone()),
            self.resident('a', "auto", Loader::new(), evict.clone()),
            self.streamed('s', Loader::new(), evict.clone()),
            self.chunked('c', evict.clone()),
        ];
        for (key, io) in [('b', Io::Buffered), ('d', Io::Direct)] {
            rows.push(self.resident(key, io_name(io), Loader::new().io(io), evict.clone()));
        }
        rows.push(self.fresh_cold('n', evict.clone()));
        rows.extend(self.ring_row('u', limit, evict.clone()));
        rows.push(self.mmap_copy('m', evict));
        let within = |row, of, factor| Goal::Within { row, of, factor };
        let goals = [
            within('a', 'l', 1.05),
            within('s', 'l', 1.05),
            within('c', 'l', 1.05),
            within('a', 'b', 1.03),
            within('a', 'd', 1.03),
            Goal::Faster {
                row: 'a',
                than: 'm',
                factor: 2.0,
            },
        ];
        self.compare("File not cached", rows, &goals);
    }

    /// The first half of every file in the page cache.
    fn half_cached(&self) {
        let prepare = {
            let files = Arc::clone(&self.files);
            move || files.iter().for_each(OneFile::evict_second_half)
        };
        let warm = self.best(false, Into::Memory, Part::FirstHalf, prepare.clone());
        let cold = self.best(true, Into::Memory, Part::SecondHalf, prepare.clone());
        let first = self.loop_of(warm, Into::Memory, Part::FirstHalf);
        let second = self.loop_of(cold, Into::Memory, Part::SecondHalf);
        let halves = {
            let prepare = prepare.clone();
            row(
                'l',
                "the limits of both halves, one after the other",
                "open, read; mapping the memory is not",
                move || {
                    prepare();
                    timed(|| {
                        first();
                        second();
                    })
                },
            )
        };
        let rows = vec![
            halves,
            self.resident('a', "auto", Loader::new(), prepare.clone()),
            self.resident(
                'b',
                "buffered",
                Loader::new().io(Io::Buffered),
                prepare.clone(),
            ),
            self.resident('d', "direct", Loader::new().io(Io::Direct), prepare),
        ];
        let within = |of, factor| Goal::Within {
            row: 'a',
            of,
            factor,
        };
        let goals = [within('l', 1.0), within('b', 1.03), within('d', 1.03)];
        self.compare("First half of each file cached", rows, &goals);
    }

    fn warm(&self) {
        for file in self.files.iter() {
            refill_page_cache(&file.path).expect("the checkpoint is there");
        }
    }

    /// The quickest of the plain loops.
    fn best(&self, direct: bool, into: Into, part: Part, prepare: impl Fn()) -> Loop {
        let mut best: Option<(Duration, Loop)> = None;
        // A large checkpoint takes seconds each time.
        let pieces: &[usize] = if self.bytes() > 1 << 30 {
            &[4 * MIB]
        } else {
            &[MIB, 4 * MIB, 8 * MIB]
        };
        for threads in [1, 2, 4, 8, 16] {
            for &piece in pieces {
                let way = Loop {
                    threads,
                    piece,
                    direct,
                };
                let read = self.loop_of(way, into, part);
                let fastest = (0..3.min(self.rounds / 2).max(1))
                    .map(|_| {
                        prepare();
                        timed(&read).elapsed
                    })
                    .min();
                if let Some(time) = fastest
                    && best.is_none_or(|(least, _)| time < least)
                {
                    best = Some((time, way));
                }
            }
        }
        let (_, way) = best.expect("there were some");
        println!("best loop: {way:?}");
        way
    }

    fn loop_of(&self, way: Loop, into: Into, part: Part) -> impl Fn() + use<> {
        let files = Arc::clone(&self.files);
        let memory = Arc::clone(&self.memory);
        let pool = workers(way.threads);
        move || {
            let mut memory = memory.lock().expect("no row panicked");
            read_all(&pool, &files, way, into, part, aligned(&mut memory));
        }
    }

    fn limit_row(
        &self,
        key: char,
        way: Loop,
        into: Into,
        part: Part,
        prepare: impl Fn() + 'static,
    ) -> Row {
        let read = self.loop_of(way, into, part);
        let text = match into {
            Into::Memory if way.direct => "the limit: direct reads into mapped memory",
            Into::Memory => "the limit: `pread` into mapped memory",
            Into::Suited => "the same, the tensors alone into memory that suits their types",
            Into::Cached => "the limit: `pread` into one buffer per thread",
            Into::Tensors => "the same, tensor by tensor; those over 32 MiB into mapped memory",
        };
        row(
            key,
            text,
            "open, read; mapping the memory is not, and nothing is parsed",
            move || {
                prepare();
                timed(&read)
            },
        )
    }

    /// The same reads by `io_uring`, if the system has it.
    fn ring_row(&self, key: char, way: Loop, prepare: impl Fn() + 'static) -> Option<Row> {
        let files = Arc::clone(&self.files);
        let memory = Arc::clone(&self.memory);
        let read = move |depth| {
            let mut memory = memory.lock().expect("no row panicked");
            read_all_by_rings(&files, way.piece, way.direct, depth, aligned(&mut memory))
        };
        let timings = [4, 16, 64].into_iter().map(|depth| {
            prepare();
            let mut works = None;
            let time = timed(|| works = read(depth)).elapsed;
            works.map(|()| (time, depth))
        });
        let (_, depth) = timings.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        println!("best depth of the rings: {depth}");
        let text = if way.direct {
            "`io_uring`, direct reads into mapped memory"
        } else {
            "`io_uring`, buffered reads into mapped memory"
        };
        Some(row(
            key,
            text,
            "open, make a ring for each core, read; mapping the memory is not",
            move || {
                prepare();
                timed(|| read(depth))
            },
        ))
    }

    fn resident(
        &self,
        key: char,
        name: &'static str,
        loader: Loader,
        prepare: impl Fn() + 'static,
    ) -> Row {
        let loader = loader.pool(&self.pool);
        let path = self.path.clone();
        let text = match name {
            "auto" => "ckload, resident, auto",
            "observed" => "ckload, resident, auto, with an observer of every read",
            "buffered" => "ckload, resident, buffered",
            "direct" => "ckload, resident, direct",
            _ => "ckload, resident, mmap",
        };
        row(
            key,
            text,
            "open, load into recycled buffers; giving them back is not",
            move || {
                prepare();
                timed(|| {
                    let opened = Checkpoint::open(&path).expect("the checkpoint is valid");
                    let model = loader.load(&opened).expect("the checkpoint loads");
                    black_box(sum_of(&model));
                    model
                })
            },
        )
    }

    fn fresh_cold(&self, key: char, prepare: impl Fn() + 'static) -> Row {
        let path = self.path.clone();
        let bytes = self.bytes();
        row(
            key,
            "ckload, resident, auto, new loader and new pool",
            "make both, open, load; freeing is not",
            move || {
                prepare();
                touch_and_free(bytes);
                timed(|| {
                    let loader = Loader::new().pool(&BufferPool::new());
                    let opened = Checkpoint::open(&path).expect("the checkpoint is valid");
                    let model = loader.load(&opened).expect("the checkpoint loads");
                    black_box(sum_of(&model));
                    (model, loader)
                })
            },
        )
    }

    fn streamed(&self, key: char, loader: Loader, prepare: impl Fn() + 'static) -> Row {
        let loader = loader.pool(&BufferPool::new());
        let path = self.path.clone();
        row(
            key,
            "ckload, stream of tensors, auto",
            "open, stream every tensor and drop it on arrival: everything",
            move || {
                prepare();
                timed(|| {
                    let opened = Checkpoint::open(&path).expect("the checkpoint is valid");
                    for tensor in loader.stream(&opened).expect("the checkpoint streams") {
                        let tensor = tensor.expect("every tensor arrives");
                        black_box(checksum([&tensor.bytes()[..]]));
                    }
                })
            },
        )
    }

    fn chunked(&self, key: char, prepare: impl Fn() + 'static) -> Row {
        let loader = Loader::new().pool(&BufferPool::new());
        let path = self.path.clone();
        row(
            key,
            "ckload, stream of chunks, auto",
            "open, stream every chunk and drop it on arrival: everything",
            move || {
                prepare();
                timed(|| {
                    let opened = Checkpoint::open(&path).expect("the checkpoint is valid");
                    for chunk in loader.chunks(&opened).expect("the checkpoint streams") {
                        let chunk = chunk.expect("every chunk arrives");
                        black_box(checksum([&chunk.bytes()[..]]));
                    }
                })
            },
        )
    }

    fn mmap_copy(&self, key: char, prepare: impl Fn() + 'static) -> Row {
        let files = Arc::clone(&self.files);
        let bytes = self.bytes();
        row(
            key,
            "mmap + copy of each tensor into its own `Vec`",
            "open, map, parse, copy, unmap; freeing the copies is not",
            move || {
                prepare();
                touch_and_free(bytes);
                timed(|| {
                    let copies = |file: &OneFile| -> Vec<Vec<u8>> {
                        let map = map_for_reading(&file.path);
                        let tensors = SafeTensors::deserialize(&map).expect("it is valid");
                        tensors
                            .iter()
                            .map(|(_, tensor)| tensor.data().to_vec())
                            .collect()
                    };
                    files.iter().map(copies).collect::<Vec<_>>()
                })
            },
        )
    }
}

impl OneFile {
    /// Has the page cache let go of the file, and makes sure of it.
    fn evict(&self) {
        let file = File::open(&self.path).expect("the checkpoint is there");
        fadvise(&file, 0, None, Advice::DontNeed).expect("the kernel takes advice");
        if let Some(cached) = usage::cached_bytes(&file) {
            assert!(
                cached < MIB as u64,
                "{cached} bytes stay cached: not a cold load"
            );
        }
    }

    fn evict_second_half(&self) {
        self.evict();
        let file = File::open(&self.path).expect("the checkpoint is there");
        fadvise(&file, 0, None, Advice::Random).expect("the kernel takes advice");
        let mut buffer = vec![0; MIB];
        let half = self.half();
        for at in (0..half).step_by(MIB) {
            let len = MIB.min(half - at);
            file.read_exact_at(&mut buffer[..len], at as u64)
                .expect("it is as long as it was");
        }
    }

    /// What is read at a time.
    fn pieces(&self, piece: usize, into: Into, part: Part) -> Vec<Range<u64>> {
        let half = self.half() as u64;
        let whole = match part {
            Part::Whole => 0..self.bytes as u64,
            Part::FirstHalf => 0..half,
            Part::SecondHalf => half..self.bytes as u64,
        };
        let cut = |range: Range<u64>| {
            let starts = range.clone().step_by(piece);
            starts.map(move |start| start..range.end.min(start + piece as u64))
        };
        match into {
            Into::Memory | Into::Cached => cut(whole).collect(),
            Into::Suited => cut(self.data_start()..whole.end).collect(),
            Into::Tensors => {
                let tensors = self.tensors.iter().cloned();
                let pieces = tensors.flat_map(|range| {
                    if range.end - range.start > CACHED_BYTES {
                        cut(range).collect()
                    } else {
                        vec![range]
                    }
                });
                pieces.collect()
            }
        }
    }

    fn data_start(&self) -> u64 {
        self.tensors.first().map_or(0, |first| first.start)
    }

    /// How far before their places in the file the bytes lie in memory.
    fn shift(&self, into: Into) -> usize {
        match into {
            Into::Suited if !self.data_start().is_multiple_of(8) => self.data_start() as usize,
            _ => 0,
        }
    }

    fn is_of_large(&self, piece: &Range<u64>) -> bool {
        let after = self
            .tensors
            .partition_point(|tensor| tensor.end <= piece.start);
        let tensor = self.tensors.get(after);
        tensor.is_some_and(|tensor| tensor.end - tensor.start > CACHED_BYTES)
    }

    fn half(&self) -> usize {
        (self.bytes / 2).next_multiple_of(MIB).min(self.bytes)
    }
}

/// Joins neighbours as long as they are small together.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start && range.end - last.start <= 4 * MIB as u64 => {
                last.end = range.end;
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Reads a part of all files by a plain loop.
fn read_all(
    pool: &ThreadPool,
    files: &[OneFile],
    way: Loop,
    into: Into,
    part: Part,
    memory: &mut [u8],
) {
    let mut rest = memory;
    let mut cut = 0;
    let mut pieces = Vec::new();
    for file in files {
        let handle = Arc::new(open(&file.path, way.direct));
        for range in file.pieces(way.piece, into, part) {
            let wanted = (range.end - range.start) as usize;
            let shared = into == Into::Cached || into == Into::Tensors && !file.is_of_large(&range);
            // Past the end there is nothing, but a direct read asks for whole blocks.
            let len = if way.direct {
                wanted.next_multiple_of(4096)
            } else {
                wanted
            };
            let at = file.start + range.start as usize - file.shift(into);
            let (_, tail) = rest.split_at_mut(at - cut);
            let (buffer, tail) = tail.split_at_mut(len);
            (rest, cut) = (tail, at + len);
            pieces.push((Arc::clone(&handle), range.start, buffer, !shared, wanted));
        }
    }
    let longest = pieces
        .iter()
        .filter(|piece| !piece.3)
        .map(|piece| piece.2.len());
    let longest = longest.max().unwrap_or(0);
    pool.install(|| {
        pieces.into_iter().par_bridge().for_each_init(
            || vec![0; longest],
            |one, (file, at, buffer, own, wanted)| {
                let buffer = if own {
                    buffer
                } else {
                    &mut one[..buffer.len()]
                };
                let mut done = 0;
                while done < wanted {
                    let read = file.read_at(&mut buffer[done..], at + done as u64);
                    let read = read.expect("the disk works");
                    assert!(read > 0, "the file is as long as it was");
                    done += read;
                }
                black_box(&buffer[..]);
            },
        );
    });
}

/// A read by a ring: the file, where in it, the memory, and how many bytes the file has there at least.
type Asked<'a> = (i32, u64, &'a mut [u8], usize);

/// Reads all files into `memory` through `io_uring`, by as many threads as cores with a ring of `depth` reads each; `None` where the
/// system refuses rings.
#[allow(unsafe_code)] // the interface of the rings is unsafe: the kernel writes to memory while nobody looks
fn read_all_by_rings(
    files: &[OneFile],
    piece: usize,
    direct: bool,
    depth: usize,
    memory: &mut [u8],
) -> Option<()> {
    let threads = num_cpus::get();
    let handles: Vec<File> = files.iter().map(|file| open(&file.path, direct)).collect();
    let mut shares: Vec<Vec<Asked<'_>>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    let mut number = 0;
    let mut rest = memory;
    let mut cut = 0;
    for (file, handle) in files.iter().zip(&handles) {
        for at in (0..file.bytes).step_by(piece) {
            let wanted = piece.min(file.bytes - at);
            let (_, tail) = rest.split_at_mut(file.start + at - cut);
            let (buffer, tail) = tail.split_at_mut(wanted.next_multiple_of(4096));
            cut = file.start + at + buffer.len();
            rest = tail;
            shares[number % threads].push((handle.as_raw_fd(), at as u64, buffer, wanted));
            number += 1;
        }
    }
    let read_share = |share: Vec<Asked<'_>>| -> Option<()> {
        let mut ring = IoUring::new(depth as u32).ok()?;
        let mut waiting = 0;
        let mut next = 0;
        while next < share.len() || waiting > 0 {
            while next < share.len() && waiting < depth {
                let (file, at, buffer, _) = &share[next];
                let target = buffer.as_ptr().cast_mut();
                let read = opcode::Read::new(types::Fd(*file), target, buffer.len() as u32)
                    .offset(*at)
                    .build()
                    .user_data(next as u64);
                // SAFETY: file and memory live until all reads are completed below, and no two reads share memory.
                unsafe { ring.submission().push(&read) }.ok()?;
                next += 1;
                waiting += 1;
            }
            ring.submit_and_wait(1).ok()?;
            for done in ring.completion() {
                let wanted = share[done.user_data() as usize].3;
                assert!(done.result() >= wanted as i32, "a short read, or an error");
                waiting -= 1;
            }
        }
        Some(())
    };
    let results: Vec<Option<()>> = std::thread::scope(|scope| {
        let running: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(|| read_share(share)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("no read failed"))
            .collect()
    });
    results.into_iter().collect()
}

fn open(path: &Path, direct: bool) -> File {
    let flags = if direct {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .expect("the file system takes the flags")
}

fn workers(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads can be started")
}

fn row(
    key: char,
    way: &'static str,
    inside: &'static str,
    measure: impl FnMut() -> Sample + 'static,
) -> Row {
    Row {
        key,
        way,
        inside,
        measure: Box::new(measure),
    }
}

fn io_name(io: Io) -> &'static str {
    match io {
        Io::Buffered => "buffered",
        Io::Direct => "direct",
        Io::Mmap => "mmap",
        _ => "auto",
    }
}

fn sum_of(model: &ckload::Model) -> u64 {
    checksum(model.tensors().iter().map(|tensor| &tensor.bytes()[..]))
}

#[allow(unsafe_code)] // the way of loading that is being measured
fn map_for_reading(path: &Path) -> Mmap {
    let file = File::open(path).expect("the checkpoint is there");
    // SAFETY: nothing changes the file while the benchmark runs; whoever gives a path of their own is told to leave it alone.
    unsafe { Mmap::map(&file) }.expect("the checkpoint can be mapped")
}
