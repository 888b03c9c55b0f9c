//! Views of storages, plain and deflated, beside a gather that takes one element after the other.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytesize::ByteSize;
use ckload_pool::BufferPool;
use fastrand::Rng;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use tempfile::NamedTempFile;

use super::Target;
use super::gather::Walk;
use super::inflate::Inflater;
use crate::cancel::Cancels;
use crate::stored::{Scattered, Storage, Stored};
use crate::view::View;
use crate::{Checkpoint, Dtype, Error, Io, Loader, Observer, ReadDone, Select, Shard, TensorInfo};

/// Element types of every size.
const DTYPES: [Dtype; 6] = [
    Dtype::U8,
    Dtype::BF16,
    Dtype::F32,
    Dtype::I64,
    Dtype::C128,
    Dtype::F4,
];

/// A view in elements; of packed ones in their blocks.
#[derive(Debug)]
struct Case {
    dtype: Dtype,
    shape: Vec<u64>,
    strides: Vec<u64>,
    /// The first one.
    start: u64,
}

impl Case {
    /// A tensor as PyTorch may save it: permuted, cut out, stepped through, repeated, or with windows that overlap.
    fn random(random: &mut Rng, most: u64) -> Self {
        let dtype = random.choice(DTYPES).expect("not empty");
        if dtype == Dtype::F4 {
            // Packed elements: rows of whole bytes with something between them.
            let (rows, bytes) = (random.u64(1..9), random.u64(1..9));
            return Self {
                dtype,
                shape: vec![rows, 2 * bytes],
                strides: vec![2 * (bytes + random.u64(0..5)), 1],
                start: random.u64(0..9),
            };
        }
        let rank = random.usize(0..5);
        let most = most.isqrt().isqrt().max(2) * if rank < 3 { 4 } else { 1 };
        let mut shape: Vec<u64> = (0..rank).map(|_| random.u64(1..=most)).collect();
        let mut strides = vec![0; rank];
        let mut distance = 1;
        for number in (0..rank).rev() {
            let step = random.choice([1, 1, 1, 2, 3]).expect("not empty");
            strides[number] = distance * step;
            distance *= shape[number] * step + random.choice([0, 0, 5]).expect("not empty");
        }
        for stride in &mut strides {
            match random.u8(..16) {
                0 => *stride = 0,
                1 => *stride = random.u64(0..=*stride),
                _ => {}
            }
        }
        if random.bool() {
            let mut order: Vec<usize> = (0..rank).collect();
            random.shuffle(&mut order);
            shape = order.iter().map(|&number| shape[number]).collect();
            strides = order.iter().map(|&number| strides[number]).collect();
        }
        Self {
            dtype,
            shape,
            strides,
            start: random.u64(0..20),
        }
    }

    /// The elements' and the storage's sizes in bytes.
    fn sizes(&self) -> (u64, u64) {
        let block = self.dtype.block();
        let steps = self.shape.iter().zip(&self.strides);
        let last: u64 = steps.map(|(len, stride)| (len - 1) * stride).sum();
        let end = self.start * block.bytes + (last / block.elements + 1) * block.bytes;
        (block.bytes, end)
    }

    /// What the tensor's bytes are, taken one element after the other.
    fn gathered(&self, storage: &[u8]) -> Vec<u8> {
        let block = self.dtype.block();
        let mut elements = vec![0];
        for (&len, &stride) in self.shape.iter().zip(&self.strides) {
            elements = (elements.iter())
                .flat_map(|&at| (0..len).map(move |index| at + index * stride))
                .collect();
        }
        // Of packed elements every block's first one stands for all.
        let firsts = elements.into_iter().step_by(block.elements as usize);
        firsts
            .flat_map(|element| {
                let at = (self.start + element / block.elements) * block.bytes;
                storage[at as usize..][..block.bytes as usize].to_vec()
            })
            .collect()
    }

    fn info(&self, name: String, storage: Storage) -> TensorInfo {
        let bytes = self.dtype.bytes_of(&self.shape).expect("whole bytes");
        let (Storage::Plain { offset, .. } | Storage::Deflated { offset, .. }) = storage;
        let start = self.start * self.dtype.block().bytes;
        let mut info = TensorInfo::in_place(name, self.dtype, self.shape.clone(), bytes, offset);
        if let Storage::Plain { .. } = storage {
            info.offset += start;
        }
        info.stored = Stored::Scattered(Arc::new(Scattered {
            storage,
            start,
            strides: self.strides.clone(),
        }));
        info
    }

    fn view(&self, bytes: u64) -> View {
        let info = self.info(String::new(), Storage::Plain { offset: 0, bytes });
        info.view().expect("a view of its storage").1
    }
}

fn random_bytes(random: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // Half of them equal, so that there is something to compress.
    let half = len / 2;
    random.fill(&mut bytes[half..]);
    bytes
}

fn deflated(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Runs `case` with many seeds, and says which one failed.
fn with_seeds(count: u64, case: impl Fn(&mut Rng)) {
    let given = std::env::var("CKLOAD_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("CKLOAD_SEED is a number"));
    for seed in given.map_or(0..count, |seed| seed..seed + 1) {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            case(&mut Rng::with_seed(seed));
        }));
        if let Err(panic) = run {
            eprintln!("failed with CKLOAD_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Walks `views`, and says how many bytes were read.
fn walk(
    views: &[View],
    window: usize,
    memory: &mut [u8],
    mut read: impl FnMut(u64, Target<'_>),
) -> u64 {
    let mut moved = 0;
    let mut rest = memory;
    for view in views {
        let (now, later) = rest.split_at_mut(view.bytes().expect("a size") as usize);
        rest = later;
        let mut counting = |at: u64, mut target: Target<'_>| {
            moved += target.pieces().map(|piece| piece.len() as u64).sum::<u64>();
            read(at, target);
            Ok(())
        };
        let walk = Walk::new(view, window as u64);
        walk.run(
            &mut vec![0; window],
            now,
            &Cancels::default(),
            &mut counting,
        )
        .expect("it reads");
    }
    assert!(rest.is_empty());
    moved
}

#[test]
fn any_view_is_gathered_through_a_window_of_any_size() {
    with_seeds(3000, |random| {
        let case = Case::random(random, 5000);
        let (_, bytes) = case.sizes();
        let behind = random.usize(0..9);
        let storage = random_bytes(random, bytes as usize + behind);
        let view = case.view(storage.len() as u64);
        let expected = case.gathered(&storage);
        for window in [1, 16, 100, 5000, 1 << 20] {
            let mut memory = vec![0; expected.len()];
            walk(
                std::slice::from_ref(&view),
                window,
                &mut memory,
                |at, mut target| {
                    let len = target.len();
                    target.copy_from(&storage[at as usize..][..len]);
                },
            );
            assert!(memory == expected, "{case:?} by {window}");

            // A piece of it.
            let unit = view.unit as usize;
            let start = random.usize(0..=expected.len() / unit) * unit;
            let end = start + random.usize(0..=(expected.len() - start) / unit) * unit;
            let views = view.cut(start as u64..end as u64);
            let mut memory = vec![0; end - start];
            walk(&views, window, &mut memory, |at, mut target| {
                let len = target.len();
                target.copy_from(&storage[at as usize..][..len]);
            });
            assert!(
                memory == expected[start..end],
                "{case:?} {start}..{end} by {window}"
            );
        }
    });
}

#[test]
fn any_view_of_a_deflated_storage_is_gathered() {
    with_seeds(200, |random| {
        let case = Case::random(random, 3000);
        let (_, bytes) = case.sizes();
        let behind = random.usize(0..9);
        let storage = random_bytes(random, bytes as usize + behind);
        let packed = deflated(&storage, random.u32(0..=9));
        let view = case.view(storage.len() as u64);
        let expected = case.gathered(&storage);
        for window in [1, 100, 1 << 20] {
            let mut memory = vec![0; expected.len()];
            let mut inflater = Inflater::new(packed.len() as u64, storage.len() as u64);
            let mut read_packed = |at: u64, mut target: Target<'_>| {
                let len = target.len();
                target.copy_from(&packed[at as usize..][..len]);
                Ok(())
            };
            walk(
                std::slice::from_ref(&view),
                window,
                &mut memory,
                |at, target| {
                    let filled = inflater.fill(at, target, &mut read_packed);
                    filled.expect("it inflates");
                },
            );
            assert!(memory == expected, "{case:?} by {window}");
            inflater
                .finish(&mut read_packed)
                .expect("the size is right");
        }
    });
}

#[test]
fn a_permuted_tensor_is_read_once() {
    // 700 columns of 300 rows: the window holds a few rows.
    let case = Case {
        dtype: Dtype::F32,
        shape: vec![700, 300],
        strides: vec![1, 700],
        start: 0,
    };
    let storage = random_bytes(&mut Rng::with_seed(1), 4 * 700 * 300);
    let mut memory = vec![0; storage.len()];
    let view = case.view(storage.len() as u64);
    let mut last = 0;
    let moved = walk(&[view], 10_000, &mut memory, |at, mut target| {
        assert!(at >= last, "the storage is walked in its own order");
        last = at;
        let len = target.len();
        target.copy_from(&storage[at as usize..][..len]);
    });
    assert!(memory == case.gathered(&storage));
    assert_eq!(moved, storage.len() as u64);
}

/// A checkpoint of views, and each tensor's bytes.
struct Sample {
    _file: NamedTempFile,
    checkpoint: Checkpoint,
    contents: Vec<Vec<u8>>,
}

impl Sample {
    /// Views of some storages of one file, plain and deflated, several of each, and tensors that are in place between them.
    fn random(random: &mut Rng, most: u64) -> Self {
        let mut bytes = vec![0; random.usize(0..100)];
        let mut tensors = Vec::new();
        for _ in 0..random.usize(1..6) {
            let cases: Vec<Case> = (0..random.usize(1..4))
                .map(|_| Case::random(random, most))
                .collect();
            let len = cases.iter().map(|case| case.sizes().1).max().unwrap_or(0) as usize;
            let content = random_bytes(random, len);
            let offset = bytes.len() as u64;
            let storage = if random.bool() {
                bytes.extend(&content);
                Storage::Plain {
                    offset,
                    bytes: len as u64,
                }
            } else {
                let packed = deflated(&content, 6);
                bytes.extend(&packed);
                Storage::Deflated {
                    offset,
                    packed: packed.len() as u64,
                    bytes: len as u64,
                }
            };
            for case in cases {
                let name = tensors.len().to_string();
                tensors.push((case.info(name, storage.clone()), case.gathered(&content)));
            }
            let elements = random.usize(1..3000);
            let content = random_bytes(random, 4 * elements);
            let (name, elements) = (tensors.len().to_string(), elements as u64);
            let (size, offset) = (content.len() as u64, bytes.len() as u64);
            let info = TensorInfo::in_place(name, Dtype::F32, vec![elements], size, offset);
            bytes.extend(&content);
            tensors.push((info, content));
        }
        Self::of(&bytes, tensors)
    }

    fn of(bytes: &[u8], mut tensors: Vec<(TensorInfo, Vec<u8>)>) -> Self {
        let mut file = NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("a disk that works");
        tensors.sort_by_key(|(info, _)| info.offset);
        let (infos, contents) = tensors.into_iter().unzip();
        Self {
            checkpoint: Checkpoint::with_tensors(file.path(), infos),
            _file: file,
            contents,
        }
    }

    /// Loads everything in every way, in chunks of so many KiB too, and compares all bytes.
    #[track_caller]
    fn check(&self, loader: &Loader, chunk_kib: u64) {
        let checkpoint = &self.checkpoint;
        let model = loader.load(checkpoint).expect("it loads");
        for (tensor, content) in model.tensors().iter().zip(&self.contents) {
            assert!(tensor.bytes() == content, "{tensor:?}");
        }
        assert_eq!(model.report().bytes, checkpoint.bytes());
        drop(model);

        let content_of = |name: &str| &self.contents[checkpoint.position(name).expect("known")];
        let mut streamed = 0;
        for tensor in loader.stream(checkpoint).expect("it starts").in_order() {
            let tensor = tensor.expect("it loads");
            assert_eq!(tensor.index(), streamed);
            assert!(tensor.bytes() == content_of(tensor.name()), "{tensor:?}");
            streamed += 1;
        }
        assert_eq!(streamed, self.contents.len());

        let mut pieces: Vec<Vec<u8>> = (self.contents.iter())
            .map(|content| vec![0; content.len()])
            .collect();
        let mut sum = 0;
        let small = loader.clone().chunk_size(ByteSize::kib(chunk_kib));
        for chunk in small.chunks(checkpoint).expect("it starts") {
            let chunk = chunk.expect("it loads");
            let number = checkpoint.position(&chunk.tensor().name).expect("known");
            let offset = chunk.offset() as usize;
            pieces[number][offset..][..chunk.bytes().len()].copy_from_slice(chunk.bytes());
            sum += chunk.bytes().len() as u64;
        }
        assert_eq!(sum, checkpoint.bytes());
        assert!(pieces == self.contents);

        pieces.iter_mut().for_each(|piece| piece.fill(0));
        let names = checkpoint.tensors().iter().map(|info| info.name.as_str());
        let targets = names.zip(pieces.iter_mut().map(Vec::as_mut_slice));
        loader.load_into(checkpoint, targets).expect("it loads");
        assert!(pieces == self.contents);
    }
}

#[test]
fn views_load_however_they_are_loaded() {
    with_seeds(12, |random| {
        let sample = Sample::random(random, 60_000);
        for io in Io::ALL {
            for threads in [1, 3] {
                sample.check(&Loader::new().io(io).threads(threads), 4);
            }
        }
    });
}

#[test]
fn views_that_are_larger_than_a_window_load() {
    with_seeds(2, |random| {
        let (rows, columns) = (random.u64(400..500), random.u64(900..1000));
        let case = |shape: [u64; 2], strides: [u64; 2]| Case {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            start: 0,
        };
        let cases = [
            case([columns, rows], [1, columns]),
            case([rows, columns / 2], [columns, 2]),
            case([rows, columns / 3], [columns, 1]),
            case([rows / 200, 500], [200 * columns, 1]),
            case([2, rows * columns], [0, 1]),
        ];
        let content = random_bytes(random, (4 * rows * columns) as usize);
        let packed = deflated(&content, 1);
        let mut bytes = content.clone();
        bytes.extend(&packed);
        let size = content.len() as u64;
        let storages = [
            Storage::Plain {
                offset: 0,
                bytes: size,
            },
            Storage::Deflated {
                offset: size,
                packed: packed.len() as u64,
                bytes: size,
            },
        ];
        let mut tensors = Vec::new();
        for storage in storages {
            for case in &cases {
                let name = tensors.len().to_string();
                tensors.push((case.info(name, storage.clone()), case.gathered(&content)));
            }
        }
        let sample = Sample::of(&bytes, tensors);
        for io in Io::ALL {
            sample.check(&Loader::new().io(io), 600);
        }
    });
}

#[test]
fn a_rank_s_part_of_a_view_is_a_view() {
    with_seeds(40, |random| {
        let mut sample = Sample::random(random, 3000);
        let infos = sample.checkpoint.tensors().to_vec();
        for world_size in [2, 3] {
            for (info, content) in infos.iter().zip(&sample.contents) {
                for dim in 0..info.shape.len() {
                    let select = |rank| {
                        let shard = Shard::new(dim, rank, world_size);
                        Select::names([&info.name])
                            .shard("*", shard)
                            .expect("a rule")
                    };
                    let is_even = info.shape[dim].is_multiple_of(world_size as u64);
                    let cuts_block = info.dtype == Dtype::F4
                        && dim == 1
                        && !info.shape[1].is_multiple_of(2 * world_size as u64);
                    if !is_even || cuts_block {
                        let error = sample.checkpoint.select(&select(0)).expect_err("uneven");
                        assert_eq!(error.kind(), "shard", "{error}");
                        continue;
                    }
                    let parts: Vec<Vec<u8>> = (0..world_size)
                        .map(|rank| {
                            let part = sample.checkpoint.select(&select(rank)).expect("a part");
                            let model = Loader::new().load(&part).expect("it loads");
                            model.tensors()[0].bytes().to_vec()
                        })
                        .collect();
                    let outer: u64 = info.shape[..dim].iter().product();
                    let run = content.len() / outer as usize / world_size;
                    let joined: Vec<u8> = (0..outer as usize)
                        .flat_map(|row| parts.iter().map(move |part| &part[row * run..][..run]))
                        .flatten()
                        .copied()
                        .collect();
                    assert!(joined == *content, "{info:?} along {dim}");
                }
            }
        }
        sample.contents.clear();
    });
}

/// Counts what it is told of.
#[derive(Default)]
struct Counting {
    moved: AtomicU64,
    tensors: AtomicU64,
}

impl Observer for Counting {
    fn read(&self, event: &ReadDone) {
        self.moved.fetch_add(event.bytes, Relaxed);
    }

    fn tensor(&self, info: &TensorInfo) {
        self.tensors.fetch_add(info.bytes, Relaxed);
    }
}

#[test]
fn what_is_gathered_is_told_and_what_nobody_wants_is_given_back() {
    with_seeds(10, |random| {
        let sample = Sample::random(random, 60_000);
        let counting = Arc::new(Counting::default());
        let pool = BufferPool::new();
        let loader = Loader::new().pool(&pool).io(Io::Buffered);
        let told = loader.clone().observer(counting.clone());
        let model = told.load(&sample.checkpoint).expect("it loads");
        let report = model.report();
        assert_eq!(counting.moved.load(Relaxed), report.io.buffered_bytes);
        assert_eq!(counting.tensors.load(Relaxed), report.bytes);
        drop(model);
        let mut stream = loader.stream(&sample.checkpoint).expect("it starts");
        stream.next().expect("there is one").expect("it loads");
        drop(stream);
        while pool.stats().leased_bytes > 0 {
            std::thread::yield_now();
        }
    });
}

/// A file of one deflated tensor of `declared` bytes, whose compressed bytes `disturb` may change.
fn one_deflated(content: &[u8], declared: u64, disturb: impl Fn(&mut Vec<u8>)) -> Sample {
    let mut packed = deflated(content, 6);
    disturb(&mut packed);
    let case = Case {
        dtype: Dtype::U8,
        shape: vec![declared],
        strides: vec![1],
        start: 0,
    };
    let storage = Storage::Deflated {
        offset: 10,
        packed: packed.len() as u64,
        bytes: declared,
    };
    let mut bytes = vec![0; 10];
    bytes.extend(&packed);
    let info = case.info("packed".to_owned(), storage);
    Sample::of(&bytes, vec![(info, content.to_vec())])
}

#[test]
fn damaged_compressed_data_are_an_error_with_file_tensor_and_range() {
    let content = random_bytes(&mut Rng::with_seed(7), 100_000);
    let len = content.len() as u64;
    let damaged = [
        ("less than", one_deflated(&content, len + 1, |_| {})),
        ("more than", one_deflated(&content, len - 1, |_| {})),
        (
            "end within",
            one_deflated(&content, len, |packed| packed.truncate(30_000)),
        ),
        (
            "damaged",
            one_deflated(&content, len, |packed| packed[0] = 0x07),
        ),
    ];
    for (reason, sample) in damaged {
        let checkpoint = &sample.checkpoint;
        let mut memory = vec![0; checkpoint.bytes() as usize];
        let loader = Loader::new();
        let budget = loader.clone().chunk_size(ByteSize::kib(16));
        let errors = [
            loader.load(checkpoint).err(),
            loader
                .stream(checkpoint)
                .expect("it starts")
                .find_map(Result::err),
            budget
                .chunks(checkpoint)
                .expect("it starts")
                .find_map(Result::err),
            loader
                .load_into(checkpoint, [("packed", &mut memory[..])])
                .err(),
        ];
        for error in errors {
            match error {
                Some(Error::Read {
                    path,
                    tensor,
                    range,
                    source,
                }) => {
                    assert_eq!(path, checkpoint.path());
                    assert_eq!(tensor, "packed");
                    assert!(range.start >= 10 && range.end <= checkpoint.files()[0].bytes);
                    assert_eq!(source.kind(), std::io::ErrorKind::InvalidData);
                    let message = source.to_string();
                    let ends = "end before";
                    let is_it =
                        message.contains(reason) || reason == "less than" && message.contains(ends);
                    assert!(is_it, "{message} is not {reason:?}");
                }
                other => panic!("{reason}: {other:?}"),
            }
        }
    }
}

#[test]
fn chunks_of_a_deflated_tensor_are_inflated_once_by_each_thread() {
    let content = random_bytes(&mut Rng::with_seed(8), 3 << 20);
    let sample = one_deflated(&content, content.len() as u64, |_| {});
    let loader = Loader::new()
        .io(Io::Buffered)
        .threads(1)
        .chunk_size(ByteSize::kib(64));
    let mut chunks = loader.chunks(&sample.checkpoint).expect("it starts");
    let mut count = 0;
    for chunk in chunks.by_ref() {
        let chunk = chunk.expect("it loads");
        let offset = chunk.offset() as usize;
        assert!(chunk.bytes() == &content[offset..][..chunk.bytes().len()]);
        count += 1;
    }
    assert_eq!(count, 48);
    let packed = sample.checkpoint.files()[0].bytes - 10;
    assert_eq!(chunks.report().io.buffered_bytes, packed);
}

#[test]
fn a_file_that_is_cut_off_is_an_error_that_names_the_view() {
    let case = Case {
        dtype: Dtype::U8,
        shape: vec![100, 1000],
        strides: vec![1, 100],
        start: 0,
    };
    let content = random_bytes(&mut Rng::with_seed(9), 100_000);
    let storage = Storage::Plain {
        offset: 0,
        bytes: 100_000,
    };
    let info = case.info("view".to_owned(), storage);
    for io in [Io::Auto, Io::Buffered, Io::Direct] {
        let sample = Sample::of(&content, vec![(info.clone(), case.gathered(&content))]);
        let mut stream = Loader::new().io(io).stream(&sample.checkpoint);
        sample
            ._file
            .as_file()
            .set_len(50_000)
            .expect("a disk that works");
        let error = match &mut stream {
            Ok(stream) => stream.find_map(Result::err).expect("it cannot load"),
            Err(error) => panic!("it was whole: {error}"),
        };
        // Whoever was quick has read it before, and sees that the file changed.
        assert!(["read", "changed"].contains(&error.kind()), "{error}");
        assert!(error.to_string().contains("50000..100000"), "{error}");
    }
}
