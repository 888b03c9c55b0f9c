//! Memory from the operating system: mapped, aligned and, where wanted, faulted in and pinned.

use std::{error::Error, io, mem, num::NonZero, process, sync::Arc};

use memmap2::{MmapMut, MmapOptions};
use region::LockGuard;

use crate::{
    buffer::Origin,
    evict::Heat,
    fit::HUGE_PAGE,
    pin::PinMemory,
    store::{Claim, Store},
};

/// The home of a block that no thread may keep privately.
pub(crate) const NOWHERE: usize = usize::MAX;

/// A range of anonymous memory.
///
/// The kernel zeroes an anonymous map before anybody can see it, so every byte is initialised from the start and
/// stays so: no reader can meet undefined contents, and recycling needs no `memset`.
pub(crate) struct Memory {
    /// Declared before the map: unlocking has to come before unmapping.
    lock: Option<LockGuard>,
    registered: Option<Registered>,
    map: MmapMut,
    /// Where the usable window starts; not zero when the map has slack for alignment.
    offset: usize,
    capacity: usize,
    /// The only process that has the map, if forked children do not get it.
    sole_owner: Option<NonZero<u32>>,
}

/// Memory that somebody else than the operating system pinned.
struct Registered {
    with: Arc<dyn PinMemory>,
    /// The process that had it pinned: a forked child inherits no registration.
    by: u32,
}

/// What a map asks of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Advised {
    /// Transparent huge pages, and a 2 MiB boundary for a block of 2 MiB or more.
    pub(crate) huge: bool,
    /// The block is left out of core dumps.
    pub(crate) dont_dump: bool,
    /// Forked children do not get the block.
    pub(crate) dont_fork: bool,
}

impl Memory {
    /// Maps `capacity` bytes, whose pages are not present yet.
    pub(crate) fn map(capacity: usize, advised: Advised) -> io::Result<Self> {
        let aligned = advised.huge && capacity >= HUGE_PAGE;
        let (map, offset) = if aligned {
            map_on_huge_boundary(capacity)?
        } else {
            (map_bytes(capacity)?, 0)
        };
        let mut memory = Self {
            lock: None,
            registered: None,
            map,
            offset,
            capacity,
            sole_owner: None,
        };
        memory.advise_page_size(advised.huge);
        memory.advise_privacy(advised)?;
        if advised.dont_fork {
            memory.sole_owner = NonZero::new(process::id());
        }
        Ok(memory)
    }

    /// Pins the window, and nothing around it: with what the pool was given, or by locking it.
    fn pin(&mut self, with: Option<&Arc<dyn PinMemory>>) -> Result<(), Box<dyn Error>> {
        let window = self.bytes();
        match with {
            Some(with) => {
                with.pin(window)?;
                self.registered = Some(Registered {
                    with: Arc::clone(with),
                    by: process::id(),
                });
            }
            None => self.lock = Some(region::lock(window.as_ptr(), window.len())?),
        }
        Ok(())
    }

    fn is_pinned(&self) -> bool {
        self.lock.is_some() || self.registered.is_some()
    }

    /// Tells who pinned the window that it goes. A lock goes by itself.
    fn unregister(&mut self) {
        if let Some(registered) = self.registered.take()
            && registered.by == process::id()
        {
            registered.with.unpin(self.bytes());
        }
    }

    /// Whether this process has the map. A forked child may not.
    fn is_here(&self) -> bool {
        self.sole_owner
            .is_none_or(|owner| owner.get() == process::id())
    }

    fn bytes(&self) -> &[u8] {
        &self.map[self.offset..self.offset + self.capacity]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.offset..self.offset + self.capacity]
    }

    /// Advice comes before the first touch: pages that are already present stay small.
    #[cfg(target_os = "linux")]
    fn advise_page_size(&self, huge: bool) {
        let advice = if huge {
            memmap2::Advice::HugePage
        } else {
            memmap2::Advice::NoHugePage
        };
        // A kernel without transparent huge pages refuses, and has only small pages anyway.
        let _ = self.map.advise_range(advice, self.offset, self.capacity);
    }

    #[cfg(not(target_os = "linux"))]
    fn advise_page_size(&self, _huge: bool) {}

    /// Who asked to keep secrets gets no memory that would not keep them.
    #[cfg(target_os = "linux")]
    fn advise_privacy(&self, advised: Advised) -> io::Result<()> {
        let advice = [
            (advised.dont_dump, memmap2::Advice::DontDump),
            (advised.dont_fork, memmap2::Advice::DontFork),
        ];
        advice
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .try_for_each(|(_, advice)| self.map.advise(advice))
    }

    #[cfg(not(target_os = "linux"))]
    fn advise_privacy(&self, advised: Advised) -> io::Result<()> {
        if advised.dont_dump || advised.dont_fork {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }

    /// Faults every page in.
    #[cfg(target_os = "linux")]
    pub(crate) fn populate(&mut self) -> io::Result<()> {
        let populated =
            self.map
                .advise_range(memmap2::Advice::PopulateWrite, self.offset, self.capacity);
        match populated {
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(error),
            // Kernels before 5.14 do not know the advice.
            Err(_) => {
                self.touch();
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Faults every page in.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn populate(&mut self) -> io::Result<()> {
        self.touch();
        Ok(())
    }

    fn touch(&mut self) {
        let page = region::page::size();
        for byte in self.bytes_mut().iter_mut().step_by(page) {
            *byte = 0;
        }
    }
}

impl Drop for Memory {
    /// In a forked child that did not get the map, something else may lie at its address by now: that must not be unmapped.
    fn drop(&mut self) {
        if self.is_here() {
            self.unregister();
        } else if let Ok(nothing) = map_bytes(1) {
            mem::forget(self.lock.take());
            mem::forget(mem::replace(&mut self.map, nothing));
        }
    }
}

fn map_bytes(len: usize) -> io::Result<MmapMut> {
    MmapOptions::new().len(len).map_anon()
}

/// Maps `capacity` bytes from a 2 MiB boundary on; returns the map and where the boundary lies in it.
fn map_on_huge_boundary(capacity: usize) -> io::Result<(MmapMut, usize)> {
    let map = map_bytes(capacity)?;
    // Newer kernels place large maps on the boundary by themselves.
    if to_boundary(&map) == 0 {
        return Ok((map, 0));
    }
    drop(map);
    // The slack is address space only: it is never touched, so it takes no memory.
    let map = map_bytes(capacity.saturating_add(HUGE_PAGE))?;
    let offset = to_boundary(&map);
    Ok((map, offset))
}

/// Bytes from the start of `map` to the first 2 MiB boundary in it.
fn to_boundary(map: &MmapMut) -> usize {
    let start = map.as_ptr().addr();
    start.next_multiple_of(HUGE_PAGE) - start
}

/// A piece of memory that the pool owns, leased or idle.
pub(crate) struct Block {
    memory: Memory,
    /// What the current lease cost.
    pub(crate) origin: Origin,
    /// Whether the block was leased again since it was mapped, or since the eviction policy last looked.
    pub(crate) referenced: bool,
    /// The number of the thread that may keep the block privately: who leased it last, if it is of that kind.
    pub(crate) home: usize,
    /// The pool's number, and whether it wants zeros: copied from there, to be at hand when a lease ends.
    pub(crate) pool: usize,
    pub(crate) zero_on_return: bool,
    /// Whether the memory is still to be pinned: the pool wants that, and it was not tried yet.
    to_be_pinned: bool,
    /// The eviction policy's opinion, kept while the block is out of the policy's sight.
    pub(crate) heat: Heat,
    /// Declared last: the bytes leave the pool's account only after the memory is gone.
    claim: Claim,
}

impl Block {
    pub(crate) fn new(memory: Memory, claim: Claim, origin: Origin, heat: Heat) -> Self {
        Self {
            memory,
            origin,
            referenced: false,
            home: NOWHERE,
            pool: claim.store().id(),
            zero_on_return: claim.store().config.zero_on_return,
            to_be_pinned: claim.store().config.pinned_memory,
            heat,
            claim,
        }
    }

    /// Pins the memory, if the pool wants that and it was not tried before; pages that are missing are faulted in.
    #[inline]
    pub(crate) fn pin(&mut self) {
        if mem::take(&mut self.to_be_pinned) {
            self.try_to_pin();
        }
    }

    #[cold]
    fn try_to_pin(&mut self) {
        match self.memory.pin(self.claim.store().config.pin_with.as_ref()) {
            Ok(()) => self.claim.mark_pinned(),
            Err(error) => self.store().pin_failed(&*error),
        }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        self.claim.store()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.memory.capacity
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.memory.is_pinned()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Zeroes the first `len` bytes, if there are any in this process.
    pub(crate) fn zero(&mut self, len: usize) {
        if self.memory.is_here() {
            self.bytes_mut()[..len].fill(0);
        }
    }

    /// Notes that the block is leased again.
    #[inline]
    pub(crate) fn recycle(&mut self) {
        self.origin = Origin::Recycled;
        self.referenced = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: Advised = Advised {
        huge: true,
        dont_dump: false,
        dont_fork: false,
    };

    #[test]
    fn memory_is_zero_and_aligned() {
        let page = region::page::size();
        for (capacity, alignment) in [
            (page, page),
            (HUGE_PAGE - page, page),
            (HUGE_PAGE, HUGE_PAGE),
            (3 * HUGE_PAGE + page, HUGE_PAGE),
        ] {
            let memory = Memory::map(capacity, HUGE).expect("a small map");
            assert_eq!(memory.bytes().len(), capacity);
            assert_eq!(memory.bytes().as_ptr().addr() % alignment, 0);
            assert!(memory.bytes().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn slack_is_skipped_where_the_kernel_does_not_align() {
        // Maps of odd lengths between the blocks push later ones off the boundary.
        let page = region::page::size();
        let mut kept = Vec::new();
        for pages in 1..8 {
            kept.push(Memory::map(pages * page, HUGE).expect("a small map"));
            let block = Memory::map(HUGE_PAGE + pages * page, HUGE).expect("a small map");
            assert_eq!(block.bytes().as_ptr().addr() % HUGE_PAGE, 0);
            assert!(block.offset + block.capacity <= block.map.len());
            kept.push(block);
        }
    }

    #[test]
    fn touching_works_without_the_kernel_s_help() {
        let mut memory = Memory::map(10 * region::page::size(), HUGE).expect("a small map");
        memory.touch();
        assert!(memory.bytes().iter().all(|&byte| byte == 0));
    }
}
