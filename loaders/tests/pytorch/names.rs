//! The names that tensors have, and what is beside them.

use crate::common::pickle::{Py, call, dict, ints, object, ordered, text};
use crate::common::torch::Saved;
use crate::common::zip::{Packing, TORCH, Zip};
use crate::{Sample, both, check_names, names, refuse, storage};

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
