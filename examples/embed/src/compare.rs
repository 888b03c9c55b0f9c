//! The same weights, loaded in each way in turn.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ckload::candle::Storages;
use ckload::{BufferPool, ByteSize, Checkpoint, Loader};
use ckload_example_embed::{Embedder, ModelFolder};

/// Texts of different lengths, so that their batch is padded.
const TEXTS: [&str; 3] = [
    "A short text.",
    "Weights are bytes in a file until somebody gives them a shape; whoever does must put each of them where it belongs.",
    "",
];

/// What is kept of a model's memory for the next load.
const KEPT: ByteSize = ByteSize::gib(1);

struct Way<'a> {
    name: &'static str,
    load: Box<dyn Fn() -> Result<Embedder> + 'a>,
    seconds: Vec<Duration>,
}

/// Loads the model `runs` times in each way, prints how long that took, and gives the last model that ckload loaded.
///
/// # Errors
/// If a load fails, or the embeddings of [`TEXTS`] differ in a single bit.
pub(crate) fn loads(folder: &ModelFolder, runs: u32) -> Result<Embedder> {
    let loader = Loader::new().pool(&BufferPool::new());
    let storages = Storages::new(KEPT);
    let recycled = || {
        let checkpoint = Checkpoint::open(folder.path())?;
        Embedder::load_recycled(folder, &loader, &checkpoint, &storages)
    };
    let mut ways = [
        Way::new("candle: from_mmaped_safetensors", || {
            Embedder::load_with_candle(folder)
        }),
        Way::new("ckload: var_builder", || {
            Embedder::load(folder, &loader, &Checkpoint::open(folder.path())?)
        }),
        Way::new("ckload: recycled storages", recycled),
    ];
    // The first load brings the file into the page cache and the second fills the storages; neither is measured.
    let expected = Embedder::load_with_candle(folder)?.embed(&TEXTS)?;
    drop(recycled()?);
    for _ in 0..runs {
        for way in &mut ways {
            let begin = Instant::now();
            let embedder = (way.load)()?;
            way.seconds.push(begin.elapsed());
            ensure!(
                same_bits(&embedder.embed(&TEXTS)?, &expected),
                "{}: other embeddings than with candle's loader",
                way.name
            );
        }
    }
    println!(
        "{}\nmedians of {runs} loads, in turn, from the page cache; opening and the model's construction included\n",
        folder.path().display()
    );
    for way in &mut ways {
        println!(
            "{:32} {:8.1} ms",
            way.name,
            median(&mut way.seconds).as_secs_f64() * 1e3
        );
    }
    println!("\nthe embeddings are the same to the last bit");
    recycled()
}

impl<'a> Way<'a> {
    fn new(name: &'static str, load: impl Fn() -> Result<Embedder> + 'a) -> Self {
        Self {
            name,
            load: Box::new(load),
            seconds: Vec::new(),
        }
    }
}

fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    let bits = |rows: &[Vec<f32>]| -> Vec<Vec<u32>> {
        rows.iter()
            .map(|row| row.iter().map(|value| value.to_bits()).collect())
            .collect()
    };
    bits(a) == bits(b)
}
