//! Where tensors lie, what they are made of, and that their bytes arrive.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use crate::common::pickle::{Py, call, dict, ints, ordered, text};
use crate::common::torch::{Saved, Storage};
use crate::common::zip::{Packing, TORCH, Zip};
use crate::common::{index, write};
use crate::{Sample, both, storage};
use ckload_loaders::{ByteOrder, Checkpoint, Dtype, Format, Loader, TensorInfo};

#[test]
fn contiguous_tensors_load_in_place() {
    let (a, b) = (Storage::floats("0", 24, 0), Storage::floats("1", 3, 100));
    let expected: BTreeMap<&str, &[u8]> = [
        ("whole", &a.bytes[..]),
        ("row", &a.bytes[24..48]),
        ("scalar", &a.bytes[20..24]),
        ("none", &[]),
        ("other", &b.bytes),
    ]
    .into();
    let saved = Saved {
        object: ordered(vec![
            ("whole", a.view(0, &[4, 6], &[6, 1])),
            ("row", a.view(6, &[1, 6], &[6, 1])),
            ("scalar", a.view(5, &[], &[])),
            ("none", a.view(0, &[3, 0], &[1, 1])),
            ("other", b.whole()),
        ]),
        storages: vec![a.clone(), b.clone()],
    };
    let large = Packing {
        large: true,
        ..Packing::default()
    };
    let files = [
        saved.archive(),
        saved.archive_packed(Packing::default(), None),
        saved.archive_packed(large, None),
        saved.legacy(),
    ];
    for file in files {
        let sample = Sample::new(&file);
        let checkpoint = sample.open();
        assert_eq!(checkpoint.format(), Format::PyTorch);
        let model = Loader::new().load(&checkpoint).expect("it loads");
        assert_eq!(model.tensors().len(), 5);
        for tensor in model.tensors() {
            assert_eq!(tensor.dtype(), Dtype::F32);
            assert!(
                tensor.bytes() == expected[tensor.name()],
                "{tensor:?} differs"
            );
        }
        let whole = model.tensor("whole").expect("it is there");
        assert_eq!(whole.shape(), [4, 6]);
        for tensor in Loader::new().stream(&checkpoint).expect("a stream") {
            let tensor = tensor.expect("it loads");
            assert!(
                tensor.bytes() == expected[tensor.name()],
                "{tensor:?} differs"
            );
        }
        // Tensors that share bytes stand in the order of these.
        let offsets: Vec<u64> = checkpoint.tensors().iter().map(|t| t.offset).collect();
        assert!(offsets.is_sorted());
    }
}

#[test]
fn views_have_their_shapes_and_starts() {
    let a = Storage::floats("0", 24, 0);
    let saved = Saved {
        object: dict(vec![
            ("whole", a.whole()),
            ("transposed", a.view(0, &[6, 4], &[1, 6])),
            ("column", a.view(1, &[4], &[6])),
            ("repeated", a.view(23, &[7, 2], &[0, 0])),
        ]),
        storages: vec![a],
    };
    for checkpoint in both(&saved) {
        let find = |name: &str| checkpoint.tensor(name).expect("it is there");
        let start = find("whole").offset;
        let seen = |info: &TensorInfo| (info.offset - start, info.shape.clone(), info.bytes);
        assert_eq!(seen(find("transposed")), (0, vec![6, 4], 96));
        assert_eq!(seen(find("column")), (4, vec![4], 16));
        assert_eq!(seen(find("repeated")), (92, vec![7, 2], 56));
    }
}

#[test]
fn every_storage_has_its_dtype() {
    let classes = [
        ("BoolStorage", Dtype::BOOL),
        ("ByteStorage", Dtype::U8),
        ("CharStorage", Dtype::I8),
        ("ShortStorage", Dtype::I16),
        ("IntStorage", Dtype::I32),
        ("LongStorage", Dtype::I64),
        ("HalfStorage", Dtype::F16),
        ("BFloat16Storage", Dtype::BF16),
        ("FloatStorage", Dtype::F32),
        ("DoubleStorage", Dtype::F64),
        ("ComplexFloatStorage", Dtype::C64),
        ("ComplexDoubleStorage", Dtype::C128),
    ];
    for (class, dtype) in classes {
        let element = dtype.block().bytes as usize;
        let storage = Storage::of(class, element, "0", 5, 0);
        let saved = Saved {
            object: dict(vec![("a", storage.view(2, &[3], &[1]))]),
            storages: vec![storage],
        };
        for checkpoint in both(&saved) {
            let [info] = checkpoint.tensors() else {
                panic!("one tensor of {class}");
            };
            assert_eq!((info.dtype, info.bytes), (dtype, 3 * element as u64));
        }
    }
}

#[test]
fn storages_without_a_type_have_that_of_the_tensor() {
    let dtypes = [
        ("uint16", Dtype::U16, 6),
        ("uint64", Dtype::U64, 24),
        ("complex32", Dtype::C32, 12),
        ("float8_e4m3fn", Dtype::F8_E4M3, 3),
        ("float8_e5m2fnuz", Dtype::F8_E5M2FNUZ, 3),
        ("float8_e8m0fnu", Dtype::F8_E8M0, 3),
        ("float4_e2m1fn_x2", Dtype::F4, 3),
    ];
    for (name, dtype, bytes) in dtypes {
        let storage = Storage::of("UntypedStorage", 1, "0", 2 * bytes, 0);
        let tensor = storage.rebuilt(
            "_rebuild_tensor_v3",
            3,
            &[3],
            &[1],
            vec![Py::Global("torch", name)],
        );
        let saved = Saved {
            object: dict(vec![("all", storage.id()), ("a", tensor)]),
            storages: vec![storage],
        };
        for checkpoint in both(&saved) {
            let info = checkpoint.tensor("a").expect("it is there");
            let start = checkpoint.tensor("all").expect("it is there").offset;
            assert_eq!((info.dtype, info.bytes), (dtype, bytes as u64), "{name}");
            assert_eq!(info.offset - start, bytes as u64, "{name}");
            // A pair of 4-bit floats is two elements.
            let count = if dtype == Dtype::F4 { 6 } else { 3 };
            assert_eq!(info.shape, [count], "{name}");
        }
    }
}

#[test]
fn an_archive_may_have_more_than_4_gib() {
    const HOLE: u64 = 5 << 30;
    let s = storage();
    let count = (HOLE + 24) as i64 / 4;
    let id = Py::Persistent(Box::new(Py::Tuple(vec![
        text("storage"),
        Py::Global("torch", "FloatStorage"),
        text("0"),
        text("cpu"),
        Py::Int(count),
    ])));
    let last = call(
        "torch._utils",
        "_rebuild_tensor",
        vec![id, Py::Int(count - 6), ints(&[6]), ints(&[1])],
    );
    let mut zip = Zip::default();
    let packing = Packing {
        large: true,
        ..TORCH
    };
    zip.member("m/data.pkl", &dict(vec![("last", last)]).pickle(), packing);
    let data = zip.member_with("m/data/0", &[], packing, |stated| {
        (stated.packed, stated.bytes) = (HOLE + 24, HOLE + 24);
    });
    zip.bytes.truncate(data.end);
    // A hole in the file stands for the storage's zeros.
    let sample = Sample::new(&zip.bytes);
    let file = std::fs::File::options().write(true).open(sample.path());
    let file = file.expect("the file");
    let end = data.end as u64 + HOLE;
    let behind = [&s.bytes[..], &zip.finish_behind(HOLE + 24)].concat();
    file.write_all_at(&behind, end).expect("a sparse file");
    let checkpoint = sample.open();
    let model = Loader::new().load(&checkpoint).expect("it loads");
    assert_eq!(checkpoint.tensors()[0].offset, end);
    assert!(model.tensors()[0].bytes() == &s.bytes);
}

#[test]
fn compressed_members_are_read() {
    let s = storage();
    let saved = Saved {
        object: dict(vec![("epoch", Py::Int(3)), ("a", s.view(1, &[5], &[1]))]),
        storages: vec![s],
    };
    let deflated = Packing {
        deflated: true,
        ..Packing::default()
    };
    let checkpoint = Sample::new(&saved.archive_packed(deflated, Some("big"))).open();
    let [info] = checkpoint.tensors() else {
        panic!("one tensor");
    };
    assert_eq!((info.shape.as_slice(), info.bytes), (&[5][..], 20));
    assert_eq!(info.byte_order, ByteOrder::Big);
    assert_eq!(checkpoint.metadata()["epoch"].to_string(), "3");
}

#[test]
fn the_byte_order_is_told() {
    let s = storage();
    let saved = Saved {
        object: s.whole(),
        storages: vec![s],
    };
    for (recorded, expected) in [
        (None, ByteOrder::Little),
        (Some("little"), ByteOrder::Little),
        (Some("big"), ByteOrder::Big),
    ] {
        let checkpoint = Sample::new(&saved.archive_packed(TORCH, recorded)).open();
        assert_eq!(checkpoint.tensors()[0].byte_order, expected);
    }
}

#[test]
fn a_part_of_a_storage_begins_where_it_begins() {
    // Torch before 0.4 described storages that were parts of others.
    let s = Storage::floats("root", 10, 0);
    let Py::Persistent(id) = s.id() else {
        panic!("a persistent id");
    };
    let Py::Tuple(mut id) = *id else {
        panic!("a tuple");
    };
    id.push(Py::Tuple(vec![text("part"), Py::Int(4), Py::Int(6)]));
    let part = call(
        "torch._utils",
        "_rebuild_tensor",
        vec![
            Py::Persistent(Box::new(Py::Tuple(id))),
            Py::Int(1),
            ints(&[2]),
            ints(&[1]),
        ],
    );
    let saved = Saved {
        object: dict(vec![("all", s.whole()), ("part", part)]),
        storages: vec![s],
    };
    let checkpoint = Sample::new(&saved.legacy()).open();
    let find = |name: &str| checkpoint.tensor(name).expect("it is there").offset;
    assert_eq!(find("part") - find("all"), 4 * (4 + 1));
}

#[test]
fn an_index_names_shards_of_pytorch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        let s = Storage::floats("0", 4, number as u8);
        let saved = Saved {
            object: ordered(vec![(name, s.whole())]),
            storages: vec![s],
        };
        let file = format!("pytorch_model-{}-of-2.bin", number + 1);
        write(&folder.path().join(file), &saved.archive());
    }
    let places = [
        ("a", "pytorch_model-1-of-2.bin"),
        ("b", "pytorch_model-2-of-2.bin"),
    ];
    let path = folder.path().join("pytorch_model.bin.index.json");
    write(&path, index(places).as_bytes());
    let checkpoint = Checkpoint::open(&path).expect("a valid checkpoint");
    let model = Loader::new().load(&checkpoint).expect("it loads");
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        let tensor = model.tensor(name).expect("it is there");
        assert!(tensor.bytes() == &Storage::floats("0", 4, number as u8).bytes);
    }
}
