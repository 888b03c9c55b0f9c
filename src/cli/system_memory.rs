//! How much memory the machine has, and how much of it may be taken.

use std::fs;
use std::path::Path;

/// Where control groups are usually mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// The files of a control group that tell of its memory, by the version of control groups.
struct Names {
    max: &'static str,
    current: &'static str,
    /// Lines of `memory.stat`: what the page cache has, and what of it does not give way.
    file: &'static str,
    shmem: &'static str,
}

const SECOND: Names = Names {
    max: "memory.max",
    current: "memory.current",
    file: "file",
    shmem: "shmem",
};

const FIRST: Names = Names {
    max: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    file: "total_cache",
    shmem: "total_shmem",
};

/// Bytes of memory that the machine has, if it says so.
pub(crate) fn total() -> Option<u64> {
    of_machine("MemTotal")
}

/// Bytes of memory that may be taken, by the machine's count and by those of the control groups; `None` where nobody says. What the page
/// cache has counts as free.
pub(crate) fn available() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups_available(&groups, Path::new(GROUPS));
    of_machine("MemAvailable").into_iter().chain(groups).min()
}

fn of_machine(key: &str) -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// The bytes on the line `key:   42 kB`.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

/// What the groups of the process may still take, each within all that it is in; `memberships` is what `/proc/self/cgroup` says.
fn groups_available(memberships: &str, mount: &Path) -> Option<u64> {
    let mut least = None;
    for line in memberships.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, names) = match controllers {
            "" => (mount.to_owned(), &SECOND),
            _ if controllers.split(',').any(|one| one == "memory") => {
                (mount.join("memory"), &FIRST)
            }
            _ => continue,
        };
        // In a container the mount may show the process's group as the root, and its path from outside leads nowhere.
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            least = least
                .into_iter()
                .chain(group_available(&root.join(group), names))
                .min();
        }
    }
    least
}

/// What one group may still take: its limit less what it has, but for the page cache, which gives way.
fn group_available(folder: &Path, names: &Names) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let max = read(names.max).and_then(number)?;
    let current = read(names.current).and_then(number)?;
    let stat = read("memory.stat").unwrap_or_default();
    let line = |name: &str| {
        let mut lines = stat.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let gives_way = line(names.file).saturating_sub(line(names.shmem));
    Some(max.saturating_sub(current.saturating_sub(gives_way)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_figures_are_understood() {
        let text = "MemTotal:  100 kB\nMemAvailable:   42 kB\n";
        assert_eq!(kibibytes(text, "MemAvailable"), Some(42 * 1024));
        assert_eq!(kibibytes(text, "Mem"), None);
        assert!(available() <= total() || total().is_none());
    }

    fn group(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_counts() {
        let mount = tempfile::tempdir().unwrap();
        let root = mount.path();
        let stat = "anon 5\nfile 30\nfile_mapped 1\nshmem 10\n";
        let outer = [
            ("memory.max", "100\n"),
            ("memory.current", "70\n"),
            ("memory.stat", stat),
        ];
        group(&root.join("a"), &outer);
        let inner = [("memory.max", "max\n"), ("memory.current", "60\n")];
        group(&root.join("a/b"), &inner);
        assert_eq!(groups_available("0::/a/b\n", root), Some(50));
        assert_eq!(groups_available("0::/\n", root), None);
        assert_eq!(groups_available("", root), None);
    }

    #[test]
    fn groups_of_the_first_version_are_understood() {
        let mount = tempfile::tempdir().unwrap();
        let files = [
            ("memory.limit_in_bytes", "100\n"),
            ("memory.usage_in_bytes", "70\n"),
            ("memory.stat", "cache 1\ntotal_cache 30\ntotal_shmem 30\n"),
        ];
        group(&mount.path().join("memory"), &files);
        let memberships = "5:devices:/x\n4:cpu,memory:/elsewhere/1\n0::/\n";
        assert_eq!(groups_available(memberships, mount.path()), Some(30));
    }
}
