//! How files are read: options that several commands share.

use std::num::NonZeroUsize;

use ckload::{ByteSize, Io};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::help::group;
use super::values::parse_size;
use crate::cli::options::Reading;

#[derive(clap::Args, Debug)]
#[command(next_help_heading = group::READING)]
pub(super) struct ReadArgs {
    /// How files are read
    ///
    /// auto takes what the page cache has from there, and reads the rest past it.
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = io_parser())]
    io: Io,

    #[command(flatten)]
    threads: ThreadArgs,

    /// The most that is read at a time, such as 1MiB
    ///
    /// Default: 4 MiB, over a network 8 MiB, less for small models.
    #[arg(long, value_name = "SIZE", value_parser = parse_read_size, hide_short_help = true)]
    read_size: Option<ByteSize>,

    /// Drop from the page cache what the load brought there; what was there before stays
    #[arg(long, hide_short_help = true)]
    drop_cache: bool,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = group::READING)]
pub(super) struct ThreadArgs {
    /// Threads that read
    ///
    /// Default: one for each core; once a disk is asked, 8, or over a network 32, if these are more.
    #[arg(short = 'j', long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,
}

impl From<ReadArgs> for Reading {
    fn from(args: ReadArgs) -> Self {
        Self {
            io: args.io,
            threads: args.threads.threads,
            read_size: args.read_size,
            drop_cache: args.drop_cache,
        }
    }
}

fn io_parser() -> impl TypedValueParser<Value = Io> {
    PossibleValuesParser::new(["auto", "buffered", "direct", "mmap"])
        .try_map(|name| name.parse::<Io>())
}

fn parse_read_size(text: &str) -> Result<ByteSize, String> {
    match parse_size(text)? {
        size if size < ByteSize::kib(4) => {
            Err("4KiB is the least, since pages are as large".into())
        }
        size => Ok(size),
    }
}
