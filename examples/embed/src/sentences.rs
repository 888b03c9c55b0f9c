//! Sentences of which anyone can say how close they are.

use anyhow::{Result, ensure};
use ckload_example_embed::Embedder;

/// Pairs that say the same; sentences of different pairs have nothing to do with each other.
const PAIRS: [[&str; 2]; 4] = [
    [
        "A man is playing the guitar.",
        "Someone plays music on a guitar.",
    ],
    [
        "The stock market fell sharply today.",
        "Share prices dropped steeply this afternoon.",
    ],
    [
        "How do I bake sourdough bread?",
        "What is the recipe for a sourdough loaf?",
    ],
    [
        "The spacecraft landed on Mars.",
        "A space probe has landed on Mars.",
    ],
];

/// A pair is closer than this.
const CLOSE: f32 = 0.6;
/// What is unrelated is less close than this.
const UNRELATED: f32 = 0.3;

/// Prints how close all sentences are to each other.
///
/// # Errors
/// If any two are not as close as they should be: then the weights are not in their places.
pub(crate) fn check(embedder: &Embedder) -> Result<()> {
    let sentences = PAIRS.as_flattened();
    let vectors = embedder.embed(sentences)?;
    println!("\ncosine similarities");
    for (row, sentence) in vectors.iter().zip(sentences) {
        for column in &vectors {
            print!("{:6.2}", similarity(row, column));
        }
        println!("  {sentence}");
    }
    for (first, a) in vectors.iter().enumerate() {
        for (second, b) in vectors.iter().enumerate().skip(first + 1) {
            let similarity = similarity(a, b);
            let (one, other) = (sentences[first], sentences[second]);
            if first / 2 == second / 2 {
                ensure!(
                    similarity > CLOSE,
                    "only {similarity:.2}, and not over {CLOSE}: {one:?} and {other:?}"
                );
            } else {
                ensure!(
                    similarity < UNRELATED,
                    "{similarity:.2}, and not under {UNRELATED}: {one:?} and {other:?}"
                );
            }
        }
    }
    println!("each pair is closer than {CLOSE}, all others less close than {UNRELATED}");
    Ok(())
}

/// The cosine of the angle between two vectors of length 1.
fn similarity(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
