//! Resident loads: all tensors into memory that stays.

use std::iter;
use std::time::Instant;

use bytes::Bytes;
use ckload_pool::{Origin, PooledBuffer};
use parking_lot::Mutex;
use rayon::prelude::*;

use super::Loader;
use crate::layout::{Layout, Limits};
use crate::plan::{self, Plan, SlotRule};
use crate::read::{Files, Slot};
use crate::report::Meter;
use crate::{Checkpoint, Error, Model};

impl Loader {
    /// What a resident load of `checkpoint` would read, and where it would put it.
    #[must_use]
    pub fn plan(&self, checkpoint: &Checkpoint) -> Plan {
        let read_bytes = self.policy(checkpoint).read_bytes;
        Plan::packed(checkpoint.tensors(), self.slot_rule(checkpoint), read_bytes)
    }

    /// Loads all tensors into memory that stays until the model is dropped, and then goes back to the pool.
    ///
    /// # Memory
    ///
    /// Tensors are packed into blocks of an eighth of the model, but of 64 MiB at least and 1 GiB at most unless the pool keeps so few
    /// buffers that they have to be larger; a larger tensor has a block of its own. A tensor that outlives its model keeps its block.
    ///
    /// A model of other shapes takes the memory that the one before it left: its tensors are packed into the pool's idle buffers, the
    /// largest first, each where it leaves the least room. Published 7B models of four families take 85 to 100 % of their bytes from one
    /// another's memory, as far as there is as much. New memory is needed for tensors larger than any idle buffer, and for what the next model
    /// is larger by; idle buffers that are in the way of that are freed. Unused ends of divided buffers count: a load takes at most an eighth
    /// more than it would in an empty pool, and never more than [`BufferPool::max_bytes`](ckload_pool::BufferPool::max_bytes), so
    /// a limit just above a model's size leaves less to divide. Small buffers that other threads hold privately (at most 8 MiB each, in
    /// pools without a limit) are not found.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not the one that was opened; the memory is not to be had, by the pool's limit or the system's; the
    /// observer panics; somebody cancels. Nothing is kept of a load that fails.
    pub fn load(&self, checkpoint: &Checkpoint) -> Result<Model, Error> {
        let loader = traced!(self, "load", checkpoint);
        Error::catch(|| loader.load_model(checkpoint))
    }

    fn load_model(&self, checkpoint: &Checkpoint) -> Result<Model, Error> {
        self.cancels.check()?;
        let meter = Meter::start(checkpoint.open_time());
        let plan = self.plan(checkpoint);
        let needed = self.check_capacity(&plan)?;
        let policy = self.policy(checkpoint);
        let files = Files::open(checkpoint, self.io, self.drop_cache, &self.staging, policy)?;
        self.announce(checkpoint);
        let workers = self.workers(&policy)?;
        let (plan, mut buffers) = {
            // Two loads must not each hold a part of a pool that has a cap, and wait for the rest.
            let is_over = || self.cancels.is_any();
            let turn = if self.cancels.is_empty() {
                self.pool.take_turn(needed, self.patience)
            } else {
                self.pool.take_turn_unless(needed, self.patience, &is_over)
            };
            let _turn = turn.map_err(|source| self.no_memory(source))?;
            let layout = self.layout(checkpoint, plan);
            let buffers = workers.install(|| self.lease_all(&layout, policy.threads, &meter))?;
            (layout.plan, buffers)
        };
        workers.install(|| {
            let slots = buffers
                .iter_mut()
                .map(|buffer| Slot {
                    is_untouched: buffer.origin() != Origin::Recycled,
                    memory: &mut buffer[..],
                })
                .collect();
            self.fill(&files, &plan, checkpoint, slots, &meter)
        })?;
        files.check_unchanged()?;
        let pin = |buffer: &mut PooledBuffer| {
            self.pin(buffer, &meter);
            Ok(())
        };
        workers.install(|| share(buffers.iter_mut().collect(), policy.threads, pin))?;
        let slots: Vec<Bytes> = buffers.into_iter().map(Bytes::from_owner).collect();
        let mut bytes = vec![Bytes::new(); checkpoint.tensors().len()];
        for place in plan.places() {
            let start = place.offset as usize;
            let len = checkpoint.tensors()[place.tensor].bytes as usize;
            bytes[place.tensor] = slots[place.slot].slice(start..start + len);
        }
        let tensor = |(index, bytes)| self.tensor(checkpoint, index, bytes, &meter);
        let tensors = if self.digests {
            meter.only_hashing(policy.threads.min(bytes.len()));
            let bytes = bytes.into_iter().enumerate().collect();
            let hash = |tensor_bytes| self.cancels.check().map(|()| tensor(tensor_bytes));
            workers.install(|| share(bytes, policy.threads, hash))?
        } else {
            bytes.into_iter().enumerate().map(tensor).collect()
        };
        let report = self.finish(checkpoint, &meter);
        Ok(Model::new(checkpoint.clone(), tensors, report))
    }

    /// Finds room for a resident load in what lies idle in the pool.
    fn layout(&self, checkpoint: &Checkpoint, plain: Plan) -> Layout {
        let idle = self.pool.idle_capacities();
        let idle: Vec<u64> = idle.into_iter().map(|capacity| capacity as u64).collect();
        let capacity_for = |bytes| self.pool.capacity_for(bytes as usize) as u64;
        let most_for = |bytes| match self.pool.max_bytes() {
            Some(_) => capacity_for(bytes),
            None => capacity_for(bytes).max(bytes + bytes / 8),
        };
        let limits = Limits {
            capacity_for: &capacity_for,
            serves: &|capacity, bytes| (bytes..=most_for(bytes)).contains(&capacity),
            max_bytes: self.pool.max_bytes().map(|bytes| bytes as u64),
            slots: self.slot_rule(checkpoint),
            read_bytes: self.policy(checkpoint).read_bytes,
        };
        Layout::new(checkpoint.tensors(), plain, &idle, &limits)
    }

    /// Takes the memory of a layout: first what lies idle, then the rest, which frees idle buffers where the pool has a limit.
    fn lease_all(
        &self,
        layout: &Layout,
        threads: usize,
        meter: &Meter,
    ) -> Result<Vec<PooledBuffer>, Error> {
        let idle: Vec<Option<PooledBuffer>> = layout
            .idle
            .iter()
            .map(|capacity| {
                let start = Instant::now();
                let buffer = self.pool.get_idle((*capacity)? as usize)?;
                self.leased(&buffer, start, meter);
                Some(buffer)
            })
            .collect();
        let slots: Vec<(u64, Option<PooledBuffer>)> =
            layout.plan.slots().iter().copied().zip(idle).collect();
        meter.only_allocating(threads.min(slots.len()));
        share(slots, threads, |(bytes, idle)| match idle {
            Some(buffer) => Ok(buffer),
            None => {
                let exact = self.pool.max_bytes().is_some();
                self.lease(self.request(bytes, exact), meter)
            }
        })
    }

    /// The bytes that a load takes of the pool; refuses at once what could only fail after a long wait.
    fn check_capacity(&self, plan: &Plan) -> Result<usize, Error> {
        let needed = self.capacity_of(plan.slots());
        match self.pool.max_bytes() {
            Some(max_bytes) if needed > max_bytes => Err(Error::PoolTooSmall {
                needed: needed as u64,
                max_bytes: max_bytes as u64,
            }),
            _ => Ok(needed),
        }
    }

    /// What `slots` take of the pool, in bytes.
    fn capacity_of(&self, slots: &[u64]) -> usize {
        slots
            .iter()
            .map(|&bytes| self.pool.capacity_for(bytes as usize))
            .fold(0, usize::saturating_add)
    }

    /// How a resident load's blocks of memory are made; half of what the pool keeps is left to others.
    fn slot_rule(&self, checkpoint: &Checkpoint) -> SlotRule {
        let kept = self.pool.max_idle_buffers() as u64 / 2;
        let plain = SlotRule {
            bytes: plan::slot_bytes(checkpoint.bytes(), kept),
            in_step: false,
        };
        let in_step = SlotRule {
            in_step: true,
            ..plain
        };
        let capacity = |rule| self.capacity_of(&plan::packed_slots(checkpoint.tensors(), rule));
        // A few bytes more can cost a huge page more.
        let (least, wanted) = (capacity(plain), capacity(in_step));
        let most = least.saturating_add(least / 64);
        if wanted <= most.min(self.pool.max_bytes().unwrap_or(usize::MAX)) {
            in_step
        } else {
            plain
        }
    }
}

/// Does `work` for one of `items` after the other on so many workers of the current rayon pool; what comes of them, in their order, or the
/// first error, after which no other is begun.
///
/// There are more workers than cores, for reads that wait: what keeps a core busy takes no longer with as many threads as cores.
fn share<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let queue = Mutex::new(items.into_iter().enumerate());
    let (queue, work) = (&queue, &work);
    let next = move || queue.lock().next();
    let done = (0..threads)
        .into_par_iter()
        .with_max_len(1)
        .flat_map_iter(|_| {
            iter::from_fn(next).map(move |(number, item)| work(item).map(|done| (number, done)))
        })
        .collect::<Result<Vec<(usize, R)>, Error>>();
    let mut done = done?;
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::thread;
    use std::time::Duration;

    use rayon::ThreadPoolBuilder;

    use super::share;
    use crate::Error;

    #[test]
    fn no_more_threads_share_than_are_to() {
        let pool = ThreadPoolBuilder::new().num_threads(8).build().unwrap();
        for threads in [1, 3, 20] {
            let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let work = |number: usize| {
                most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                thread::sleep(Duration::from_millis(1));
                now.fetch_sub(1, Relaxed);
                Ok(number * 2)
            };
            let done = pool.install(|| share((0..40).collect(), threads, work));
            let expected: Vec<usize> = (0..40).map(|number| number * 2).collect();
            assert_eq!(done.unwrap(), expected);
            assert!(most.into_inner() <= threads.min(8));
        }
    }

    #[test]
    fn nothing_is_begun_after_an_error() {
        let begun = AtomicUsize::new(0);
        let work = |number: usize| {
            begun.fetch_add(1, Relaxed);
            if number == 3 {
                return Err(Error::Cancelled);
            }
            Ok(())
        };
        let done = share((0..40).collect(), 1, work);
        assert!(matches!(done, Err(Error::Cancelled)));
        assert_eq!(begun.into_inner(), 4);
    }
}
