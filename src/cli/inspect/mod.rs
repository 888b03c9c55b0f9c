//! `ckload inspect`: what a checkpoint holds, from its headers.

mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ckload::{Arrangement, ByteOrder, Checkpoint, FileInfo, MetadataValue, TensorInfo};
use serde::Serialize;

use super::open::open;
use super::options::OutputOptions;
use super::report::SCHEMA;
use super::{Error, style};

#[derive(Serialize)]
struct Inspection<'a> {
    schema: u32,
    path: Cow<'a, str>,
    format: String,
    files: Vec<FileEntry<'a>>,
    /// Files beside these that were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<Cow<'a, str>>,
    metadata: &'a BTreeMap<String, MetadataValue>,
    tensors: Vec<TensorEntry<'a>>,
}

#[derive(Serialize)]
struct FileEntry<'a> {
    path: Cow<'a, str>,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorEntry<'a> {
    name: &'a str,
    dtype: &'static str,
    shape: &'a [u64],
    bytes: u64,
    /// Index into `files`.
    file: usize,
    /// Of the first byte, from the start of the file.
    offset: u64,
    /// Only if it is not the usual one: `big`.
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_order: Option<&'static str>,
    /// Only if the bytes are not in place: `strided` or `compressed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrangement: Option<String>,
}

impl<'a> FileEntry<'a> {
    fn of(file: &'a FileInfo) -> Self {
        Self {
            path: file.path.to_string_lossy(),
            bytes: file.bytes,
        }
    }
}

impl<'a> TensorEntry<'a> {
    fn of(tensor: &'a TensorInfo) -> Self {
        let arrangement = tensor.arrangement();
        Self {
            name: &tensor.name,
            dtype: tensor.dtype.name(),
            shape: &tensor.shape,
            bytes: tensor.bytes,
            file: tensor.file,
            offset: tensor.offset,
            byte_order: (tensor.byte_order == ByteOrder::Big).then_some("big"),
            arrangement: (arrangement != Arrangement::InPlace).then(|| arrangement.to_string()),
        }
    }
}

/// Prints files, metadata, tensors and totals.
pub(crate) fn run(model: &Path, output: &OutputOptions) -> Result<(), Error> {
    let checkpoint = open(model, output)?;
    if output.json {
        output.write_json(&inspection(&checkpoint))?;
    } else if !output.quiet {
        text::write(
            &mut io::BufWriter::new(output.stdout()),
            &checkpoint,
            style::columns(),
        )?;
    }
    Ok(())
}

fn inspection(checkpoint: &Checkpoint) -> Inspection<'_> {
    let ignored = checkpoint.ignored().iter();
    Inspection {
        schema: SCHEMA,
        path: checkpoint.path().to_string_lossy(),
        format: checkpoint.format().to_string(),
        files: checkpoint.files().iter().map(FileEntry::of).collect(),
        ignored: ignored.map(|path| path.to_string_lossy()).collect(),
        metadata: checkpoint.metadata(),
        tensors: checkpoint.tensors().iter().map(TensorEntry::of).collect(),
    }
}
