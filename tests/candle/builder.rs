//! `VarBuilder`s and `load` against candle's.

use std::path::Path;
use std::thread;

use candle_core::{DType, Device, Error, Tensor};
use candle_nn::VarBuilder;
use ckload::{ByteSize, Checkpoint, Dtype as Ours, Loader, Select};
use fastrand::Rng;
use safetensors::Dtype;

use crate::support::{Content, PLAIN, bits, message, seed, write, write_odd};

/// Candle's own builder.
#[allow(unsafe_code)]
fn candles(path: &Path, dtype: DType) -> VarBuilder<'static> {
    // SAFETY: The file is this test's own, and nothing changes it.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[path], dtype, &Device::Cpu) };
    vb.expect("a valid file")
}

fn ours(path: &Path, dtype: DType, loader: &Loader) -> VarBuilder<'static> {
    let checkpoint = Checkpoint::open(path).expect("a valid file");
    ckload::candle::var_builder(loader, &checkpoint, dtype, &Device::Cpu).expect("a thread")
}

/// Every type of the format in some shapes, and all values of the small types.
fn every_type(random: &mut Rng) -> Vec<Content> {
    let mut contents = Vec::new();
    for (dtype, _) in PLAIN {
        for (number, shape) in [&[][..], &[0], &[3, 0, 2], &[7], &[5, 3, 2], &[300, 257]]
            .into_iter()
            .enumerate()
        {
            let name = format!("{dtype:?}.{number}");
            contents.push(Content::random(&name, dtype, shape, random));
        }
    }
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::I16, Dtype::U16] {
        contents.push(Content {
            name: format!("all.{dtype:?}"),
            dtype,
            shape: vec![1 << 16],
            bytes: (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        });
    }
    for dtype in [Dtype::U8, Dtype::F8_E4M3] {
        contents.push(Content {
            name: format!("all.{dtype:?}"),
            dtype,
            shape: vec![256],
            bytes: (0..=u8::MAX).collect(),
        });
    }
    for dtype in [Dtype::F6_E2M3, Dtype::F6_E3M2, Dtype::F4, Dtype::F8_E8M0] {
        let name = format!("opaque.{dtype:?}");
        contents.push(Content::random(&name, dtype, &[3, 8], random));
    }
    contents
}

/// Types that candle has no name for.
fn foreign(random: &mut Rng) -> Vec<Content> {
    [
        Dtype::BOOL,
        Dtype::I8,
        Dtype::U64,
        Dtype::C64,
        Dtype::F8_E5M2,
    ]
    .map(|dtype| Content::random(&format!("foreign.{dtype:?}"), dtype, &[4], random))
    .into()
}

#[test]
fn every_type_loads_as_candle_loads_it() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let contents = every_type(&mut random);
    for (name, write) in [("even", write as fn(&Path, &[Content])), ("odd", write_odd)] {
        let path = folder.path().join(format!("{name}.safetensors"));
        write(&path, &contents);
        let theirs = candle_core::safetensors::load(&path, &Device::Cpu).expect("it loads");
        let checkpoint = Checkpoint::open(&path).expect("a valid file");
        let loader = Loader::new();
        let ours = ckload::candle::load(&loader, &checkpoint, &Device::Cpu).expect("it loads");
        assert_eq!(ours.len(), contents.len());
        let model = loader.load(&checkpoint).expect("it loads");
        for (name, theirs) in &theirs {
            assert!(bits(&ours[name]) == bits(theirs), "{name}");
            let tensor = model.tensor(name).expect("it is there");
            let copied = ckload::candle::tensor(tensor, &Device::Cpu).expect("a known type");
            assert!(bits(&copied) == bits(theirs), "{name}");
        }
    }
}

#[test]
fn every_conversion_is_candles_bit_by_bit() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let mut contents = every_type(&mut random);
    contents.extend(foreign(&mut random));
    write(&path, &contents);
    let model = Loader::new().load(&Checkpoint::open(&path).expect("a valid file"));
    let model = model.expect("it loads");
    let mut compared = 0;
    let opaque = [DType::F4, DType::F8E8M0];
    for dtype in PLAIN.map(|(_, dtype)| dtype).into_iter().chain(opaque) {
        let theirs = candles(&path, dtype);
        let resident = ckload::candle::var_builder_of(&model, dtype, &Device::Cpu);
        let ours = ours(&path, dtype, &Loader::new());
        for Content { name, shape, .. } in &contents {
            let wanted = theirs.get(&shape[..], name);
            for vb in [&ours, &resident] {
                assert!(vb.contains_tensor(name));
                match (&wanted, vb.get(&shape[..], name)) {
                    (Ok(wanted), Ok(got)) => {
                        assert!(bits(wanted) == bits(&got), "{name} as {dtype:?}");
                        let unchecked = vb.get_unchecked(name).expect("the same");
                        assert!(bits(wanted) == bits(&unchecked), "{name} as {dtype:?}");
                        compared += 1;
                    }
                    (Err(_), Err(error)) => assert!(message(&error).contains(name), "{error}"),
                    (wanted, got) => panic!("{name} as {dtype:?}: {wanted:?}, {got:?}"),
                }
            }
        }
    }
    // 10 types to 10 types, 6 shapes each, and those with all their values; by two builders.
    assert!(compared >= 2 * (10 * 10 * 6 + 10 * 6), "{compared}");
}

#[test]
fn random_checkpoints_load_alike_whatever_the_loader() {
    let mut random = Rng::with_seed(seed());
    for _ in 0..12 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let contents: Vec<Content> = (0..random.usize(1..40))
            .map(|number| {
                let (dtype, _) = *random.choice(&PLAIN[..]).expect("there are some");
                // Some are of several chunks.
                let rows = *random.choice(&[1, 7, 64, 2000]).expect("there are some");
                let shape = [rows, random.usize(1..600)];
                Content::random(&format!("tensor.{number}"), dtype, &shape, &mut random)
            })
            .collect();
        if random.bool() {
            write(&path, &contents);
        } else {
            write_odd(&path, &contents);
        }
        let (_, dtype) = *random.choice(&PLAIN[..]).expect("there are some");
        let mut loader = Loader::new().threads(random.usize(1..5));
        if random.bool() {
            loader = loader.chunk_size(ByteSize::b(random.u64(1..200_000)));
        }
        let (theirs, ours) = (candles(&path, dtype), ours(&path, dtype, &loader));
        let mut order: Vec<&Content> = contents.iter().collect();
        random.shuffle(&mut order);
        for Content { name, shape, .. } in order {
            let theirs = theirs.get(&shape[..], name).expect("a known type");
            let ours = ours.get(&shape[..], name).expect("a known type");
            assert!(bits(&ours) == bits(&theirs), "{name} as {dtype:?}");
        }
    }
}

#[test]
fn another_type_than_the_builders_comes_from_the_file() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let contents = [Content::random("x", Dtype::F64, &[64, 3], &mut random)];
    write(&path, &contents);
    let ours = ours(&path, DType::BF16, &Loader::new());
    let theirs = candles(&path, DType::BF16);
    let wanted = theirs
        .to_dtype(DType::F32)
        .get((64, 3), "x")
        .expect("it is there");
    let rounded = theirs
        .get((64, 3), "x")
        .and_then(|x| x.to_dtype(DType::F32));
    assert_ne!(bits(&wanted), bits(&rounded.expect("it is there")));
    let got = ours
        .to_dtype(DType::F32)
        .get((64, 3), "x")
        .expect("it is there");
    assert_eq!(bits(&got), bits(&wanted));
    // Of the file's own type, it is converted from what is there.
    let own = self::ours(&path, DType::F64, &Loader::new());
    let got = own
        .to_dtype(DType::F32)
        .get((64, 3), "x")
        .expect("it is there");
    assert_eq!(bits(&got), bits(&wanted));
}

#[test]
fn names_and_shapes_are_refused_as_by_candle() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(
        &path,
        &[Content::random("a.x", Dtype::F32, &[4, 3], &mut random)],
    );
    let model = Loader::new().load(&Checkpoint::open(&path).expect("a valid file"));
    let model = model.expect("it loads");
    let theirs = candles(&path, DType::F32);
    let ours = ours(&path, DType::F32, &Loader::new());
    let resident = ckload::candle::var_builder_of(&model, DType::F32, &Device::Cpu);
    for vb in [&ours, &resident] {
        assert!(vb.pp("a").contains_tensor("x") && !vb.contains_tensor("x"));
        for (shape, name) in [((3, 4), "a.x"), ((4, 3), "a.y")] {
            let theirs = theirs
                .get(shape, name)
                .expect_err("there is no such tensor");
            let ours = vb.get(shape, name).expect_err("there is no such tensor");
            assert_eq!(message(&ours), message(&theirs));
        }
        let inner = |error: Error| match error {
            Error::WithBacktrace { inner, .. } => *inner,
            error => error,
        };
        let error = vb
            .get((3, 4), "a.x")
            .expect_err("it is the other way round");
        assert!(matches!(inner(error), Error::UnexpectedShape { .. }));
        let error = vb.get_unchecked("b").expect_err("there is none");
        assert!(matches!(inner(error), Error::CannotFindTensor { path } if path == "b"));
    }
}

#[test]
fn what_candle_lacks_is_refused_alone_and_by_name() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let mut contents = foreign(&mut random);
    contents.push(Content::random("known", Dtype::F32, &[4], &mut random));
    write(&path, &contents);
    let vb = ours(&path, DType::F32, &Loader::new());
    vb.get(4, "known").expect("the others do not matter");
    let error = vb
        .get(4, "foreign.C64")
        .expect_err("candle has no complex numbers");
    assert!(message(&error).contains("\"foreign.C64\" is C64, for which candle has no type"));
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let error = ckload::candle::load(&Loader::new(), &checkpoint, &Device::Cpu);
    let error = message(&error.expect_err("candle has no such type"));
    assert!(
        error.contains("foreign.") && error.contains("Select::exclude"),
        "{error}"
    );
    let known = Select::all().exclude("foreign.*").expect("a pattern");
    let known = checkpoint.select(&known).expect("a tensor is left");
    let tensors = ckload::candle::load(&Loader::new(), &known, &Device::Cpu).expect("it loads");
    assert_eq!(tensors.len(), 1);
}

#[test]
fn numbers_in_the_other_byte_order_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.npy");
    let mut file =
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }"
            .to_vec();
    file.resize(127, b' ');
    file.push(b'\n');
    file.extend([1.5_f32, -2.0].map(f32::to_be_bytes).concat());
    std::fs::write(&path, file).expect("a disk with room");
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let name = checkpoint.tensors()[0].name.clone();
    let vb = ours(&path, DType::F32, &Loader::new());
    let error = vb.get(2, &name).expect_err("nothing is swapped");
    assert!(message(&error).contains("big-endian"), "{error}");
    let loaded = Loader::new().load(&checkpoint).expect("it loads");
    ckload::candle::tensor(&loaded.tensors()[0], &Device::Cpu).expect_err("nothing is swapped");
}

#[test]
fn numpy_archives_load_as_candle_loads_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.npz");
    let random = |shape: &[usize]| Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).expect("numbers");
    let tensors = [("a", random(&[30, 7])), ("b", random(&[5]))];
    Tensor::write_npz(&tensors, &path).expect("a disk with room");
    let theirs = VarBuilder::from_npz(&path, DType::F32, &Device::Cpu).expect("a valid file");
    let ours = ours(&path, DType::F32, &Loader::new());
    for (name, tensor) in &tensors {
        let theirs = theirs.get(tensor.shape(), name).expect("it is there");
        let ours = ours.get(tensor.shape(), name).expect("it is there");
        assert!(
            bits(&ours) == bits(&theirs) && bits(&ours) == bits(tensor),
            "{name}"
        );
    }
}

#[test]
fn many_threads_may_ask_at_once() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let contents: Vec<Content> = (0..200)
        .map(|number| {
            let (dtype, _) = PLAIN[number % PLAIN.len()];
            Content::random(&format!("tensor.{number}"), dtype, &[20, 30], &mut random)
        })
        .collect();
    write(&path, &contents);
    let theirs = candles(&path, DType::F32);
    let ours = ours(&path, DType::F32, &Loader::new());
    thread::scope(|scope| {
        for _ in 0..8 {
            let mut order: Vec<&Content> = contents.iter().collect();
            random.shuffle(&mut order);
            let (ours, theirs) = (ours.clone(), theirs.clone());
            scope.spawn(move || {
                for Content { name, .. } in order {
                    let ours = ours.get((20, 30), name).expect("a known type");
                    let theirs = theirs.get((20, 30), name).expect("a known type");
                    assert!(bits(&ours) == bits(&theirs), "{name}");
                }
            });
        }
    });
}

#[test]
fn tensors_of_a_type_share_storages_and_are_aligned() {
    let mut random = Rng::with_seed(seed());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let contents: Vec<Content> = (0..50)
        .map(|number| Content::random(&format!("{number:02}"), Dtype::F32, &[1, 33], &mut random))
        .collect();
    write(&path, &contents);
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    assert!(
        checkpoint
            .tensors()
            .iter()
            .all(|info| info.dtype == Ours::F32)
    );
    let tensors = ckload::candle::load(&Loader::new(), &checkpoint, &Device::Cpu);
    let tensors = tensors.expect("it loads");
    let mut starts: Vec<usize> = tensors
        .values()
        .map(|x| x.layout().start_offset())
        .collect();
    starts.sort_unstable();
    assert!(
        starts.windows(2).all(|pair| pair[0] + 33 <= pair[1]),
        "{starts:?}"
    );
    for tensor in tensors.values() {
        assert!(tensor.is_contiguous());
        let doubled = tensor.affine(2.0, 0.0).expect("a float");
        assert_eq!(doubled.dims(), [1, 33]);
    }
}
