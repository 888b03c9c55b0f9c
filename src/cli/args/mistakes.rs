//! Command lines that can be parsed, and are mistakes all the same.

use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::load::LoadArgs;
use crate::cli::style;

/// Whoever has written so many letters of a command has meant it.
const COMPARED_START: usize = 4;

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
    let word = word.to_string_lossy();
    let word = style::escape(&word);
    let message = format!(
        "no model and no command is called '{wrong}{word}{wrong:#}'\n\n  {right}tip:{right:#} a similar command exists: '{right}{meant}{right:#}'"
    );
    Err(command.error(ErrorKind::InvalidSubcommand, message))
}

/// What makes a pattern of a word.
const PATTERN: [char; 4] = ['*', '?', '[', '{'];

/// The command that `word` is a slip of, if it is none itself, and no pattern.
fn similar_command(command: &Command, word: &str) -> Option<String> {
    if command.find_subcommand(word).is_some() || word.contains(PATTERN) {
        return None;
    }
    let names = command.get_subcommands().map(Command::get_name);
    let similar = names.filter(|name| is_slip(word, name));
    let nearest = similar.min_by_key(|name| strsim::osa_distance(word, name));
    nearest.map(str::to_owned)
}

/// Whether a letter in three is wrong, or only the start is the same.
fn is_slip(word: &str, name: &str) -> bool {
    let slips = strsim::osa_distance(word, name);
    let is_word = word.chars().all(char::is_alphabetic);
    let goes_on = name.len() >= COMPARED_START && is_word && word.starts_with(name);
    let start = name.get(..COMPARED_START);
    let starts = start.is_some_and(|start| word.starts_with(start));
    slips <= (name.len() / 3).max(1) || goes_on || starts && slips <= name.len() - COMPARED_START
}

#[cfg(test)]
mod tests {
    use super::similar_command;
    use crate::cli::args::command;

    #[test]
    fn patterns_are_no_slips() {
        let command = command();
        for (word, meant) in [
            ("demos", Some("demo")),
            ("demo*", None),
            ("dem?", None),
            ("demo[1]", None),
            ("{demo}", None),
        ] {
            assert_eq!(similar_command(&command, word).as_deref(), meant, "{word}");
        }
    }
}
