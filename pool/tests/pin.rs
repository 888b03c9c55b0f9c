//! Memory that somebody else than the operating system pins.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use ckload_pool::{BufferPool, Builder, Origin, PinMemory};

const MIB: usize = 1 << 20;
/// What tests write into buffers, to be seen when they are unpinned.
const MARK: u8 = 7;

/// Keeps the books of a driver. Clones share them.
#[derive(Clone, Debug, Default)]
struct Driver {
    books: Arc<Mutex<Books>>,
}

#[derive(Debug, Default)]
struct Books {
    /// Length of what is registered, by address.
    registered: HashMap<usize, usize>,
    pins: usize,
    unpins: usize,
    /// Calls after which nothing more is pinned.
    refuses_after: Option<usize>,
    /// What a driver would have taken amiss.
    faults: Vec<String>,
}

impl Driver {
    fn refusing_after(calls: usize) -> Self {
        let driver = Self::default();
        driver.books().refuses_after = Some(calls);
        driver
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self) -> BufferPool {
        self.builder().build()
    }

    fn builder(&self) -> Builder {
        BufferPool::builder().pin_with(self.clone())
    }

    /// So many blocks were pinned in all, and so many are pinned now.
    #[track_caller]
    fn assert(&self, pins: usize, now: usize) {
        let books = self.books();
        assert_eq!(books.faults, Vec::<String>::new());
        assert_eq!((books.pins, books.registered.len()), (pins, now));
        assert_eq!(books.unpins, pins - now);
    }
}

impl PinMemory for Driver {
    fn pin(&self, memory: &[u8]) -> io::Result<()> {
        let mut books = self.books();
        if books.refuses_after.is_some_and(|calls| books.pins >= calls) {
            return Err(io::Error::other("the driver has enough"));
        }
        books.pins += 1;
        let address = memory.as_ptr().addr();
        if books.registered.insert(address, memory.len()).is_some() {
            books.faults.push(format!("{address:x} is pinned twice"));
        }
        Ok(())
    }

    fn unpin(&self, memory: &[u8]) {
        // Memory that is gone would end the test here.
        let is_whole = memory.iter().all(|&byte| byte == MARK);
        let mut books = self.books();
        books.unpins += 1;
        let address = memory.as_ptr().addr();
        if books.registered.remove(&address) != Some(memory.len()) {
            books.faults.push(format!("{address:x} was not pinned"));
        }
        if !is_whole {
            books.faults.push(format!("{address:x} has other contents"));
        }
    }
}

/// Leases `len` bytes and marks the whole block, which has as many.
#[track_caller]
fn marked(pool: &BufferPool, len: usize) -> ckload_pool::PooledBuffer {
    let mut buffer = pool.get(len);
    assert_eq!(buffer.capacity(), len);
    buffer.fill(MARK);
    buffer
}

#[test]
fn a_block_is_pinned_once_whoever_leases_it() {
    let driver = Driver::default();
    let pool = driver.builder().tls_cache_size(1).build();
    assert!(pool.is_pinned());
    assert!(format!("{:?}", pool.pin_with()).contains("Driver"));
    for _ in 0..3 {
        let held = [1, 2, 40].map(|size| marked(&pool, size * MIB));
        assert!(held.iter().all(ckload_pool::PooledBuffer::is_pinned));
        driver.assert(3, 3);
        assert_eq!(pool.stats().pinned_bytes, 43 * MIB);
    }
    thread::scope(|scope| {
        let lease = || assert_eq!(pool.get(40 * MIB).origin(), Origin::Recycled);
        scope.spawn(lease).join().expect("no panic");
    });
    driver.assert(3, 3);
    assert_eq!(pool.preallocate(3, 40 * MIB).expect("memory"), 3);
    driver.assert(6, 6);
    assert_eq!(pool.stats().pin_failures, 0);
}

#[test]
fn memory_is_unpinned_before_it_is_unmapped() {
    let driver = Driver::default();
    let pool = driver.builder().tls_cache_size(2).build();
    drop([1, 40, 60].map(|size| marked(&pool, size * MIB)));
    driver.assert(3, 3);
    let freed = pool.trim(50 * MIB);
    assert!(freed >= 51 * MIB);
    let left = 3 - driver.books().unpins;
    driver.assert(3, left);
    assert_eq!(pool.stats().pinned_bytes, 101 * MIB - freed);
    pool.clear();
    driver.assert(3, 0);

    // Too small to be kept.
    drop(marked(&pool, 64 << 10));
    driver.assert(4, 0);

    let (kept, idle) = (marked(&pool, 3 * MIB), marked(&pool, 30 * MIB));
    drop(idle);
    drop(pool);
    driver.assert(6, 1);
    drop(kept);
    driver.assert(6, 0);
}

#[test]
fn what_makes_room_or_is_too_old_is_unpinned() {
    let driver = Driver::default();
    let pool = driver.builder().max_bytes(64 * MIB).build();
    drop([30, 34].map(|size| marked(&pool, size * MIB)));
    driver.assert(2, 2);
    drop(marked(&pool, 50 * MIB));
    driver.assert(3, 1);
    assert_eq!(pool.stats().pinned_bytes, 50 * MIB);

    let driver = Driver::default();
    let pool = driver.builder().max_idle_age(Duration::ZERO).build();
    drop(marked(&pool, 30 * MIB));
    drop(marked(&pool, 50 * MIB));
    drop(marked(&pool, 60 * MIB));
    assert!(driver.books().unpins > 0);
    let now = 3 - driver.books().unpins;
    driver.assert(3, now);
}

#[test]
fn a_thread_that_ends_leaves_nothing_pinned_behind() {
    let driver = Driver::default();
    let pool = driver.pool();
    let thread = thread::spawn(move || drop([1, 40].map(|size| marked(&pool, size * MIB))));
    thread.join().expect("no panic");
    driver.assert(2, 0);
}

#[test]
fn refusals_are_counted_and_harmless() {
    let driver = Driver::refusing_after(1);
    let pool = driver.pool();
    let (one, mut two) = (marked(&pool, 8 * MIB), marked(&pool, 40 * MIB));
    assert_eq!((one.is_pinned(), two.is_pinned()), (true, false));
    two.pin(); // was tried already
    let stats = pool.stats();
    assert_eq!((stats.pinned_bytes, stats.pin_failures), (8 * MIB, 1));
    assert_eq!(
        stats.last_pin_error.as_deref(),
        Some("the driver has enough")
    );
    drop((one, two));
    assert_eq!(pool.get(40 * MIB).origin(), Origin::Recycled);
    assert_eq!(pool.stats().pin_failures, 1);
    // What was refused is not unpinned; what comes new is tried.
    pool.clear();
    driver.assert(1, 0);
    drop(marked(&pool, 8 * MIB));
    assert_eq!(pool.stats().pin_failures, 2);
}

#[test]
fn untouched_memory_is_pinned_when_its_holder_says_so() {
    let driver = Driver::default();
    let pool = driver.pool();
    let request = pool.request(8 * MIB).untouched();
    let mut buffer = request.get(Duration::ZERO).expect("memory");
    driver.assert(0, 0);
    buffer.fill(MARK);
    for _ in 0..2 {
        buffer.pin();
        driver.assert(1, 1);
    }
    let mut never_pinned = request.get(Duration::ZERO).expect("memory");
    never_pinned.fill(MARK);
    drop((buffer, never_pinned));
    pool.clear();
    driver.assert(1, 0);
}

#[test]
fn the_last_word_on_pinning_counts() {
    let driver = Driver::default();
    let pool = driver.builder().pinned_memory(false).build();
    assert!(!pool.is_pinned());
    drop(marked(&pool, 8 * MIB));
    driver.assert(0, 0);
    let pool = driver.builder().pinned_memory(false).pinned_memory(true);
    assert!(pool.build().get(8 * MIB).is_pinned());
    assert_eq!(driver.books().pins, 1);
    assert!(BufferPool::new().pin_with().is_none());
}
