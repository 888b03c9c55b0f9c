//! The state of the machine's free memory, which decides what fresh memory costs.

use anyhow::Result;
use ckload::BufferPool;

/// What a measured process finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FreeMemory {
    /// As much memory as the model takes was in use until just before.
    Touched,
    /// Whatever is there.
    AsFound,
}

/// Has the machine ready to hand out `bytes` of memory.
///
/// A virtual machine's host may have taken back memory that was free for some seconds, large pages first, and gives it again piece by piece: to
/// touch it then costs up to 20 times as much. Whoever comes after a process that just freed its memory is spared that, so without this
/// a measurement depends on who was measured before.
pub(crate) fn touch_and_free(bytes: u64) -> Result<()> {
    let touched = BufferPool::new().try_get(bytes.try_into()?)?;
    drop(touched);
    Ok(())
}
