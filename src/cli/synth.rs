//! `ckload synth`: writes a checkpoint.

use std::borrow::Cow;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use ckload::synth::{self, Blueprint, IfExists};
use serde::Serialize;

use super::interrupt::{self, CleansUp};
use super::options::{OutputOptions, SynthOptions};
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

/// Writes the checkpoint and says so.
pub(crate) fn run(options: &SynthOptions, output: &OutputOptions) -> Result<(), Error> {
    let blueprint = options.size.blueprint();
    write(
        &blueprint,
        &options.out,
        options.seed,
        options.if_exists,
        output,
    )?;
    if output.json {
        output.write_json(&Written {
            schema: SCHEMA,
            path: options.out.to_string_lossy(),
            tensors: blueprint.tensors().len(),
            bytes: blueprint.file_bytes(),
        })?;
    } else if !output.quiet {
        writeln!(
            output.stdout(),
            "{}: {}, {}",
            style::escape(&options.out.to_string_lossy()),
            units::counted(blueprint.tensors().len() as u64, "tensor"),
            units::bytes(blueprint.file_bytes()),
        )?;
    }
    Ok(())
}

/// Writes a checkpoint, with a bar; Ctrl-C leaves nothing of it.
pub(super) fn write(
    blueprint: &Blueprint,
    path: &Path,
    seed: u64,
    if_exists: IfExists,
    output: &OutputOptions,
) -> Result<(), Error> {
    let _cleans_up = CleansUp::new();
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    let message = format!("writing {}", style::escape(&name));
    let progress = Progress::new(output, message, blueprint.file_bytes());
    let written = blueprint.write_file_with(path, seed, if_exists, |bytes| {
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
