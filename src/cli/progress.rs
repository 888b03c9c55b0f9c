//! A bar on the terminal while bytes move.

use std::sync::Arc;
use std::time::Duration;

use ckload::{Observer, Planned, ReadDone};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::interrupt;
use super::options::OutputOptions;

/// The bar is drawn this often by a thread of its own, so that those who move bytes need not draw.
const TICK: Duration = Duration::from_millis(100);

/// A bar that shows how many bytes have moved; nothing at all where none is wanted. Cleared when it is dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar of `bytes` that are to move, called `message`.
    pub(crate) fn new(output: &OutputOptions, message: impl Into<String>, bytes: u64) -> Self {
        let bar = output.shows_progress().then(|| {
            // The message comes last: it is what may be cut on a narrow terminal.
            let style = ProgressStyle::with_template(
                "[{bar:25}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {wide_msg}",
            )
            .expect("the template is valid")
            .progress_chars("=> ");
            let bar =
                ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(10))
                    .with_style(style)
                    .with_message(message.into());
            bar.enable_steady_tick(TICK);
            interrupt::show_bar(&bar);
            bar
        });
        Self { bar }
    }

    /// Says what the following loads are called.
    pub(crate) fn name(&self, message: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.into());
        }
    }

    /// `bytes` more have moved.
    pub(crate) fn moved(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Lets loads move the bar; `None` if there is none, so that an unseen bar costs a load nothing.
    pub(crate) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.bar
            .clone()
            .map(|bar| Arc::new(Loads { bar }) as Arc<dyn Observer>)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.bar.is_some() {
            interrupt::clear_bar();
        }
    }
}

struct Loads {
    bar: ProgressBar,
}

impl Observer for Loads {
    fn planned(&self, event: &Planned) {
        if self.bar.length() != Some(event.bytes) {
            self.bar.set_length(event.bytes);
        }
        self.bar.set_position(0);
    }

    fn read(&self, event: &ReadDone) {
        // Gaps between what is wanted may be read as well.
        let rest = self
            .bar
            .length()
            .map(|len| len.saturating_sub(self.bar.position()));
        self.bar.inc(event.bytes.min(rest.unwrap_or(u64::MAX)));
    }
}
