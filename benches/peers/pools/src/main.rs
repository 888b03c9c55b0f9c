//! Measures every row and prints the table.

use std::{io, path::PathBuf, time::Duration};

use ckload_peers_machine::Machine;
use ckload_peers_pools::{
    measure::{self, Effort},
    report, rows, save,
};
use clap::Parser;

/// Measures the buffer pool of ckload against other pools.
#[derive(Parser)]
struct Options {
    /// A smoke run of some seconds, whose figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Only rows (and those measured in the same rounds) whose title contains this.
    #[arg(long, value_name = "WORDS")]
    rows: Option<String>,
    /// Rounds; medians are over these. Default: 11.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Also write the raw results to DIR/<date>-<machine>/.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let mut effort = if options.quick {
        Effort {
            rounds: 3,
            sample: Duration::from_micros(500),
            undisturbed: false,
        }
    } else {
        Effort {
            rounds: 11,
            sample: Duration::from_millis(10),
            undisturbed: true,
        }
    };
    if let Some(rounds) = options.rounds {
        effort.rounds = rounds.into();
    }
    let machine = Machine::this();
    let mut measured = Vec::new();
    for group in rows::all() {
        let wanted = options
            .rows
            .as_ref()
            .is_none_or(|words| group.rows.iter().any(|row| row.title.contains(words)));
        if wanted {
            eprintln!("{} …", group.rows[0].title);
            measured.push(measure::measure(group, effort));
        }
    }
    print!("{}", report::markdown(&measured));
    if let Some(folder) = options.save {
        let folder = save::save(&folder, &machine, effort, &measured)?;
        eprintln!("written to {}", folder.display());
    }
    Ok(())
}
