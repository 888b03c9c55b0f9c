//! Writes the seeds of the corpora: small files of each format, by the tests' own writers.

#[path = "../../loaders/tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ckload_loaders::Dtype;
use common::npy::{npy, npy_with};
use common::pickle::{Py, call, dict, ints, object, ordered, text};
use common::torch::{Saved, Storage};
use common::zip::{Packing, TORCH, Zip};
use common::{Content, GGML_TYPES, Gguf, Shard, Value, octets, random_gguf, random_shard};
use fastrand::Rng;

/// The largest seed, in bytes: mutating a larger one mostly changes data.
const MOST_BYTES: usize = 2048;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("safetensors", safetensors()),
        ("gguf", gguf()),
        ("index", index()),
        ("manifest", manifest()),
        ("pickle", pickle()),
        ("pytorch_zip", pytorch_zip()),
        ("pytorch_legacy", pytorch_legacy()),
        ("numpy", numpy()),
        ("plan", plan()),
    ] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("a folder that can be written");
        for (name, bytes) in seeds {
            let path = folder.join(format!("seed-{name}"));
            fs::write(path, bytes).expect("a folder that can be written");
        }
    }
}

/// Files by their names.
type Seeds = Vec<(String, Vec<u8>)>;

fn named(seeds: Vec<(&str, impl Into<Vec<u8>>)>) -> Seeds {
    let seeds = seeds.into_iter();
    seeds
        .map(|(name, bytes)| (name.to_owned(), bytes.into()))
        .collect()
}

/// A tensor of this shape with bytes that are always the same.
fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Content {
    let block = dtype.block();
    let bytes = shape.iter().product::<u64>() / block.elements * block.bytes;
    Content {
        dtype,
        shape: shape.to_vec(),
        ..octets(name, bytes as usize)
    }
}

/// The first `count` small files that `draw` gives.
fn small(count: usize, draw: impl Fn(&mut Rng) -> Vec<u8>) -> Seeds {
    let mut random = Rng::with_seed(1);
    let files = std::iter::repeat_with(|| draw(&mut random));
    let files = files.filter(|bytes| bytes.len() <= MOST_BYTES).take(count);
    files
        .enumerate()
        .map(|(number, bytes)| (format!("random-{number}"), bytes))
        .collect()
}

fn safetensors() -> Seeds {
    let mut model = Shard::of(vec![
        tensor("wte.weight", Dtype::F32, &[3, 4]),
        tensor("ln.bias", Dtype::BF16, &[5]),
        tensor("scalar", Dtype::I64, &[]),
        tensor("none", Dtype::F16, &[0, 7]),
        tensor("packed", Dtype::F6_E2M3, &[4, 2]),
    ]);
    model.metadata = Some(BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
    let mut all = Vec::new();
    for dtype in common::safetensors_dtypes() {
        all.push(tensor(dtype.name(), dtype, &[4]));
    }
    let mut seeds = named(vec![
        ("model", model.to_bytes()),
        ("empty", Shard::default().to_bytes()),
        ("dtypes", Shard::of(all).to_bytes()),
        (
            "lfs",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".into(),
        ),
        ("html", "<!DOCTYPE html><html></html>".into()),
    ]);
    seeds.extend(small(6, |random| {
        random_shard(random, &mut BTreeSet::new()).to_bytes()
    }));
    seeds
}

fn gguf() -> Seeds {
    let model = Gguf::new()
        .value("general.architecture", Value::string("llama"))
        .value("general.alignment", Value::U32(64))
        .value(
            "tokenizer.ggml.tokens",
            Value::Array(8, vec![Value::string("a"), Value::string("b")]),
        )
        .value(
            "nested",
            Value::Array(9, vec![Value::Array(4, vec![Value::U32(7)])]),
        );
    let model = Gguf {
        alignment: 64,
        ..model
    }
    .tensor(&tensor("token_embd.weight", Dtype::Q4_0, &[2, 32]))
    .tensor(&tensor("norm.weight", Dtype::F32, &[8]));
    let part = Gguf::of(&[tensor("a", Dtype::F32, &[1])]).part(0, 1, 1);
    let blocks: Vec<Content> = GGML_TYPES
        .into_iter()
        .map(|(_, dtype, elements, _)| tensor(dtype.name(), dtype, &[0, elements]))
        .collect();
    let mut seeds = named(vec![
        ("model", model.to_bytes()),
        ("part", part.to_bytes()),
        (
            "vocabulary",
            Gguf::new().value("k", Value::Bool(true)).to_bytes(),
        ),
        ("types", Gguf::of(&blocks).to_bytes()),
    ]);
    seeds.extend(small(8, |random| random_gguf(random).0.to_bytes()));
    seeds
}

fn index() -> Seeds {
    named(vec![
        ("two", common::index([("x", "a"), ("y", "a"), ("z", "b")])),
        ("below", common::index([("x", "d/c"), ("z", "./b")])),
        ("outside", common::index([("x", "../e")])),
        ("absolute", common::index([("x", "/dev/null")])),
        ("folder", common::index([("x", "d")])),
        ("absent", common::index([("x", "q")])),
        ("other", common::index([("q", "a")])),
        ("none", common::index([])),
        (
            "itself",
            common::index([("x", "model.safetensors.index.json")]),
        ),
        ("twice", r#"{"weight_map":{"x":"a","x":"b"}}"#.to_owned()),
    ])
}

fn manifest() -> Seeds {
    let digest = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";
    let tensor =
        format!(r#"{{"name":"t","dtype":"U8","shape":[4],"bytes":4,"sha256":"{digest}"}}"#);
    let file = format!(r#"{{"path":"m/0","bytes":68,"sha256":"{digest}","expected_sha256":null}}"#);
    named(vec![
        (
            "json",
            format!(r#"{{"schema":1,"path":"m","files":[{file}],"tensors":[{tensor}]}}"#),
        ),
        (
            "twice",
            format!(r#"{{"schema":1,"files":[],"tensors":[{tensor},{tensor}]}}"#),
        ),
        (
            "schema",
            r#"{"schema":2,"files":[],"tensors":[]}"#.to_owned(),
        ),
        (
            "list",
            format!("# comment\n{digest}  model/a\n{digest} *b\n\n"),
        ),
        ("escaped", format!("\\{digest}  a\\nb\\\\c\n")),
        ("tag", format!("SHA256 (model/a) = {digest}\n")),
        ("no-digest", "0123  a\n".to_owned()),
    ])
}

/// The storages that the target `pickle` has.
fn storages() -> [Storage; 3] {
    [
        Storage::floats("0", 16, 0),
        Storage::of("DoubleStorage", 8, "1", 3, 0),
        Storage::of("ByteStorage", 1, "2", 3, 0),
    ]
}

/// Objects whose tensors are found, and one whose are not, by their names.
fn objects() -> Vec<(&'static str, Py)> {
    let [floats, doubles, bytes] = storages();
    let parameter = |data| {
        call(
            "torch._utils",
            "_rebuild_parameter",
            vec![data, Py::Bool(true), Py::None],
        )
    };
    let views = dict(vec![
        ("whole", floats.whole()),
        ("matrix", floats.view(1, &[3, 5], &[5, 1])),
        ("transposed", floats.view(0, &[4, 4], &[1, 4])),
        ("repeated", doubles.view(1, &[9], &[0])),
        ("empty", bytes.view(3, &[0, 2], &[2, 1])),
        ("scalar", doubles.view(2, &[], &[])),
    ]);
    let state = ordered(vec![
        ("encoder.weight", parameter(floats.whole())),
        ("encoder.bias", bytes.whole()),
    ]);
    let nested = dict(vec![
        ("epoch", Py::Int(3)),
        ("loss", Py::Float(0.5)),
        ("arch", text("tiny")),
        ("state_dict", state.clone()),
        ("list", Py::List(vec![Py::None, doubles.whole()])),
        ("big", Py::Int(1 << 40)),
        ("numbers", Py::Dict(vec![(Py::Int(7), bytes.whole())])),
    ]);
    let attributes = call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        vec![
            Py::Global("torch._utils", "_rebuild_tensor_v2"),
            Py::Global("torch", "Tensor"),
            Py::Tuple(vec![doubles.id(), Py::Int(0), ints(&[3]), ints(&[1])]),
            dict(vec![("note", text("mine"))]),
        ],
    );
    let module = object(
        "torch.nn.modules.linear",
        "Linear",
        dict(vec![
            (
                "_parameters",
                ordered(vec![("weight", parameter(floats.whole()))]),
            ),
            ("_buffers", dict(vec![("seen", bytes.whole())])),
            ("_modules", ordered(vec![])),
        ]),
    );
    let sequences = dict(vec![
        (
            "deque",
            call("collections", "deque", vec![Py::List(vec![floats.whole()])]),
        ),
        (
            "set",
            call("builtins", "frozenset", vec![Py::List(vec![bytes.whole()])]),
        ),
        ("size", call("torch", "Size", vec![ints(&[1, 2])])),
    ]);
    let v3 = floats.rebuilt(
        "_rebuild_tensor_v3",
        0,
        &[4],
        &[1],
        vec![Py::Global("torch", "float32")],
    );
    let dangerous = dict(vec![
        ("run", call("os", "system", vec![text("true")])),
        ("w", floats.whole()),
    ]);
    vec![
        ("views", views),
        ("nested", nested),
        ("attributes", attributes),
        ("module", module),
        ("sequences", sequences),
        ("v3", v3),
        ("alone", doubles.whole()),
        ("dangerous", dangerous),
        ("state", state),
    ]
}

fn pickle() -> Seeds {
    let pickles = objects().into_iter();
    let mut seeds: Seeds = pickles
        .map(|(name, object)| (name.to_owned(), object.pickle()))
        .collect();
    seeds.extend(named(vec![
        // Every opcode of protocols 0 to 5 that pushes, moves or remembers something.
        (
            "text",
            b"(dp0\nS'a'\np1\nI1\nsVb\\u00df\np2\nF1.5\nsS\"c\"\n(lp3\nL7L\naNas.".to_vec(),
        ),
        (
            "memo",
            b"\x80\x02}q\x00(X\x01\0\0\0aq\x01h\x01j\x01\0\0\0r\x02\0\0\0h\x02u.".to_vec(),
        ),
        (
            "frames",
            b"\x80\x04\x95\x0a\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x04path\x94\x93\x94.".to_vec(),
        ),
        (
            "marks",
            b"\x80\x02(K\x01M\x01\x02(K\x031\x8a\x01\x05\x85\x86K\x01K\x02\x87l.".to_vec(),
        ),
        (
            "sets",
            b"\x80\x04\x8f(K\x01\x90(K\x02\x91\x86C\x01a\x8e\x01\0\0\0\0\0\0\0b\x86.".to_vec(),
        ),
        (
            "objects",
            b"\x80\x04c__main__\nA\n)\x81}b2(i__main__\nB\n(c__main__\nC\no\x87.".to_vec(),
        ),
        (
            "newobj",
            b"\x80\x04c__main__\nA\n)}\x92P0\n\x86\x82\x01\x86.".to_vec(),
        ),
    ]));
    seeds
}

fn saved(object: Py) -> Saved {
    let storages = storages().to_vec();
    Saved { object, storages }
}

fn pytorch_zip() -> Seeds {
    let deflated = Packing {
        deflated: true,
        aligned: 0,
        ..TORCH
    };
    let large = Packing {
        large: true,
        ..TORCH
    };
    let plain = Packing::default();
    let mut seeds = Seeds::new();
    for (name, object) in objects().into_iter().take(2) {
        let saved = saved(object);
        for (how, packing, order) in [
            ("torch", TORCH, Some("little")),
            ("deflated", deflated, None),
            ("large", large, Some("big")),
            ("plain", plain, None),
        ] {
            seeds.push((
                format!("{name}-{how}"),
                saved.archive_packed(packing, order),
            ));
        }
    }
    let mut script = Zip::default();
    script.member("m/data.pkl", &Py::None.pickle(), TORCH);
    script.member("m/code/__torch__.py", b"pass", TORCH);
    script.member("m/constants.pkl", &Py::Tuple(vec![]).pickle(), TORCH);
    seeds.push(("script".to_owned(), script.finish()));
    seeds.push(("empty".to_owned(), Zip::default().finish()));
    seeds
}

fn pytorch_legacy() -> Seeds {
    let objects = objects().into_iter();
    objects
        .map(|(name, object)| {
            // The object has to refer to every storage that the file has.
            let all = storages().map(|storage| storage.whole()).to_vec();
            let object = dict(vec![("object", object), ("all", Py::List(all))]);
            (name.to_owned(), saved(object).legacy())
        })
        .collect()
}

fn numpy() -> Seeds {
    let plain = npy("<f4", false, "(2, 3)", &[1; 24]);
    let fortran = npy(">f8", true, "(3, 2)", &[2; 48]);
    let scalar = npy("|u1", false, "()", &[3]);
    let archive = |packing| {
        let mut zip = Zip::default();
        zip.member("layer/kernel.npy", &plain, packing);
        zip.member("fortran.npy", &fortran, packing);
        zip.member("step.npy", &scalar, packing);
        zip.finish()
    };
    let deflated = Packing {
        deflated: true,
        ..Packing::default()
    };
    let large = Packing {
        large: true,
        ..Packing::default()
    };
    let version = |version| {
        npy_with(
            version,
            "{'shape':(2,),'fortran_order':True,'descr':'<c16'}",
            &[5; 32],
        )
    };
    named(vec![
        ("plain", plain.clone()),
        ("fortran", fortran.clone()),
        ("scalar", scalar.clone()),
        ("version-2", version(2)),
        ("version-3", version(3)),
        (
            "fields",
            npy_with(
                1,
                "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }",
                &[0; 4],
            ),
        ),
        ("objects", npy("|O", false, "(1,)", b"N.")),
        ("archive", archive(Packing::default())),
        ("archive-deflated", archive(deflated)),
        ("archive-large", archive(large)),
    ])
}

/// Descriptions are derived from bytes, of which any will do.
fn plan() -> Seeds {
    let mut random = Rng::with_seed(2);
    let lengths = [8, 16, 32, 64, 100, 150, 200, 300];
    lengths
        .into_iter()
        .map(|len| {
            let mut bytes = vec![0; len];
            random.fill(&mut bytes);
            (format!("random-{len}"), bytes)
        })
        .collect()
}
