//! Pickles that call what they should not, and those of tensors that cannot be loaded: refused by the names of the tensors.

use crate::common::failure;
use crate::common::pickle::{Py, call, dict, ints, text};
use crate::common::torch::{Saved, Storage};
use crate::{Sample, check_names, refuse, storage};
use ckload_loaders::Checkpoint;

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
