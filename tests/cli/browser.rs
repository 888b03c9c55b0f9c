//! Pages as a browser shows them. Pictures of them stay in the build's folder `tmp`, to be looked at.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;

use crate::support::{Model, ckload, stdout_of};

/// Against a hang.
const PATIENCE: Duration = Duration::from_secs(120);

const DESKTOP: (u32, u32) = (1280, 1000);
const PHONE: (u32, u32) = (390, 844);

/// Named by the variable CHROME, or what is usually installed.
fn browser() -> Option<PathBuf> {
    if let Some(named) = env::var_os("CHROME") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let candidates = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.into_iter().find(|path| path.is_file())
}

/// Opens a page in a browser without a window; what it prints.
fn open(browser: &Path, page: &Path, (width, height): (u32, u32), arguments: &[String]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let run = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            // Containers often have too little of it.
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ])
        .args(["--no-first-run", "--force-device-scale-factor=1"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},{height}"))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .timeout(PATIENCE)
        .assert()
        .success();
    String::from_utf8_lossy(&run.get_output().stdout).into_owned()
}

/// What is to be seen in a picture.
struct Seen {
    colours: usize,
    /// From 0, all black, to 255.
    brightness: f64,
}

fn look(picture: &Path) -> Seen {
    let file = BufReader::new(File::open(picture).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    let pixels = bytes[..frame.buffer_size()].chunks_exact(frame.color_type.samples());
    let colours: BTreeSet<&[u8]> = pixels.clone().map(|pixel| &pixel[..3]).collect();
    let sum: u64 = pixels
        .clone()
        .flat_map(|pixel| &pixel[..3])
        .map(|&part| u64::from(part))
        .sum();
    Seen {
        colours: colours.len(),
        brightness: sum as f64 / (3 * pixels.len()) as f64,
    }
}

/// Shows `page` on two screens in both colour schemes, and checks that there is something, and that nothing is wider than the screen.
pub(crate) fn check_page(page: &Path, name: &str) {
    let Some(browser) = browser() else {
        let skipped = b"skipped: no Chromium here, and none is named by CHROME\n";
        io::stderr().write_all(skipped).unwrap();
        return;
    };
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&pictures).unwrap();
    for (screen, size) in [("desktop", DESKTOP), ("phone", PHONE)] {
        let picture_of = |scheme: &str, number: u8| {
            let picture = pictures.join(format!("{name}-{screen}-{scheme}.png"));
            let arguments = [
                format!("--screenshot={}", picture.display()),
                format!("--blink-settings=preferredColorScheme={number}"),
            ];
            open(&browser, page, size, &arguments);
            look(&picture)
        };
        let (light, dark) = (picture_of("light", 1), picture_of("dark", 0));
        for seen in [&light, &dark] {
            assert!(seen.colours > 30, "{screen}: {} colours", seen.colours);
        }
        assert!(light.brightness > 200.0, "{screen}: {}", light.brightness);
        assert!(dark.brightness < 70.0, "{screen}: {}", dark.brightness);

        let (widths, text_end) = measure(&browser, page, size);
        let [body, root, window] = widths;
        assert!(window <= size.0.max(500), "a screen of {window}");
        assert!(
            body <= window && root <= window,
            "{screen}: {body}, {root} in {window}"
        );
        assert!(
            text_end <= window,
            "{screen}: headings and facts end at {text_end} of {window}"
        );
    }
}

/// The widths of body, document and window; and where what has no box to scroll in ends. By a script in a copy of the page.
fn measure(browser: &Path, page: &Path, size: (u32, u32)) -> ([u32; 3], u32) {
    const SCRIPT: &str = "<script>\
        const ends = [...document.querySelectorAll('h1, h2, p, dd, figure, figcaption, .legend li, figure > svg text')]\
            .map(element => Math.ceil(element.getBoundingClientRect().right));\
        document.title = 'measured ' + [document.body.scrollWidth, document.documentElement.scrollWidth, innerWidth, Math.max(...ends)].join(' ');\
        </script></body>";
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.html");
    let html = fs::read_to_string(page).unwrap();
    fs::write(&copy, html.replace("</body>", SCRIPT)).unwrap();
    let shown = open(browser, &copy, size, &["--dump-dom".to_owned()]);
    let (_, after) = shown
        .split_once("<title>measured ")
        .expect("the script ran");
    let (numbers, _) = after.split_once('<').unwrap();
    let numbers: Vec<u32> = numbers
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let [body, root, window, text_end] = numbers[..] else {
        panic!("{numbers:?}");
    };
    ([body, root, window], text_end)
}

#[test]
fn the_timeline_s_page_suits_a_desktop_and_a_phone() {
    let model = Model::of_large_tensors(12);
    let page = model.folder().join("load.html");
    stdout_of(
        ckload()
            .arg(model.path())
            .args([
                "--quiet",
                "--resident",
                "--compare",
                "--repeat",
                "3",
                "--timeline",
            ])
            .arg(&page),
    );
    check_page(&page, "timeline");
}
