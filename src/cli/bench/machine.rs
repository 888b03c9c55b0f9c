//! What a reader must know of the machine to judge a figure.

use std::fs;

use serde::Serialize;

use crate::cli::{system_memory, units};

/// The machine, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// Cores that the process may use.
    pub(crate) cores: usize,
    /// The processor's model.
    pub(crate) processor: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    /// The kernel's release.
    pub(crate) kernel: Option<String>,
    /// The system's setting for transparent huge pages.
    pub(crate) huge_pages: Option<String>,
    /// Whether it is a virtual one; many processors do not say.
    pub(crate) is_virtual: Option<bool>,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let kernel = read("/proc/sys/kernel/osrelease");
        Self {
            cores: num_cpus::get(),
            processor: value(&processor, "model name"),
            memory_bytes: system_memory::total(),
            kernel: Some(kernel.trim().to_owned()).filter(|kernel| !kernel.is_empty()),
            huge_pages: bracketed(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            is_virtual: value(&processor, "flags")
                .map(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        }
    }

    /// It, in one line.
    pub(crate) fn describe(&self) -> String {
        let mut parts = vec![units::counted(self.cores as u64, "core")];
        if let Some(processor) = &self.processor {
            parts[0] += &format!(" of {processor}");
        }
        if self.is_virtual == Some(true) {
            parts.push("virtual".into());
        }
        if let Some(bytes) = self.memory_bytes {
            parts.push(format!("{} of memory", units::bytes(bytes)));
        }
        if let Some(kernel) = &self.kernel {
            parts.push(format!("Linux {kernel}"));
        }
        if let Some(mode) = &self.huge_pages {
            parts.push(format!("huge pages: {mode}"));
        }
        parts.join(", ")
    }
}

/// The value of the first line that reads `key : value`.
fn value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The word in brackets: `always [madvise] never` means `madvise`.
fn bracketed(words: &str) -> Option<String> {
    let (_, rest) = words.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_understood() {
        assert_eq!(
            value("a: 1\nmodel name\t: Some CPU\n", "model name").as_deref(),
            Some("Some CPU")
        );
        assert_eq!(
            bracketed("always [madvise] never\n").as_deref(),
            Some("madvise")
        );
        assert_eq!(bracketed(""), None);
    }

    #[test]
    fn what_is_unknown_is_not_described() {
        let machine = Machine {
            cores: 1,
            processor: None,
            memory_bytes: Some(2 << 30),
            kernel: None,
            huge_pages: None,
            is_virtual: None,
        };
        assert_eq!(machine.describe(), "1 core, 2.0 GiB of memory");
    }
}
