//! What the operating system sees: resident, locked and huge pages.
//!
//! The process is measured as a whole, so one test runs at a time.

#![cfg(target_os = "linux")]

use std::{
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use ckload_pool::{BufferPool, Origin, PooledBuffer};
use procfs::process::{MMapPath, Process, VmFlags};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What the test's own machinery may take or give back meanwhile.
const SLACK: usize = 8 * MIB;

fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn status() -> procfs::process::Status {
    let me = Process::myself().expect("a process file system");
    me.status().expect("readable status")
}

fn resident() -> usize {
    status().vmrss.expect("on Linux") as usize * KIB
}

fn locked() -> usize {
    status().vmlck.expect("on Linux") as usize * KIB
}

#[track_caller]
fn assert_near(found: usize, expected: usize) {
    assert!(
        found.abs_diff(expected) <= SLACK,
        "{} MiB instead of {}",
        found / MIB,
        expected / MIB
    );
}

#[test]
fn pages_are_there_before_the_buffer_is() {
    let _alone = alone();
    for huge in [true, false] {
        let pool = BufferPool::builder().huge_pages(huge).build();
        let before = resident();
        let buffer = pool.get(64 * MIB);
        assert_near(resident(), before + 64 * MIB);
        let Origin::Fresh { time } = buffer.origin() else {
            panic!("a new pool has nothing to recycle")
        };
        assert!(!time.is_zero());
    }
}

#[test]
fn pages_of_an_untouched_buffer_come_with_the_first_touch() {
    let _alone = alone();
    for huge in [true, false] {
        let pool = BufferPool::builder().huge_pages(huge).build();
        let before = resident();
        let request = pool.request(64 * MIB).untouched();
        let mut buffer = request.get(Duration::ZERO).expect("memory");
        assert_near(resident(), before);
        assert!(buffer.iter().step_by(KIB).all(|&byte| byte == 0));
        buffer.fill(1);
        assert_near(resident(), before + 64 * MIB);
        drop(buffer);
        let buffer = request.get(Duration::ZERO).expect("it lies idle");
        assert_eq!(buffer.origin(), Origin::Recycled);
    }
}

#[test]
fn an_exact_request_passes_over_larger_buffers() {
    let _alone = alone();
    let pool = BufferPool::new();
    drop(pool.get(66 * MIB));
    let request = pool.request(64 * MIB).exact();
    let exact = request.get(Duration::ZERO).expect("memory");
    assert_eq!(exact.capacity(), 64 * MIB);
    assert_eq!(pool.get(64 * MIB).capacity(), 66 * MIB);
}

#[test]
fn idle_memory_goes_back_when_asked() {
    let _alone = alone();
    let before = resident();
    let pool = BufferPool::builder().tls_cache_size(2).build();
    drop([40, 50, 60, 70].map(|size| pool.get(size * MIB)));
    assert_near(resident(), before + 220 * MIB);
    assert_eq!(pool.held_bytes(), 220 * MIB);
    let freed = pool.trim(100 * MIB);
    assert_eq!(pool.held_bytes(), 220 * MIB - freed);
    assert!(pool.held_bytes() <= 100 * MIB);
    assert_near(resident(), before + pool.held_bytes());
    pool.clear();
    assert_eq!(pool.held_bytes(), 0);
    assert_near(resident(), before);
}

#[test]
fn a_dropped_pool_leaves_nothing_resident() {
    let _alone = alone();
    let before = resident();
    let pool = BufferPool::new();
    let (to_thread, orders) = mpsc::channel::<()>();
    let (to_test, returned) = mpsc::channel();
    let sleeper = {
        let pool = pool.clone();
        thread::spawn(move || {
            drop((pool.get(32 * MIB), pool.get(48 * MIB)));
            drop(pool);
            to_test.send(()).expect("the test waits");
            let _ = orders.recv();
        })
    };
    returned.recv().expect("the thread works");
    let kept = pool.get(64 * MIB);
    drop((pool.get(MIB), pool.get(2 * MIB), pool.get(96 * MIB)));
    assert_near(resident(), before + (32 + 48 + 64 + 96) * MIB);
    drop(pool);
    // Also what the sleeping thread cached; only what is still leased stays.
    assert_near(resident(), before + 64 * MIB);
    drop(kept);
    assert_near(resident(), before);
    drop(to_thread);
    sleeper.join().expect("the thread ends");
}

#[test]
fn clear_and_trim_reach_sleeping_threads() {
    let _alone = alone();
    let before = resident();
    let pool = BufferPool::builder().tls_cache_size(8).build();
    let (to_thread, orders) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let (to_test, returned) = mpsc::channel();
        let sleeper = &pool;
        scope.spawn(move || {
            for () in orders {
                drop([40, 50, 60].map(|size| sleeper.get(size * MIB)));
                to_test.send(()).expect("the test waits");
            }
        });
        for free in [
            |pool: &BufferPool| pool.clear(),
            |pool: &BufferPool| assert_eq!(pool.trim(0), 150 * MIB),
        ] {
            to_thread.send(()).expect("the thread works");
            returned.recv().expect("the thread works");
            assert_near(resident(), before + 150 * MIB);
            free(&pool);
            assert_eq!(pool.held_bytes(), 0);
            assert_near(resident(), before);
        }
        drop(to_thread);
    });
}

#[test]
fn a_loop_of_leases_keeps_one_buffer() {
    let _alone = alone();
    let before = resident();
    let pool = BufferPool::new();
    for _ in 0..100 {
        pool.get(64 * MIB)[MIB] = 1;
    }
    assert_eq!(pool.stats().fresh, 1);
    assert_near(resident(), before + 64 * MIB);
}

#[test]
fn large_buffers_are_on_huge_page_boundaries() {
    let _alone = alone();
    let pool = BufferPool::builder().min_buffer_size(0).build();
    let held: Vec<_> = (1..40)
        .flat_map(|size| [pool.get(size * 300 * KIB), pool.get(size * 12 * KIB)])
        .collect();
    for buffer in &held {
        let alignment = if buffer.capacity() >= 2 * MIB {
            2 * MIB
        } else {
            4 * KIB
        };
        assert_eq!(buffer.as_ptr().addr() % alignment, 0, "{buffer:?}");
    }
}

/// Bytes in huge pages of the mapping that holds an address.
fn huge_bytes_at(address: usize) -> u64 {
    let maps = Process::myself()
        .and_then(|me| me.smaps())
        .expect("a process file system");
    let map = maps
        .into_iter()
        .find(|map| (map.address.0..map.address.1).contains(&(address as u64)))
        .expect("the buffer is mapped");
    assert!(matches!(
        map.pathname,
        MMapPath::Anonymous | MMapPath::Heap | MMapPath::Other(_)
    ));
    map.extension.map.get("AnonHugePages").copied().unwrap_or(0)
}

#[test]
fn huge_pages_are_used_where_wanted_and_only_there() {
    let _alone = alone();
    let setting =
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let small = BufferPool::builder()
        .huge_pages(false)
        .build()
        .get(64 * MIB);
    assert_eq!(huge_bytes_at(small.as_ptr().addr()), 0);
    if setting.is_empty() || setting.contains("[never]") {
        println!("skipped: this kernel has transparent huge pages switched off");
        return;
    }
    let huge = BufferPool::new().get(64 * MIB);
    let found = huge_bytes_at(huge.as_ptr().addr()) as usize;
    // Not all, since memory may be too fragmented for some.
    assert!(found >= 16 * MIB, "{} of 64 MiB in huge pages", found / MIB);
}

#[test]
fn locked_memory_rises_and_falls_with_the_pool() {
    let _alone = alone();
    let before = locked();
    let pool = BufferPool::builder()
        .pinned_memory(true)
        .tls_cache_size(1)
        .build();
    assert!(pool.is_pinned());
    let (one, two) = (pool.get(3 * MIB + 5), pool.get(40 * MIB));
    if !two.is_pinned() {
        println!(
            "skipped: locking is refused here: {:?}",
            pool.stats().last_pin_error
        );
        assert!(pool.stats().pin_failures > 0);
        return;
    }
    // Exactly the blocks, no slack around them; and as much as the pool says.
    let expected = one.capacity() + two.capacity();
    assert_eq!(locked() - before, expected);
    assert_eq!(pool.stats().pinned_bytes, expected);
    drop((one, two));
    assert_eq!(locked() - before, expected, "idle buffers stay locked");
    drop(pool.get(40 * MIB));
    assert_eq!(locked() - before, expected, "and are not locked twice");
    let freed = pool.trim(10 * MIB);
    assert_eq!(locked() - before, expected - freed);
    assert_eq!(pool.stats().pinned_bytes, expected - freed);
    let kept = pool.get(8 * MIB);
    drop(pool);
    assert_eq!(locked() - before, kept.capacity());
    drop(kept);
    assert_eq!(locked(), before);
}

#[test]
fn what_was_preallocated_or_recycled_is_locked_once() {
    let _alone = alone();
    let before = locked();
    let pool = BufferPool::builder()
        .pinned_memory(true)
        .tls_cache_size(2)
        .build();
    assert_eq!(pool.preallocate(4, 8 * MIB).expect("memory"), 4);
    if pool.stats().pin_failures > 0 {
        println!("skipped: locking is refused here");
        return;
    }
    let check = |what: &str, expected: usize| {
        assert_eq!(locked() - before, expected, "{what}");
        assert_eq!(pool.stats().pinned_bytes, expected, "{what}");
        assert_eq!(pool.held_bytes(), expected, "{what}");
    };
    check("preallocated", 32 * MIB);
    let held: Vec<_> = (0..4).map(|_| pool.get(8 * MIB)).collect();
    assert!(held.iter().all(PooledBuffer::is_pinned));
    check("leased", 32 * MIB);
    drop(held);
    check("in a thread's cache and in shards", 32 * MIB);
    for _ in 0..3 {
        // By a thread that ends with buffers in its cache.
        thread::scope(|scope| {
            scope
                .spawn(|| drop([0, 1, 2].map(|_| pool.get(8 * MIB))))
                .join()
        })
        .expect("no panic");
        check("recycled by a thread that ended", 32 * MIB);
    }
    pool.clear();
    check("freed", 0);
    // Small buffers share no page with another's lock, and are freed when they come back.
    let (small, large) = (pool.get(100), pool.get(8 * MIB));
    drop(small);
    check("beside a small one that was freed", large.capacity());
}

#[test]
fn what_came_back_unlocked_is_locked_for_who_did_not_ask_for_it_untouched() {
    let _alone = alone();
    let pool = BufferPool::builder().pinned_memory(true).build();
    for len in [MIB, 8 * MIB] {
        let untouched = pool.request(len).untouched().get(Duration::ZERO);
        let untouched = untouched.expect("memory");
        assert!(!untouched.is_pinned());
        drop(untouched);
        let failures = pool.stats().pin_failures;
        let buffer = pool.get(len);
        assert_eq!(buffer.origin(), Origin::Recycled);
        assert!(buffer.is_pinned() || pool.stats().pin_failures > failures);
        let other = pool.request(len).untouched().get(Duration::ZERO);
        drop(other.expect("memory"));
        thread::scope(|scope| {
            let shared = scope.spawn(|| {
                let failures = pool.stats().pin_failures;
                pool.get(len).is_pinned() || pool.stats().pin_failures > failures
            });
            assert!(shared.join().expect("no panic"));
        });
    }
}

/// Set in the process that the test below starts, which may not lock.
const UNPRIVILEGED: &str = "CKLOAD_POOL_UNPRIVILEGED";

fn pin_without_permission() {
    let pool = BufferPool::builder().pinned_memory(true).build();
    for len in [MIB, 40 * MIB] {
        let mut buffer = pool.get(len);
        buffer.fill(1);
        assert!(!buffer.is_pinned());
    }
    assert_eq!(pool.get(40 * MIB).origin(), Origin::Recycled);
    let stats = pool.stats();
    assert_eq!((stats.pin_failures, stats.pinned_bytes), (2, 0));
    assert!(stats.last_pin_error.is_some() && stats.to_string().contains("2 blocks refused"));
    assert_eq!(locked(), 0);
}

#[test]
fn refused_locking_is_counted_and_harmless() {
    let _alone = alone();
    if std::env::var_os(UNPRIVILEGED).is_some() {
        println!("may not lock");
        pin_without_permission();
        return;
    }
    let me = std::env::current_exe().expect("a test knows its file");
    let privileged = status().euid == 0;
    let mut command = Command::new(if privileged { "setpriv" } else { "prlimit" });
    if privileged {
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "prlimit",
        ]);
    }
    command.args(["--memlock=65536:65536"]).arg(me);
    command.args([
        "--exact",
        "refused_locking_is_counted_and_harmless",
        "--nocapture",
    ]);
    command.env(UNPRIVILEGED, "1");
    match command.output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("may not lock") => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
        other => println!("skipped: no unprivileged process can be started here: {other:?}"),
    }
}

/// The kernel's flags of the map that holds `address`, as `/proc/self/smaps` tells them.
fn flags_at(address: usize) -> VmFlags {
    let maps = Process::myself().and_then(|me| me.smaps());
    let maps = maps.expect("Linux lists maps");
    let found = maps
        .iter()
        .find(|map| (map.address.0..map.address.1).contains(&(address as u64)));
    found.expect("the buffer is mapped").extension.vm_flags
}

#[test]
fn memory_stays_out_of_core_dumps_and_children_where_wanted_and_only_there() {
    let _alone = alone();
    for (dont_dump, dont_fork) in [(false, false), (true, false), (false, true), (true, true)] {
        let pool = BufferPool::builder()
            .dont_dump(dont_dump)
            .dont_fork(dont_fork)
            .build();
        assert_eq!((pool.dont_dump(), pool.dont_fork()), (dont_dump, dont_fork));
        for len in [MIB, 40 * MIB] {
            let buffer = pool.get(len);
            for address in [0, len - 1].map(|at| buffer.as_ptr().addr() + at) {
                let flags = flags_at(address);
                assert_eq!(flags.contains(VmFlags::DD), dont_dump, "{flags:?}");
                assert_eq!(flags.contains(VmFlags::DC), dont_fork, "{flags:?}");
            }
        }
    }
}
