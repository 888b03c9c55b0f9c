//! Command lines that can be parsed, and are mistakes all the same.

use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::load::LoadArgs;
use crate::cli::style;

/// `ckload --resident demo` is a mistake, not a demonstration: the option would have no effect.
pub(super) fn refuse_load_options_before_a_command(
    command: &mut Command,
    matches: &ArgMatches,
) -> Result<(), clap::Error> {
    let Some(name) = matches.subcommand_name() else {
        return Ok(());
    };
    let load_options = <LoadArgs as clap::Args>::augment_args(Command::new("load"));
    let given = load_options.get_arguments().find(|argument| {
        matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
    });
    match given {
        None => Ok(()),
        Some(argument) => {
            let option = argument.get_long().unwrap_or(argument.get_id().as_str());
            Err(refused(command, &format!("--{option}"), name))
        }
    }
}

/// `option` has no effect with the command `name`.
pub(super) fn refused(command: &mut Command, option: &str, name: &str) -> clap::Error {
    let message = format!("'{option}' cannot be used with the command '{name}'");
    command.error(ErrorKind::ArgumentConflict, message)
}

/// `ckload insepct model` names a command and no model: nothing is called so.
pub(super) fn refuse_a_mistyped_command(
    command: &mut Command,
    models: &[impl AsRef<Path>],
) -> Result<(), clap::Error> {
    let Some(word) = models.first().map(AsRef::as_ref) else {
        return Ok(());
    };
    let Some(meant) = word
        .to_str()
        .and_then(|word| similar_command(command, word))
    else {
        return Ok(());
    };
    if word.symlink_metadata().is_ok() {
        return Ok(());
    }
    let (wrong, right) = (style::WARNING, style::LITERAL);
    let word = word.display();
    let message = format!(
        "no model and no command is called '{wrong}{word}{wrong:#}'\n\n  {right}tip:{right:#} a similar command exists: '{right}{meant}{right:#}'"
    );
    Err(command.error(ErrorKind::InvalidSubcommand, message))
}

/// The command that `word` is a slip of: a letter in three is wrong, or letters at the end are missing.
fn similar_command(command: &Command, word: &str) -> Option<String> {
    let names = command.get_subcommands().map(Command::get_name);
    let slips = names.map(|name| (strsim::osa_distance(word, name), name));
    let (slips, name) = slips.min()?;
    let is_cut = word.len() >= 4 && name.starts_with(word);
    (is_cut || slips <= (name.len() / 3).max(1)).then(|| name.to_owned())
}
