//! What a reader must know of the machine to judge a figure.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

/// One line: cores, processor, memory, kernel, transparent huge pages.
pub(crate) fn describe() -> String {
    let mut line = format!("{} cores", num_cpus::get());
    if let Some(model) = value("/proc/cpuinfo", "model name") {
        let _ = write!(line, " of {model}");
    }
    if let Some(kib) = value("/proc/meminfo", "MemTotal")
        .and_then(|total| total.trim_end_matches("kB").trim().parse::<u64>().ok())
    {
        let _ = write!(line, ", {:.1} GiB of memory", kib as f64 / 1024.0 / 1024.0);
    }
    if let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") {
        let _ = write!(line, ", Linux {}", release.trim());
    }
    let mode = huge_page_mode().unwrap_or_else(|| "unknown".to_owned());
    let _ = write!(line, ", transparent huge pages on `{mode}`");
    line
}

/// The value of the first line of `path` that reads `key : value`.
fn value(path: &str, key: &str) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The mode in brackets: `always [madvise] never` means `madvise`.
fn huge_page_mode() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The time that this process has been on a core so far, all threads together.
pub(crate) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The page faults of this process so far, all threads together.
pub(crate) fn page_faults() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // the second field is the program's name in parentheses and may hold anything
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |at: usize| -> u64 {
        let text = after_name.split_whitespace().nth(at - 3);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    field(10) + field(12) // minor and major faults, numbered as in proc(5)
}
