//! A small GPT-2: its logits are those of a reference in plain loops, whoever loads it, and the program says so.

mod naive;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use ckload::{Checkpoint, Loader};
use ckload_example_gpt2::{Config, Gpt2, KeysAndValues};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use naive::Naive;

const CONFIG: Config = Config {
    vocabulary: 131,
    positions: 24,
    width: 48,
    layers: 3,
    heads: 4,
};
const PROMPT: [u32; 7] = [3, 130, 0, 77, 77, 12, 64];

#[test]
fn logits_are_those_of_the_reference() {
    for prefix in ["", "transformer."] {
        let folder = tempfile::tempdir().unwrap();
        let path = write_model(folder.path(), prefix, 1);
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(Config::of(&checkpoint, Some(CONFIG.heads)).unwrap(), CONFIG);

        let expected =
            Naive::read(&path, CONFIG.width, CONFIG.heads, CONFIG.layers).logits(&PROMPT);
        let spread = expected
            .iter()
            .flatten()
            .fold(0.0_f64, |most, logit| most.max(logit.abs()));
        assert!(
            spread > 1.0,
            "logits that are all alike would say nothing: {spread}"
        );
        let with_candle = logits(&with_candle(&path));
        for (row, expected) in with_candle.iter().zip(&expected) {
            for (&logit, expected) in row.iter().zip(expected) {
                assert!(
                    (f64::from(logit) - expected).abs() < 1e-4 * spread,
                    "{logit} instead of {expected}"
                );
            }
        }
        let same = logits(&with_ckload(&checkpoint));
        assert_eq!(bits(&same), bits(&with_candle), "whoever loads");
    }
}

#[test]
fn keys_and_values_stand_for_the_tokens_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_model(folder.path(), "", 2);
    let model = with_ckload(&Checkpoint::open(&path).unwrap());
    let together = logits(&model);
    let mut earlier = KeysAndValues::default();
    let mut rows = Vec::new();
    for tokens in [&PROMPT[..3], &PROMPT[3..4], &PROMPT[4..]] {
        rows.extend(
            model
                .forward(tokens, &mut earlier)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap(),
        );
    }
    for (a, b) in rows.iter().flatten().zip(together.iter().flatten()) {
        assert!((a - b).abs() < 1e-3, "{a} and {b}");
    }

    let chosen = model.greedy(&PROMPT, 4).unwrap();
    let mut tokens = PROMPT.to_vec();
    for token in chosen {
        let naive = Naive::read(&path, CONFIG.width, CONFIG.heads, CONFIG.layers).logits(&tokens);
        let last = naive.last().unwrap();
        let most = (0..last.len())
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        assert_eq!(token as usize, most);
        tokens.push(token);
    }
}

#[test]
fn what_the_model_does_not_take_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_model(folder.path(), "", 3);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let model = with_ckload(&checkpoint);
    let error = |tokens: &[u32]| {
        model
            .forward(tokens, &mut KeysAndValues::default())
            .unwrap_err()
            .to_string()
    };
    assert!(error(&[]).contains("1 to 24"));
    assert!(error(&[1; 25]).contains("1 to 24"));
    assert!(error(&[131]).contains("token 131"));
    let error = Config::of(&checkpoint, Some(7)).unwrap_err().to_string();
    assert!(error.contains("--heads"), "{error}");
}

#[test]
fn the_program_compares_both_loaders() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_model(folder.path(), "", 4);
    let output = program(&[
        path.to_str().unwrap(),
        "--heads",
        "4",
        "--prompt",
        "3,130,0",
        "--runs",
        "2",
        "--tokens",
        "3",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("all logits are the same to the last bit"),
        "{text}"
    );
    assert!(text.contains("[3, 130, 0] goes on with ["), "{text}");

    let output = program(&[
        path.to_str().unwrap(),
        "--heads",
        "4",
        "--prompt",
        "131",
        "--runs",
        "1",
    ]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("token 131"), "{text}");
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ckload-example-gpt2"))
        .args(arguments)
        .output()
        .unwrap()
}

fn with_candle(path: &Path) -> Gpt2 {
    // SAFETY: this test alone knows the file, and does not write to it any more.
    #[allow(unsafe_code)]
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[path], DType::F32, &Device::Cpu) };
    Gpt2::load(weights.unwrap(), &CONFIG).unwrap()
}

fn with_ckload(checkpoint: &Checkpoint) -> Gpt2 {
    let weights =
        ckload::candle::var_builder(&Loader::new(), checkpoint, DType::F32, &Device::Cpu).unwrap();
    Gpt2::load(weights, &CONFIG).unwrap()
}

fn logits(model: &Gpt2) -> Vec<Vec<f32>> {
    model
        .forward(&PROMPT, &mut KeysAndValues::default())
        .unwrap()
        .to_vec2()
        .unwrap()
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|logit| logit.to_bits()).collect()
}

/// Writes a model with random weights that are large enough for attention to matter.
fn write_model(folder: &Path, prefix: &str, seed: u64) -> PathBuf {
    let mut random = fastrand::Rng::with_seed(seed);
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product())
                .flat_map(|_| (random.f32() - 0.5).to_le_bytes())
                .collect();
            (format!("{prefix}{name}"), shape, values)
        })
        .collect();
    let views = data.iter().map(|(name, shape, values)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), values).unwrap(),
        )
    });
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

/// The tensors of such a model, by their published names.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let width = CONFIG.width;
    let mut shapes = vec![
        ("wte.weight".to_owned(), vec![CONFIG.vocabulary, width]),
        ("wpe.weight".to_owned(), vec![CONFIG.positions, width]),
    ];
    let mut add = |name: String, shape: &[usize]| {
        shapes.push((format!("{name}.bias"), shape[shape.len() - 1..].to_vec()));
        shapes.push((format!("{name}.weight"), shape.to_vec()));
    };
    for layer in 0..CONFIG.layers {
        add(format!("h.{layer}.ln_1"), &[width]);
        add(format!("h.{layer}.ln_2"), &[width]);
        add(format!("h.{layer}.attn.c_attn"), &[width, 3 * width]);
        add(format!("h.{layer}.attn.c_proj"), &[width, width]);
        add(format!("h.{layer}.mlp.c_fc"), &[width, 4 * width]);
        add(format!("h.{layer}.mlp.c_proj"), &[4 * width, width]);
    }
    add("ln_f".to_owned(), &[width]);
    shapes
}
