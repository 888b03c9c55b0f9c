//! PyTorch checkpoints: their tensors have the names, places and bytes that torch gives them, and nothing in them is executed.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ckload_loaders::{ByteOrder, Checkpoint, Dtype, Format, Loader, TensorInfo};
use common::pickle::{Py, call, dict, ints, object, ordered, text};
use common::torch::{Saved, Storage};
use common::zip::{Packing, TORCH, Zip};
use common::{failure, index, random, write};
use tempfile::TempDir;

/// A file in a folder of its own.
struct Sample(TempDir);

impl Sample {
    fn new(bytes: &[u8]) -> Self {
        let sample = Self(tempfile::tempdir().expect("a temporary folder"));
        write(&sample.path(), bytes);
        sample
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.pt")
    }

    #[track_caller]
    fn open(&self) -> Checkpoint {
        Checkpoint::open(self.path()).expect("a valid checkpoint")
    }
}

/// The tensors of an archive and of a legacy file of the same.
#[track_caller]
fn both(saved: &Saved) -> [Checkpoint; 2] {
    [saved.archive(), saved.legacy()].map(|bytes| Sample::new(&bytes).open())
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    let mut names: Vec<&str> = checkpoint
        .tensors()
        .iter()
        .map(|info| info.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

/// Checks the names that torch gives the tensors of `object`, in both forms.
#[track_caller]
fn check_names(object: Py, storages: &[Storage], expected: &[&str]) {
    let saved = Saved {
        object,
        storages: storages.to_vec(),
    };
    for checkpoint in both(&saved) {
        assert_eq!(names(&checkpoint), expected);
    }
}

fn storage() -> Storage {
    Storage::floats("0", 6, 1)
}

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
fn names_are_paths_joined_by_dots() {
    let s = storage();
    let nested = dict(vec![
        ("epoch", Py::Int(3)),
        ("state_dict", ordered(vec![("encoder.weight", s.whole())])),
        ("list", Py::List(vec![Py::None, s.whole()])),
        ("tuple", Py::Tuple(vec![s.whole(), Py::Int(1)])),
        (
            "numbers",
            Py::Dict(vec![(Py::Int(7), s.whole()), (Py::Int(-1), s.whole())]),
        ),
        (
            "old",
            call(
                "collections",
                "OrderedDict",
                vec![Py::List(vec![Py::List(vec![text("pair"), s.whole()])])],
            ),
        ),
        (
            "queue",
            call("collections", "deque", vec![Py::List(vec![s.whole()])]),
        ),
        (
            "options",
            object("argparse", "Namespace", dict(vec![("mask", s.whole())])),
        ),
        (
            "slots",
            object(
                "mine",
                "Slotted",
                Py::Tuple(vec![Py::None, dict(vec![("kept", s.whole())])]),
            ),
        ),
        ("names", Py::Dict(vec![(ints(&[1, 2]), text("no tensor"))])),
    ]);
    check_names(
        nested,
        &[s],
        &[
            "list.1",
            "numbers.-1",
            "numbers.7",
            "old.pair",
            "options.mask",
            "queue.0",
            "slots.kept",
            "state_dict.encoder.weight",
            "tuple.0",
        ],
    );
}

#[test]
fn whatever_wraps_a_tensor_it_is_found() {
    let s = storage();
    let parameter = |data| {
        call(
            "torch._utils",
            "_rebuild_parameter",
            vec![data, Py::Bool(true), Py::None],
        )
    };
    let attributes = call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        vec![
            Py::Global("torch._utils", "_rebuild_tensor_v2"),
            Py::Global("torch", "Tensor"),
            Py::Tuple(vec![s.id(), Py::Int(0), ints(&[6]), ints(&[1])]),
            dict(vec![("note", text("mine"))]),
        ],
    );
    check_names(s.whole(), std::slice::from_ref(&s), &["tensor"]);
    check_names(parameter(s.whole()), std::slice::from_ref(&s), &["tensor"]);
    check_names(
        Py::List(vec![s.whole(), s.id()]),
        std::slice::from_ref(&s),
        &["0", "1"],
    );
    check_names(
        dict(vec![
            ("parameter", parameter(s.whole())),
            ("attributes", attributes),
            ("v1", s.rebuilt("_rebuild_tensor", 0, &[6], &[1], vec![])),
        ]),
        &[s],
        &["attributes", "parameter", "v1"],
    );
}

#[test]
fn a_module_that_was_saved_whole_has_the_names_of_its_state() {
    let s = storage();
    let module = |parameters, buffers, modules| {
        object(
            "mine",
            "Net",
            dict(vec![
                ("training", Py::Bool(true)),
                ("_parameters", ordered(parameters)),
                ("_buffers", ordered(buffers)),
                ("_modules", ordered(modules)),
                ("cached", s.whole()),
            ]),
        )
    };
    let inner = module(
        vec![("weight", s.whole()), ("bias", Py::None)],
        vec![],
        vec![],
    );
    let outer = module(
        vec![],
        vec![("mean", s.whole())],
        vec![("linear", inner.clone()), ("none", Py::None)],
    );
    check_names(
        outer.clone(),
        std::slice::from_ref(&s),
        &["linear.weight", "mean"],
    );
    check_names(
        dict(vec![("model", outer)]),
        std::slice::from_ref(&s),
        &["model.linear.weight", "model.mean"],
    );
    // TorchScript keeps a module's tensors among its attributes.
    let script = |attributes| object("__torch__.mine", "Net", dict(attributes));
    check_names(
        script(vec![
            ("training", Py::Bool(false)),
            ("weight", s.whole()),
            ("inner", script(vec![("bias", s.whole())])),
        ]),
        std::slice::from_ref(&s),
        &["inner.bias", "weight"],
    );
}

#[test]
fn a_module_s_class_may_come_with_its_source() {
    // Torch before 1.6 kept the source of modules' classes, to compare it with what it finds.
    let s = storage();
    let class = Py::Persistent(Box::new(Py::Tuple(vec![
        text("module"),
        Py::Global("mine", "Net"),
        text("mine.py"),
        text("class Net: ..."),
    ])));
    let made = |arguments| Py::Call(Box::new(class.clone()), Box::new(Py::Tuple(arguments)));
    let module = |arguments| {
        let state = dict(vec![
            ("_parameters", ordered(vec![("weight", s.whole())])),
            ("_buffers", ordered(vec![])),
            ("_modules", ordered(vec![])),
        ]);
        Py::Built(Box::new(made(arguments)), Box::new(state))
    };
    check_names(module(vec![]), std::slice::from_ref(&s), &["weight"]);
    let saved = Saved {
        object: module(vec![s.whole()]),
        storages: vec![s],
    };
    refuse(
        "a tensor within the call",
        &saved.legacy(),
        "unsupported",
        "depends on mine.Net",
    );
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
fn code_and_constants_of_torchscript_are_ignored() {
    let s = storage();
    let saved = Saved {
        object: object("__torch__.Net", "Net", dict(vec![("weight", s.whole())])),
        storages: vec![s.clone()],
    };
    let mut zip = Zip::default();
    let deflated = Packing {
        deflated: true,
        ..TORCH
    };
    zip.member("net/data/0", &s.bytes, TORCH);
    zip.member("net/data.pkl", &saved.object.pickle(), TORCH);
    zip.member("net/code/__torch__.py", b"import os", deflated);
    zip.member("net/constants/0", &s.bytes, TORCH);
    zip.member(
        "net/constants.pkl",
        &Py::Tuple(vec![s.whole()]).pickle(),
        TORCH,
    );
    let checkpoint = Sample::new(&zip.finish()).open();
    assert_eq!(names(&checkpoint), ["weight"]);
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
fn numbers_and_short_texts_are_metadata() {
    let saved = Saved {
        object: dict(vec![
            ("epoch", Py::Int(90)),
            ("arch", text("resnet")),
            ("best", Py::Float(0.5)),
            ("ema", Py::Bool(false)),
            ("long", text(&"x".repeat(100_000))),
            ("optimizer", dict(vec![("lr", Py::Float(0.1))])),
        ]),
        storages: vec![],
    };
    for checkpoint in both(&saved) {
        let metadata = checkpoint.metadata().iter();
        let metadata: Vec<String> = metadata
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            metadata,
            ["arch=resnet", "best=0.5", "ema=false", "epoch=90"]
        );
        assert!(checkpoint.tensors().is_empty());
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

#[test]
fn nothing_in_a_pickle_is_called() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let marker = folder.path().join("called");
    let command = text(&format!("touch {}", marker.display()));
    let s = storage();
    let calls = [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "check_output"),
        ("torch", "load"),
    ];
    for (module, name) in calls {
        let payload = call(module, name, vec![command.clone()]);
        // Beside the tensors a call is a value like any other, which nobody needs.
        check_names(
            dict(vec![("a", s.whole()), ("payload", payload.clone())]),
            std::slice::from_ref(&s),
            &["a"],
        );
        // A tensor that depends on it is refused.
        let hidden = call(module, name, vec![command.clone(), s.whole()]);
        let storage = call(
            "torch._utils",
            "_rebuild_tensor_v2",
            vec![payload, Py::Int(0), ints(&[6]), ints(&[1])],
        );
        for (object, says) in [(hidden, name), (storage, "it has no storage")] {
            let saved = Saved {
                object: dict(vec![("w", object)]),
                storages: vec![s.clone()],
            };
            let sample = Sample::new(&saved.archive());
            let message = failure(Checkpoint::open(sample.path())).to_string();
            assert!(message.contains("tensor \"w\""), "{message}");
            assert!(message.contains(says), "{message}");
        }
    }
    assert!(!marker.exists(), "the command ran");
}

/// A checkpoint that is refused: what it holds, the kind of the error, and what its message says.
#[track_caller]
fn refuse(what: &str, bytes: &[u8], kind: &str, says: &str) {
    let sample = Sample::new(bytes);
    let Err(error) = Checkpoint::open(sample.path()) else {
        panic!("{what}: accepted");
    };
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{what}: {message}");
    assert_eq!(error.path(), Some(sample.path().as_path()), "{what}");
    assert!(message.contains(says), "{what}: {message}");
    assert!(!message.contains('\n'), "{what}: {message}");
}

#[test]
fn tensors_that_cannot_be_loaded_are_named() {
    let s = storage();
    let rebuilt = |function, more| s.rebuilt(function, 0, &[6], &[1], more);
    let torch = |function, arguments| call("torch._utils", function, arguments);
    let conjugated = dict(vec![("conj", Py::Bool(true))]);
    let untyped = Storage::of("UntypedStorage", 1, "0", 24, 0);
    let cases = [
        (
            "sparse",
            torch("_rebuild_sparse_tensor", vec![Py::Int(0)]),
            "it is sparse",
        ),
        (
            "quantised",
            torch("_rebuild_qtensor", vec![s.id()]),
            "quantised",
        ),
        (
            "meta",
            torch("_rebuild_meta_tensor_no_storage", vec![]),
            "meta device",
        ),
        (
            "wrapper",
            torch("_rebuild_wrapper_subclass", vec![]),
            "wraps other tensors",
        ),
        (
            "nested",
            torch("_rebuild_nested_tensor", vec![]),
            "nested tensor",
        ),
        (
            "conjugated",
            rebuilt("_rebuild_tensor_v2", vec![conjugated]),
            "conjugated",
        ),
        (
            "an unknown dtype",
            rebuilt("_rebuild_tensor_v3", vec![Py::Global("torch", "bits16")]),
            "torch.bits16 is not supported",
        ),
        (
            "pairs of floats that are not in a row",
            untyped.rebuilt(
                "_rebuild_tensor_v3",
                0,
                &[3, 2],
                &[1, 3],
                vec![Py::Global("torch", "float4_e2m1fn_x2")],
            ),
            "4-bit floats",
        ),
        (
            "a subclass",
            call("mine.tensors", "rebuild", vec![s.whole()]),
            "depends on mine.tensors.rebuild",
        ),
        (
            "under a key that is a tuple",
            Py::Dict(vec![(ints(&[1, 2]), s.whole())]),
            "neither text nor a whole number",
        ),
    ];
    for (what, object, says) in cases {
        for storage in [&s, &untyped] {
            let object = dict(vec![("the.name", object.clone())]);
            let saved = Saved {
                object,
                storages: vec![storage.clone()],
            };
            let bytes = saved.archive();
            refuse(what, &bytes, "unsupported", says);
            refuse(what, &bytes, "unsupported", "tensor \"the.name");
        }
    }
    let twice = dict(vec![
        ("a.b", s.whole()),
        ("a", dict(vec![("b", s.whole())])),
    ]);
    let saved = Saved {
        object: twice,
        storages: vec![s],
    };
    refuse(
        "a name twice",
        &saved.archive(),
        "unsupported",
        "tensor \"a.b\"",
    );
}

#[test]
fn views_that_break_a_rule() {
    let s = storage();
    let cases: [(&str, Py, &str); 12] = [
        (
            "too long",
            s.view(0, &[7], &[1]),
            "byte 28 of a storage of 24",
        ),
        ("too late", s.view(1, &[6], &[1]), "byte 28"),
        ("strides too wide", s.view(0, &[2, 2], &[5, 2]), "byte 32"),
        ("a negative dimension", s.view(0, &[-1], &[1]), "its shape"),
        ("a negative stride", s.view(5, &[6], &[-1]), "its strides"),
        ("a negative offset", s.view(-1, &[6], &[1]), "its offset"),
        (
            "too few strides",
            s.view(0, &[2, 3], &[1]),
            "2 dimensions and 1 strides",
        ),
        (
            "huge dimensions",
            s.view(0, &[1 << 62, 1 << 62], &[0, 0]),
            "overflows",
        ),
        (
            "huge strides",
            s.view(0, &[3, 2], &[i64::MAX, i64::MAX]),
            "beyond all numbers",
        ),
        (
            "a huge offset",
            s.view(i64::MAX, &[1], &[1]),
            "its offset overflows",
        ),
        (
            "an element repeated too often",
            s.view(0, &[1 << 34], &[0]),
            "many times the file's size",
        ),
        (
            "no arguments",
            call("torch._utils", "_rebuild_tensor_v2", vec![]),
            "too short",
        ),
    ];
    for (what, tensor, says) in cases {
        let saved = Saved {
            object: dict(vec![("w", tensor), ("whole", s.whole())]),
            storages: vec![s.clone()],
        };
        refuse(what, &saved.archive(), "malformed", says);
        refuse(what, &saved.archive(), "malformed", "tensor \"w\"");
        refuse(what, &saved.legacy(), "malformed", says);
    }
}

#[test]
fn storages_that_break_a_rule() {
    let s = storage();
    let whole = |id| {
        let saved = Saved {
            object: dict(vec![(
                "w",
                call(
                    "torch._utils",
                    "_rebuild_tensor_v2",
                    vec![
                        Py::Persistent(Box::new(id)),
                        Py::Int(0),
                        ints(&[6]),
                        ints(&[1]),
                    ],
                ),
            )]),
            storages: vec![s.clone()],
        };
        saved.archive()
    };
    let id = |class: Py, key: Py, count: Py| {
        Py::Tuple(vec![text("storage"), class, key, text("cpu"), count])
    };
    let float = || Py::Global("torch", "FloatStorage");
    let cases = [
        (
            "another key",
            id(float(), text("1"), Py::Int(6)),
            "lacks its storage \"1\"",
        ),
        (
            "a key that leads elsewhere",
            id(float(), text("../../etc/passwd"), Py::Int(6)),
            "lacks its storage",
        ),
        (
            "more elements",
            id(float(), text("0"), Py::Int(7)),
            "beyond its 24 bytes",
        ),
        (
            "less than no elements",
            id(float(), text("0"), Py::Int(-6)),
            "no size",
        ),
        (
            "too many to count",
            id(float(), text("0"), Py::Int(i64::MAX)),
            "beyond its 24 bytes",
        ),
        ("no key", id(float(), Py::None, Py::Int(6)), "no text"),
        ("no class", id(Py::None, text("0"), Py::Int(6)), "no type"),
        (
            "a class of something else",
            id(Py::Global("os", "system"), text("0"), Py::Int(6)),
            "os.system, which is not known",
        ),
        ("no description", Py::None, "it has no storage"),
    ];
    for (what, id, says) in cases {
        refuse(what, &whole(id), "malformed", says);
    }
}

#[test]
fn archives_that_break_a_rule() {
    let s = storage();
    let object = dict(vec![("w", s.whole())]).pickle();
    let archive = |members: &[(&str, &[u8])]| {
        let mut zip = Zip::default();
        for (name, data) in members {
            zip.member(name, data, TORCH);
        }
        zip.finish()
    };
    refuse(
        "no storage",
        &archive(&[("m/data.pkl", &object)]),
        "malformed",
        "lacks its storage \"0\"",
    );
    refuse(
        "two pickles",
        &archive(&[("m/data.pkl", &object), ("n/data.pkl", &object)]),
        "malformed",
        "only one can be meant",
    );
    refuse(
        "a byte order",
        &archive(&[("m/data.pkl", &object), ("m/byteorder", b"middle")]),
        "malformed",
        "neither `little` nor `big`",
    );
    refuse(
        "no pickle",
        &archive(&[("m/weights.bin", &object)]),
        "other_format",
        "neither PyTorch's data.pkl nor NumPy's arrays",
    );
    refuse("no members", &archive(&[]), "other_format", "zip archive");
    refuse(
        "a pickle that breaks off",
        &archive(&[("m/data.pkl", &object[..object.len() - 1])]),
        "malformed",
        "breaks off",
    );
    let mut zip = Zip::default();
    zip.member("m/data.pkl", &object, TORCH);
    zip.member_with("m/data/0", &s.bytes, TORCH, |stated| stated.method = 12);
    refuse("another method", &zip.finish(), "malformed", "contradict");
    let saved = Saved {
        object: dict(vec![("w", s.whole())]),
        storages: vec![s],
    };
    let whole = saved.archive();
    for cut in [1, 22, 100, whole.len() / 2] {
        refuse(
            "a cut archive",
            &whole[..whole.len() - cut],
            "malformed",
            "fetch it again",
        );
    }
}

#[test]
fn directories_of_archives_that_break_a_rule() {
    let s = storage();
    let saved = Saved {
        object: dict(vec![("w", s.whole())]),
        storages: vec![s],
    };
    let whole = saved.archive();
    let large = Packing {
        large: true,
        ..TORCH
    };
    let large = saved.archive_packed(large, None);
    let end = whole.len() - 22;
    let with_comment = |comment: &[u8]| {
        let mut bytes = whole.clone();
        let len = (comment.len() as u16).to_le_bytes();
        bytes[end + 20..].copy_from_slice(&len);
        bytes.extend(comment);
        bytes
    };
    for comment in [&b"mine"[..], b"PK\x05\x06 and more", &[b'c'; 65_535]] {
        let checkpoint = Sample::new(&with_comment(comment)).open();
        assert_eq!(names(&checkpoint), ["w"]);
    }
    let start_of_list = u32::from_le_bytes([
        whole[end + 16],
        whole[end + 17],
        whole[end + 18],
        whole[end + 19],
    ]) as usize;
    let edit = |bytes: &[u8], at: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let inserted = |at: usize| [&whole[..at], b"#!/bin/sh\n", &whole[at..]].concat();
    let cases = [
        (
            "bytes behind",
            [&whole[..], b"\0"].concat(),
            "ends with a list",
        ),
        (
            "bytes before the list",
            inserted(start_of_list),
            "not right before it",
        ),
        (
            "bytes behind the list",
            inserted(end),
            "not right before it",
        ),
        ("another disk", edit(&whole, end + 4, &[1]), "several parts"),
        (
            "more members",
            edit(&whole, end + 10, &[9]),
            "says that it has 9",
        ),
        (
            "no list",
            edit(&whole, end + 12, &[0; 4]),
            "not right before it",
        ),
        (
            "a list beyond the file",
            edit(&whole, end + 16, &[0xfe; 4]),
            "not right before it",
        ),
        (
            "no entry",
            edit(&whole, start_of_list, b"PK\x01\x03"),
            "breaks off",
        ),
        (
            "a long name",
            edit(&whole, start_of_list + 28, &[0xff; 2]),
            "breaks off",
        ),
        (
            "a name that is not UTF-8",
            edit(&whole, start_of_list + 46, &[0xff]),
            "not UTF-8",
        ),
        (
            "another name",
            edit(&whole, start_of_list + 46, b"n"),
            "contradict each other",
        ),
        (
            "another place",
            edit(&whole, start_of_list + 42, &[1]),
            "no member where",
        ),
        (
            "another method",
            edit(&whole, start_of_list + 10, &[8]),
            "contradict each other",
        ),
        (
            "an encrypted member",
            edit(&whole, 6, &[9]),
            "contradict each other",
        ),
        (
            "no 64-bit record",
            edit(&large, large.len() - 98, b"KP"),
            "no record with 64-bit",
        ),
        (
            "a far 64-bit record",
            edit(&large, large.len() - 34, &[0; 8]),
            "no record with 64-bit",
        ),
        (
            "a 64-bit record after the end",
            edit(&large, large.len() - 34, &[0xff; 8]),
            "is not before",
        ),
        (
            "no 64-bit locator",
            edit(&large, large.len() - 42, b"KP"),
            "not right before it",
        ),
        (
            "64 bits that contradict 32",
            edit(&large, large.len() - 10, &[7; 4]),
            "contradicts",
        ),
    ];
    for (what, bytes, says) in cases {
        refuse(what, &bytes, "malformed", says);
    }
}

#[test]
fn legacy_files_that_break_a_rule() {
    let s = storage();
    let object = dict(vec![("w", s.whole())]);
    let saved = Saved {
        object: object.clone(),
        storages: vec![s.clone()],
    };
    let whole = saved.legacy();
    let pickles = |keys: Vec<Py>| Saved::legacy_pickles(&object, Py::List(keys));
    let with_storage = |mut bytes: Vec<u8>, count: u64| {
        bytes.extend(count.to_le_bytes());
        bytes.extend(&s.bytes);
        bytes
    };
    refuse(
        "within a pickle",
        &whole[..100],
        "malformed",
        "the file ends within it",
    );
    refuse(
        "within a storage",
        &whole[..whole.len() - 1],
        "truncated",
        "1 are missing",
    );
    refuse(
        "within a count",
        &whole[..whole.len() - 28],
        "truncated",
        "fetch the file again",
    );
    refuse(
        "trailing bytes",
        &[&whole[..], b"\0"].concat(),
        "trailing_bytes",
        "1 bytes after",
    );
    refuse(
        "another count",
        &with_storage(pickles(vec![text("0")]), 5),
        "malformed",
        "5 elements where the object expects 6",
    );
    refuse(
        "a huge count",
        &with_storage(pickles(vec![text("0")]), u64::MAX),
        "malformed",
        "where the object expects 6",
    );
    refuse(
        "a key that is not needed",
        &with_storage(pickles(vec![text("1")]), 6),
        "malformed",
        "does not refer to it",
    );
    refuse(
        "no key",
        &pickles(vec![]),
        "malformed",
        "lacks its storage \"0\"",
    );
    let twice = with_storage(with_storage(pickles(vec![text("0"), text("0")]), 6), 6);
    refuse("a key twice", &twice, "malformed", "there twice");
    let mut version = whole.clone();
    let at = version
        .windows(3)
        .position(|bytes| bytes == [b'J', 0xe9, 3]);
    version[at.expect("the version") + 1] = 0xe8;
    refuse("another version", &version, "malformed", "not 1001");
    refuse(
        "another pickle",
        &object.pickle(),
        "other_format",
        "torch.save did not write",
    );
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    refuse("a tar", &tar, "other_format", "torch before 0.1.10");
}

#[test]
fn damaged_files_give_an_error_or_a_checkpoint_and_nothing_else() {
    let mut random = random();
    let (s, t) = (Storage::floats("0", 24, 0), Storage::floats("1", 3, 100));
    let saved = Saved {
        object: dict(vec![
            ("state", ordered(vec![("a", s.whole()), ("b", t.whole())])),
            ("view", s.view(6, &[3, 2], &[2, 6])),
            ("list", Py::List(vec![Py::Int(300), Py::None, t.whole()])),
        ]),
        storages: vec![s, t],
    };
    let deflated = Packing {
        deflated: true,
        ..Packing::default()
    };
    let files = [
        saved.archive(),
        saved.archive_packed(deflated, None),
        saved.legacy(),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.pt");
    for valid in files {
        for _ in 0..1_000 {
            let mut bytes = valid.clone();
            for _ in 0..random.usize(1..4) {
                damage(&mut bytes, &mut random);
            }
            write(&path, &bytes);
            if let Ok(checkpoint) = Checkpoint::open(&path) {
                let file = bytes.len() as u64;
                for info in checkpoint.tensors() {
                    assert!(info.offset <= file, "{info:?}");
                }
            }
        }
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    match random.u8(..5) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 if random.u8(..8) == 0 => bytes.truncate(at),
        2 | 3 => bytes.insert(at, random.u8(..)),
        _ => drop(bytes.remove(at)),
    }
}
