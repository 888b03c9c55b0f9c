//! Loads in every state of the page cache and of the pool, each beside the limit of the machine in that state.
//!
//! `cargo bench --bench load_states` takes a GPT-2-shaped checkpoint (548 MB, data at an odd offset), or any other whose path is given
//! behind `--`, as may be the states: `warm`, `new` (memory), `stream`, `cold`, `half` (cached). A *limit* is the best of plain loops of `pread`, buffered or past the page cache (`O_DIRECT`), with 1 to 16 threads and pieces of
//! 1 to 8 MiB: the best is picked anew in every run and then takes its turn with the loaders. Memory: about three times the checkpoint.
//!
//! A row that is to find a file cold asks the kernel whether it is, and the program ends if it is not. With `CKLOAD_BENCH_SMALL=1` the
//! model has 20 MB and the rounds are few: a smoke test.

#![allow(clippy::print_stdout)] // the tables are what this program is for

mod files;
mod loops;
mod rows;
#[path = "../side_by_side/mod.rs"]
mod side_by_side;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ckload::synth::{self, Gpt2};
use ckload::{BufferPool, Checkpoint, Io, Loader};
use memmap2::MmapMut;

use files::{Into, OneFile, Part, joined};
use rows::{Counter, io_name, row};
use side_by_side::setup::{Mode, checkpoint, huge_pages, refill_page_cache};
use side_by_side::{Comparison, Goal, Row, machine, timed};

/// What a smoke test loads: a model of GPT-2's kind of 20 MB.
const SMALL: Gpt2 = Gpt2 {
    layers: 4,
    width: 256,
    vocabulary: 5000,
    positions: 256,
};

const MIB: usize = 1 << 20;

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
        let rows = vec![
            self.fresh_limit('l'),
            self.new_loader('a', || {}),
            self.new_process('p'),
            self.file_by_file('f'),
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
        rows.push(self.new_loader('n', evict.clone()));
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
}
