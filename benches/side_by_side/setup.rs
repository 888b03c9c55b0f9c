//! What several benchmarks need: checkpoints on the disk, the page cache in a known state, memory.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ckload::synth::{Blueprint, IfExists};
use memmap2::{Advice, MmapMut};

pub(crate) const HUGE_PAGE: usize = 2 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Full,
    /// A small model: asked for by `CKLOAD_BENCH_SMALL`, or what `cargo test --benches` wants.
    Small,
    /// Criterion is asked for the names of its benchmarks, which no measurement may delay.
    List,
}

impl Mode {
    pub(crate) fn from_arguments() -> Self {
        let given = |argument: &str| std::env::args().any(|given| given == argument);
        let small = std::env::var_os("CKLOAD_BENCH_SMALL").is_some_and(|value| value != "0");
        if given("--list") {
            Self::List
        } else if small || given("--test") || !given("--bench") {
            Self::Small
        } else {
            Self::Full
        }
    }
}

/// Writes the checkpoint into the target folder, unless an earlier run has left it.
pub(crate) fn checkpoint(blueprint: &Blueprint, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let left = path
        .metadata()
        .is_ok_and(|left| left.len() == blueprint.file_bytes());
    if !left {
        blueprint
            .write_file_with(&path, 0, IfExists::Replace, |_| ControlFlow::Continue(()))
            .expect("the target folder has room for the checkpoint");
    }
    path
}

/// Has the page cache hold the file as after reading it from the disk, whoever wrote it: pages left by a writer are smaller, and copying
/// out of them takes longer.
pub(crate) fn refill_page_cache(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    io::copy(&mut file, &mut io::sink())?;
    Ok(())
}

/// Has the machine ready to hand out `len` bytes of memory.
///
/// In a virtual machine the host may have taken back memory that was free for some seconds, and gives it again page by page: a first touch then
/// costs up to 20 times as much. That is no loader's doing, so each row that takes fresh memory finds it just touched.
pub(crate) fn touch_and_free(len: u64) {
    drop(black_box(huge_pages(len as usize)));
}

/// Memory for `len` bytes from its first 2 MiB boundary on, in huge pages where the machine has them, and touched.
pub(crate) fn huge_pages(len: usize) -> MmapMut {
    let mut map = untouched_huge_pages(len);
    for page in map.chunks_mut(4096) {
        page[0] = 1;
    }
    map
}

/// The same, not touched.
pub(crate) fn untouched_huge_pages(len: usize) -> MmapMut {
    let map = MmapMut::map_anon(len + HUGE_PAGE).expect("there is memory for the checkpoint");
    map.advise(Advice::HugePage).ok();
    map
}

/// The part of `map` from its first 2 MiB boundary on.
pub(crate) fn aligned(map: &mut MmapMut) -> &mut [u8] {
    let start = map.as_ptr().align_offset(HUGE_PAGE);
    &mut map[start..]
}

/// The ends of every tensor, so that no load can be optimised away, and next to nothing is added to its time.
pub(crate) fn checksum<'a>(tensors: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    tensors
        .into_iter()
        .flat_map(|bytes| [bytes.first(), bytes.last()])
        .flatten()
        .map(|&byte| u64::from(byte))
        .sum()
}
