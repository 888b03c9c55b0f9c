//! `ckload verify`: whether a checkpoint's bytes are what they should be.

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::Style;
use ckload::{
    Checkpoint, FileDigest, Manifest, Mismatch, Report, TensorDigest, Verification,
    VerifyOptions as What,
};
use serde::Serialize;

use super::open::open;
use super::options::{OutputOptions, VerifyOptions};
use super::progress::Progress;
use super::report::{
    ModelSummary, SCHEMA, Table, write_agreement, write_mismatches, write_model, write_text,
};
use super::{Error, style, units};

/// What was found, as JSON: without times, so that it is the same each time, and can be recorded and compared with.
#[derive(Serialize)]
struct Findings<'a> {
    schema: u32,
    path: Cow<'a, str>,
    files: &'a [FileDigest],
    tensors: &'a [TensorDigest],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mismatches: &'a [Mismatch],
}

/// Reads everything, prints digests, and fails if anything is not as it should be.
pub(crate) fn run(options: &VerifyOptions, output: &OutputOptions) -> Result<(), Error> {
    let checkpoint = open(&options.model, output)?;
    let manifest = options.against.as_ref().map(Manifest::read).transpose()?;
    let found = verify(&checkpoint, options, output)?;
    let mut mismatches = found.mismatches();
    if let Some(manifest) = &manifest {
        mismatches.extend(manifest.mismatches(&found));
    }
    let written = if output.json {
        output.write_json(&Findings {
            schema: SCHEMA,
            path: checkpoint.path().to_string_lossy(),
            files: found.files(),
            tensors: found.tensors(),
            mismatches: &mismatches,
        })
    } else if output.quiet {
        Ok(())
    } else {
        let mut out = io::BufWriter::new(output.stdout());
        write_findings(&mut out, &checkpoint, &found, &mismatches, options)
    };
    // Whoever closes the pipe is told of the damage all the same.
    if !mismatches.is_empty() {
        return Err(Error::Mismatched(mismatches));
    }
    Ok(written?)
}

fn verify(
    checkpoint: &Checkpoint,
    options: &VerifyOptions,
    output: &OutputOptions,
) -> Result<Verification, Error> {
    let bytes = checkpoint.files().iter().map(|file| file.bytes).sum();
    let message = format!("verifying {}", ModelSummary::of(checkpoint).file_name());
    let progress = Progress::new(output, message, bytes);
    let mut loader = options.reading.loader();
    if let Some(budget) = options.budget {
        loader = loader.budget(budget);
    }
    if let Some(observer) = progress.observer() {
        loader = loader.observer(observer);
    }
    let what = What::default().finite(options.finite);
    Ok(loader.verify(checkpoint, &what)?)
}

fn write_findings(
    out: &mut impl Write,
    checkpoint: &Checkpoint,
    found: &Verification,
    mismatches: &[Mismatch],
    options: &VerifyOptions,
) -> io::Result<()> {
    write_model(out, &ModelSummary::of(checkpoint))?;
    writeln!(out)?;
    file_table(found).write(out)?;
    writeln!(out)?;
    if options.verbose && !found.tensors().is_empty() {
        tensor_table(found, options.finite).write(out)?;
        writeln!(out)?;
    }
    write_cost(out, found.report())?;
    if mismatches.is_empty() {
        write_agreements(out, found, options)?;
    } else {
        writeln!(out)?;
        write_mismatches(out, mismatches)?;
    }
    out.flush()
}

fn file_table(found: &Verification) -> Table {
    let mut table = Table::new(["file", "bytes", "SHA-256"]);
    for file in found.files() {
        let path = file.path.to_string_lossy();
        table.row([
            style::escape(&path).into_owned(),
            units::count(file.bytes),
            file.sha256.to_string(),
        ]);
    }
    table
}

fn tensor_table(found: &Verification, finite: bool) -> Table {
    let counts: &[&str] = if finite { &["NaN", "infinite"] } else { &[] };
    let header = ["tensor", "dtype", "shape", "SHA-256"];
    let mut table = Table::new(header.into_iter().chain(counts.iter().copied()));
    for tensor in found.tensors() {
        let mut cells = vec![
            style::escape(&tensor.name).into_owned(),
            tensor.dtype.to_string(),
            format!("{:?}", tensor.shape),
            tensor.sha256.to_string(),
        ];
        if finite {
            let counts = tensor.non_finite;
            let cell = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), units::count);
            cells.push(cell(counts.map(|counts| counts.nan)));
            cells.push(cell(counts.map(|counts| counts.infinite)));
        }
        table.row(cells);
    }
    table
}

/// Every byte is hashed as part of its file, and most as part of a tensor as well.
fn write_cost(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let whole = format!(
        "{} read in {}, {}",
        units::bytes(report.bytes),
        units::seconds(report.seconds),
        units::rate(report.bytes_per_second),
    );
    let parts = format!(
        "hashing took {} and reading {}, summed over threads",
        units::seconds(report.digest_seconds.unwrap_or_default()),
        units::seconds(report.read_seconds),
    );
    write_text(out, Style::new(), &whole)?;
    write_text(out, Style::new(), &parts)
}

/// Says what was compared with what.
fn write_agreements(
    out: &mut impl Write,
    found: &Verification,
    options: &VerifyOptions,
) -> io::Result<()> {
    let gain = style::GAIN;
    let files = found.files();
    let named = files.iter().filter(|file| file.expected_sha256.is_some());
    let named = named.count() as u64;
    if named > 0 {
        let named = units::counted(named, "file");
        let sentence = format!("As its name in the Hugging Face cache says: {named}.");
        write_text(out, gain, &sentence)?;
    }
    if let Some(path) = &options.against {
        write_agreement(out, path)?;
    }
    if options.finite {
        write_text(out, gain, "Every float is finite.")?;
    }
    if named == 0 && options.against.is_none() {
        let advice = "Nothing to compare with: --json records digests, --against FILE compares.";
        write_text(out, Style::new(), advice)?;
    }
    Ok(())
}
