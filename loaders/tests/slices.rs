//! What one rank of several keeps of a checkpoint: all ranks together are the whole, and each reads only its part.

mod common;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;

use ckload_loaders::{ByteSize, Checkpoint, Dtype, Error, Io, Loader, Select, Shard, TensorInfo};
use ckload_pool::BufferPool;
use common::{Content, Gguf, KIB, MIB, Sample, bits, by_name, failure, octets, random, write};
use safetensors::SafeTensors;
use safetensors::slice::TensorIndexer;

const WORLD_SIZES: [usize; 5] = [1, 2, 3, 4, 8];

/// A tensor of random bytes.
fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Content {
    let elements: u64 = shape.iter().product();
    let mut bytes = vec![0; (elements * bits(dtype) / 8) as usize];
    fastrand::Rng::with_seed(elements).fill(&mut bytes);
    Content {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

/// Tensors of 1 to 4 dimensions, which 1, 2, 3, 4 and 8 ranks can share along each.
fn divisible() -> Sample {
    Sample::of(vec![
        tensor("vector", Dtype::BF16, &[96]),
        tensor("packed vector", Dtype::F6_E3M2, &[96]),
        tensor("matrix", Dtype::F32, &[48, 72]),
        tensor("odd", Dtype::U8, &[24, 24]),
        tensor("packed", Dtype::F4, &[24, 48]),
        tensor("wide", Dtype::F32, &[24, 2400]),
        tensor("kernel", Dtype::F64, &[24, 24, 3]),
        tensor("cube", Dtype::F16, &[24, 1, 48]),
        tensor("four", Dtype::I8, &[24, 24, 24, 24]),
        tensor("complex", Dtype::C64, &[1, 24, 3, 24]),
        tensor("nothing", Dtype::F32, &[24, 0, 24, 24]),
        tensor("scalar", Dtype::I64, &[]),
    ])
}

/// Part `rank` of `world_size` along `dim` of every tensor that it divides evenly.
fn part(sample: &Sample, shard: Shard) -> Checkpoint {
    let world_size = shard.world_size as u64;
    let checkpoint = sample.open();
    let mut select = Select::all();
    for info in checkpoint.tensors() {
        let is_even = (info.shape.get(shard.dim)).is_some_and(|len| len.is_multiple_of(world_size));
        if is_even {
            select = select.shard(&info.name, shard).expect("a rule");
        }
    }
    checkpoint
        .select(&select)
        .expect("every part is whole bytes")
}

/// Loads every tensor, and gives their bytes in file order.
type Load = fn(&Loader, &Checkpoint) -> Result<Vec<Vec<u8>>, Error>;

/// Every way of loading.
const WAYS: [(&str, Load); 5] = [
    ("load", |loader, checkpoint| {
        let model = loader.load(checkpoint)?;
        let tensors = model.tensors().iter();
        Ok(tensors.map(|tensor| tensor.bytes().to_vec()).collect())
    }),
    ("stream", |loader, checkpoint| {
        let mut tensors = Vec::new();
        for tensor in loader.stream(checkpoint)? {
            let tensor = tensor?;
            let infos = checkpoint.tensors();
            let number = infos.iter().position(|info| info == tensor.info());
            tensors.push((number, tensor.bytes().to_vec()));
        }
        tensors.sort();
        Ok(tensors.into_iter().map(|(_, bytes)| bytes).collect())
    }),
    ("in order", |loader, checkpoint| {
        let tensors = loader.stream(checkpoint)?.in_order();
        tensors.map(|tensor| Ok(tensor?.bytes().to_vec())).collect()
    }),
    ("chunks", |loader, checkpoint| {
        let mut tensors = empty(checkpoint);
        for chunk in loader.chunks(checkpoint)? {
            let chunk = chunk?;
            let infos = checkpoint.tensors();
            let number = infos.iter().position(|info| info == chunk.tensor());
            let tensor = &mut tensors[number.expect("it is one of them")];
            tensor[chunk.offset() as usize..][..chunk.bytes().len()].copy_from_slice(chunk.bytes());
        }
        Ok(tensors)
    }),
    ("into", |loader, checkpoint| {
        let mut tensors = empty(checkpoint);
        let names = checkpoint.tensors().iter().map(|info| info.name.as_str());
        loader.load_into(
            checkpoint,
            names.zip(tensors.iter_mut().map(Vec::as_mut_slice)),
        )?;
        Ok(tensors)
    }),
];

fn empty(checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
    let infos = checkpoint.tensors().iter();
    infos.map(|info| vec![0; info.bytes as usize]).collect()
}

/// Puts the parts of all ranks together again.
fn joined(parts: &[&[u8]], whole: &[u64], dim: usize) -> Vec<u8> {
    let rows: u64 = whole[..dim].iter().product();
    if rows == 0 {
        return Vec::new();
    }
    let run = parts[0].len() / rows as usize;
    let mut whole = Vec::new();
    for row in 0..rows as usize {
        for part in parts {
            whole.extend_from_slice(&part[row * run..][..run]);
        }
    }
    whole
}

/// Loads each rank's part in one way, and compares what they are together with what was written.
#[track_caller]
fn check(sample: &Sample, loader: &Loader, way: usize, dim: usize, world_size: usize) {
    let (name, load) = WAYS[way];
    let ranks: Vec<(Checkpoint, Vec<Vec<u8>>)> = (0..world_size)
        .map(|rank| {
            let part = part(sample, Shard::new(dim, rank, world_size));
            let bytes = load(loader, &part).expect("it loads");
            (part, bytes)
        })
        .collect();
    for (number, info) in ranks[0].0.tensors().iter().enumerate() {
        let content = &sample.tensors[&info.name];
        let parts: Vec<&[u8]> = (ranks.iter())
            .map(|(_, bytes)| &bytes[number][..])
            .collect();
        let case = format!("{name}, {info:?} of {world_size} along {dim}");
        if info.shape == content.shape {
            assert!(parts.iter().all(|part| *part == content.bytes), "{case}");
            continue;
        }
        let mut shape = content.shape.clone();
        shape[dim] /= world_size as u64;
        assert_eq!(info.shape, shape, "{case}");
        assert_eq!(info.bytes, (content.bytes.len() / world_size) as u64);
        assert!(
            joined(&parts, &content.shape, dim) == content.bytes,
            "{case}"
        );
    }
}

#[test]
fn all_ranks_together_are_the_whole_along_every_dimension() {
    let sample = divisible();
    let pool = BufferPool::new();
    for io in Io::ALL {
        let loader = Loader::new().pool(&pool).io(io).threads(2);
        let loader = loader.chunk_size(ByteSize::kib(64));
        for dim in 0..4 {
            for world_size in WORLD_SIZES {
                for way in 0..WAYS.len() {
                    check(&sample, &loader, way, dim, world_size);
                }
            }
        }
    }
}

/// Runs and gaps from a few bytes to megabytes, and a model that is in the page cache, half of it, or not at all.
#[test]
fn runs_of_every_size_are_read_whatever_is_cached() {
    let sample = Sample::of(vec![
        tensor("close", Dtype::U8, &[30_000, 24]),
        tensor("narrow", Dtype::BF16, &[3000, 480]),
        tensor("usual", Dtype::BF16, &[192, 4800]),
        tensor("wide", Dtype::F32, &[48, 96_000]),
        tensor("wider", Dtype::F32, &[8, 480_000]),
    ]);
    let mut random = random();
    for io in Io::ALL {
        for world_size in WORLD_SIZES {
            for threads in [1, 3] {
                if random.bool() {
                    sample.forget_cached();
                }
                let read_size = ByteSize::b(random.u64(4096..1 << 22));
                let loader = Loader::new().io(io).threads(threads).read_size(read_size);
                let way = random.usize(..WAYS.len());
                check(&sample, &loader, way, 1, world_size);
            }
        }
    }
}

#[test]
fn the_parts_are_those_of_the_safetensors_library() {
    let sample = divisible();
    let file = std::fs::read(&sample.path).expect("it was written");
    let reference = SafeTensors::deserialize(&file).expect("a valid file");
    for (dim, world_size) in [(0, 3), (1, 2), (1, 8), (2, 3), (3, 4)] {
        for rank in 0..world_size {
            let shard = Shard::new(dim, rank, world_size);
            let model = Loader::new().load(&part(&sample, shard)).expect("it loads");
            for tensor in model.tensors() {
                let view = reference.tensor(tensor.name()).expect("it is there");
                if view.shape().len() <= dim
                    || view.data().is_empty()
                    || !bits(tensor.dtype()).is_multiple_of(8)
                {
                    continue;
                }
                let whole = |_| {
                    TensorIndexer::Narrow(Bound::Unbounded, Bound::Unbounded, NonZeroUsize::MIN)
                };
                let mut indexers: Vec<TensorIndexer> = (0..=dim).map(whole).collect();
                // As candle's `ShardedVarBuilder` has it.
                let size = view.shape()[dim];
                if size.is_multiple_of(world_size) {
                    let block = size / world_size;
                    indexers[dim] = TensorIndexer::Narrow(
                        Bound::Included(rank * block),
                        Bound::Excluded((rank + 1) * block),
                        NonZeroUsize::MIN,
                    );
                }
                let expected = view.sliced_data(&indexers).expect("a part of it");
                let shape: Vec<u64> = expected.newshape().iter().map(|&len| len as u64).collect();
                assert_eq!(tensor.shape(), shape);
                let expected: Vec<u8> = expected.flatten().copied().collect();
                assert!(tensor.bytes() == &expected, "{tensor:?} {shard}");
            }
        }
    }
}

#[test]
fn of_a_cached_file_only_the_part_is_read() {
    let sample = Sample::of(vec![
        tensor("columns", Dtype::BF16, &[304, 960]),
        tensor("rows", Dtype::F32, &[96, 1000]),
        tensor("wide", Dtype::F32, &[16, 80_000]),
    ]);
    for io in [Io::Auto, Io::Buffered, Io::Mmap] {
        for dim in [0, 1] {
            for world_size in [2, 8] {
                let part = part(&sample, Shard::new(dim, 1, world_size));
                let model = Loader::new().io(io).load(&part).expect("it loads");
                let report = model.report();
                assert_eq!(report.bytes, sample.bytes() / world_size as u64);
                let io_report = &report.io;
                let moved =
                    io_report.buffered_bytes + io_report.direct_bytes + io_report.mmap_bytes;
                assert_eq!(
                    moved, report.bytes,
                    "{io} {dim} {world_size}: {io_report:?}"
                );
            }
        }
    }
}

#[test]
fn runs_that_are_not_cached_are_read_in_few_requests() {
    let sample = Sample::of(vec![tensor("columns", Dtype::BF16, &[4000, 960])]);
    sample.forget_cached();
    let part = part(&sample, Shard::new(1, 3, 8));
    let loader = Loader::new().io(Io::Direct).threads(1);
    let model = loader.load(&part).expect("it loads");
    let report = model.report();
    assert_eq!(report.bytes, 8 * 120 * 1000);
    assert!(report.io.reads < 100, "{:?}", report.io);
}

#[test]
fn parts_that_are_not_equal_are_refused() {
    let sample = divisible();
    let refused = |name: &str, shard: Shard| {
        let select = Select::all().shard(name, shard).expect("a rule");
        let error = failure(sample.open().select(&select));
        assert_eq!(error.kind(), "shard", "{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("{name:?}")), "{message}");
        assert!(message.contains(&shard.to_string()), "{message}");
        message
    };
    for (name, dim, world_size, size) in [
        ("vector", 0, 5, 96),
        ("matrix", 1, 7, 72),
        ("kernel", 2, 2, 3),
        ("four", 3, 16, 24),
        ("cube", 1, 2, 1),
    ] {
        let message = refused(name, Shard::new(dim, 0, world_size));
        let expected =
            format!("dimension {dim} has size {size}, which {world_size} ranks cannot share");
        assert!(message.contains(&expected), "{message}");
    }
    let message = refused("vector", Shard::new(1, 0, 2));
    assert!(message.contains("it has 1 dimension;"), "{message}");
    refused("scalar", Shard::new(0, 0, 2));
    // 6 elements of 4 in 3 bytes.
    let message = refused("packed vector", Shard::new(0, 0, 16));
    assert!(message.contains("F6_E3M2 has 4 elements"), "{message}");
    let message = refused("packed", Shard::new(1, 0, 16));
    assert!(message.contains("F4 has 2 elements"), "{message}");
}

/// The blocks of GGUF lie along the last dimension, with padding between tensors.
#[test]
fn parts_of_quantised_tensors_are_whole_blocks() {
    let quantised = |name: &str, dtype: Dtype, shape: &[u64]| {
        let block = dtype.block();
        let elements: u64 = shape.iter().product();
        let len = elements / block.elements * block.bytes;
        Content {
            dtype,
            shape: shape.to_vec(),
            ..octets(name, len as usize)
        }
    };
    let tensors = vec![
        quantised("Q4_0", Dtype::Q4_0, &[24, 24 * 32]),
        quantised("Q4_K", Dtype::Q4_K, &[24, 24 * 256]),
        quantised("MXFP4", Dtype::MXFP4, &[48, 24 * 32]),
        quantised("Q6_K", Dtype::Q6_K, &[24, 3, 24 * 256]),
        quantised("norm", Dtype::F32, &[24]),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    write(&path, &Gguf::of(&tensors).to_bytes());
    let sample = Sample {
        folder,
        path,
        tensors: by_name(tensors),
        metadata: BTreeMap::new(),
    };
    for dim in 0..3 {
        for world_size in WORLD_SIZES {
            for way in 0..WAYS.len() {
                check(&sample, &Loader::new(), way, dim, world_size);
            }
        }
    }
    for (name, dim, world_size, elements) in [
        ("Q4_0", 1, 48, 32),
        ("Q4_K", 1, 256, 256),
        ("MXFP4", 1, 3 * 32, 32),
        ("Q6_K", 2, 48, 256),
    ] {
        let shard = Shard::new(dim, 1, world_size);
        let select = Select::all().shard(name, shard).expect("a rule");
        let error = failure(sample.open().select(&select));
        assert_eq!(error.kind(), "shard", "{error}");
        let says = format!("a part would end within a block: {name} has {elements} elements");
        assert!(error.to_string().contains(&says), "{error}");
    }
}

#[test]
fn a_rank_that_there_is_not_is_refused() {
    for (rank, world_size) in [(2, 2), (9, 8), (0, 0)] {
        let shard = Shard::new(0, rank, world_size);
        for select in [
            Select::all().shard("*", shard),
            Select::all().shard_rest(shard),
        ] {
            let error = failure(select);
            assert_eq!(error.kind(), "no_such_rank");
            assert!(error.to_string().contains(&shard.to_string()), "{error}");
        }
    }
}

fn described(checkpoint: &Checkpoint) -> Vec<String> {
    let described = |info: &TensorInfo| format!("{} {:?}", info.name, info.shape);
    checkpoint.tensors().iter().map(described).collect()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let sample = divisible();
    let (rows, columns) = (Shard::new(0, 1, 2), Shard::new(1, 0, 3));
    let whole = Shard::new(0, 0, 1);
    let select = Select::names(["scalar", "vector"])
        .include("matr*")
        .and_then(|select| select.include("[cf]o*"))
        .and_then(|select| select.include("odd"))
        .and_then(|select| select.exclude("*x"))
        .and_then(|select| select.exclude("complex"))
        .and_then(|select| select.shard("matrix", columns))
        .and_then(|select| select.shard("odd", whole))
        .and_then(|select| select.shard("matr*", rows))
        .expect("rules");
    let checkpoint = sample.open().select(&select).expect("they fit");
    let expected = [
        "vector [96]",
        "odd [24, 24]",
        "four [24, 24, 24, 24]",
        "scalar []",
    ];
    assert_eq!(described(&checkpoint), expected);
    let select = Select::names(["matrix", "odd", "four", "vector", "scalar"])
        .shard("matrix", columns)
        .and_then(|select| select.shard("odd", whole))
        .and_then(|select| select.shard("matr*", rows))
        .and_then(|select| select.shard_rest(rows))
        .expect("rules");
    let checkpoint = sample.open().select(&select).expect("they fit");
    let expected = [
        "vector [48]",
        "matrix [48, 24]",
        "odd [24, 24]",
        "four [12, 24, 24, 24]",
        "scalar []",
    ];
    assert_eq!(described(&checkpoint), expected);
    let model = Loader::new().load(&checkpoint).expect("it loads");
    let vector = &sample.tensors["vector"].bytes;
    let loaded = model.tensor("vector").expect("it is there").bytes();
    assert!(loaded == &vector[96..]);
}

#[test]
fn only_what_is_named_is_meant() {
    let sample = divisible();
    let names = |select: &Select| described(&sample.open().select(select).expect("they are there"));
    assert_eq!(names(&Select::names(["odd", "cube"])).len(), 2);
    assert_eq!(names(&Select::names([""; 0])).len(), 0);
    let without = Select::names(["odd", "cube"])
        .exclude("o*")
        .expect("a glob");
    assert_eq!(names(&without), ["cube [24, 1, 48]"]);
    assert!(!without.admits("odd") && !without.admits("vector") && without.admits("cube"));
    // A name is no pattern.
    let error = failure(sample.open().select(&Select::names(["*"])));
    assert_eq!(error.kind(), "unknown_tensor");
    assert!(error.to_string().contains("\"*\""), "{error}");
}

#[test]
fn a_part_can_be_divided_again() {
    let sample = divisible();
    let name = "four";
    let content = &sample.tensors[name];
    for (outer, inner) in [(0, 1), (1, 0), (2, 2), (3, 1), (1, 3), (3, 3)] {
        let halves: Vec<Vec<u8>> = (0..2)
            .map(|half| {
                let quarters: Vec<Vec<u8>> = (0..3)
                    .map(|third| {
                        let of = |dim, rank, world_size| {
                            let shard = Shard::new(dim, rank, world_size);
                            Select::names([name]).shard("*", shard).expect("a rule")
                        };
                        let part = sample.open().select(&of(outer, half, 2));
                        let part = part.and_then(|part| part.select(&of(inner, third, 3)));
                        let part = part.expect("it fits");
                        let way = (half + third) % WAYS.len();
                        let mut bytes = WAYS[way].1(&Loader::new(), &part).expect("it loads");
                        bytes.remove(0)
                    })
                    .collect();
                let quarters: Vec<&[u8]> = quarters.iter().map(Vec::as_slice).collect();
                let mut shape = content.shape.clone();
                shape[outer] /= 2;
                joined(&quarters, &shape, inner)
            })
            .collect();
        let halves: Vec<&[u8]> = halves.iter().map(Vec::as_slice).collect();
        assert!(joined(&halves, &content.shape, outer) == content.bytes);
    }
    let packed = Shard::new(1, 0, 2);
    let select = Select::names(["packed"])
        .shard("*", packed)
        .expect("a rule");
    let part = sample.open().select(&select).expect("it fits");
    assert_eq!(failure(part.select(&select)).kind(), "shard");
}

#[test]
fn a_stream_of_parts_keeps_to_its_budget() {
    let sample = Sample::of(
        (0..20)
            .map(|number| tensor(&number.to_string(), Dtype::F32, &[256, 1024]))
            .collect(),
    );
    let part = part(&sample, Shard::new(1, 1, 4));
    let budget = ByteSize::b(MIB as u64);
    let pool = BufferPool::builder().max_bytes(MIB).build();
    let loader = Loader::new().pool(&pool).budget(budget);
    let mut count = 0;
    for tensor in loader.stream(&part).expect("it starts") {
        assert_eq!(tensor.expect("it loads").bytes().len(), 256 * KIB);
        count += 1;
    }
    assert_eq!(count, 20);
}

#[test]
fn a_shard_is_written_as_it_is_read() {
    let shard: Shard = "1:3/8".parse().expect("a shard");
    assert_eq!(shard, Shard::new(1, 3, 8));
    assert_eq!(shard.to_string(), "1:3/8");
    for wrong in ["", "1", "1:3", "3/8", "1:3/8/2", "-1:0/2", "0:1/x", "a:0/1"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong:?}");
    }
}
