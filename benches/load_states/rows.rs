//! What is measured, one row for each: the limits, and the ways of loading.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ckload::{BufferPool, Checkpoint, Io, Loader, Observer, ReadDone, TensorInfo};
use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::files::{Into, OneFile, Part};
use crate::loops::{Loop, read_all, read_all_by_rings, workers};
use crate::side_by_side::setup::{aligned, checksum, touch_and_free, untouched_huge_pages};
use crate::side_by_side::{Row, Sample, timed};
use crate::{Bench, MIB};

/// An observer that counts, as a progress bar does.
#[derive(Default)]
pub(crate) struct Counter {
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

impl Bench {
    /// The command, started anew for each load.
    pub(crate) fn new_process(&self, key: char) -> Row {
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

    /// The quickest of the plain loops.
    pub(crate) fn best(&self, direct: bool, into: Into, part: Part, prepare: impl Fn()) -> Loop {
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

    pub(crate) fn loop_of(&self, way: Loop, into: Into, part: Part) -> impl Fn() + use<> {
        let files = Arc::clone(&self.files);
        let memory = Arc::clone(&self.memory);
        let pool = workers(way.threads);
        move || {
            let mut memory = memory.lock().expect("no row panicked");
            read_all(&pool, &files, way, into, part, aligned(&mut memory));
        }
    }

    pub(crate) fn limit_row(
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
    pub(crate) fn ring_row(
        &self,
        key: char,
        way: Loop,
        prepare: impl Fn() + 'static,
    ) -> Option<Row> {
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

    pub(crate) fn resident(
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

    /// A loader and a pool of its own for each load.
    pub(crate) fn new_loader(&self, key: char, prepare: impl Fn() + 'static) -> Row {
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

    /// Plain reads into memory that has no pages yet.
    pub(crate) fn fresh_limit(&self, key: char) -> Row {
        let files = Arc::clone(&self.files);
        let bytes = self.bytes();
        let way = Loop {
            threads: num_cpus::get(),
            piece: 4 * MIB,
            direct: false,
        };
        let pool = workers(way.threads);
        row(
            key,
            "the limit: parallel `pread` into fresh huge pages",
            "map, touch, read",
            move || {
                touch_and_free(bytes);
                timed(|| {
                    let len: usize = files
                        .iter()
                        .map(|file| file.bytes.next_multiple_of(16 * MIB))
                        .sum();
                    let mut map = untouched_huge_pages(len);
                    let memory = aligned(&mut map);
                    read_all(&pool, &files, way, Into::Memory, Part::Whole, memory);
                    map
                })
            },
        )
    }

    /// What one writes who has no loader.
    pub(crate) fn file_by_file(&self, key: char) -> Row {
        let files = Arc::clone(&self.files);
        let bytes = self.bytes();
        row(
            key,
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
        )
    }

    pub(crate) fn streamed(&self, key: char, loader: Loader, prepare: impl Fn() + 'static) -> Row {
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

    pub(crate) fn chunked(&self, key: char, prepare: impl Fn() + 'static) -> Row {
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

    pub(crate) fn mmap_copy(&self, key: char, prepare: impl Fn() + 'static) -> Row {
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

pub(crate) fn row(
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

pub(crate) fn io_name(io: Io) -> &'static str {
    match io {
        Io::Buffered => "buffered",
        Io::Direct => "direct",
        Io::Mmap => "mmap",
        _ => "auto",
    }
}

pub(crate) fn sum_of(model: &ckload::Model) -> u64 {
    checksum(model.tensors().iter().map(|tensor| &tensor.bytes()[..]))
}

#[allow(unsafe_code)] // the way of loading that is being measured
fn map_for_reading(path: &Path) -> Mmap {
    let file = File::open(path).expect("the checkpoint is there");
    // SAFETY: nothing changes the file while the benchmark runs; whoever gives a path of their own is told to leave it alone.
    unsafe { Mmap::map(&file) }.expect("the checkpoint can be mapped")
}
