//! `ckload inspect`: what a checkpoint holds, from its headers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ckload::{Checkpoint, FileInfo, MetadataValue, TensorInfo};
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::options::OutputOptions;
use super::report::{SCHEMA, Table};
use super::{Error, style, units};

/// Names are cut no shorter than this, however narrow the terminal.
const MIN_NAME_COLUMNS: usize = 16;

#[derive(Serialize)]
struct Inspection<'a> {
    schema: u32,
    path: Cow<'a, str>,
    format: String,
    files: Vec<FileEntry<'a>>,
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
    dtype: String,
    shape: &'a [u64],
    bytes: u64,
    /// Index into `files`.
    file: usize,
    /// Of the first byte, from the start of the file.
    offset: u64,
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
        Self {
            name: &tensor.name,
            dtype: tensor.dtype.to_string(),
            shape: &tensor.shape,
            bytes: tensor.bytes,
            file: tensor.file,
            offset: tensor.offset,
        }
    }
}

/// Prints files, metadata, tensors and totals.
pub(crate) fn run(model: &Path, output: &OutputOptions) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(model)?;
    if output.json {
        output.write_json(&inspection(&checkpoint))?;
    } else if !output.quiet {
        write_text(
            &mut io::BufWriter::new(output.stdout()),
            &checkpoint,
            style::columns(),
        )?;
    }
    Ok(())
}

fn inspection(checkpoint: &Checkpoint) -> Inspection<'_> {
    Inspection {
        schema: SCHEMA,
        path: checkpoint.path().to_string_lossy(),
        format: checkpoint.format().to_string(),
        files: checkpoint.files().iter().map(FileEntry::of).collect(),
        metadata: checkpoint.metadata(),
        tensors: checkpoint.tensors().iter().map(TensorEntry::of).collect(),
    }
}

fn write_text(out: &mut impl Write, checkpoint: &Checkpoint, columns: usize) -> io::Result<()> {
    let title = style::TITLE;
    let path = checkpoint.path().to_string_lossy();
    writeln!(out, "{title}{}{title:#}", style::escape(&path))?;
    writeln!(
        out,
        "{}, {}, {}, {} parameters, {}",
        checkpoint.format(),
        units::counted(checkpoint.files().len() as u64, "file"),
        units::counted(checkpoint.tensors().len() as u64, "tensor"),
        units::count(checkpoint.tensors().iter().map(elements).sum()),
        units::bytes(checkpoint.bytes()),
    )?;
    for (key, value) in checkpoint.metadata() {
        writeln!(
            out,
            "metadata: {} = {}",
            style::escape(key),
            style::escape(&value.to_string())
        )?;
    }
    if checkpoint.files().len() > 1 {
        writeln!(out)?;
        for (number, file) in checkpoint.files().iter().enumerate() {
            let path = file.path.to_string_lossy();
            writeln!(
                out,
                "file {number}: {}, {}",
                style::escape(&path),
                units::bytes(file.bytes)
            )?;
        }
    }
    if !checkpoint.tensors().is_empty() {
        writeln!(out)?;
        tensor_table(checkpoint, columns).write(out)?;
        writeln!(out)?;
        dtype_table(checkpoint).write(out)?;
    }
    out.flush()
}

fn tensor_table(checkpoint: &Checkpoint, columns: usize) -> Table {
    let rows: Vec<[String; 4]> = checkpoint
        .tensors()
        .iter()
        .map(|tensor| {
            [
                tensor.dtype.to_string(),
                format!("{:?}", tensor.shape),
                units::count(tensor.bytes),
                tensor.file.to_string(),
            ]
        })
        .collect();
    let header = ["dtype", "shape", "bytes", "file"];
    let others: usize = (0..header.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].width());
            2 + cells.chain([header[column].width()]).max().unwrap_or(0)
        })
        .sum();
    let name_columns = columns.saturating_sub(others).max(MIN_NAME_COLUMNS);
    let mut table = Table::new(std::iter::once("name").chain(header));
    for (tensor, row) in checkpoint.tensors().iter().zip(rows) {
        let name = cut(&style::escape(&tensor.name), name_columns);
        table.row(std::iter::once(name).chain(row));
    }
    table
}

fn dtype_table(checkpoint: &Checkpoint) -> Table {
    // Per type: tensors, elements, bytes.
    let mut totals: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let total = totals.entry(tensor.dtype.to_string()).or_default();
        for (sum, value) in total.iter_mut().zip([1, elements(tensor), tensor.bytes]) {
            *sum += value;
        }
    }
    let mut table = Table::new(["dtype", "tensors", "parameters", "bytes"]);
    for (dtype, total) in totals {
        table.row(std::iter::once(dtype).chain(total.map(units::count)));
    }
    table
}

fn elements(tensor: &TensorInfo) -> u64 {
    tensor.shape.iter().product()
}

/// The end of `name` behind an ellipsis if it is too wide: names differ in their ends.
fn cut(name: &str, columns: usize) -> String {
    if name.width() <= columns {
        return name.to_owned();
    }
    let mut room = columns - 1;
    let mut start = name.len();
    for (index, character) in name.char_indices().rev() {
        let width = character.width().unwrap_or(0);
        if width > room {
            break;
        }
        room -= width;
        start = index;
    }
    format!("…{}", &name[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(cut("h.0.attn.bias", 13), "h.0.attn.bias");
        assert_eq!(cut("h.0.attn.bias", 10), "…attn.bias");
        assert_eq!(cut("重み重み", 5), "…重み");
    }
}
