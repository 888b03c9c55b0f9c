//! The `ckload` command: loads model checkpoints and says what allocation cost and what pooling saved.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    let invocation = cli::Invocation::parse_or_exit();
    cli::interrupt::install();
    match cli::run(&invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(&invocation.output),
    }
}
