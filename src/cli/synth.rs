//! `ckload synth`: writes a checkpoint.

use std::borrow::Cow;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use ckload::synth::{self, Blueprint, IfExists, Llama, Moe, ShardedBlueprint};
use serde::Serialize;

use super::interrupt::{self, CleansUp};
use super::options::{ModelSize, OutputOptions, SynthModel, SynthOptions};
use super::progress::Progress;
use super::report::SCHEMA;
use super::{Error, style, units};

#[derive(Serialize)]
struct Written<'a> {
    schema: u32,
    path: Cow<'a, str>,
    tensors: usize,
    bytes: u64,
}

/// What is written.
enum Plan {
    File(Blueprint),
    Folder(ShardedBlueprint),
}

impl Plan {
    fn of(model: SynthModel, size: ModelSize) -> Self {
        match (model, size) {
            (SynthModel::Gpt2, size) => Self::File(size.blueprint()),
            (SynthModel::Llama, ModelSize::Tiny) => Self::Folder(Llama::TINY.blueprint()),
            (SynthModel::Llama, ModelSize::Small) => Self::Folder(synth::llama()),
            (SynthModel::Moe, ModelSize::Tiny) => Self::Folder(Moe::TINY.blueprint()),
            (SynthModel::Moe, ModelSize::Small) => Self::Folder(synth::moe()),
        }
    }

    fn tensors(&self) -> usize {
        match self {
            Self::File(blueprint) => blueprint.tensors().len(),
            Self::Folder(blueprint) => blueprint.tensor_count(),
        }
    }

    /// Bytes of the files, but for an index.
    fn bytes(&self) -> u64 {
        match self {
            Self::File(blueprint) => blueprint.file_bytes(),
            Self::Folder(blueprint) => blueprint.file_bytes(),
        }
    }
}

/// Writes the checkpoint and says so.
pub(crate) fn run(options: &SynthOptions, output: &OutputOptions) -> Result<(), Error> {
    let plan = Plan::of(options.model, options.size);
    let (out, seed, if_exists) = (&options.out, options.seed, options.if_exists);
    match &plan {
        Plan::File(blueprint) => write(blueprint, out, seed, if_exists, output)?,
        Plan::Folder(blueprint) => watched(out, plan.bytes(), output, |progress| {
            blueprint.write_folder_with(out, seed, if_exists, progress)
        })?,
    }
    if output.json {
        output.write_json(&Written {
            schema: SCHEMA,
            path: out.to_string_lossy(),
            tensors: plan.tensors(),
            bytes: plan.bytes(),
        })?;
    } else if !output.quiet {
        writeln!(
            output.stdout(),
            "{}: {}, {}",
            style::escape(&out.to_string_lossy()),
            units::counted(plan.tensors() as u64, "tensor"),
            units::bytes(plan.bytes()),
        )?;
    }
    Ok(())
}

/// Writes a checkpoint of one file, with a bar; Ctrl-C leaves nothing of it.
pub(super) fn write(
    blueprint: &Blueprint,
    path: &Path,
    seed: u64,
    if_exists: IfExists,
    output: &OutputOptions,
) -> Result<(), Error> {
    watched(path, blueprint.file_bytes(), output, |progress| {
        blueprint.write_file_with(path, seed, if_exists, progress)
    })
}

/// Calls `write`, which is to tell of every write and to stop when it is told to.
fn watched(
    path: &Path,
    bytes: u64,
    output: &OutputOptions,
    write: impl FnOnce(&mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), synth::Error>,
) -> Result<(), Error> {
    let _cleans_up = CleansUp::new();
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    let message = format!("writing {}", style::escape(&name));
    let progress = Progress::new(output, message, bytes);
    let written = write(&mut |bytes| {
        progress.moved(bytes);
        if interrupt::interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    match written {
        Err(synth::Error::Stopped { .. }) => Err(Error::Interrupted),
        Ok(()) if interrupt::interrupted() => Err(Error::Interrupted),
        other => Ok(other?),
    }
}
