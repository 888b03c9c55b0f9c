//! A limit of memory while a header is read.

use std::alloc::System;

use cap::Cap;

/// What opening a file of a few kilobytes may take, in bytes: less than its header may claim.
pub(crate) const LITTLE: usize = 16 << 20;

/// The same of a file with a pickle. That may be deflated to a hundredth, and name what it holds on a million paths.
pub(crate) const FOR_A_PICKLE: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `work`, which may take `bytes`; an allocation beyond that ends the process.
pub(crate) fn limited<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let limit = ALLOCATOR.allocated() + bytes;
    ALLOCATOR
        .set_limit(limit)
        .expect("it is above what is taken");
    let result = work();
    ALLOCATOR
        .set_limit(usize::MAX)
        .expect("it is above what is taken");
    result
}
