//! What every way of reading has to do, whatever the storage does.
//!
//! The file is a fake, which checks alignment as strictly as a disk, has some of its pages in the page cache, and puts faults in the
//! way: short reads, interruptions, errors at a place or from a moment on, refusals, an early end. The seed of each case is printed if it
//! fails.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ckload_pool::BufferPool;
use fastrand::Rng;
use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags};

use super::buffered::Buffered;
use super::direct::{self, Direct};
use super::raw::RawFile;
use super::uncached::{Auto, Uncached};
use super::{Reader, Stretch, Target};
use crate::observer::Source;
use crate::plan::Gaps;

const PAGE: usize = 4096;

/// A file's content and how its storage behaves.
struct Storage {
    bytes: Vec<u8>,
    /// By page; empty if the system does not tell.
    cached: Vec<bool>,
    tells_what_is_cached: bool,
    /// From this offset on reads fail so.
    fails: Option<(usize, Errno)>,
    /// After this many reads all fail so.
    vanishes: Option<(usize, Errno)>,
    /// Each read works only after this many interruptions.
    interruptions: usize,
    /// What a read that must not wait always answers, if it is refused.
    refuses_nowait: Option<Errno>,
    /// Reads past the page cache are refused after this many.
    refuses_direct_after: usize,
    /// No read brings more than this.
    most: usize,
    /// Past the page cache, too, a read may bring less than a block.
    splits_blocks: bool,
    calls: Calls,
    /// Reads bring less than asked, and are interrupted.
    is_moody: bool,
    /// Past the page cache, nothing can be read.
    refuses_direct: bool,
    random: Mutex<Rng>,
}

/// What was asked of a storage so far.
#[derive(Default)]
struct Calls {
    all: AtomicUsize,
    direct: AtomicUsize,
    in_a_row: AtomicUsize,
}

/// Far more reads than any case needs.
const SPINS: usize = 1 << 20;

/// One way of opening the storage.
#[derive(Clone)]
struct Handle {
    storage: Arc<Storage>,
    /// Alignment of offsets and lengths, and of memory, if it reads past the page cache.
    direct: Option<(usize, usize)>,
}

impl Storage {
    /// Reads at most `wanted` bytes as the kernel might: how many, or an error.
    fn read(&self, offset: u64, wanted: usize, granule: usize) -> Result<Range<usize>, Errno> {
        let calls = self.calls.all.fetch_add(1, Relaxed);
        assert!(calls < SPINS, "a read is tried for ever");
        match self.vanishes {
            Some((after, errno)) if calls >= after => return Err(errno),
            _ => {}
        }
        if self.calls.in_a_row.fetch_add(1, Relaxed) < self.interruptions {
            return Err(Errno::INTR);
        }
        self.calls.in_a_row.store(0, Relaxed);
        let start = (offset as usize).min(self.bytes.len());
        let wanted = wanted.min(self.most.next_multiple_of(granule));
        let mut end = (start + wanted).min(self.bytes.len());
        if self.is_moody && end > start {
            let mut random = self.random.lock();
            if random.u8(..) < 40 {
                return Err(Errno::INTR);
            }
            if random.bool() {
                let some = random.usize(1..=end - start).next_multiple_of(granule);
                end = end.min(start + some);
            }
        }
        match self.fails {
            Some((at, errno)) if start >= at => Err(errno),
            // Whole blocks before the bad one arrive.
            Some((at, errno)) if end > at => {
                let good = (at - start) / granule * granule;
                if good == 0 {
                    Err(errno)
                } else {
                    Ok(start..start + good)
                }
            }
            _ => Ok(start..end),
        }
    }

    fn is_cached(&self, at: usize) -> bool {
        self.cached.get(at / PAGE).copied().unwrap_or(false)
    }
}

impl RawFile for Handle {
    fn read(&self, bytes: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
        let Some((block, memory)) = self.direct else {
            let range = self.storage.read(offset, bytes.len(), 1)?;
            bytes[..range.len()].copy_from_slice(&self.storage.bytes[range.clone()]);
            return Ok(range.len());
        };
        let is_aligned = (offset as usize).is_multiple_of(block)
            && bytes.len().is_multiple_of(block)
            && bytes.as_ptr().addr().is_multiple_of(memory);
        let before = self.storage.calls.direct.fetch_add(1, Relaxed);
        let refused = self.storage.refuses_direct || before >= self.storage.refuses_direct_after;
        if !is_aligned || refused {
            return Err(Errno::INVAL);
        }
        let granule = if self.storage.splits_blocks { 1 } else { block };
        let range = self.storage.read(offset, bytes.len(), granule)?;
        bytes[..range.len()].copy_from_slice(&self.storage.bytes[range.clone()]);
        Ok(range.len())
    }

    fn read_scattered(
        &self,
        target: &mut Target<'_>,
        offset: u64,
        flags: ReadWriteFlags,
    ) -> rustix::io::Result<usize> {
        assert!(self.direct.is_none(), "only used through the page cache");
        let is_nowait = flags.contains(ReadWriteFlags::NOWAIT);
        if let Some(errno) = self.storage.refuses_nowait.filter(|_| is_nowait) {
            return Err(errno);
        }
        let mut range = self.storage.read(offset, target.until_gap(), 1)?;
        if is_nowait && !range.is_empty() {
            let missing = range.clone().find(|&at| !self.storage.is_cached(at));
            range.end = missing.unwrap_or(range.end);
            if range.is_empty() {
                return Err(Errno::AGAIN);
            }
        }
        target.copy_from(&self.storage.bytes[range.clone()]);
        Ok(range.len())
    }

    fn cached_pages(&self, range: &Range<u64>) -> Option<u64> {
        let pages = range.start as usize / PAGE..(range.end as usize).div_ceil(PAGE);
        let storage = &self.storage;
        storage
            .tells_what_is_cached
            .then(|| pages.filter(|page| storage.is_cached(page * PAGE)).count() as u64)
    }
}

/// Every way of reading a storage, by name; maps are tested on real files.
fn readers(storage: Storage, random: &mut Rng) -> Vec<(&'static str, Box<dyn Reader>)> {
    readers_of(&Arc::new(storage), random)
}

fn readers_of(storage: &Arc<Storage>, random: &mut Rng) -> Vec<(&'static str, Box<dyn Reader>)> {
    let size = storage.bytes.len() as u64;
    let storage = Arc::clone(storage);
    let buffered = Handle {
        storage,
        direct: None,
    };
    let alignments = [(1, 1), (512, 4), (512, 512), (4096, 512), (4096, 4096)];
    let mut uncached = || {
        let (block, memory) = alignments[random.usize(..alignments.len())];
        let direct = Handle {
            direct: Some((block, memory)),
            ..buffered.clone()
        };
        Uncached::new(
            buffered.clone(),
            Direct::new(direct, block, memory),
            BufferPool::new(),
        )
    };
    vec![
        ("buffered", Box::new(Buffered::new(buffered.clone()))),
        ("direct", Box::new(uncached())),
        (
            "auto",
            Box::new(Auto::new(uncached(), size, Arc::default())),
        ),
    ]
}

/// What came of a read.
struct Outcome {
    result: Result<(), super::Failed>,
    told: Vec<(Source, Stretch)>,
    memory: Vec<u8>,
}

impl Outcome {
    /// The bytes that were read.
    fn moved(&self) -> u64 {
        self.told.iter().map(|(_, stretch)| stretch.bytes).sum()
    }

    /// Checks that what was told of lies in `range`, one stretch behind the other, and leaves out no more than `gaps` bytes between them.
    #[track_caller]
    fn assert_stretches(&self, name: &str, range: Range<usize>, gaps: u64) {
        let mut at = range.start as u64;
        let mut between = 0;
        for (_, stretch) in &self.told {
            assert!(stretch.bytes > 0 && stretch.bytes <= stretch.span, "{name}");
            assert!(stretch.offset >= at, "{name}: {:?}", self.told);
            between += stretch.offset - at;
            at = stretch.offset + stretch.span;
        }
        assert!(at <= range.end as u64, "{name}: {:?}", self.told);
        between += range.end as u64 - at;
        assert!(between <= gaps, "{name}: {:?} of {range:?}", self.told);
    }
}

/// Reads `range` into random pieces of memory.
fn read(reader: &dyn Reader, range: Range<usize>, random: &mut Rng) -> Outcome {
    // Some pieces agree with the file modulo every alignment, so that they can be filled in place.
    let shift = if random.bool() {
        range.start % PAGE
    } else {
        random.usize(..PAGE)
    };
    let mut memory = vec![0; PAGE + shift + range.len()];
    let start = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
    let window = start + shift..(start + shift + range.len()).min(memory.len());
    if window.len() < range.len() {
        memory.resize(window.start + range.len(), 0);
    }
    let mut told = Vec::new();
    let mut rest = &mut memory[window.start..window.start + range.len()];
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let len = match random.u8(..) {
            0..128 => rest.len(),
            128..200 => random.usize(0..=rest.len()),
            _ => random.usize(0..=rest.len().min(100)),
        };
        let (piece, tail) = rest.split_at_mut(len);
        pieces.push(piece);
        rest = tail;
    }
    let target: Target<'_> = pieces.into_iter().collect();
    let result = reader.read_exact_at(range.start as u64, target, &mut |source, stretch| {
        told.push((source, stretch));
    });
    Outcome {
        result,
        told,
        memory: memory[window.start..window.start + range.len()].to_vec(),
    }
}

fn storage(random: &mut Rng) -> Storage {
    let len = match random.u8(..) {
        0..64 => random.usize(1..3 * PAGE),
        _ => random.usize(1..3 << 20),
    };
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    let pages = len.div_ceil(PAGE);
    let cached = match random.u8(..4) {
        0 => vec![true; pages],
        1 => vec![false; pages],
        2 => (0..pages).map(|page| page < pages / 2).collect(),
        _ => {
            let run = random.usize(1..200);
            let phase = random.usize(..200);
            (0..pages)
                .map(|page| ((page + phase) / run).is_multiple_of(2))
                .collect()
        }
    };
    Storage {
        bytes,
        cached,
        tells_what_is_cached: random.bool(),
        fails: None,
        vanishes: None,
        interruptions: 0,
        refuses_nowait: None,
        refuses_direct_after: usize::MAX,
        most: 1 << 40,
        splits_blocks: false,
        calls: Calls::default(),
        is_moody: random.bool(),
        refuses_direct: random.u8(..) < 40,
        random: Mutex::new(random.fork()),
    }
}

fn range(random: &mut Rng, len: usize) -> Range<usize> {
    let start = random.usize(..len);
    let end = match random.u8(..) {
        0..80 => len,
        80..120 => (start + random.usize(1..600)).min(len),
        _ => random.usize(start + 1..=len),
    };
    start..end
}

/// Runs `case` with many seeds, and says which one failed.
fn with_seeds(case: impl Fn(&mut Rng)) {
    for seed in 0..150 {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            case(&mut Rng::with_seed(seed));
        }));
        if let Err(panic) = run {
            eprintln!("failed with seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn every_reader_brings_the_file_s_bytes_and_tells_of_each_once() {
    with_seeds(|random| {
        let storage = storage(random);
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            for _ in 0..4 {
                let range = range(random, bytes.len());
                let outcome = read(&*reader, range.clone(), random);
                assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
                assert!(outcome.memory == bytes[range.clone()], "{name}: {range:?}");
                assert_eq!(outcome.moved(), range.len() as u64, "{name}");
                outcome.assert_stretches(name, range, 0);
            }
        }
    });
}

#[test]
fn an_error_says_how_far_the_read_came() {
    with_seeds(|random| {
        let mut storage = storage(random);
        let fails_at = random.usize(..storage.bytes.len());
        storage.fails = Some((fails_at, Errno::IO));
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let range = range(random, bytes.len());
            let outcome = read(&*reader, range.clone(), random);
            // Past the page cache whole blocks fail.
            if range.end <= fails_at / PAGE * PAGE {
                assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
                continue;
            }
            if range.end <= fails_at && outcome.result.is_ok() {
                continue;
            }
            let failed = outcome.result.expect_err(name);
            assert_eq!(
                Errno::from_io_error(&failed.source),
                Some(Errno::IO),
                "{name}"
            );
            let good = failed.done as usize;
            assert!(
                range.start + good <= fails_at.max(range.start),
                "{name}: {good}"
            );
            assert!(
                outcome.memory[..good] == bytes[range.start..][..good],
                "{name}"
            );
        }
    });
}

#[test]
fn a_file_that_ends_early_is_an_error_with_the_place() {
    with_seeds(|random| {
        let storage = storage(random);
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let start = random.usize(..bytes.len() + 2 * PAGE);
            let end = bytes.len().max(start) + random.usize(1..2 * PAGE);
            let outcome = read(&*reader, start..end, random);
            let failed = outcome.result.expect_err(name);
            assert_eq!(
                failed.source.kind(),
                std::io::ErrorKind::UnexpectedEof,
                "{name}"
            );
            let there = bytes.len().saturating_sub(start);
            assert_eq!(failed.done as usize, there, "{name}");
            assert!(
                outcome.memory[..there] == bytes[bytes.len() - there..],
                "{name}"
            );
        }
    });
}

#[test]
fn auto_reads_past_the_page_cache_only_what_that_has_not() {
    with_seeds(|random| {
        let mut storage = storage(random);
        storage.tells_what_is_cached = true;
        storage.refuses_direct = false;
        let (len, all) = (storage.bytes.len(), random.bool());
        storage.cached.fill(all);
        let mut readers = readers(storage, random);
        let (name, auto) = readers.pop().expect("auto is the last");
        assert_eq!(name, "auto");
        for _ in 0..3 {
            let outcome = read(&*auto, range(random, len), random);
            let wanted = if all {
                Source::Buffered
            } else {
                Source::Direct
            };
            assert!(
                outcome.told.iter().all(|&(source, _)| source == wanted),
                "{all} {:?}",
                outcome.told
            );
        }
    });
}

/// What a storage may answer that no second try helps against.
const ERRORS: [Errno; 8] = [
    Errno::IO,
    Errno::AGAIN,
    Errno::NODEV,
    Errno::NXIO,
    Errno::STALE,
    Errno::TIMEDOUT,
    Errno::PERM,
    Errno::INVAL,
];

/// Checks a read of all of `bytes` that had to fail with `errno`.
#[track_caller]
fn assert_failed(name: &str, outcome: &Outcome, errno: Errno, bytes: &[u8]) -> usize {
    let failed = outcome.result.as_ref().expect_err(name);
    assert_eq!(Errno::from_io_error(&failed.source), Some(errno), "{name}");
    let good = failed.done as usize;
    assert!(outcome.memory[..good] == bytes[..good], "{name}: {good}");
    assert!(
        outcome.moved() <= failed.done,
        "{name}: told of what did not come"
    );
    good
}

/// Where one way of reading gives over to another, an error is as likely to be lost as anywhere, and not as likely to be met.
#[test]
fn any_error_at_any_border_arrives() {
    let borders = [
        0,
        PAGE,
        64 << 10,  // the least that is read in place
        256 << 10, // the least stretch that is looked up
        direct::STAGING_BYTES,
        2 * direct::STAGING_BYTES,
    ];
    with_seeds(|random| {
        let errno = random.choice(ERRORS).expect("not empty");
        let border = random.choice(borders).expect("not empty");
        let mut storage = storage(random);
        storage
            .bytes
            .resize(2 * direct::STAGING_BYTES + 2 * PAGE, 7);
        let pages = storage.bytes.len() / PAGE;
        storage.cached.resize(pages, random.bool());
        let around = (border + random.usize(..3)).saturating_sub(1);
        storage.fails = Some((around, errno));
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let outcome = read(&*reader, 0..bytes.len(), random);
            let good = assert_failed(name, &outcome, errno, &bytes);
            assert!(good <= around, "{name}: {good} of {around}");
            assert!(good >= around / PAGE * PAGE, "{name}: {good} of {around}");
        }
    });
}

#[test]
fn a_storm_of_interruptions_is_sat_out() {
    with_seeds(|random| {
        let mut storage = storage(random);
        storage.interruptions = random.usize(1..200);
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let outcome = read(&*reader, 0..bytes.len(), random);
            assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
            assert!(outcome.memory == bytes, "{name}");
        }
    });
}

#[test]
fn reads_that_bring_next_to_nothing_get_there() {
    // Past the page cache, a server may answer a whole block with less, and the file goes on nevertheless.
    with_seeds(|random| {
        let mut storage = storage(random);
        storage.bytes.truncate(5 * PAGE);
        storage.most = random.usize(1..20);
        storage.splits_blocks = random.bool();
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let outcome = read(&*reader, 0..bytes.len(), random);
            assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
            assert!(outcome.memory == bytes, "{name}");
            assert_eq!(outcome.moved(), bytes.len() as u64, "{name}");
        }
    });
}

#[test]
fn a_file_system_without_reads_that_do_not_wait_is_read_otherwise() {
    with_seeds(|random| {
        let refusals = [Errno::AGAIN, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
        let mut storage = storage(random);
        storage.refuses_nowait = random.choice(refusals);
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            for _ in 0..4 {
                let range = range(random, bytes.len());
                let outcome = read(&*reader, range.clone(), random);
                assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
                assert!(outcome.memory == bytes[range], "{name}");
            }
        }
    });
}

#[test]
fn a_file_system_that_stops_reading_past_the_page_cache_is_read_through_it() {
    with_seeds(|random| {
        let mut storage = storage(random);
        storage.refuses_direct = false;
        storage.refuses_direct_after = random.usize(..4);
        storage.cached.fill(false);
        storage.tells_what_is_cached = true;
        storage.most = random.usize(PAGE..1 << 20);
        let (bytes, after) = (storage.bytes.clone(), storage.refuses_direct_after);
        let storage = Arc::new(storage);
        for (name, reader) in readers_of(&storage, random) {
            storage.calls.direct.store(0, Relaxed);
            for _ in 0..4 {
                let range = range(random, bytes.len());
                let outcome = read(&*reader, range.clone(), random);
                assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
                assert!(outcome.memory == bytes[range.clone()], "{name}");
                assert_eq!(outcome.moved(), range.len() as u64, "{name}");
            }
            let tried = storage.calls.direct.load(Relaxed);
            assert!(tried <= after + 1, "{name}: a refusal is believed, {tried}");
        }
    });
}

/// A disk that is unplugged, a server that goes away: every read from then on is an error, and the reader is fit for use if they return.
#[test]
fn a_disk_that_vanishes_is_an_error_until_it_is_back() {
    with_seeds(|random| {
        let errno = random.choice(ERRORS).expect("not empty");
        let mut storage = storage(random);
        let after = random.usize(..6);
        storage.vanishes = Some((after, errno));
        storage.most = storage.bytes.len().div_ceil(8);
        let bytes = storage.bytes.clone();
        let storage = Arc::new(storage);
        for (name, reader) in readers_of(&storage, random) {
            storage.calls.all.store(0, Relaxed);
            let outcome = read(&*reader, 0..bytes.len(), random);
            if storage.calls.all.load(Relaxed) <= after {
                assert!(outcome.memory == bytes, "{name}: it vanished too late");
            } else {
                assert_failed(name, &outcome, errno, &bytes);
            }
            storage.calls.all.store(after, Relaxed);
            let outcome = read(&*reader, 0..bytes.len(), random);
            assert_eq!(assert_failed(name, &outcome, errno, &bytes), 0);
        }
        let whole = Storage {
            vanishes: None,
            calls: Calls::default(),
            ..Arc::try_unwrap(storage).unwrap_or_else(|_| unreachable!("the readers are gone"))
        };
        for (name, reader) in readers(whole, random) {
            let outcome = read(&*reader, 0..bytes.len(), random);
            assert!(outcome.memory == bytes, "{name}");
        }
    });
}

/// A read of some runs with gaps between them.
#[derive(Debug)]
struct Spaced {
    start: usize,
    gaps: Gaps,
    /// Offsets in the file of the bytes that are wanted, in turn.
    wanted: Vec<usize>,
}

impl Spaced {
    /// Runs in a file of `len` bytes.
    fn random(random: &mut Rng, len: usize) -> Self {
        let start = random.usize(..len);
        let sizes = [1..20, 1..3000, 4000..20_000, 60_000..300_000];
        let mut size = || {
            let range = random.choice(sizes.clone()).expect("not empty");
            random.usize(range)
        };
        let (run, gap) = (size(), size());
        let first = random.usize(1..=run);
        let most = random.usize(1..=(len - start).min(200_000));
        let mut wanted = Vec::new();
        let mut at = start;
        while at < len && wanted.len() < most {
            let rest = if at == start { first } else { run };
            wanted.extend(at..len.min(at + rest));
            at += rest + gap;
        }
        wanted.truncate(most);
        Self {
            start,
            gaps: Gaps {
                first: first as u64,
                run: run as u64,
                gap: gap as u64,
            },
            wanted,
        }
    }

    fn span(&self) -> usize {
        self.wanted.last().map_or(0, |last| last + 1 - self.start)
    }

    fn bytes(&self, file: &[u8]) -> Vec<u8> {
        self.wanted.iter().map(|&at| file[at]).collect()
    }

    /// Of the wanted bytes, those before a place in the file.
    fn before(&self, at: usize) -> usize {
        self.wanted.partition_point(|&wanted| wanted < at)
    }

    fn read(&self, reader: &dyn Reader, random: &mut Rng) -> Outcome {
        let shift = random.usize(..PAGE);
        let mut memory = vec![0; shift + self.wanted.len()];
        let middle = random.usize(0..=self.wanted.len());
        let (front, back) = memory[shift..].split_at_mut(middle);
        let target: Target<'_> = [front, back].into_iter().collect();
        let target = target.spaced(&self.gaps);
        assert_eq!(target.len(), self.span());
        let mut told = Vec::new();
        let result = reader.read_exact_at(self.start as u64, target, &mut |source, stretch| {
            told.push((source, stretch));
        });
        memory.drain(..shift);
        Outcome {
            result,
            told,
            memory,
        }
    }

    /// Checks that all came, and that no more was read than the span.
    #[track_caller]
    fn assert_came(&self, name: &str, outcome: &Outcome, file: &[u8]) {
        assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
        assert!(
            outcome.memory == self.bytes(file),
            "{name}: {:?}",
            self.gaps
        );
        let moved = outcome.moved();
        let (least, most) = (self.wanted.len() as u64, self.span() as u64);
        assert!(
            (least..=most).contains(&moved),
            "{name}: {moved} of {least}"
        );
        let gaps = (self.span() - self.wanted.len()) as u64;
        outcome.assert_stretches(name, self.start..self.start + self.span(), gaps);
    }

    /// Checks that what came before a failure is right, and says up to where in the file that is.
    #[track_caller]
    fn assert_failed(&self, name: &str, outcome: &Outcome, file: &[u8]) -> usize {
        let failed = outcome.result.as_ref().expect_err(name);
        let until = self.start + failed.done as usize;
        let good = self.before(until);
        let expected = self.wanted[..good].iter().map(|&at| file[at]);
        let memory = &outcome.memory[..good];
        assert!(
            memory.iter().copied().eq(expected),
            "{name}: {:?}",
            self.gaps
        );
        until
    }
}

#[test]
fn gaps_are_left_out_by_every_reader_whatever_the_storage_does() {
    with_seeds(|random| {
        let mut storage = storage(random);
        match random.u8(..5) {
            0 => storage.interruptions = random.usize(1..20),
            1 => {
                storage.bytes.truncate(5 * PAGE);
                storage.most = random.usize(1..20);
            }
            2 => storage.refuses_nowait = Some(Errno::AGAIN),
            3 => {
                storage.refuses_direct = false;
                storage.refuses_direct_after = random.usize(..4);
            }
            _ => {}
        }
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            for _ in 0..3 {
                let spaced = Spaced::random(random, bytes.len());
                let outcome = spaced.read(&*reader, random);
                spaced.assert_came(name, &outcome, &bytes);
            }
        }
    });
}

#[test]
fn of_what_is_cached_gaps_are_not_moved() {
    with_seeds(|random| {
        let mut storage = storage(random);
        storage.tells_what_is_cached = true;
        storage.cached.fill(true);
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let spaced = Spaced::random(random, bytes.len());
            let outcome = spaced.read(&*reader, random);
            spaced.assert_came(name, &outcome, &bytes);
            if name != "direct" {
                assert_eq!(outcome.moved(), spaced.wanted.len() as u64, "{name}");
            }
        }
    });
}

#[test]
fn an_error_beside_gaps_says_how_far_the_read_came() {
    with_seeds(|random| {
        let errno = random.choice(ERRORS).expect("not empty");
        let mut storage = storage(random);
        let fails_at = random.usize(..storage.bytes.len());
        storage.fails = Some((fails_at, errno));
        let bytes = storage.bytes.clone();
        for (name, reader) in readers(storage, random) {
            let spaced = Spaced::random(random, bytes.len());
            let outcome = spaced.read(&*reader, random);
            if outcome.result.is_ok() {
                assert!(spaced.start + spaced.span() <= fails_at, "{name}");
                spaced.assert_came(name, &outcome, &bytes);
                continue;
            }
            let until = spaced.assert_failed(name, &outcome, &bytes);
            // A gap may reach over the place.
            let next = spaced.wanted[spaced.before(fails_at).min(spaced.wanted.len() - 1)];
            assert!(until <= next.max(fails_at).max(spaced.start), "{name}");
            let failed = outcome.result.expect_err(name);
            assert_eq!(Errno::from_io_error(&failed.source), Some(errno), "{name}");
        }
    });
}

#[test]
fn a_file_that_ends_beside_gaps_is_an_error_with_the_place() {
    with_seeds(|random| {
        let mut storage = storage(random);
        let whole = storage.bytes.clone();
        storage.bytes.truncate(random.usize(..whole.len()));
        let end = storage.bytes.len();
        for (name, reader) in readers(storage, random) {
            let spaced = Spaced::random(random, whole.len());
            let outcome = spaced.read(&*reader, random);
            if spaced.start + spaced.span() <= end {
                spaced.assert_came(name, &outcome, &whole);
                continue;
            }
            let until = spaced.assert_failed(name, &outcome, &whole);
            let next = spaced.wanted[spaced.before(end)];
            assert!(
                (end.max(spaced.start)..=next).contains(&until),
                "{name}: {until}"
            );
            let failed = outcome.result.expect_err(name);
            let kind = failed.source.kind();
            assert_eq!(kind, std::io::ErrorKind::UnexpectedEof, "{name}");
        }
    });
}
