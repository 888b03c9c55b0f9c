//! All measurements, in turn, so that what disturbs the machine disturbs each way alike.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::child::{self, Answer, Task, Way};
use crate::free_memory::{self, FreeMemory};
use crate::page_cache;

const WAYS: [(Way, &str); 2] = [
    (Way::Candle, "candle, mapped file"),
    (Way::Ckload, "ckload"),
];

/// The seconds of one way in one state of the page cache, run by run.
#[derive(Default)]
struct Row {
    first_token: Vec<f64>,
    load: Vec<f64>,
    forward: Vec<f64>,
}

/// Measures `runs` times in each way with the file in the page cache, and as often without; prints medians, and gives the first token.
///
/// # Errors
/// If a process fails, or the logits depend on who loaded the weights.
pub(crate) fn run(task: &Task, runs: u32, free_memory: FreeMemory) -> Result<u32> {
    let bytes = fs::metadata(&task.model)?.len();
    let measure = |way: usize, row: &mut Row| -> Result<Answer> {
        if free_memory == FreeMemory::Touched {
            free_memory::touch_and_free(bytes)?;
        }
        let (first_token, answer) = child::measure(WAYS[way].0, task)?;
        row.first_token.push(first_token.as_secs_f64());
        row.load.push(answer.load_seconds);
        row.forward.push(answer.forward_seconds);
        Ok(answer)
    };
    let mut warm: [Row; 2] = Default::default();
    let mut cold: [Row; 2] = Default::default();
    let mut not_cold = None;
    let mut answers: Vec<Answer> = Vec::new();
    for round in 0..runs as usize {
        // Each way goes first as often as the other.
        for way in [round % 2, (round + 1) % 2] {
            page_cache::fill(&task.model)?;
            answers.push(measure(way, &mut warm[way])?);
        }
        for way in [round % 2, (round + 1) % 2] {
            match page_cache::evict(&task.model)? {
                Ok(()) => answers.push(measure(way, &mut cold[way])?),
                Err(reason) => not_cold = Some(reason),
            }
        }
    }
    println!("{}: {:?}", task.model.display(), task.config);
    println!(
        "from a process's start to the first token after {} others; medians of {runs} processes, in turn; free memory {}\n",
        task.prompt.len(),
        match free_memory {
            FreeMemory::Touched => "just touched",
            FreeMemory::AsFound => "as it is found",
        }
    );
    println!(
        "{:28}{:>14}{:>14}{:>14}",
        "", "first token", "loading", "forward pass"
    );
    print_rows("cached", &mut warm);
    match not_cold {
        None => print_rows("not cached", &mut cold),
        Some(reason) => println!("not cached: skipped: {reason}"),
    }
    same(&answers)
}

fn print_rows(state: &str, rows: &mut [Row; 2]) {
    println!("{state}");
    for ((_, name), row) in WAYS.iter().zip(rows) {
        let [first_token, load, forward] = [&mut row.first_token, &mut row.load, &mut row.forward]
            .map(|seconds| median(seconds) * 1e3);
        println!("  {name:26}{first_token:11.1} ms{load:11.1} ms{forward:11.1} ms");
    }
}

/// The middle of the values, of which there are some.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Makes sure that all processes computed the same logits, and gives the token that they chose.
fn same(answers: &[Answer]) -> Result<u32> {
    let first = answers.first().context("something was measured")?;
    for answer in answers {
        ensure!(
            answer.logits_sha256 == first.logits_sha256,
            "the logits differ: SHA-256 {} and {}",
            first.logits_sha256,
            answer.logits_sha256
        );
    }
    println!(
        "\nall logits are the same to the last bit, whoever loaded: SHA-256 {}",
        first.logits_sha256
    );
    Ok(first.token)
}
