//! Ctrl-C: leave no half-written file, no half-drawn bar, and exit with status 130.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

/// 128 and the number of SIGINT, as shells have it.
pub(crate) const EXIT_STATUS: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static CLEANS_UP: AtomicBool = AtomicBool::new(false);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Takes over SIGINT.
pub(crate) fn install() {
    // Where it cannot be taken over, Ctrl-C ends the process at once, as it does by default.
    let _ = ctrlc::set_handler(|| {
        let first = !INTERRUPTED.swap(true, SeqCst);
        if first && CLEANS_UP.load(SeqCst) {
            return;
        }
        clear_bar();
        std::process::exit(i32::from(EXIT_STATUS));
    });
}

/// Whether Ctrl-C was pressed; whoever holds a [`CleansUp`] must ask often.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(SeqCst)
}

/// While one lives, the first Ctrl-C does not end the process: its holder asks for [`interrupted`] and cleans up.
pub(crate) struct CleansUp(());

impl CleansUp {
    pub(crate) fn new() -> Self {
        CLEANS_UP.store(true, SeqCst);
        Self(())
    }
}

impl Drop for CleansUp {
    fn drop(&mut self) {
        CLEANS_UP.store(false, SeqCst);
    }
}

/// Names the bar that Ctrl-C has to clear.
pub(crate) fn show_bar(bar: &ProgressBar) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
}

/// Clears the bar that was named.
pub(crate) fn clear_bar() {
    if let Some(bar) = BAR.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
}
