//! A bar on the terminal while bytes move.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use ckload::{Observer, Planned, ReadDone};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use terminal_size::terminal_size_of;

use super::options::OutputOptions;
use super::{interrupt, style};

/// The bar is drawn this often by a thread of its own, so that those who move bytes need not draw.
const TICK: Duration = Duration::from_millis(100);

/// The same, in times a second.
const HERTZ: u8 = 10;

/// What a bar looks like, from the columns that it takes at least. The message comes last: it is what may be cut.
const TEMPLATES: [(u16, &str); 3] = [
    (
        92,
        "[{bar:25}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {wide_msg}",
    ),
    (
        60,
        "[{bar:20}] {percent:>3} %, {binary_bytes_per_sec}, {eta} left  {wide_msg}",
    ),
    (0, "[{bar:10}] {percent:>3} %, {binary_bytes_per_sec}"),
];

/// A bar that shows how many bytes have moved; nothing at all where none is wanted. Cleared when it is dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar of `bytes` that are to move, called `message`.
    pub(crate) fn new(output: &OutputOptions, message: impl Into<String>, bytes: u64) -> Self {
        let bar = output.shows_progress().then(|| {
            let terminal = Terminal;
            let columns = terminal.width();
            let (_, template) = TEMPLATES
                .into_iter()
                .find(|(least, _)| columns >= *least)
                .expect("the last one takes none");
            let style = ProgressStyle::with_template(template)
                .expect("the template is valid")
                .progress_chars(style::glyphs().progress);
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal), HERTZ);
            let bar = ProgressBar::with_draw_target(Some(bytes), target)
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

/// Standard error, as if it had a few columns less than it has.
///
/// A bar ends at the last column that it knows of. A terminal that shows `^C` where it was pressed then has room for that in the same
/// line, and clearing the line leaves nothing behind.
#[derive(Debug)]
struct Terminal;

/// What a terminal shows for an interrupt, and the cursor behind it.
const ECHO_COLUMNS: u16 = 3;

/// Width of a terminal that does not tell.
const USUAL_COLUMNS: u16 = 80;

impl Terminal {
    /// Moves the cursor by `count`, as the last letter of an escape sequence says.
    fn move_cursor(count: usize, direction: char) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        write!(io::stderr(), "\u{1b}[{count}{direction}")
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        let columns = terminal_size_of(io::stderr()).map_or(USUAL_COLUMNS, |(width, _)| width.0);
        columns.saturating_sub(ECHO_COLUMNS).max(1)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        writeln!(io::stderr(), "{s}")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        write!(io::stderr(), "{s}")
    }

    fn clear_line(&self) -> io::Result<()> {
        write!(io::stderr(), "\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
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
