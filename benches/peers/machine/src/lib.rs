//! What a benchmark must know and tell of the machine that it runs on.

mod quiet;

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use serde::Serialize;
use time::OffsetDateTime;

pub use self::quiet::Ticks;

/// What a reader must know of a machine to judge a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// How many CPUs the process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The system's setting for transparent huge pages.
    pub huge_pages: String,
}

impl Machine {
    /// This machine, as far as it says.
    #[must_use]
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.trim_end_matches(" kB").parse::<u64>().ok());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cpus: thread::available_parallelism().map_or(1, Into::into),
            memory: kib.unwrap_or(0) << 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        }
    }

    /// Makes the folder for raw results of this machine and `date` under `parent`.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn folder(&self, parent: &Path, date: &str) -> io::Result<PathBuf> {
        let folder = parent.join(format!("{date}-{}", self.slug()));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A short name for a folder: the processor's and the number of CPUs.
    fn slug(&self) -> String {
        let words = self.cpu.replace("(R)", " ").replace("(TM)", " ");
        let words = words
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && !["CPU", "Processor"].contains(word))
            .map(str::to_lowercase);
        let mut slug: Vec<_> = words.collect();
        slug.push(format!("{}cpu", self.cpus));
        slug.join("-")
    }
}

/// The value after `name :` in a file of `/proc`.
fn field(text: &str, name: &str) -> Option<String> {
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// The bracketed one of several words.
fn chosen(text: &str) -> String {
    let bracketed = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or("unknown", |(word, _)| word).to_owned()
}

/// The date, as `2026-11-26`.
#[must_use]
pub fn today() -> String {
    OffsetDateTime::now_utc().date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_name_is_short_and_plain() {
        let machine = Machine {
            cpu: "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz".to_owned(),
            cpus: 4,
            memory: 0,
            kernel: String::new(),
            huge_pages: String::new(),
        };
        assert_eq!(machine.slug(), "intel-xeon-gold-6338-2-00ghz-4cpu");
    }

    #[test]
    fn proc_files_are_understood() {
        let text = "processor\t: 0\nmodel name\t: A B\nmodel name\t: C\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A B"));
        assert_eq!(field(text, "cache size"), None);
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen(""), "unknown");
    }
}
