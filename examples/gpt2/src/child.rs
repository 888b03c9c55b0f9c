//! One measurement, in a process of its own: it starts with nothing loaded, mapped or warmed up.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use ckload::{Checkpoint, Loader, Select};
use ckload_example_gpt2::{Config, Gpt2, KeysAndValues};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who loads the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    Candle,
    Ckload,
}

/// What is to be computed.
pub(crate) struct Task {
    pub(crate) model: PathBuf,
    pub(crate) config: Config,
    pub(crate) prompt: Vec<u32>,
}

/// What a process says after its first token.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    /// From the start of `main` until the model is whole.
    pub(crate) load_seconds: f64,
    pub(crate) forward_seconds: f64,
    pub(crate) token: u32,
    /// Of all logits of the prompt.
    pub(crate) logits_sha256: String,
}

/// The line by which a process says that it has its first token; what follows is not measured.
const FIRST_TOKEN: &str = "first token\n";

/// Runs the task in a new process, and says how long after its start it had the first token.
///
/// # Errors
/// If it cannot be started, or fails; it says on standard error why.
pub(crate) fn measure(way: Way, task: &Task) -> Result<(Duration, Answer)> {
    let name = format!("{way:?}").to_lowercase();
    let prompt: Vec<String> = task.prompt.iter().map(u32::to_string).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([
            "--child",
            &name,
            "--config",
            &serde_json::to_string(&task.config)?,
        ])
        .args(["--prompt", &prompt.join(",")])
        .arg(&task.model)
        .stdout(Stdio::piped());

    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("its output is piped")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let first_token = begin.elapsed();

    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    let status = child.wait()?;
    ensure!(
        status.success() && line == FIRST_TOKEN,
        "the process with {name}'s loader failed: {status}"
    );
    Ok((first_token, serde_json::from_str(&rest)?))
}

/// What such a process does.
///
/// # Errors
/// If the model cannot be loaded, or does not take the prompt.
pub(crate) fn run(way: Way, task: &Task) -> Result<()> {
    let begin = Instant::now();
    let model = Gpt2::load(weights(way, task)?, &task.config)?;
    let load = begin.elapsed();
    let logits = model.forward(&task.prompt, &mut KeysAndValues::default())?;
    let token = logits
        .get(task.prompt.len() - 1)?
        .argmax(D::Minus1)?
        .to_scalar()?;
    let forward = begin.elapsed() - load;

    let mut output = io::stdout().lock();
    output.write_all(FIRST_TOKEN.as_bytes())?;
    output.flush()?;
    let answer = Answer {
        load_seconds: load.as_secs_f64(),
        forward_seconds: forward.as_secs_f64(),
        token,
        logits_sha256: sha256(&logits)?,
    };
    serde_json::to_writer(&mut output, &answer)?;
    Ok(())
}

fn weights(way: Way, task: &Task) -> Result<VarBuilder<'static>> {
    match way {
        Way::Candle => {
            // SAFETY: the map must not change while it is read; nobody writes to the file while it is measured.
            #[allow(unsafe_code)]
            let weights = unsafe {
                VarBuilder::from_mmaped_safetensors(&[&task.model], DType::F32, &Device::Cpu)
            };
            Ok(weights?)
        }
        Way::Ckload => {
            // The masks are a tenth of the published file, and the model makes its own; candle's loader takes only what is asked for.
            let used = Select::all()
                .exclude("*.attn.bias")?
                .exclude("*.attn.masked_bias")?;
            let checkpoint = Checkpoint::open(&task.model)?.select(&used)?;
            Ok(ckload::candle::var_builder(
                &Loader::new(),
                &checkpoint,
                DType::F32,
                &Device::Cpu,
            )?)
        }
    }
}

fn sha256(logits: &Tensor) -> Result<String> {
    let mut digest = Sha256::new();
    for logit in logits.flatten_all()?.to_vec1::<f32>()? {
        digest.update(logit.to_le_bytes());
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
