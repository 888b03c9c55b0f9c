//! The command line: what was asked for, done.
//!
//! `args` knows the spelling of options, and `completions` and `man` tell of it: no other module sees the argument parser.
//! `options` holds what was meant.

mod args;
mod bench;
mod cache;
mod chart;
mod completions;
mod demo;
mod dry_run;
mod error;
mod inspect;
pub(crate) mod interrupt;
mod limit;
mod load;
mod log;
mod man;
mod open;
mod options;
mod page;
mod progress;
mod report;
mod runner;
mod savings;
mod style;
mod synth;
mod system_memory;
mod timeline;
mod units;
mod unmatched;
mod verify;
mod whole_file;
mod width;

pub(crate) use error::Error;
use options::Action;
pub(crate) use options::Invocation;

/// Does what the command line asks for.
pub(crate) fn run(invocation: &Invocation) -> Result<(), Error> {
    style::obey_locale();
    let output = &invocation.output;
    log::install(output)?;
    match &invocation.action {
        Action::Load(options) if options.dry_run => dry_run::run(options, output),
        Action::Load(options) => load::run(options, output),
        Action::Bench(options) => bench::run(options, output),
        Action::Demo(options) => demo::run(options, output),
        Action::Inspect { model } => inspect::run(model, output),
        Action::Synth(options) => synth::run(options, output),
        Action::Verify(options) => verify::run(options, output),
        Action::Completions(shell) => completions::run(*shell, output),
        Action::Man { folder } => man::run(folder.as_deref(), output),
    }
}
