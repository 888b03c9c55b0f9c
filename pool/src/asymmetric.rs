//! A fence that costs its frequent side nothing.
//!
//! Two threads each write one word and then read the other's: with a fence between the two steps on both sides, at least one of them
//! sees the other's write. Where one side is a hot path and the other hardly ever happens, the kernel can put the fence into the
//! hot side's instruction stream just when the other side asks for it (`membarrier(2)`, since Linux 4.14).

use std::{
    sync::{
        OnceLock,
        atomic::{Ordering, compiler_fence},
    },
    thread,
    time::Duration,
};

use crate::sync::fence;

/// How this process's threads order a write before a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asymmetric {
    /// The kernel interrupts the other threads on request.
    ByKernel,
    /// Every thread fences for itself.
    BySelf,
    /// What is wrong, so that the models can show that they would find it.
    #[cfg(all(test, pool_loom))]
    LightForgotten,
    #[cfg(all(test, pool_loom))]
    HeavyForgotten,
}

impl Asymmetric {
    /// Asks the kernel, once, by use: a container may refuse what the kernel has.
    pub(crate) fn of_process() -> Self {
        static PROBED: OnceLock<Asymmetric> = OnceLock::new();
        *PROBED.get_or_init(|| {
            if kernel::register() && kernel::interrupt() {
                Self::ByKernel
            } else {
                Self::BySelf
            }
        })
    }

    /// The frequent side's fence.
    #[inline]
    pub(crate) fn light(self) {
        match self {
            Self::ByKernel => compiler_fence(Ordering::SeqCst),
            Self::BySelf => fence(Ordering::SeqCst),
            #[cfg(all(test, pool_loom))]
            Self::HeavyForgotten => fence(Ordering::SeqCst),
            #[cfg(all(test, pool_loom))]
            Self::LightForgotten => {}
        }
    }

    /// The rare side's fence: a system call of some microseconds.
    pub(crate) fn heavy(self) {
        #[cfg(all(test, pool_loom))]
        if self == Self::HeavyForgotten {
            return;
        }
        fence(Ordering::SeqCst);
        // A forked child may have to register again.
        if self == Self::ByKernel
            && !kernel::interrupt()
            && !(kernel::register() && kernel::interrupt())
        {
            // The call was forbidden after it had worked. A write leaves a CPU's store buffer within a fraction of this.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use rustix::thread::{MembarrierCommand, membarrier};

    pub(super) fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    pub(super) fn interrupt() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn interrupt() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicU32, AtomicUsize},
        },
        thread,
    };

    use super::*;

    /// Store buffering: without fences both sides miss each other's write every few thousand rounds.
    #[test]
    fn one_of_two_sides_sees_the_other() {
        const ROUNDS: u32 = 20_000;
        for asymmetric in [Asymmetric::of_process(), Asymmetric::BySelf] {
            let (light, heavy) = (AtomicU32::new(0), AtomicU32::new(0));
            let (start, missed) = (Barrier::new(2), AtomicUsize::new(0));
            let rounds = |mine: &AtomicU32, other: &AtomicU32, fence: &dyn Fn()| {
                for round in 1..=ROUNDS {
                    start.wait();
                    mine.store(round, Ordering::Relaxed);
                    fence();
                    if other.load(Ordering::Relaxed) != round {
                        missed.fetch_add(1, Ordering::Relaxed);
                    }
                    start.wait();
                    assert!(
                        missed.swap(0, Ordering::Relaxed) < 2,
                        "{asymmetric:?}, round {round}"
                    );
                    start.wait();
                }
            };
            thread::scope(|scope| {
                scope.spawn(|| rounds(&light, &heavy, &|| asymmetric.light()));
                rounds(&heavy, &light, &|| asymmetric.heavy());
            });
        }
    }
}
