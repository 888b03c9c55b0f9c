//! The tables of an inspection.

use std::collections::BTreeMap;
use std::io::{self, Write};

use ckload::{Arrangement, ByteOrder, Checkpoint, MetadataValue, TensorInfo};

use crate::cli::open::file_labels;
use crate::cli::report::Table;
use crate::cli::width::cut_end;
use crate::cli::{style, units};

/// Longer arrays of metadata are only counted.
const SHOWN_VALUES: usize = 8;

/// Shapes are cut no shorter than this.
const MIN_SHAPE_COLUMNS: usize = 16;

/// Writes files, metadata, tensors and totals into lines of `columns`.
pub(super) fn write(
    out: &mut impl Write,
    checkpoint: &Checkpoint,
    columns: usize,
) -> io::Result<()> {
    let title = style::TITLE;
    let path = checkpoint.path().to_string_lossy();
    writeln!(out, "{title}{}{title:#}", style::escape(&path))?;
    let tensors = checkpoint.tensors();
    let total = tensors.iter().fold(Totals::default(), Totals::plus);
    writeln!(
        out,
        "{}, {}, {}, {} parameters, {}",
        checkpoint.format(),
        units::counted(checkpoint.files().len() as u64, "file"),
        units::counted(total.tensors, "tensor"),
        units::count(total.elements),
        units::bytes(total.bytes),
    )?;
    for (key, value) in checkpoint.metadata() {
        let line = format!(
            "metadata: {} = {}",
            cut_end(key, columns),
            summary(value, columns)
        );
        writeln!(out, "{}", cut_end(&line, columns))?;
    }
    if !tensors.is_empty() {
        writeln!(out)?;
        tensor_table(checkpoint, columns).write(out)?;
        writeln!(out)?;
        dtype_table(checkpoint).write(out)?;
    }
    if checkpoint.files().len() > 1 {
        writeln!(out)?;
        file_table(checkpoint, columns).write(out)?;
    }
    out.flush()
}

/// How many tensors, and how much they are together.
#[derive(Clone, Copy, Default)]
struct Totals {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

impl Totals {
    fn plus(self, tensor: &TensorInfo) -> Self {
        let elements = tensor.shape.iter().copied().fold(1, u64::saturating_mul);
        Self {
            tensors: self.tensors + 1,
            elements: self.elements.saturating_add(elements),
            bytes: self.bytes.saturating_add(tensor.bytes),
        }
    }

    fn cells(self) -> [String; 3] {
        [self.tensors, self.elements, self.bytes].map(units::count)
    }
}

/// A value of the metadata in at most so many columns, or a few more; of a long array what it is made of.
fn summary(value: &MetadataValue, columns: usize) -> String {
    match value {
        MetadataValue::String(text) => cut_end(text, columns),
        MetadataValue::Array(values)
            if values.len() > SHOWN_VALUES || values.iter().any(is_array) =>
        {
            format!("[{}]", counted_kind(values))
        }
        MetadataValue::Array(values) => {
            let values: Vec<String> = values.iter().map(|one| summary(one, columns)).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

fn is_array(value: &MetadataValue) -> bool {
    matches!(value, MetadataValue::Array(_))
}

/// `151,936 strings`
fn counted_kind(values: &[MetadataValue]) -> String {
    let kind = |value: &MetadataValue| match value {
        MetadataValue::Bool(_) => "boolean",
        MetadataValue::Unsigned(_) | MetadataValue::Signed(_) => "integer",
        MetadataValue::F32(_) | MetadataValue::F64(_) => "float",
        MetadataValue::String(_) => "string",
        MetadataValue::Array(_) => "array",
        _ => "value",
    };
    let first = values.first().map_or("value", kind);
    let is_uniform = values.iter().all(|value| kind(value) == first);
    let noun = if is_uniform { first } else { "value" };
    units::counted(values.len() as u64, noun)
}

fn tensor_table(checkpoint: &Checkpoint, columns: usize) -> Table {
    let tensors = checkpoint.tensors();
    let marks: Vec<String> = tensors
        .iter()
        .map(|tensor| mark(tensor.byte_order, tensor.arrangement()))
        .collect();
    let has_marks = marks.iter().any(|mark| !mark.is_empty());
    let header = ["name", "dtype", "shape", "bytes", "file"];
    let mut table = Table::new(header.into_iter().chain(has_marks.then_some("stored")));
    for (tensor, mark) in tensors.iter().zip(marks) {
        let cells = [
            style::escape(&tensor.name).into_owned(),
            tensor.dtype.to_string(),
            shape(&tensor.shape, MIN_SHAPE_COLUMNS.max(columns / 3)),
            units::count(tensor.bytes),
            tensor.file.to_string(),
        ];
        table.row(cells.into_iter().chain(has_marks.then_some(mark)));
    }
    table.fit(columns);
    table
}

/// What is unusual in how a tensor is stored; nothing, of nearly all.
fn mark(byte_order: ByteOrder, arrangement: Arrangement) -> String {
    let order = (byte_order != ByteOrder::Little).then(|| byte_order.to_string());
    let arrangement = (arrangement != Arrangement::InPlace).then(|| arrangement.to_string());
    let marks: Vec<String> = order.into_iter().chain(arrangement).collect();
    marks.join(", ")
}

fn dtype_table(checkpoint: &Checkpoint) -> Table {
    let mut totals: BTreeMap<&str, Totals> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let total = totals.entry(tensor.dtype.name()).or_default();
        *total = total.plus(tensor);
    }
    let mut table = Table::new(["dtype", "tensors", "parameters", "bytes"]);
    for (dtype, total) in totals {
        table.row(std::iter::once(dtype.to_owned()).chain(total.cells()));
    }
    table
}

fn file_table(checkpoint: &Checkpoint, columns: usize) -> Table {
    let mut totals = vec![Totals::default(); checkpoint.files().len()];
    for tensor in checkpoint.tensors() {
        totals[tensor.file] = totals[tensor.file].plus(tensor);
    }
    let mut table = Table::new(["file", "tensors", "parameters", "bytes"]);
    for (number, (label, total)) in file_labels(checkpoint).iter().zip(totals).enumerate() {
        table.row(std::iter::once(format!("{number}: {label}")).chain(total.cells()));
    }
    table.fit(columns);
    table
}

/// `[300, 4]`, cut at its end if it is too wide.
fn shape(dims: &[u64], columns: usize) -> String {
    // What is not shown need not be written: a header may give a tensor millions of dimensions.
    let shown = &dims[..dims.len().min(columns)];
    cut_end(&format!("{shown:?}"), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_are_counted() {
        let text = |text: &str| MetadataValue::String(text.to_owned());
        let words = vec![text("a"); 151_936];
        assert_eq!(
            summary(&MetadataValue::Array(words), 80),
            "[151,936 strings]"
        );
        let few = vec![MetadataValue::Unsigned(1), text("b\u{1b}")];
        let few = MetadataValue::Array(few);
        assert_eq!(summary(&few, 80), "[1, b\\u{1b}]");
        let nested = MetadataValue::Array(vec![few.clone()]);
        assert_eq!(summary(&nested, 80), "[1 array]");
        let mixed = MetadataValue::Array(vec![few, text("c")]);
        assert_eq!(summary(&mixed, 80), "[2 values]");
        assert_eq!(summary(&MetadataValue::Array(Vec::new()), 80), "[]");
        assert_eq!(summary(&text(&"x".repeat(1 << 20)), 10), "xxxxxxxxx…");
        assert_eq!(summary(&MetadataValue::F32(0.1), 10), "0.1");
    }

    #[test]
    fn what_is_stored_in_an_unusual_way_is_marked() {
        use ckload::Arrangement::{Compressed, InPlace, Strided};
        assert_eq!(mark(ByteOrder::Little, InPlace), "");
        assert_eq!(mark(ByteOrder::Big, InPlace), "big-endian");
        assert_eq!(mark(ByteOrder::Little, Strided), "strided");
        assert_eq!(mark(ByteOrder::Big, Compressed), "big-endian, compressed");
    }

    #[test]
    fn shapes_are_cut_at_their_ends() {
        assert_eq!(shape(&[], 16), "[]");
        assert_eq!(shape(&[300, 4], 16), "[300, 4]");
        assert_eq!(shape(&[1; 1_000_000], 16), "[1, 1, 1, 1, 1,…");
    }
}
