//! The GPT-2 load: ckload beside the usual ways of loading and beside the limit of the machine, page cache warm.
//!
//! `cargo bench --bench gpt2_load` writes a GPT-2-shaped checkpoint (548 MB) into the target folder, once, then runs all ways of loading
//! in turn, round by round, prints their medians and whether they meet their goals, and in the end lets criterion measure each on
//! its own. It needs about 2.5 GB of memory. With `CKLOAD_BENCH_SMALL=1` the model has 20 MB and the rounds are few: a smoke test.

#![allow(clippy::print_stdout)] // the table is what this program is for

mod side_by_side;

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ckload::synth::{self, Gpt2};
use ckload::{BufferPool, Checkpoint, Loader, Tensor};
use criterion::{Criterion, Throughput};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::SafeTensors;

use side_by_side::setup::{
    Mode, aligned, checkpoint, checksum, huge_pages, refill_page_cache, touch_and_free,
};
use side_by_side::{Comparison, Goal, Row, Sample, machine, timed};

/// What is asked of ckload, as ratios of medians of the same run.
const GOALS: [Goal; 4] = [
    Goal::Faster {
        row: 'd',
        than: 'a',
        factor: 5.0,
    },
    Goal::Within {
        row: 'd',
        of: 'f',
        factor: 1.25,
    },
    Goal::Faster {
        row: 'c',
        than: 'a',
        factor: 2.5,
    },
    Goal::Faster {
        row: 'e',
        than: 'a',
        factor: 8.0,
    },
];

/// What a smoke test loads: a model of GPT-2's kind of 20 MB.
const SMALL: Gpt2 = Gpt2 {
    layers: 4,
    width: 256,
    vocabulary: 5000,
    positions: 256,
};

fn main() {
    let mode = Mode::from_arguments();
    let path = match mode {
        Mode::Full => checkpoint(&synth::gpt2(), "gpt2.safetensors"),
        Mode::Small | Mode::List => checkpoint(&SMALL.blueprint(), "gpt2-20mb.safetensors"),
    };
    let bytes = Checkpoint::open(&path)
        .expect("it was just written")
        .bytes();
    let (names, mut rows): (Vec<_>, Vec<_>) = rows(&path).into_iter().unzip();

    if mode != Mode::List {
        let rounds = if mode == Mode::Small { 3 } else { 15 };
        refill_page_cache(&path).expect("the checkpoint is there");
        println!(
            "{}; {} threads; {bytes} bytes of tensors\n",
            machine::describe(),
            threads()
        );
        let comparison = Comparison::run(&mut rows, rounds);
        comparison.print(bytes, 'a');
        println!();
        if mode == Mode::Small {
            println!(
                "The goals are for the whole model; the ratios of this small one mean nothing."
            );
        } else {
            comparison.print_goals(&GOALS);
        }
        println!();
    }

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("gpt2_load");
    group.throughput(Throughput::Bytes(bytes));
    for (name, row) in names.into_iter().zip(&mut rows) {
        group.bench_function(format!("{}_{name}", row.key), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| (row.measure)().elapsed).sum());
        });
    }
    group.finish();
    criterion.final_summary();
}

fn bytes_of(path: &Path) -> u64 {
    path.metadata().expect("the checkpoint is there").len()
}

fn threads() -> usize {
    num_cpus::get()
}

/// Every way of loading the checkpoint at `path`, with its name for criterion.
fn rows(path: &Path) -> Vec<(&'static str, Row)> {
    let row = |key, name, way, inside, measure: Box<dyn FnMut() -> Sample>| {
        let row = Row {
            key,
            way,
            inside,
            measure,
        };
        (name, row)
    };
    vec![
        row(
            'a',
            "fs_read",
            "`std::fs::read` + `SafeTensors::deserialize`",
            "open, allocate, read, parse; freeing the memory is not",
            Box::new(fs_read(path.to_owned())),
        ),
        row(
            'b',
            "mmap_copy",
            "mmap + copy of each tensor into its own `Vec`",
            "open, map, parse, copy, unmap; freeing the copies is not",
            Box::new(mmap_copy(path.to_owned())),
        ),
        row(
            'c',
            "resident_new_pool",
            "ckload, resident, new pool",
            "make the pool and the loader, open, load; freeing model and pool is not",
            Box::new(resident_new_pool(path.to_owned())),
        ),
        row(
            'd',
            "resident_warm_pool",
            "ckload, resident, warm pool",
            "open, load into recycled buffers; giving them back is not",
            Box::new(resident_warm_pool(path.to_owned())),
        ),
        row(
            'e',
            "stream_warm_pool",
            "ckload, streamed, warm pool",
            "open, stream every tensor and drop it on arrival: everything",
            Box::new(stream_warm_pool(path.to_owned())),
        ),
        row(
            'f',
            "limit",
            "the limit: parallel `pread` into memory that is mapped already",
            "open, read in pieces of 4 MiB; mapping the memory is not, and nothing is parsed",
            Box::new(limit(path.to_owned())),
        ),
    ]
}

/// (a)
fn fs_read(path: PathBuf) -> impl FnMut() -> Sample {
    move || {
        touch_and_free(bytes_of(&path));
        timed(|| {
            let bytes = std::fs::read(&path).expect("the checkpoint is there");
            let tensors = SafeTensors::deserialize(&bytes).expect("the checkpoint is valid");
            black_box(checksum(tensors.iter().map(|(_, tensor)| tensor.data())));
            bytes
        })
    }
}

/// (b)
fn mmap_copy(path: PathBuf) -> impl FnMut() -> Sample {
    move || {
        touch_and_free(bytes_of(&path));
        timed(|| {
            let file = File::open(&path).expect("the checkpoint is there");
            let map = map_for_reading(&file).expect("the checkpoint can be mapped");
            let tensors = SafeTensors::deserialize(&map).expect("the checkpoint is valid");
            let copies: Vec<Vec<u8>> = tensors
                .iter()
                .map(|(_, tensor)| tensor.data().to_vec())
                .collect();
            black_box(checksum(copies.iter().map(Vec::as_slice)));
            copies
        })
    }
}

#[allow(unsafe_code)] // the way of loading that is being measured
fn map_for_reading(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file lies in this package's target folder, where nothing changes it while the benchmark runs.
    unsafe { Mmap::map(file) }
}

/// (c)
fn resident_new_pool(path: PathBuf) -> impl FnMut() -> Sample {
    move || {
        touch_and_free(bytes_of(&path));
        timed(|| {
            let pool = BufferPool::new();
            let loader = Loader::new().pool(&pool).threads(threads());
            let checkpoint = Checkpoint::open(&path).expect("the checkpoint is valid");
            let model = loader.load(&checkpoint).expect("the checkpoint loads");
            black_box(checksum(
                model.tensors().iter().map(|tensor| &tensor.bytes()[..]),
            ));
            (model, loader, pool)
        })
    }
}

/// (d)
fn resident_warm_pool(path: PathBuf) -> impl FnMut() -> Sample {
    let loader = Loader::new().pool(&BufferPool::new()).threads(threads());
    move || {
        timed(|| {
            let checkpoint = Checkpoint::open(&path).expect("the checkpoint is valid");
            let model = loader.load(&checkpoint).expect("the checkpoint loads");
            black_box(checksum(
                model.tensors().iter().map(|tensor| &tensor.bytes()[..]),
            ));
            model
        })
    }
}

/// (e)
fn stream_warm_pool(path: PathBuf) -> impl FnMut() -> Sample {
    let loader = Loader::new().pool(&BufferPool::new()).threads(threads());
    move || {
        timed(|| {
            let checkpoint = Checkpoint::open(&path).expect("the checkpoint is valid");
            let stream = loader.stream(&checkpoint).expect("the checkpoint streams");
            for tensor in stream {
                let tensor: Tensor = tensor.expect("every tensor arrives");
                black_box(checksum([&tensor.bytes()[..]]));
            }
        })
    }
}

/// (f)
fn limit(path: PathBuf) -> impl FnMut() -> Sample {
    let workers = rayon::ThreadPoolBuilder::new()
        .num_threads(threads())
        .build()
        .expect("threads can be started");
    let len = bytes_of(&path) as usize;
    let mut map = huge_pages(len);
    move || {
        let memory = &mut aligned(&mut map)[..len];
        timed(|| {
            let file = File::open(&path).expect("the checkpoint is there");
            workers.install(|| {
                memory
                    .par_chunks_mut(4 << 20)
                    .enumerate()
                    .for_each(|(number, piece)| {
                        file.read_exact_at(piece, (number * (4 << 20)) as u64)
                            .expect("the checkpoint is as long as it was");
                    });
            });
            black_box(checksum([&*memory]));
        })
    }
}
