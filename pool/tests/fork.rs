//! What a forked child sees and may do.
//!
//! A child gets only the thread that forks, and locks as the others hold them, so one test runs at a time.

#![cfg(target_os = "linux")]

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    process::exit,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use ckload_pool::{BufferPool, Origin, PinMemory};
use fork::{Fork, WEXITSTATUS, WIFEXITED, fork, waitpid};
use procfs::process::Process;

const MIB: usize = 1 << 20;

fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `run` in a forked child, and fails if it does not come to its end.
#[track_caller]
fn in_child(run: impl FnOnce()) {
    match fork().expect("a process can fork") {
        Fork::Child => {
            let ran = catch_unwind(AssertUnwindSafe(run));
            exit(if ran.is_ok() { 7 } else { 1 });
        }
        Fork::Parent(child) => {
            let status = waitpid(child).expect("our own child");
            assert!(
                WIFEXITED(status) && WEXITSTATUS(status) == 7,
                "the child failed: {status}"
            );
        }
    }
}

/// Whether this process has memory at `address`.
fn is_mapped(address: usize) -> bool {
    let maps = Process::myself().and_then(|me| me.maps());
    let maps = maps.expect("Linux lists maps");
    maps.iter()
        .any(|map| (map.address.0..map.address.1).contains(&(address as u64)))
}

#[test]
fn a_child_has_a_pool_of_its_own_or_none() {
    let _alone = alone();
    for pinned in [false, true] {
        let pool = BufferPool::builder().pinned_memory(pinned).build();
        let mut held = pool.get(6 * MIB);
        held.fill(1);
        // Idle in this thread's private stack and slots, in another thread's, and in the shards.
        drop((pool.get(MIB), pool.get(20 * MIB)));
        thread::scope(|scope| scope.spawn(|| drop(pool.get(30 * MIB))).join()).expect("no panic");
        let before = pool.stats();
        // The child takes both; the parent's stay.
        let mut both = Some((pool, held));
        in_child(|| {
            let (pool, mut held) = both.take().expect("taken once in each process");
            held.fill(2);
            for len in [MIB, 20 * MIB, 30 * MIB] {
                let mut buffer = pool.get(len);
                assert_eq!(buffer.origin(), Origin::Recycled);
                buffer.fill(3);
            }
            drop(held);
            assert_eq!(pool.get(6 * MIB)[0], 2);
            pool.clear();
            assert_eq!(pool.held_bytes(), 0);
            drop(pool.get(3 * MIB));
        });
        let (pool, held) = both.expect("only the child took them");
        assert_eq!(pool.stats(), before);
        assert!(
            held.iter().all(|&byte| byte == 1),
            "the child wrote to its own copy"
        );
        drop(held);
        assert_eq!(pool.get(6 * MIB).origin(), Origin::Recycled);
    }

    let pool = BufferPool::builder().dont_fork(true).build();
    assert!(pool.dont_fork());
    let mut held = pool.get(6 * MIB);
    held.fill(1);
    let address = held.as_ptr().addr();
    assert!(is_mapped(address));
    in_child(|| assert!(!is_mapped(address)));
    assert!(held.iter().all(|&byte| byte == 1));
}

#[test]
fn a_child_without_the_pool_s_memory_may_drop_what_it_cannot_touch() {
    let _alone = alone();
    for (pinned, zeroed) in [(false, false), (true, false), (false, true)] {
        let pool = BufferPool::builder()
            .dont_fork(true)
            .pinned_memory(pinned)
            .zero_on_return(zeroed)
            .build();
        let held = pool.get(6 * MIB);
        let address = held.as_ptr().addr();
        drop((pool.get(MIB), pool.get(20 * MIB)));
        let mut both = Some((pool, held));
        in_child(|| {
            // The child's own memory takes the place of what it did not get.
            let own = BufferPool::new();
            let mut in_the_gap: Vec<_> = (0..40).map(|_| own.get(2 * MIB)).collect();
            assert!(
                in_the_gap
                    .iter()
                    .any(|buffer| address <= buffer.as_ptr().addr()
                        && buffer.as_ptr().addr() < address + 6 * MIB)
            );
            in_the_gap.iter_mut().for_each(|buffer| buffer.fill(5));
            let (pool, held) = both.take().expect("taken once in each process");
            drop(held);
            pool.clear();
            drop(pool);
            assert!(
                in_the_gap
                    .iter()
                    .all(|buffer| buffer.iter().all(|&byte| byte == 5))
            );
        });
        let (pool, held) = both.expect("only the child took them");
        assert_eq!(pool.held_bytes(), 27 * MIB);
        drop(held);
        assert_eq!(pool.get(6 * MIB).origin(), Origin::Recycled);
    }
}

/// How often memory was pinned and unpinned.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<[AtomicUsize; 2]>);

impl Counts {
    fn get(&self) -> (usize, usize) {
        let [pins, unpins] = &*self.0;
        (pins.load(Ordering::SeqCst), unpins.load(Ordering::SeqCst))
    }
}

impl PinMemory for Counts {
    fn pin(&self, _: &[u8]) -> io::Result<()> {
        self.0[0].fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn unpin(&self, _: &[u8]) {
        self.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_child_unpins_only_what_it_pinned() {
    let _alone = alone();
    for dont_fork in [false, true] {
        let counts = Counts::default();
        let pool = BufferPool::builder()
            .dont_fork(dont_fork)
            .pin_with(counts.clone())
            .build();
        let held = pool.get(6 * MIB);
        drop((pool.get(MIB), pool.get(20 * MIB)));
        let mut both = Some((pool, held));
        in_child(|| {
            let (pool, held) = both.take().expect("taken once in each process");
            drop(held);
            pool.clear();
            assert_eq!(counts.get(), (3, 0));
            if !dont_fork {
                drop(pool.get(6 * MIB));
                drop(pool);
                assert_eq!(counts.get(), (4, 1));
            }
        });
        assert_eq!(counts.get(), (3, 0));
        drop(both);
        assert_eq!(counts.get(), (3, 3));
    }
}
