//! Rounds in which every way runs once, each in a process of its own, in an order that rotates.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use ckload_peers_machine::Ticks;
use serde::Serialize;

use crate::child::Process;
use crate::page_cache::State;
use crate::ways::Way;

/// A disturbed round is measured again up to so many times, all rounds together.
const PATIENCE: usize = 6;
/// Before that the others get some time to finish.
const PAUSE: Duration = Duration::from_secs(2);

/// How long to measure.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Effort {
    /// Rounds; the tables show their medians.
    pub(crate) rounds: usize,
    /// Loads after the first in each process.
    pub(crate) repeated: u16,
    /// Whether rounds that other processes disturbed are measured again.
    pub(crate) undisturbed: bool,
}

/// What all ways took in one state.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) state: State,
    /// Rounds that count although others disturbed them.
    pub(crate) disturbed_rounds: usize,
    pub(crate) ways: Vec<Samples>,
}

/// What one way took, round by round.
#[derive(Debug, Serialize)]
pub(crate) struct Samples {
    pub(crate) way: Way,
    pub(crate) processes: Vec<Process>,
}

/// Measures `ways` of loading the checkpoint at `path`.
pub(crate) fn measure(
    path: &Path,
    state: State,
    ways: &[Way],
    effort: Effort,
) -> Result<Measured, Box<dyn Error>> {
    let mut samples: Vec<Samples> = ways
        .iter()
        .map(|&way| Samples {
            way,
            processes: Vec::new(),
        })
        .collect();
    let mut patience = if effort.undisturbed { PATIENCE } else { 0 };
    let mut disturbed_rounds = 0;
    let mut round = 0;
    while round < effort.rounds {
        eprintln!("{state:?}, round {} of {} …", round + 1, effort.rounds);
        let (processes, is_disturbed) = run_round(path, state, ways, effort.repeated, round)?;
        if is_disturbed && patience > 0 {
            patience -= 1;
            thread::sleep(PAUSE);
            continue;
        }
        disturbed_rounds += usize::from(is_disturbed);
        for (samples, process) in samples.iter_mut().zip(processes) {
            samples.processes.push(process);
        }
        round += 1;
    }
    Ok(Measured {
        state,
        disturbed_rounds,
        ways: samples,
    })
}

/// Runs every way once, starting with another one each round; tells whether other processes disturbed it.
fn run_round(
    path: &Path,
    state: State,
    ways: &[Way],
    repeated: u16,
    round: usize,
) -> Result<(Vec<Process>, bool), Box<dyn Error>> {
    let mut processes: Vec<Option<Process>> = vec![None; ways.len()];
    let mut is_disturbed = false;
    for turn in 0..ways.len() {
        let at = (round + turn) % ways.len();
        let before = Ticks::now();
        processes[at] = Some(start(ways[at], state, repeated, path)?);
        is_disturbed |= Ticks::now().disturbed_since(before);
    }
    let processes: Vec<Process> = processes.into_iter().flatten().collect();
    if let Some(at) = processes
        .iter()
        .position(|process| process.digest != processes[0].digest)
    {
        return Err(format!(
            "{} and {} made different tensors",
            ways[0].name(),
            ways[at].name()
        )
        .into());
    }
    Ok((processes, is_disturbed))
}

fn start(way: Way, state: State, repeated: u16, path: &Path) -> Result<Process, Box<dyn Error>> {
    let output = Command::new(env::current_exe()?)
        .args(["--child", &argument(way), "--state", &argument(state)])
        .args(["--repeated", &repeated.to_string()])
        .arg(format!("model={}", path.display()))
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "{}: {}",
            way.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        )
        .into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A value as the command line takes it.
fn argument(value: impl clap::ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
