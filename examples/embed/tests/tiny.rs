//! A BERT of a few kilobytes with random weights: every way of loading gives the same vectors, and what is broken is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use ckload::candle::Storages;
use ckload::{BufferPool, ByteSize, Checkpoint, Loader};
use ckload_example_embed::{Embedder, ModelFolder};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

const WIDTH: usize = 32;
const HEADS: usize = 4;
const LAYERS: usize = 2;
const INNER: usize = 48;
const POSITIONS: usize = 16;
const WORDS: [&str; 9] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "pages", "of", "memory", "are", "warm",
];

/// Texts of 0 to more tokens than the model takes.
const TEXTS: [&str; 4] = [
    "pages of memory are warm",
    "",
    "Memory?",
    "of of of of of of of of of of of of of of of of of of of of of of of of of of of of",
];

#[test]
fn each_way_of_loading_gives_the_same_vectors() {
    let (_folder, model, checkpoint) = written(1);
    let loader = Loader::new().pool(&BufferPool::new());
    let storages = Storages::new(ByteSize::mib(1));

    let expected = bits(&Embedder::load_with_candle(&model).unwrap());
    let loaded = Embedder::load(&model, &loader, &checkpoint).unwrap();
    assert_eq!(bits(&loaded), expected);
    for _ in 0..3 {
        let recycled = Embedder::load_recycled(&model, &loader, &checkpoint, &storages).unwrap();
        assert_eq!(bits(&recycled), expected);
    }

    let (_folder, model, checkpoint) = written(2);
    let swapped = Embedder::load_recycled(&model, &loader, &checkpoint, &storages).unwrap();
    assert_ne!(bits(&swapped), expected, "another model");
    let expected = bits(&Embedder::load_with_candle(&model).unwrap());
    assert_eq!(bits(&swapped), expected);
    assert!(storages.stats().reused > 0, "{:?}", storages.stats());
}

#[test]
fn vectors_have_length_one_and_do_not_depend_on_padding() {
    let (_folder, model, checkpoint) = written(3);
    let embedder = Embedder::load(&model, &Loader::new(), &checkpoint).unwrap();
    let together = embedder.embed(&TEXTS).unwrap();
    for (vector, text) in together.iter().zip(TEXTS) {
        assert_eq!(vector.len(), WIDTH);
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5, "{text:?}: {length}");
        let alone = embedder.embed(&[text]).unwrap();
        assert!(distance(vector, &alone[0]) < 1e-5, "{text:?}");
    }
    assert!(
        distance(&together[0], &together[2]) > 1e-2,
        "the texts count"
    );
    // With [CLS] and [SEP] as long as the longest sequence.
    let longest = embedder.embed(&["of ".repeat(POSITIONS - 2)]).unwrap();
    assert!(
        distance(&longest[0], &together[3]) < 1e-5,
        "longer texts are cut"
    );
    assert!(embedder.embed(&[""; 0]).unwrap().is_empty());
}

#[test]
fn a_text_without_tokens_is_an_error() {
    let (folder, _, checkpoint) = written(4);
    let mut bare = tokenizer();
    bare["post_processor"] = serde_json::Value::Null;
    fs::write(folder.path().join("tokenizer.json"), bare.to_string()).unwrap();
    let model = ModelFolder::open(folder.path()).unwrap();
    let embedder = Embedder::load(&model, &Loader::new(), &checkpoint).unwrap();
    refused(embedder.embed(&["pages", ""]), "text 1");
    refused(embedder.embed(&[""]), "text 0");
    assert_eq!(embedder.embed(&["pages"]).unwrap().len(), 1);
}

#[test]
fn a_broken_model_is_refused_by_what_is_broken() {
    let (folder, model, checkpoint) = written(5);
    let loader = Loader::new();
    let storages = Storages::new(ByteSize::mib(1));
    let refused_by_both = |model: &ModelFolder, what: &str| {
        refused(Embedder::load(model, &loader, &checkpoint), what);
        refused(
            Embedder::load_recycled(model, &loader, &checkpoint, &storages),
            what,
        );
    };
    fs::write(
        folder.path().join("config.json"),
        config(WIDTH * 2).to_string(),
    )
    .unwrap();
    let wider = ModelFolder::open(folder.path()).unwrap();
    refused_by_both(&wider, "embeddings.word_embeddings.weight");
    let file = File::options()
        .write(true)
        .open(folder.path().join("model.safetensors"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    refused_by_both(&model, "model.safetensors");

    for name in ["tokenizer.json", "config.json"] {
        let path = folder.path().join(name);
        fs::write(&path, "{").unwrap();
        refused(ModelFolder::open(folder.path()), name);
        fs::remove_file(&path).unwrap();
        refused(ModelFolder::open(folder.path()), name);
        write_model(folder.path(), 5);
    }
}

/// A model in a folder of its own.
fn written(seed: u64) -> (TempDir, ModelFolder, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), seed);
    let model = ModelFolder::open(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, model, checkpoint)
}

/// The largest difference between two vectors' numbers.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// Asserts that there is an error, and that it names `what`.
fn refused<T>(result: anyhow::Result<T>, what: &str) {
    let error = format!("{:#}", result.err().expect("it is refused"));
    assert!(error.contains(what), "{what} is not in: {error}");
}

fn bits(embedder: &Embedder) -> Vec<Vec<u32>> {
    let rows = embedder.embed(&TEXTS).unwrap();
    rows.iter()
        .map(|row| row.iter().map(|value| value.to_bits()).collect())
        .collect()
}

fn write_model(folder: &Path, seed: u64) {
    fs::write(folder.join("config.json"), config(WIDTH).to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product())
                .flat_map(|_| (random.f32() - 0.5).to_le_bytes())
                .collect();
            (name, shape, values)
        })
        .collect();
    let views = data.iter().map(|(name, shape, values)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), values).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn config(width: usize) -> serde_json::Value {
    json!({
        "vocab_size": WORDS.len(), "hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0, "model_type": "bert",
    })
}

fn tokenizer() -> serde_json::Value {
    let vocabulary: BTreeMap<&str, usize> = WORDS.into_iter().zip(0..).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
}

/// The tensors of such a model, by their published names.
fn shapes() -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    let mut add = |name: &str, kind: &str, shape: &[usize]| {
        shapes.insert(format!("{name}.{kind}"), shape.to_vec())
    };
    for (name, rows) in [
        ("word", WORDS.len()),
        ("position", POSITIONS),
        ("token_type", 2),
    ] {
        add(
            &format!("embeddings.{name}_embeddings"),
            "weight",
            &[rows, WIDTH],
        );
    }
    let norm = |name: String| (name, vec![WIDTH]);
    let mut parts = vec![norm("embeddings.LayerNorm".into())];
    for layer in 0..LAYERS {
        let layer = format!("encoder.layer.{layer}");
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            parts.push((format!("{layer}.attention.{part}"), vec![WIDTH, WIDTH]));
        }
        parts.push((format!("{layer}.intermediate.dense"), vec![INNER, WIDTH]));
        parts.push((format!("{layer}.output.dense"), vec![WIDTH, INNER]));
        parts.push(norm(format!("{layer}.attention.output.LayerNorm")));
        parts.push(norm(format!("{layer}.output.LayerNorm")));
    }
    for (name, shape) in parts {
        add(&name, "weight", &shape);
        add(&name, "bias", &shape[..1]);
    }
    shapes
}
