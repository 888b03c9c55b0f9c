//! What people see: the command on a pseudo-terminal, read as a terminal would.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::{Model, plain, write_hole};

/// Against a hang; nothing here takes a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// More lines than anything here prints.
const ROWS: u16 = 200;

const ESCAPE: u8 = 0x1b;

/// A load that does not come to an end.
const ENDLESS: [&str; 3] = [FILE, "--repeat", "1000000000"];

/// A command on a terminal of its own.
struct Terminal {
    child: Child,
    keyboard: File,
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
}

/// What came to a terminal.
struct Seen {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

impl Seen {
    /// Lines as they are shown, without the empty ones at the end.
    fn text(&self) -> String {
        let text = self.screen.screen().contents();
        text.trim_end().to_owned()
    }

    fn has_bar(&self) -> bool {
        let text = self.text();
        text.starts_with('[') && text.contains("B/s")
    }

    /// Whether a line was too long, and went on in the next one.
    fn is_broken(&self, row: u16) -> bool {
        self.screen.screen().row_wrapped(row)
    }

    /// Whether any character is shown in another way than plain.
    fn is_colored(&self) -> bool {
        let screen = self.screen.screen();
        let (rows, columns) = screen.size();
        let mut cells = (0..rows.get())
            .flat_map(|row| (0..columns.get()).filter_map(move |column| screen.cell(row, column)));
        cells.any(|cell| cell.fgcolor() != vt100::Color::Default || cell.bold() || cell.dim())
    }
}

impl Terminal {
    fn start(mut command: Command, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
                .open(name.to_str().unwrap())
                .unwrap()
        };
        let child = command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        // Its sides of the terminal are the child's alone, so that the terminal ends with it.
        drop(command);

        let [rows, columns] = [ROWS, columns].map(|size| NonZeroU16::new(size).unwrap());
        let seen = Arc::new(Mutex::new(Seen {
            screen: vt100::Parser::new(rows, columns, 0),
            bytes: Vec::new(),
        }));
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().unwrap();
        let reader = thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                let mut buffer = [0; 4096];
                // When the other side is closed, reading from a terminal is an error.
                while let Ok(len @ 1..) = output.read(&mut buffer) {
                    let mut seen = seen.lock().unwrap();
                    seen.screen.process(&buffer[..len]);
                    seen.bytes.extend(&buffer[..len]);
                }
            }
        });
        Self {
            child,
            keyboard,
            seen,
            reader,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        while !holds(&self.seen()) {
            let text = self.seen().text();
            assert!(
                start.elapsed() < PATIENCE,
                "still waiting until {what}:\n{text}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Presses Ctrl-C; the exit status, and what is left to be seen. The cursor must be where it was before, to be seen as well.
    fn interrupt(mut self) -> (Option<i32>, String) {
        // This is not the command's controlling terminal: it shows the key, and the signal is sent apart.
        self.keyboard.write_all(b"\x03").unwrap();
        self.wait_until("the key is shown", |seen| contains(&seen.bytes, b"^C"));
        let id = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(id, Signal::INT).unwrap();
        let (status, seen) = self.end();
        let screen = seen.screen.screen();
        assert_eq!(screen.cursor_position(), (0, 0), "{}", seen.text());
        assert!(!screen.hide_cursor());
        (status, seen.text())
    }

    /// The exit status, and what is seen in the end.
    fn end(mut self) -> (Option<i32>, Seen) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "{}", self.seen().text());
            thread::sleep(Duration::from_millis(5));
        };
        self.reader.join().unwrap();
        let seen = Arc::into_inner(self.seen).unwrap().into_inner().unwrap();
        (status.code(), seen)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The command beside a model, as on a terminal that can do what all of today can.
fn command(model: &Model, arguments: &[&str]) -> Command {
    let mut command = plain();
    command
        .env("TERM", "xterm-256color")
        .current_dir(model.folder())
        .args(arguments);
    command
}

/// Runs a command that must succeed.
fn shown(command: Command, columns: u16) -> Seen {
    let (status, seen) = Terminal::start(command, columns).end();
    assert_eq!(status, Some(0), "{}", seen.text());
    seen
}

/// A model large enough that its loads are measured against the limit.
fn model() -> Model {
    Model::of_large_tensors(12)
}

/// Loads, each with a report that looks different.
const LOADS: [&[&str]; 8] = [
    &[FILE],
    &[FILE, "--resident"],
    &[FILE, "--resident", "--repeat", "3"],
    &[FILE, "--resident", "--compare", "--repeat", "2"],
    &[FILE, "--no-pool"],
    &[FILE, "--verify"],
    &[FILE, "-v", "--budget", "6MiB", "-j", "1"],
    &[FILE, FILE, "--resident", "-v", "--repeat", "2"],
];

const FILE: &str = "model.safetensors";

#[test]
fn narrow_terminals_break_no_line() {
    let model = model();
    for arguments in LOADS {
        let seen = shown(command(&model, arguments), 40);
        let text = seen.text();
        assert!(text.contains("\nSpeed "), "{arguments:?}:\n{text}");
        assert!(text.contains('█'), "{arguments:?}:\n{text}");
        let broken = (0..ROWS).filter(|&row| seen.is_broken(row));
        assert_eq!(broken.count(), 0, "{arguments:?}:\n{text}");
    }
}

#[test]
fn sentences_beside_wide_tables_fit_a_narrow_terminal() {
    let model = model();
    let recorded = model.folder().join("recorded.sums");
    fs::write(&recorded, format!("{}  {FILE}\n", "0".repeat(64))).unwrap();
    for (arguments, status, part) in [
        (&[FILE, "--dry-run"][..], 0, "a resident load: "),
        (&["verify", FILE], 0, "Nothing to compare with: "),
        (
            &["verify", FILE, "--against", "recorded.sums"],
            1,
            "not as it should be\n",
        ),
    ] {
        let (ended, seen) = Terminal::start(command(&model, arguments), 40).end();
        let text = seen.text();
        assert_eq!(ended, Some(status), "{text}");
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
        // Rows of tables have gaps; an error is one line, however long.
        let mut sentences = text
            .lines()
            .filter(|line| !line.contains("  ") && !line.starts_with("mismatch: "));
        let wide = sentences.find(|line| line.chars().count() > 40);
        assert_eq!(wide, None, "{text}");
    }
}

#[test]
fn wide_terminals_do_not_stretch_sentences() {
    let model = model();
    for arguments in LOADS {
        let text = shown(command(&model, arguments), 200).text();
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{arguments:?}:\n{text}");
    }
}

#[test]
fn colors_are_for_those_who_want_them() {
    let model = model();
    assert!(shown(command(&model, &[FILE]), 80).is_colored());
    assert!(!shown(command(&model, &[FILE, "--color", "never"]), 80).is_colored());
    let mut without = command(&model, &[FILE]);
    without.env("NO_COLOR", "1");
    assert!(!shown(without, 80).is_colored());
}

#[test]
fn a_dumb_terminal_gets_text_alone() {
    let model = model();
    let mut dumb = command(&model, &[FILE, "--repeat", "20"]);
    dumb.env("TERM", "dumb");
    let seen = shown(dumb, 80);
    assert!(seen.text().contains("\nSpeed "), "{}", seen.text());
    assert!(!seen.bytes.contains(&ESCAPE), "{}", seen.text());
}

#[test]
fn characters_are_those_of_the_locale() {
    let model = model();
    let name = "größe.safetensors";
    fs::rename(model.path(), model.folder().join(name)).unwrap();
    for arguments in [
        &[name, "--repeat", "50"][..],
        &[name, "--dry-run"],
        &["inspect", name],
        &["verify", name],
        &["demo", "--size", "tiny", "--repeat", "1", "--dir", "."],
    ] {
        let mut ascii = command(&model, arguments);
        ascii.env("LC_ALL", "C").env("LANG", "en_US.UTF-8");
        let seen = shown(ascii, 60);
        assert!(seen.bytes.is_ascii(), "{arguments:?}:\n{}", seen.text());
    }
    let mut ascii = command(&model, &["inspect", "nowhere/größe"]);
    ascii.env("LC_ALL", "C");
    let (status, seen) = Terminal::start(ascii, 80).end();
    assert_eq!(status, Some(1));
    assert!(seen.text().contains(r"gr\u{f6}\u{df}e"), "{}", seen.text());

    let mut unicode = command(&model, &[name]);
    unicode.env("LC_CTYPE", "en_US.UTF-8").env("LANG", "C");
    let text = shown(unicode, 80).text();
    assert!(text.contains(name) && text.contains('█'), "{text}");
}

#[test]
fn a_bar_is_shown_while_bytes_move_and_gone_afterwards() {
    let model = model();
    for columns in [40, 80, 200] {
        // One command loads until it is told to stop, the other one to its end.
        let endless = Terminal::start(command(&model, &ENDLESS), columns);
        endless.wait_until("there is a bar", Seen::has_bar);
        assert!(!endless.seen().bytes.contains(&b'\n'), "one line");
        assert_eq!(endless.interrupt(), (Some(130), String::new()));
    }
    let text = shown(command(&model, &[FILE, "--repeat", "100"]), 80).text();
    assert!(text.starts_with(FILE), "{text}");
}

#[test]
fn who_reads_json_sees_no_bar() {
    let model = model();
    for quiet in ["--json", "-q"] {
        let terminal = Terminal::start(command(&model, &[FILE, "--repeat", "30", quiet]), 80);
        let (status, seen) = terminal.end();
        assert_eq!(status, Some(0));
        assert!(!seen.bytes.contains(&ESCAPE), "{quiet}: {}", seen.text());
    }
}

#[test]
fn an_interrupt_leaves_nothing_on_the_terminal() {
    let model = model();
    let verify = ["verify", "hole.safetensors"];
    write_hole(&model.folder().join(verify[1]));
    for arguments in [&ENDLESS[..], &verify] {
        let terminal = Terminal::start(command(&model, arguments), 80);
        terminal.wait_until("there is a bar", Seen::has_bar);
        assert_eq!(
            terminal.interrupt(),
            (Some(130), String::new()),
            "{arguments:?}"
        );
    }
}

#[test]
fn an_error_takes_the_place_of_the_bar() {
    let model = model();
    let terminal = Terminal::start(command(&model, &ENDLESS), 80);
    terminal.wait_until("there is a bar", Seen::has_bar);
    File::options()
        .write(true)
        .open(model.path())
        .unwrap()
        .set_len(100)
        .unwrap();
    let (status, seen) = terminal.end();
    assert_eq!(status, Some(1));
    assert!(seen.text().starts_with("error: "), "{}", seen.text());
    assert!(!seen.text().contains("B/s"), "{}", seen.text());
}
