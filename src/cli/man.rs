//! `ckload man`: the manual, a page for each command.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::options::OutputOptions;
use super::{Error, args, style, units};

/// What the exit status means.
const EXIT_STATUS: &[(&str, &str)] = &[
    (
        "0",
        "Done. A reader of standard output that closes it early is no error.",
    ),
    (
        "1",
        "The command failed, or what was verified is not as it should be.",
    ),
    ("2", "The command line is wrong."),
    ("130", "Interrupted by Ctrl-C."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "NO_COLOR",
        "If set and not empty, nothing is colored, unless --color=always says so.",
    ),
    (
        "CLICOLOR_FORCE",
        "If set and not empty, colors are used although the output is no terminal.",
    ),
    (
        "HF_HUB_CACHE",
        "The cache of Hugging Face, where models that are called org/name are looked for.",
    ),
    (
        "HF_HOME",
        "Its folder hub is the cache if HF_HUB_CACHE is not set. Default: huggingface in XDG_CACHE_HOME or in ~/.cache.",
    ),
    (
        "RUST_LOG",
        "Shows on standard error what the library tells of itself: a level, or TARGET=LEVEL such as ckload=debug.",
    ),
    (
        "LC_ALL, LC_CTYPE, LANG",
        "The first that is set and not empty names the locale; if that is not of UTF-8, reports have ASCII letters only.",
    ),
];

const FILES: &[(&str, &str)] = &[(
    "~/.cache/ckload",
    "Keeps the checkpoint of `ckload demo`, which may be deleted at any time. XDG_CACHE_HOME moves it, --dir names another folder.",
)];

/// Writes all pages into `folder`, or prints the one of the command itself.
pub(crate) fn run(folder: Option<&Path>, output: &OutputOptions) -> Result<(), Error> {
    let mut command = args::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = folder else {
        let mut out = output.stdout();
        out.write_all(&page(&command)?)?;
        out.flush()?;
        return Ok(());
    };
    fs::create_dir_all(folder).map_err(|source| Error::CreateFolder {
        path: folder.to_owned(),
        source,
    })?;
    let commands: Vec<&Command> = std::iter::once(&command)
        .chain(command.get_subcommands())
        .collect();
    for command in &commands {
        write_page(command, folder)?;
    }
    if !output.quiet {
        writeln!(
            output.stdout(),
            "{} in {}",
            units::counted(commands.len() as u64, "page"),
            style::escape(&folder.to_string_lossy()),
        )?;
    }
    Ok(())
}

fn write_page(command: &Command, folder: &Path) -> Result<(), Error> {
    let path = folder.join(format!("{}.1", title(command)));
    fs::write(&path, page(command)?).map_err(|source| Error::WriteFile { path, source })
}

/// `ckload`, `ckload-verify`
fn title(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

/// The page of one command.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    // The generator leaves out the texts of options that short help leaves out.
    let shown = command
        .clone()
        .mut_args(|argument| argument.hide_short_help(false));
    let man = Man::new(shown)
        .source(format!("ckload {version}"))
        .manual("ckload");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    sections(command).to_writer(&mut page)?;
    Ok(page)
}

/// What the parser does not know of.
fn sections(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for example in args::examples_of(command.get_name()) {
        item(&mut roff, example.line, &sentence(example.does));
    }
    let files = match command.get_name() {
        "ckload" | "demo" => FILES,
        _ => &[],
    };
    for (heading, items) in [
        ("EXIT STATUS", EXIT_STATUS),
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", files),
    ] {
        if items.is_empty() {
            continue;
        }
        roff.control("SH", [heading]);
        for (name, says) in items {
            item(&mut roff, name, says);
        }
    }
    roff
}

fn item(roff: &mut Roff, name: &str, says: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(says)]);
}

/// `text` with a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    first
        .into_iter()
        .flatten()
        .chain(letters)
        .chain(['.'])
        .collect()
}
