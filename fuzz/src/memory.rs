//! A limit of memory while a header is read.

use std::alloc::System;

use cap::Cap;

/// What opening a file of a few kilobytes may take, in bytes: far more than any does, far less than a header may claim.
///
/// It is this much because a deflated pickle may be a hundred times as large inflated, and its values ten times as large again.
const MOST_BYTES: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `work`; an allocation that exceeds the limit ends the process.
pub(crate) fn limited<T>(work: impl FnOnce() -> T) -> T {
    let limit = ALLOCATOR.allocated() + MOST_BYTES;
    ALLOCATOR
        .set_limit(limit)
        .expect("it is above what is taken");
    let result = work();
    ALLOCATOR
        .set_limit(usize::MAX)
        .expect("it is above what is taken");
    result
}
