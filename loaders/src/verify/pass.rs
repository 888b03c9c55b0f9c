//! One pass over all bytes of a checkpoint's files.
//!
//! A digest takes a file's bytes in order, so one file cannot keep more than two threads hashing: one for the file, one for its tensors.
//! Several files pass at once, the largest first. A worker hashes the next piece of a lane that has one and no other worker, and
//! reads ahead where there is none, as far as memory allows; whoever finds nothing to do ends, and what is done makes work for others.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::vec;

use ckload_pool::{Origin, PooledBuffer};
use parking_lot::Mutex;
use rayon::Scope;

use super::digest::Digest;
use super::lane::{Found, Lane};
use crate::plan::Plan;
use crate::read::{self, Files, Slot, Watch};
use crate::report::Meter;
use crate::{Checkpoint, Error, Loader};

/// The least files that pass at once if there are as many: while one file's last pieces are hashed, the next is read.
const LEAST_AT_ONCE: usize = 2;

/// What a pass is set up with.
pub(super) struct Setting<'a> {
    pub(super) loader: &'a Loader,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) files: &'a Files,
    pub(super) meter: &'a Meter,
    /// Whether NaN and infinities are counted.
    pub(super) finite: bool,
    /// Bytes of a piece.
    pub(super) piece_bytes: u64,
    /// The most pieces in memory.
    pub(super) most_pieces: usize,
}

/// What a pass found, by the numbers of files and of tensors.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) files: Vec<(usize, Digest)>,
    /// Those that are in place.
    pub(super) tensors: Vec<(usize, Found)>,
}

/// Reads every file once, on the workers of the current rayon pool. Ends with the first error.
pub(super) fn pass(setting: &Setting<'_>) -> Result<Outcome, Error> {
    let files = setting.checkpoint.files();
    let mut waiting: Vec<usize> = (0..files.len()).collect();
    waiting.sort_by_key(|&file| Reverse(files[file].bytes));
    let at_once = setting.files.policy().threads.max(LEAST_AT_ONCE);
    let mut state = State {
        waiting: waiting.into_iter(),
        passing: Vec::new(),
        at_once: at_once.min(setting.most_pieces / 2).max(1),
        room: setting.most_pieces,
        threads: 1,
        outcome: Outcome::default(),
        failure: None,
    };
    state.begin_files(setting);
    let pass = Pass {
        setting,
        state: Mutex::new(state),
    };
    rayon::scope(|scope| pass.run(scope));
    let state = pass.state.into_inner();
    state.failure.map_or(Ok(state.outcome), Err)
}

/// A pass that is under way.
struct Pass<'a> {
    setting: &'a Setting<'a>,
    state: Mutex<State>,
}

struct State {
    /// Numbers of the files that have not begun.
    waiting: vec::IntoIter<usize>,
    passing: Vec<Passing>,
    /// So many files pass at once.
    at_once: usize,
    /// How many more pieces may be in memory.
    room: usize,
    /// Workers that take tasks.
    threads: usize,
    outcome: Outcome,
    failure: Option<Error>,
}

/// A file whose bytes are passing.
struct Passing {
    file: usize,
    bytes: u64,
    /// From where on it has not been read.
    next: u64,
    /// Pieces of it that are in memory, or on their way there.
    pieces: usize,
    queues: [Queue; 2],
}

/// What waits for a lane.
struct Queue {
    /// Absent while a worker has it.
    lane: Option<Lane>,
    /// How far the lane is, in bytes from the file's start.
    at: u64,
    /// By their places in the file.
    arrived: BTreeMap<u64, Piece>,
}

/// A piece of a file, shared by its lanes.
#[derive(Clone)]
struct Piece {
    buffer: Arc<PooledBuffer>,
    bytes: usize,
}

enum Task {
    Read {
        file: usize,
        range: Range<u64>,
    },
    Hash {
        file: usize,
        queue: usize,
        lane: Lane,
        at: u64,
        piece: Piece,
    },
}

impl Pass<'_> {
    fn run<'scope>(&'scope self, scope: &Scope<'scope>) {
        while let Some(task) = self.take(scope) {
            if let Err(error) = Error::catch(|| self.carry_out(task)) {
                self.state.lock().failure.get_or_insert(error);
            }
        }
    }

    /// The next task, if there is one for this thread. Where there is another, one more thread begins; it will see to the next.
    fn take<'scope>(&'scope self, scope: &Scope<'scope>) -> Option<Task> {
        let wanted = self.setting.files.wanted_threads();
        let mut state = self.state.lock();
        let task = if state.threads > wanted {
            None
        } else {
            state.next_task(self.setting.piece_bytes)
        };
        if task.is_none() {
            state.threads -= 1;
        } else if state.threads < wanted && state.has_task() {
            state.threads += 1;
            scope.spawn(|scope| self.run(scope));
        }
        self.setting.meter.reading(state.threads);
        task
    }

    fn carry_out(&self, task: Task) -> Result<(), Error> {
        match task {
            Task::Read { file, range } => {
                let at = range.start;
                let piece = self.read(file, range)?;
                self.state.lock().arrived(file, at, piece);
            }
            Task::Hash {
                file,
                queue,
                mut lane,
                at,
                piece,
            } => {
                let bytes = &piece.buffer[..piece.bytes];
                self.setting.meter.hashing(|| lane.update(at, bytes));
                let end = at + piece.bytes as u64;
                let is_last = Arc::into_inner(piece.buffer).is_some();
                let mut state = self.state.lock();
                state.hashed(file, queue, lane, end, is_last);
                state.begin_files(self.setting);
            }
        }
        Ok(())
    }

    fn read(&self, file: usize, range: Range<u64>) -> Result<Piece, Error> {
        let Setting {
            loader,
            files,
            meter,
            ..
        } = self.setting;
        let request = loader.request(self.setting.piece_bytes, true);
        let mut buffer = loader.lease(request, meter)?;
        let len = range.end - range.start;
        let plan = Plan::stretch(file, range);
        let slot = Slot {
            is_untouched: buffer.origin() != Origin::Recycled,
            memory: &mut buffer[..len as usize],
        };
        let watch = Watch {
            meter,
            observer: &*loader.observer,
            cancels: &loader.cancels,
        };
        read::fill_here(files, &plan, &[], vec![slot], &watch)?;
        loader.pin(&mut buffer, meter);
        meter.loaded(len);
        Ok(Piece {
            buffer: Arc::new(buffer),
            bytes: len as usize,
        })
    }
}

impl State {
    /// Lets files begin in place of those that have passed.
    fn begin_files(&mut self, setting: &Setting<'_>) {
        let checkpoint = setting.checkpoint;
        while self.passing.len() < self.at_once
            && let Some(file) = self.waiting.next()
        {
            let tensors = checkpoint.tensors();
            let numbers = tensors.partition_point(|info| info.file < file)
                ..tensors.partition_point(|info| info.file <= file);
            self.passing.push(Passing {
                file,
                bytes: checkpoint.files()[file].bytes,
                next: 0,
                pieces: 0,
                queues: Lane::both(tensors, numbers, setting.finite).map(Queue::new),
            });
            self.end_passed();
        }
    }

    /// Takes the results of files that have passed.
    fn end_passed(&mut self) {
        for passed in self.passing.extract_if(.., |passing| passing.is_over()) {
            for lane in passed.queues.into_iter().filter_map(|queue| queue.lane) {
                match lane {
                    Lane::File(hasher) => self.outcome.files.push((passed.file, hasher.finish())),
                    Lane::Tensors(hashers) => self.outcome.tensors.extend(hashers.finish()),
                }
            }
        }
    }

    /// Whether there is something to be done now.
    fn has_task(&self) -> bool {
        self.failure.is_none() && (self.ready().is_some() || self.readable().is_some())
    }

    fn next_task(&mut self, piece_bytes: u64) -> Option<Task> {
        if self.failure.is_some() {
            return None;
        }
        if let Some((index, queue)) = self.ready() {
            let passing = &mut self.passing[index];
            let file = passing.file;
            let waiting = &mut passing.queues[queue];
            return Some(Task::Hash {
                file,
                queue,
                lane: waiting.lane.take()?,
                at: waiting.at,
                piece: waiting.arrived.remove(&waiting.at)?,
            });
        }
        let index = self.readable()?;
        self.room -= 1;
        let passing = &mut self.passing[index];
        passing.pieces += 1;
        let end = passing.bytes.min(passing.next.saturating_add(piece_bytes));
        let range = passing.next..end;
        passing.next = end;
        Some(Task::Read {
            file: passing.file,
            range,
        })
    }

    /// The queue that waits for a thread, of the lane that has the longest way to go; the numbers of its file in `passing` and of its lane.
    fn ready(&self) -> Option<(usize, usize)> {
        let queues = self
            .passing
            .iter()
            .enumerate()
            .flat_map(|(index, passing)| {
                let queues = passing.queues.iter().enumerate();
                queues
                    .map(move |(number, queue)| ((index, number), queue, passing.bytes - queue.at))
            });
        queues
            .filter(|(_, queue, _)| queue.is_ready())
            .max_by_key(|(_, _, left)| *left)
            .map(|(numbers, _, _)| numbers)
    }

    /// The file that is to be read on: the one with the fewest pieces in memory.
    fn readable(&self) -> Option<usize> {
        if self.room == 0 {
            return None;
        }
        let files = self.passing.iter().enumerate();
        files
            .filter(|(_, passing)| passing.next < passing.bytes)
            .min_by_key(|(_, passing)| passing.pieces)
            .map(|(index, _)| index)
    }

    fn passing(&mut self, file: usize) -> Option<&mut Passing> {
        self.passing.iter_mut().find(|passing| passing.file == file)
    }

    /// A piece is there for both lanes, which share it and nobody else: the second to be done with it knows that it is.
    fn arrived(&mut self, file: usize, at: u64, piece: Piece) {
        if let Some(passing) = self.passing(file) {
            for (queue, piece) in passing.queues.iter_mut().zip([piece.clone(), piece]) {
                queue.arrived.insert(at, piece);
            }
        }
    }

    /// A lane has taken a piece up to `end`; if it was the second to do so, the piece's memory is free again.
    fn hashed(&mut self, file: usize, queue: usize, lane: Lane, end: u64, is_last: bool) {
        if is_last {
            self.room += 1;
        }
        if let Some(passing) = self.passing(file) {
            passing.pieces -= usize::from(is_last);
            passing.queues[queue].lane = Some(lane);
            passing.queues[queue].at = end;
        }
        self.end_passed();
    }
}

impl Passing {
    fn is_over(&self) -> bool {
        let mut queues = self.queues.iter();
        queues.all(|queue| queue.lane.is_some() && queue.at == self.bytes)
    }
}

impl Queue {
    fn new(lane: Lane) -> Self {
        Self {
            lane: Some(lane),
            at: 0,
            arrived: BTreeMap::new(),
        }
    }

    fn is_ready(&self) -> bool {
        self.lane.is_some() && self.arrived.contains_key(&self.at)
    }
}
