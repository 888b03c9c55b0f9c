//! What was written comes back byte for byte, whatever the file looks like and however it is loaded.

mod common;

use std::collections::BTreeMap;

use ckload_loaders::{ByteSize, Checkpoint, Dtype, Element, Error, Io, Loader, Select, Tensor};
use ckload_pool::BufferPool;
use common::{
    Content, KIB, MIB, Sample, check_metadata, failure, octets, random, random_checkpoint,
    smallest_budget, watched,
};

const IOS: [Io; 4] = Io::ALL;
const THREADS: [usize; 3] = [1, 2, 5];

#[test]
fn random_checkpoints_come_back_however_they_are_loaded() {
    let mut random = random();
    let pool = BufferPool::new(); // one for all: later loads find what earlier ones left in its buffers
    for _ in 0..24 {
        let sample = random_checkpoint(&mut random);
        let checkpoint = sample.open();
        check_what_open_tells(&sample, &checkpoint);
        for (io, threads) in IOS
            .iter()
            .flat_map(|&io| THREADS.map(|threads| (io, threads)))
        {
            let loader = Loader::new().pool(&pool).io(io).threads(threads);
            check_resident(&sample, &loader, &checkpoint);
            check_streams(&sample, &loader, &checkpoint, &mut random);
            check_load_into(&sample, &loader, &checkpoint, &mut random);
        }
    }
    assert_eq!(pool.stats().leased_bytes, 0);
}

fn check_what_open_tells(sample: &Sample, checkpoint: &Checkpoint) {
    assert_eq!(checkpoint.path(), sample.path);
    check_metadata(checkpoint, sample.metadata.clone());
    assert_eq!(checkpoint.bytes(), sample.bytes());
    assert_eq!(checkpoint.tensors().len(), sample.tensors.len());
    assert!(
        checkpoint
            .tensors()
            .is_sorted_by_key(|info| (info.file, info.offset))
    );
    for info in checkpoint.tensors() {
        assert_eq!(checkpoint.tensor(&info.name), Some(info));
        assert_eq!(info.bytes, sample.tensors[&info.name].bytes.len() as u64);
        assert!(info.offset + info.bytes <= checkpoint.files()[info.file].bytes);
    }
}

fn check_resident(sample: &Sample, loader: &Loader, checkpoint: &Checkpoint) {
    let model = loader.load(checkpoint).expect("a valid checkpoint");
    sample.check_all(model.tensors());
    model.tensors().iter().for_each(check_views);
    let names: Vec<&str> = model.tensors().iter().map(Tensor::name).collect();
    let in_file_order: Vec<&str> = checkpoint
        .tensors()
        .iter()
        .map(|info| info.name.as_str())
        .collect();
    assert_eq!(names, in_file_order);
    for name in names {
        assert_eq!(model.tensor(name).expect("it is there").name(), name);
    }
    assert_eq!(model.report().bytes, checkpoint.bytes());
}

/// Streams with the default budget, with the least that works, and with one between that and everything.
fn check_streams(
    sample: &Sample,
    loader: &Loader,
    checkpoint: &Checkpoint,
    random: &mut fastrand::Rng,
) {
    let least = smallest_budget(loader, checkpoint).as_u64();
    let between = random.u64(least..=least.max(checkpoint.bytes()));
    let budgets = [
        loader.default_budget(checkpoint),
        ByteSize::b(least),
        ByteSize::b(between),
    ];
    for budget in budgets {
        let mut stream = loader
            .clone()
            .budget(budget)
            .stream(checkpoint)
            .expect("a valid checkpoint");
        let mut missing: BTreeMap<&str, &Content> = sample
            .tensors
            .iter()
            .map(|(name, content)| (name.as_str(), content))
            .collect();
        for tensor in &mut stream {
            let tensor = tensor.expect("a valid checkpoint");
            sample.check(&tensor);
            check_views(&tensor);
            assert!(
                missing.remove(tensor.name()).is_some(),
                "{tensor:?} comes twice"
            );
        }
        assert!(missing.is_empty(), "not streamed: {:?}", missing.keys());
        assert!(stream.next().is_none());
        assert_eq!(stream.report().bytes, checkpoint.bytes());
    }
}

/// Loads a random half of the tensors, in random order, to odd addresses.
fn check_load_into(
    sample: &Sample,
    loader: &Loader,
    checkpoint: &Checkpoint,
    random: &mut fastrand::Rng,
) {
    let mut wanted: Vec<&Content> = sample.tensors.values().filter(|_| random.bool()).collect();
    random.shuffle(&mut wanted);
    let mut memory: Vec<Vec<u8>> = wanted
        .iter()
        .map(|content| vec![0xAA; content.bytes.len() + 2])
        .collect();
    let targets = wanted.iter().zip(&mut memory).map(|(content, memory)| {
        let end = memory.len() - 1;
        (content.name.as_str(), &mut memory[1..end])
    });
    let report = loader
        .load_into(checkpoint, targets)
        .expect("a valid checkpoint");
    for (content, memory) in wanted.iter().zip(&memory) {
        let (inside, end) = memory[1..].split_at(content.bytes.len());
        assert!(
            inside == content.bytes,
            "the bytes of {:?} differ",
            content.name
        );
        assert_eq!(
            (memory[0], end),
            (0xAA, &[0xAA][..]),
            "written beside {:?}",
            content.name
        );
    }
    let bytes: usize = wanted.iter().map(|content| content.bytes.len()).sum();
    assert_eq!(report.bytes, bytes as u64);
}

/// Views the tensor as every element type: those of its dtype show its bytes, the others are refused.
fn check_views(tensor: &Tensor) {
    check_view::<u8>(tensor);
    check_view::<i8>(tensor);
    check_view::<u16>(tensor);
    check_view::<i16>(tensor);
    check_view::<half::f16>(tensor);
    check_view::<half::bf16>(tensor);
    check_view::<u32>(tensor);
    check_view::<i32>(tensor);
    check_view::<f32>(tensor);
    check_view::<[f32; 2]>(tensor);
    check_view::<u64>(tensor);
    check_view::<i64>(tensor);
    check_view::<f64>(tensor);
}

fn check_view<T: Element + bytemuck::NoUninit>(tensor: &Tensor) {
    match tensor.as_slice::<T>() {
        Ok(elements) => {
            assert!(T::DTYPES.contains(&tensor.dtype()));
            assert_eq!(
                elements.len() as u64,
                tensor.shape().iter().product::<u64>()
            );
            assert!(bytemuck::cast_slice::<T, u8>(elements) == tensor.bytes());
        }
        Err(Error::WrongDtype { dtype, .. }) => {
            assert_eq!(dtype, tensor.dtype());
            assert!(!T::DTYPES.contains(&dtype));
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_dtype_at_every_offset_is_aligned() {
    for padding in 0..16 {
        let of_8_elements = |dtype: Dtype| {
            let bytes = octets(dtype.name(), common::bits(dtype) as usize);
            Content {
                dtype,
                shape: vec![2, 1, 4],
                ..bytes
            }
        };
        let tensors = common::safetensors_dtypes().into_iter().map(of_8_elements);
        let mut shard = common::Shard::of(tensors.collect());
        shard.style.behind = padding;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        common::write(&path, &shard.to_bytes());
        let sample = Sample {
            folder,
            path,
            metadata: BTreeMap::new(),
            tensors: common::by_name(shard.tensors),
        };
        let checkpoint = sample.open();
        let model = Loader::new().load(&checkpoint).expect("a valid checkpoint");
        sample.check_all(model.tensors());
        let streamed: Vec<Tensor> = Loader::new()
            .stream(&checkpoint)
            .expect("a valid checkpoint")
            .collect::<Result<_, _>>()
            .expect("a valid checkpoint");
        sample.check_all(&streamed);
    }
}

#[test]
fn a_tensor_larger_than_any_read_comes_back_whole() {
    let sample = Sample::of(vec![
        octets("before", 3),
        octets("large", 21 * MIB + 7),
        octets("behind", 5),
    ]);
    let checkpoint = sample.open();
    for io in IOS {
        let loader = Loader::new().io(io).threads(3);
        sample.check_all(
            loader
                .load(&checkpoint)
                .expect("a valid checkpoint")
                .tensors(),
        );
        for tensor in loader.stream(&checkpoint).expect("a valid checkpoint") {
            sample.check(&tensor.expect("a valid checkpoint"));
        }
        let mut large = vec![0; 21 * MIB + 7];
        let report = loader
            .load_into(&checkpoint, [("large", &mut large[..])])
            .expect("a valid checkpoint");
        assert!(large == sample.tensors["large"].bytes);
        assert_eq!(report.bytes, large.len() as u64);
    }
}

#[test]
fn many_small_tensors_come_back() {
    let sample = Sample::of(
        (0..5000)
            .map(|number| octets(&number.to_string(), number % 70))
            .collect(),
    );
    let checkpoint = sample.open();
    let loader = Loader::new().threads(2);
    sample.check_all(
        loader
            .load(&checkpoint)
            .expect("a valid checkpoint")
            .tensors(),
    );
    let least = loader.clone().budget(smallest_budget(&loader, &checkpoint));
    for loader in [loader, least] {
        let mut streamed = 0;
        for tensor in loader.stream(&checkpoint).expect("a valid checkpoint") {
            sample.check(&tensor.expect("a valid checkpoint"));
            streamed += 1;
        }
        assert_eq!(streamed, 5000);
    }
}

#[test]
fn a_checkpoint_without_tensors_loads() {
    let sample = Sample::of(Vec::new());
    let checkpoint = sample.open();
    for io in IOS {
        let loader = Loader::new().io(io);
        let model = loader.load(&checkpoint).expect("a valid checkpoint");
        assert!(model.tensors().is_empty());
        assert_eq!(model.report().bytes, 0);
        assert!(model.report().bytes_per_second.is_finite());
        assert!(
            loader
                .stream(&checkpoint)
                .expect("a valid checkpoint")
                .next()
                .is_none()
        );
        loader
            .load_into(&checkpoint, [])
            .expect("a valid checkpoint");
    }
}

/// A server calls from its own rayon pool, whose threads are busy with the call itself.
#[test]
fn a_load_inside_a_rayon_pool_of_one_thread() {
    watched(|| {
        let sample = Sample::uniform(20, 300 * KIB);
        let checkpoint = sample.open();
        let server = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        server.expect("a thread").install(|| {
            let loader = Loader::new().threads(2).budget(ByteSize::mib(1));
            sample.check_all(
                loader
                    .load(&checkpoint)
                    .expect("a valid checkpoint")
                    .tensors(),
            );
            for tensor in loader.stream(&checkpoint).expect("a valid checkpoint") {
                sample.check(&tensor.expect("a valid checkpoint"));
            }
        });
    });
}

#[test]
fn a_selection_loads_what_it_names_and_reads_no_more() {
    let sample = Sample::uniform(20, 10 * KIB);
    let odd = Select::all()
        .include("t?[13579]")
        .and_then(|select| select.include("t[0-9]"))
        .and_then(|select| select.exclude("t4"))
        .expect("valid globs");
    let checkpoint = sample.open().select(&odd).expect("nothing is divided");
    let model = Loader::new()
        .io(Io::Buffered)
        .load(&checkpoint)
        .expect("a valid checkpoint");
    let names: Vec<&str> = model.tensors().iter().map(Tensor::name).collect();
    let expected = "t0 t1 t2 t3 t5 t6 t7 t8 t9 t11 t13 t15 t17 t19";
    assert_eq!(names.join(" "), expected);
    model
        .tensors()
        .iter()
        .for_each(|tensor| sample.check(tensor));
    assert_eq!(model.report().io.buffered_bytes, 14 * 10 * KIB as u64);
    let mut streamed: Vec<String> = Loader::new()
        .stream(&checkpoint)
        .expect("a valid checkpoint")
        .map(|tensor| tensor.expect("a valid checkpoint").name().to_owned())
        .collect();
    streamed.sort_by_key(|name| {
        checkpoint
            .tensors()
            .iter()
            .position(|info| &info.name == name)
    });
    assert_eq!(streamed.join(" "), expected);
    assert_eq!(failure(model.tensor("t4")).kind(), "unknown_tensor");
}

#[test]
fn the_caller_s_memory_has_to_fit() {
    let sample = Sample::uniform(3, 100);
    let checkpoint = sample.open();
    let loader = Loader::new();
    let (mut right, mut again, mut short, mut long) = ([0; 100], [0; 100], [0; 99], [0; 101]);

    let error = failure(loader.load_into(&checkpoint, [("t9", &mut right[..])]));
    assert_eq!(error.kind(), "unknown_tensor");
    assert!(error.to_string().contains("t9"), "{error}");

    for memory in [&mut short[..], &mut long[..]] {
        let len = memory.len().to_string();
        let error = failure(loader.load_into(&checkpoint, [("t1", memory)]));
        assert_eq!(error.kind(), "target");
        let message = error.to_string();
        assert!(
            ["t1", "100", &len]
                .iter()
                .all(|part| message.contains(part)),
            "{message}"
        );
    }

    let twice = [("t1", &mut right[..]), ("t1", &mut again[..])];
    assert_eq!(
        failure(loader.load_into(&checkpoint, twice)).kind(),
        "target"
    );
}
