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
use super::{Reader, Target};
use crate::observer::Source;

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
        let (block, memory) = self.direct.expect("only used past the page cache");
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
        let mut range = self.storage.read(offset, target.len(), 1)?;
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
    told: Vec<(Source, u64)>,
    memory: Vec<u8>,
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
    let result = reader.read_exact_at(range.start as u64, target, &mut |source, bytes| {
        told.push((source, bytes));
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
                let told: u64 = outcome.told.iter().map(|&(_, bytes)| bytes).sum();
                assert_eq!(told, range.len() as u64, "{name}");
                assert!(outcome.told.iter().all(|&(_, bytes)| bytes > 0), "{name}");
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
    let told: u64 = outcome.told.iter().map(|&(_, bytes)| bytes).sum();
    assert!(told <= failed.done, "{name}: told of what did not come");
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
            let told: u64 = outcome.told.iter().map(|&(_, bytes)| bytes).sum();
            assert_eq!(told, bytes.len() as u64, "{name}");
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
                let told: u64 = outcome.told.iter().map(|&(_, bytes)| bytes).sum();
                assert_eq!(told, range.len() as u64, "{name}");
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
