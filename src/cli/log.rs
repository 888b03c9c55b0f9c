//! `RUST_LOG`: what the library tells of itself, on standard error.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anstream::ColorChoice;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::options::OutputOptions;

const VARIABLE: &str = "RUST_LOG";

/// What tells of itself, on the level `debug` and below.
const LIBRARY: &str = "ckload_loaders";

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Shows what `RUST_LOG` asks for, if it is set. It may be meant for another program: what is not understood is no error.
pub(crate) fn install(output: &OutputOptions) -> io::Result<()> {
    let Some(wanted) = std::env::var_os(VARIABLE).filter(|wanted| !wanted.is_empty()) else {
        return Ok(());
    };
    let wanted = wanted.to_string_lossy();
    let Ok(targets) = wanted.parse::<Targets>() else {
        return output.warn(&format!(
            "{VARIABLE}={wanted} is not understood, and nothing is logged; \
             it takes a level or TARGET=LEVEL, such as ckload=debug or ckload=trace"
        ));
    };
    // It may name targets of other programs alone.
    let has_lines = has_lines(&targets);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(output.stderr().current_choice() != ColorChoice::Never)
        .with_timer(uptime());
    let subscriber = tracing_subscriber::registry().with(targets).with(lines);
    IS_ON.store(subscriber.try_init().is_ok() && has_lines, Relaxed);
    Ok(())
}

fn has_lines(targets: &Targets) -> bool {
    let level = LevelFilter::DEBUG.into_level();
    level.is_some_and(|level| targets.would_enable(LIBRARY, &level))
}

/// Whether lines may come at any time: a bar would be torn by them.
pub(crate) fn is_on() -> bool {
    IS_ON.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_others_brings_no_lines() {
        for (wanted, expected) in [
            ("trace", true),
            ("ckload=debug", true),
            ("ckload_loaders=trace,hyper=off", true),
            ("info", false),
            ("ckload=warn", false),
            ("hyper=trace", false),
        ] {
            let targets: Targets = wanted.parse().unwrap();
            assert_eq!(has_lines(&targets), expected, "{wanted}");
        }
    }
}
