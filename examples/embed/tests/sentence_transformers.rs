//! The real model against sentence-transformers.

use std::io::{self, Write};

use ckload::{Checkpoint, Loader};
use ckload_example_embed::{Embedder, ModelFolder};

/// The first numbers of what `SentenceTransformer.encode` gives: sentence-transformers 6.2.0, transformers 5.24.0, torch 2.15.0 on a CPU.
const EXPECTED: [(&str, usize, [f32; 8]); 3] = [
    (
        "A man is playing the guitar.",
        1,
        [
            0.023549642,
            0.0006998098,
            -0.006235754,
            -0.05640703,
            -0.15520161,
            0.0003123598,
            0.07852382,
            -0.027736027,
        ],
    ),
    (
        "How do I bake sourdough bread?",
        1,
        [
            0.025550516,
            0.029335134,
            -0.024013288,
            -0.004857267,
            -0.1014032,
            0.012173282,
            -0.02215569,
            0.061264567,
        ],
    ),
    // Longer than the 256 tokens that are looked at.
    (
        "word ",
        400,
        [
            -0.008123663,
            -0.095585965,
            -0.038673136,
            0.049661968,
            -0.043793697,
            0.023719823,
            -0.0181424,
            -0.020206675,
        ],
    ),
];

#[test]
fn the_real_model_gives_what_sentence_transformers_gives() {
    let Some(folder) = ModelFolder::fetched().filter(|folder| folder.exists()) else {
        // Not println!, which is kept from sight while a test passes.
        writeln!(
            io::stderr(),
            "SKIPPED: there is no all-MiniLM-L6-v2; examples/embed/fetch fetches it"
        )
        .unwrap();
        return;
    };
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = ModelFolder::open(folder).unwrap();
    let embedder = Embedder::load(&model, &Loader::new(), &checkpoint).unwrap();
    let texts: Vec<String> = EXPECTED
        .iter()
        .map(|(text, times, _)| text.repeat(*times))
        .collect();
    let vectors = embedder.embed(&texts).unwrap();
    for ((text, _, expected), vector) in EXPECTED.iter().zip(&vectors) {
        assert_eq!(vector.len(), 384);
        for (value, expected) in vector.iter().zip(expected) {
            assert!(
                (value - expected).abs() < 1e-5,
                "{text:?}: {value} instead of {expected}"
            );
        }
    }
}
