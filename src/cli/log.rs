//! `RUST_LOG`: what the library tells of itself, on standard error.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anstream::ColorChoice;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::options::OutputOptions;

const VARIABLE: &str = "RUST_LOG";

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
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(output.stderr().current_choice() != ColorChoice::Never)
        .with_timer(uptime());
    let subscriber = tracing_subscriber::registry().with(targets).with(lines);
    IS_ON.store(subscriber.try_init().is_ok(), Relaxed);
    Ok(())
}

/// Whether lines may come at any time: a bar would be torn by them.
pub(crate) fn is_on() -> bool {
    IS_ON.load(Relaxed)
}
