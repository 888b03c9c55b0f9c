//! `ckload completions` and `ckload man`: about the command itself.

use std::path::PathBuf;

use clap::ValueHint;
use clap_complete::Shell;

use super::help::Example;

pub(super) const COMPLETIONS_EXAMPLES: &[Example] = &[
    Example::new("source <(ckload completions bash)", "for this shell"),
    Example::new(
        "ckload completions zsh > ~/.zfunc/_ckload",
        "a folder that fpath names",
    ),
    Example::new("ckload completions fish | source", "for this shell"),
];

pub(super) const MAN_EXAMPLES: &[Example] = &[
    Example::new("ckload man | man -l -", "read the main page"),
    Example::new(
        "ckload man ~/.local/share/man/man1",
        "then `man ckload` and `man ckload-verify`",
    ),
];

#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

#[derive(clap::Args, Debug)]
pub(super) struct ManArgs {
    /// Folder to write a page for each command into; made if it is not there [default: print the main page]
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) folder: Option<PathBuf>,
}
