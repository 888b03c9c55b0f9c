//! Carries out a plan's reads, by as many threads as the state of the page cache wants.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;
use rayon::Scope;

use super::Files;
use super::target::Target;
use crate::cancel::Cancels;
use crate::observer::{Observer, ReadDone, Source, Touch, Touched};
use crate::plan::{Gather, Part, Plan, Read};
use crate::report::Meter;
use crate::{Error, TensorInfo};

/// Who watches a load, and may end it.
pub(crate) struct Watch<'a> {
    pub(crate) meter: &'a Meter,
    pub(crate) observer: &'a dyn Observer,
    /// Once one is cancelled no further read begins: the caller has no use for the memory any more.
    pub(crate) cancels: &'a Cancels,
}

/// Memory to be filled.
pub(crate) struct Slot<'a> {
    pub(crate) memory: &'a mut [u8],
    /// Its pages may be missing yet. Then each read touches its part first: that takes as long as all else, and while one thread
    /// does it others wait for the disk.
    pub(crate) is_untouched: bool,
}

impl<'a> From<&'a mut [u8]> for Slot<'a> {
    fn from(memory: &'a mut [u8]) -> Self {
        Self {
            memory,
            is_untouched: false,
        }
    }
}

/// Fills `slots` by carrying out the plan of `tensors`, on the workers of the current rayon pool. Ends with the first error.
pub(crate) fn fill(
    files: &Files,
    plan: &Plan,
    tensors: &[TensorInfo],
    slots: Vec<Slot<'_>>,
    watch: &Watch<'_>,
) -> Result<(), Error> {
    // Where all reads wait, or are taken to, there is nothing to do meanwhile.
    let from_both_ends = !files.is_waiting();
    if let [first, .., last] = plan.reads()
        && from_both_ends
    {
        files.look_at(first);
        files.look_at(last);
    }
    let fill = Fill {
        files,
        from_both_ends,
        tensors,
        watch,
        queue: Mutex::new(Queue {
            tasks: scatter(plan, slots),
            threads: 1,
            front_waits: false,
        }),
        failure: Mutex::new(None),
    };
    rayon::scope(|scope| fill.run(scope, End::Front));
    fill.failure.into_inner().map_or(Ok(()), Err)
}

/// As [`fill()`], on this thread alone.
pub(crate) fn fill_here(
    files: &Files,
    plan: &Plan,
    tensors: &[TensorInfo],
    slots: Vec<Slot<'_>>,
    watch: &Watch<'_>,
) -> Result<(), Error> {
    for task in scatter(plan, slots) {
        watch.cancels.check()?;
        task.carry_out(files, tensors, watch)?;
    }
    Ok(())
}

/// A load that is being carried out.
struct Fill<'a> {
    files: &'a Files,
    from_both_ends: bool,
    tensors: &'a [TensorInfo],
    watch: &'a Watch<'a>,
    queue: Mutex<Queue<'a>>,
    failure: Mutex<Option<Error>>,
}

/// One queue in file order: a disk sees nearly sequential reads, and no thread runs dry before the others.
///
/// While what comes first is in the page cache, and so keeps the cores busy, further threads have the disk bring what comes last.
struct Queue<'a> {
    tasks: VecDeque<Task<'a>>,
    /// Threads that take tasks.
    threads: usize,
    /// Whether the last task that was taken from the front had to wait for the disk: then all take from there.
    front_waits: bool,
}

/// From where a thread takes its tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

struct Task<'a> {
    work: Work<'a>,
    target: Target<'a>,
    is_untouched: bool,
}

enum Work<'a> {
    Read(&'a Read),
    Gather(&'a Gather),
}

impl<'a> Fill<'a> {
    fn run<'scope>(&'scope self, scope: &Scope<'scope>, end: End)
    where
        'a: 'scope,
    {
        while let Some(task) = self.take(scope, end) {
            match task.carry_out(self.files, self.tensors, self.watch) {
                Ok(waited) if end == End::Front => self.queue.lock().front_waits = waited,
                Ok(_) => {}
                Err(error) => {
                    self.failure.lock().get_or_insert(error);
                }
            }
        }
    }

    /// The next task, if there is one for this thread. Where more threads are wanted, one more begins; it will see to the next.
    fn take<'scope>(&'scope self, scope: &Scope<'scope>, end: End) -> Option<Task<'a>>
    where
        'a: 'scope,
    {
        let mut queue = self.queue.lock();
        let is_over = {
            let mut failure = self.failure.lock();
            if !queue.tasks.is_empty() && self.watch.cancels.is_any() {
                failure.get_or_insert(Error::Cancelled);
            }
            failure.is_some()
        };
        let wanted = self.files.wanted_threads();
        self.watch.meter.reading(queue.threads);
        let task = if is_over || queue.threads > wanted {
            None
        } else if end == End::Front || queue.front_waits {
            queue.tasks.pop_front()
        } else {
            queue.tasks.pop_back()
        };
        if task.is_none() {
            queue.threads -= 1;
        } else if queue.threads < wanted && !queue.tasks.is_empty() {
            let end = if self.from_both_ends && queue.threads >= self.files.policy().threads {
                End::Back
            } else {
                End::Front
            };
            queue.threads += 1;
            scope.spawn(move |scope| self.run(scope, end));
        }
        task
    }
}

impl Task<'_> {
    /// Says whether a part came past the page cache.
    fn carry_out(
        mut self,
        files: &Files,
        tensors: &[TensorInfo],
        watch: &Watch<'_>,
    ) -> Result<bool, Error> {
        if self.is_untouched {
            let touched = touch(&mut self.target);
            watch.meter.touched(&touched);
            watch.observer.touched(&touched);
        }
        let mut waited = false;
        let done = |done: &ReadDone| {
            waited |= done.source == Source::Direct;
            watch.meter.read(done);
            watch.observer.read(done);
        };
        match self.work {
            Work::Read(read) => files.read(read, self.target, done)?,
            Work::Gather(gather) => {
                let info = &tensors[gather.tensor];
                files.gather(info, gather.from, self.target, watch.cancels, done)?;
            }
        }
        Ok(waited)
    }
}

/// Has the system put memory behind every page of `target`.
fn touch(target: &mut Target<'_>) -> Touched {
    let start = Instant::now();
    let mut bytes = 0;
    let page = rustix::param::page_size();
    for piece in target.pieces() {
        bytes += piece.len() as u64;
        for byte in piece.iter_mut().step_by(page) {
            *byte = 0;
        }
        // A piece that starts within a page ends in one more.
        if let Some(last) = piece.last_mut() {
            *last = 0;
        }
    }
    Touched {
        bytes,
        duration: start.elapsed(),
        step: Touch::Fault,
    }
}

/// Cuts `slots` into the parts of the plan's reads and gathers, for each in turn.
///
/// # Panics
///
/// Panics if parts overlap or leave their slots, which no plan's do.
fn scatter<'a>(plan: &'a Plan, slots: Vec<Slot<'a>>) -> VecDeque<Task<'a>> {
    let mut rest: Vec<(Slot<'a>, u64)> = slots.into_iter().map(|slot| (slot, 0)).collect();
    let mut cut = |parts: &[Part], work| {
        let mut is_untouched = false;
        let pieces = parts.iter().map(|part| {
            let (slot, cut) = &mut rest[part.slot];
            is_untouched |= slot.is_untouched;
            let tail = std::mem::take(&mut slot.memory)
                .split_at_mut((part.offset - *cut) as usize)
                .1;
            let (buffer, tail) = tail.split_at_mut(part.len as usize);
            (slot.memory, *cut) = (tail, part.offset + part.len);
            buffer
        });
        let target = pieces.collect();
        Task {
            work,
            target,
            is_untouched,
        }
    };
    let mut tasks = VecDeque::with_capacity(plan.reads().len() + plan.gathers().len());
    let mut gathers = plan.gathers().iter().peekable();
    for (number, read) in plan.reads().iter().enumerate() {
        while let Some(gather) = gathers.next_if(|gather| gather.after <= number) {
            tasks.push_back(cut(&[gather.part()], Work::Gather(gather)));
        }
        tasks.push_back(cut(&read.parts, Work::Read(read)));
    }
    tasks.extend(gathers.map(|gather| cut(&[gather.part()], Work::Gather(gather))));
    tasks
}
