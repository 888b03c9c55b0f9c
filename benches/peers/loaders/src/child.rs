//! What one process does: load in one way, several times, and print what each load took.

use std::error::Error;
use std::path::Path;
use std::time::Instant;
use std::{fs, hint::black_box, io};

use ckload::{Checkpoint, usage};
use memmap2::{Advice, MmapMut};
use serde::{Deserialize, Serialize};

use crate::page_cache::State;
use crate::ways::Way;

/// What a process reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The load into new memory.
    pub(crate) first: Load,
    /// Those after it, each with the tensors of the one before dropped.
    pub(crate) repeated: Vec<Load>,
    /// Bytes: the most that was resident until the end of the first load, over what was before it.
    pub(crate) peak_bytes: u64,
    /// Of all tensors that were loaded.
    pub(crate) digest: u64,
}

/// What a load took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) seconds: f64,
    /// Minor and major, of the whole process.
    pub(crate) page_faults: u64,
}

/// Loads `path` in `way`, and `repeated` times again, and prints a [`Process`] as JSON.
pub(crate) fn run(
    way: Way,
    state: State,
    repeated: u16,
    path: &Path,
) -> Result<(), Box<dyn Error>> {
    let checkpoint = Checkpoint::open(path)?;
    let files: Vec<_> = checkpoint
        .files()
        .iter()
        .map(|file| file.path.clone())
        .collect();
    let mut load = way.prepare(path, &files)?;
    let mut loads = Vec::new();
    let mut digests = Vec::new();
    let mut peak_bytes = 0;
    for _ in 0..=repeated {
        for file in &files {
            state.prepare(file)?;
        }
        if loads.is_empty() {
            touch_and_free(checkpoint.bytes())?;
        }
        let resident_before = restart_peak();
        let faults_before = usage::page_faults();
        let start = Instant::now();
        let loaded = black_box(load()?);
        let seconds = start.elapsed().as_secs_f64();
        let page_faults = usage::page_faults() - faults_before;
        if loads.is_empty() {
            peak_bytes = usage::peak_rss_bytes()
                .unwrap_or(0)
                .saturating_sub(resident_before);
        }
        loads.push(Load {
            seconds,
            page_faults,
        });
        digests.push(loaded.digest()?);
    }
    if digests.iter().any(|&digest| digest != digests[0]) {
        return Err("a repeated load made other tensors".into());
    }
    let process = Process {
        first: loads.remove(0),
        repeated: loads,
        peak_bytes,
        digest: digests[0],
    };
    println!("{}", serde_json::to_string(&process)?);
    Ok(())
}

/// Has the machine ready to hand out memory for two copies of the tensors, which is what some ways take.
fn touch_and_free(bytes: u64) -> io::Result<()> {
    let mut memory = MmapMut::map_anon(2 * bytes as usize)?;
    memory.advise(Advice::HugePage).ok();
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    drop(black_box(memory));
    Ok(())
}

/// Has the kernel count the peak of resident memory anew, and gives it as it is now.
fn restart_peak() -> u64 {
    // Where this is refused, the peak includes what came before.
    fs::write("/proc/self/clear_refs", "5").ok();
    usage::peak_rss_bytes().unwrap_or(0)
}
