//! `ckload completions`: what a shell needs to complete command lines.

use std::io::Write;

use clap_complete::Shell;

use super::options::OutputOptions;
use super::{Error, args};

/// Prints the script.
pub(crate) fn run(shell: Shell, output: &OutputOptions) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "ckload", &mut script);
    let mut out = output.stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(())
}
