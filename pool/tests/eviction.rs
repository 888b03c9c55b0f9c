//! What the eviction policies keep: traces run through real pools, beside an offline bound.
//!
//! `cargo test -p ckload-pool --test eviction -- --nocapture` prints the shares.

use std::{
    collections::HashMap,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ckload_pool::{BufferPool, EvictionPolicy, Origin, PooledBuffer};
use fastrand::Rng;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Nothing here takes this long unless it hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A buffer of so many bytes.
    Lease(usize),
    /// The buffer of the so-manieth lease comes back.
    Return(usize),
}

/// What a program asks of a pool that may hold `cap` bytes.
struct Trace {
    name: &'static str,
    cap: usize,
    steps: Vec<Step>,
    leases: usize,
}

impl Trace {
    fn new(name: &'static str, cap: usize) -> Self {
        Self {
            name,
            cap,
            steps: Vec::new(),
            leases: 0,
        }
    }

    fn lease(&mut self, len: usize) -> usize {
        self.steps.push(Step::Lease(len));
        self.leases += 1;
        self.leases - 1
    }

    fn give_back(&mut self, lease: usize) {
        self.steps.push(Step::Return(lease));
    }

    fn touch(&mut self, len: usize) {
        let lease = self.lease(len);
        self.give_back(lease);
    }

    /// A model is loaded as a whole, and then unloaded.
    fn load(&mut self, tensors: &[usize]) {
        let leases: Vec<_> = tensors.iter().map(|&len| self.lease(len)).collect();
        for lease in leases {
            self.give_back(lease);
        }
    }
}

/// Sizes of which none can stand in for another: each is more than an eighth above the one before.
fn ladder() -> Vec<usize> {
    let mut sizes = vec![32 * KIB];
    while let Some(&last) = sizes.last()
        && last < 2 * MIB
    {
        sizes.push((last + last / 8 + 1).next_multiple_of(4 * KIB));
    }
    sizes
}

/// A working set that fits, with long scans of sizes that are wanted once before it and in between.
fn scan() -> Trace {
    let (hot, cold) = hot_and_cold();
    let mut trace = Trace::new("scan", hot.iter().sum::<usize>() * 5 / 4);
    let mut scanned = cold.iter().cycle();
    for _ in 0..40 {
        for &len in scanned.by_ref().take(12) {
            trace.touch(len);
        }
        for _ in 0..3 {
            for &len in &hot {
                trace.touch(len);
            }
        }
    }
    trace
}

/// Four in five requests want one of the few hot sizes.
fn hot_cold() -> Trace {
    let mut random = Rng::with_seed(2005);
    let (hot, cold) = hot_and_cold();
    let mut trace = Trace::new("hot/cold", hot.iter().sum::<usize>() * 5 / 4);
    for _ in 0..1500 {
        let from = if random.u8(..5) < 4 { &hot } else { &cold };
        trace.touch(random.choice(from).copied().expect("not empty"));
    }
    trace
}

/// The working set is another one every while.
fn phase_change() -> Trace {
    let mut random = Rng::with_seed(2005);
    let sizes = ladder();
    let mut trace = Trace::new("phase change", 5 * MIB);
    for phase in 0..6 {
        let set: Vec<_> = sizes.iter().skip(phase % 3).step_by(3).copied().collect();
        for _ in 0..250 {
            // The product of two random numbers: small indices are likelier.
            let index = (random.f64() * random.f64() * set.len() as f64) as usize;
            trace.touch(set[index]);
        }
    }
    trace
}

/// Two models take turns; the pool could hold one and a half. With `before`, another model was loaded once in the past.
fn model_swaps(name: &'static str, before: bool) -> Trace {
    let sizes = ladder();
    // As transformers have it: a layer's few sizes many times, one large embedding.
    let model = |layer: [usize; 5], embedding: usize| {
        let layers = layer.repeat(6);
        let indices = std::iter::once(embedding).chain(layers);
        indices.map(|index| sizes[index]).collect::<Vec<_>>()
    };
    let a = model([20, 22, 8, 26, 26], 32);
    let b = model([18, 24, 10, 26, 28], 31);
    let mut trace = Trace::new(name, a.iter().sum::<usize>() * 3 / 2);
    if before {
        trace.load(&model([14, 16, 25, 27, 29], 30));
    }
    for swap in 0..30 {
        trace.load(if swap % 2 == 0 { &a } else { &b });
    }
    trace
}

/// Requests of mixed sizes, several out at once, with scans in between.
fn mixed() -> Trace {
    let mut random = Rng::with_seed(2005);
    let (hot, cold) = hot_and_cold();
    let mut trace = Trace::new("mixed", hot.iter().sum::<usize>() * 2);
    let mut scanned = cold.iter().cycle();
    let mut out = Vec::new();
    for round in 0..1500 {
        if round % 60 == 0 {
            for &len in scanned.by_ref().take(15) {
                trace.touch(len);
            }
        }
        let len = random.choice(&hot).copied().expect("not empty");
        out.push(trace.lease(len));
        if out.len() == 4 {
            trace.give_back(out.swap_remove(random.usize(..4)));
        }
    }
    for lease in out {
        trace.give_back(lease);
    }
    trace
}

fn hot_and_cold() -> (Vec<usize>, Vec<usize>) {
    let (mut hot, mut cold) = (Vec::new(), Vec::new());
    for (index, len) in ladder().into_iter().enumerate() {
        if index % 5 == 4 { &mut hot } else { &mut cold }.push(len);
    }
    (hot, cold)
}

/// Bytes served from what was there already, of all bytes asked for.
fn run(trace: &Trace, policy: EvictionPolicy, tls_cache_size: usize) -> f64 {
    let pool = BufferPool::builder()
        .max_bytes(trace.cap)
        .min_buffer_size(0)
        .tls_cache_size(tls_cache_size)
        // `max_bytes` alone says what goes.
        .max_buffers_per_shard(1000)
        .eviction_policy(policy)
        .build();
    let mut asked = 0;
    let mut leases: Vec<Option<PooledBuffer>> = Vec::new();
    for step in &trace.steps {
        match *step {
            Step::Lease(len) => {
                let buffer = pool.try_get(len).expect("a trace asks for what fits");
                assert_eq!(buffer.capacity(), len, "no size stands in for another");
                asked += len;
                leases.push(Some(buffer));
            }
            Step::Return(lease) => leases[lease] = None,
        }
    }
    pool.stats().reused_bytes as f64 / asked as f64
}

/// The most that any policy could reuse, knowing the future: Belady's rule on bytes.
///
/// Buffers of one size are interchangeable, so a lease is matched with the last return of its size that none has
/// taken: the matching with the shortest and nested waits, which no other can beat. Each match is worth its bytes and
/// occupies them from the return to the lease, and what is idle at once may not exceed what the cap leaves beside the leased.
/// If it does, what is wanted last goes, *in part if that is enough*. That is the optimum for bytes, and since a
/// buffer cannot be freed in part, a bound from above for buffers (which to choose among whole ones is NP-hard).
fn bound(trace: &Trace) -> f64 {
    let mut len_of = Vec::new();
    for step in &trace.steps {
        if let Step::Lease(len) = *step {
            len_of.push(len);
        }
    }
    // When each return's buffer is wanted again.
    let mut idle_by_len: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut wanted_at = HashMap::new();
    for (at, step) in trace.steps.iter().enumerate() {
        match *step {
            Step::Lease(len) => {
                if let Some(returned_at) = idle_by_len.entry(len).or_default().pop() {
                    wanted_at.insert(returned_at, at);
                }
            }
            Step::Return(lease) => idle_by_len.entry(len_of[lease]).or_default().push(at),
        }
    }
    let mut kept: HashMap<usize, usize> = HashMap::new();
    let (mut leased, mut reused) = (0, 0);
    for (at, step) in trace.steps.iter().enumerate() {
        match *step {
            Step::Lease(len) => {
                leased += len;
                reused += kept.remove(&at).unwrap_or(0);
            }
            Step::Return(lease) => {
                leased -= len_of[lease];
                if let Some(&wanted) = wanted_at.get(&at) {
                    kept.insert(wanted, len_of[lease]);
                }
            }
        }
        let mut surplus = (kept.values().sum::<usize>() + leased).saturating_sub(trace.cap);
        while surplus > 0 {
            let &last = kept.keys().max().expect("what is leased fits");
            let bytes = kept.get_mut(&last).expect("just found");
            let freed = surplus.min(*bytes);
            surplus -= freed;
            *bytes -= freed;
            if *bytes == 0 {
                kept.remove(&last);
            }
        }
    }
    reused as f64 / len_of.iter().sum::<usize>() as f64
}

/// Runs a trace with each policy, without thread caches, and prints the shares of bytes reused, in percent: CLOCK-Pro, LIFO.
#[expect(clippy::print_stdout, reason = "the table is for people")]
fn compare(trace: &Trace) -> [f64; 2] {
    let bound = 100.0 * bound(trace);
    let [alone, cached] = [0, 4].map(|tls_cache_size| {
        [EvictionPolicy::ClockPro, EvictionPolicy::Lifo]
            .map(|policy| 100.0 * run(trace, policy, tls_cache_size))
    });
    println!(
        "{:24} CLOCK-Pro {:4.1} %, LIFO {:4.1} %, bound {bound:4.1} %; with thread caches {:4.1} % and {:4.1} %",
        trace.name, alone[0], alone[1], cached[0], cached[1]
    );
    for share in alone.into_iter().chain(cached) {
        assert!(share <= bound, "{}: the bound is wrong", trace.name);
    }
    for (alone, cached) in alone.into_iter().zip(cached) {
        // The caches of threads must not get in the policy's way.
        assert!(cached > alone - 2.0, "{}", trace.name);
    }
    alone
}

#[test]
fn clock_pro_keeps_more_than_lifo() {
    for (trace, margin) in [
        (scan(), 15.0),
        (hot_cold(), 15.0),
        (phase_change(), 15.0),
        (model_swaps("model swaps", true), 15.0),
        (mixed(), 5.0),
    ] {
        let [clock_pro, lifo] = compare(&trace);
        assert!(clock_pro >= lifo + margin, "{}", trace.name);
    }
}

/// The one trace that is made for LIFO: two models in turn, each as a whole, and never anything else. Nothing that is kept is
/// useless, and what came last is wanted last. CLOCK-Pro has to find out first.
#[test]
fn clock_pro_loses_little_where_lifo_is_at_its_best() {
    let [clock_pro, lifo] = compare(&model_swaps("model swaps, none before", false));
    assert!(clock_pro >= lifo - 3.0);
}

/// Leases and returns buffers on another thread, which sleeps from then on, and does something meanwhile.
fn beside_a_sleeper(pool: &BufferPool, lens: &[usize], act: impl FnOnce()) {
    let (to_thread, orders) = mpsc::channel::<()>();
    let (to_test, returned) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            drop(lens.iter().map(|&len| pool.get(len)).collect::<Vec<_>>());
            to_test.send(()).expect("the test waits");
            let _ = orders.recv();
        });
        returned.recv().expect("the thread works");
        act();
        drop(to_thread);
    });
}

/// A pool with a buffer of 3 MiB in its shards that is in constant use, and none in this thread's slots.
fn with_a_hot_buffer() -> BufferPool {
    let pool = BufferPool::builder()
        .max_bytes(20 * MIB)
        .tls_cache_size(2)
        .build();
    for _ in 0..5 {
        drop(pool.get(3 * MIB));
    }
    // Pushes it out of the slots.
    drop((pool.get(MIB), pool.get(2 * MIB)));
    assert_eq!(pool.held_bytes(), 6 * MIB);
    pool
}

fn is_there(pool: &BufferPool, len: usize) -> bool {
    pool.try_get(len).expect("room").origin() == Origin::Recycled
}

#[test]
fn what_a_sleeping_thread_used_once_goes_before_what_is_hot() {
    let pool = with_a_hot_buffer();
    beside_a_sleeper(&pool, &[5 * MIB, 6 * MIB], || {
        // 17 of 20 MiB are idle; what goes first could be the shards' only buffer, the hot one.
        drop(pool.get(14 * MIB));
        assert!(is_there(&pool, 3 * MIB));
    });
}

#[test]
fn the_choice_goes_across_shards() {
    let pool = BufferPool::builder()
        .max_bytes(24 * MIB)
        .tls_cache_size(0)
        .build();
    for _ in 0..5 {
        drop(pool.get(8 * MIB));
    }
    // Other threads most likely have other home shards; the fullest is the one with the hot buffer.
    for lens in [[3 * MIB, 4 * MIB], [2 * MIB, 5 * MIB]] {
        thread::scope(|scope| {
            scope.spawn(|| drop(lens.map(|len| pool.get(len))));
        });
    }
    drop(pool.get(14 * MIB));
    assert!(is_there(&pool, 8 * MIB));
}

#[test]
fn trimming_chooses_among_the_buffers_of_all_threads() {
    let pool = with_a_hot_buffer();
    beside_a_sleeper(&pool, &[5 * MIB, 6 * MIB], || {
        assert_eq!(pool.trim(3 * MIB), 14 * MIB);
        assert!(is_there(&pool, 3 * MIB));
    });
}

#[test]
fn without_pressure_threads_keep_what_they_cache() {
    let pool = BufferPool::builder()
        .max_bytes(20 * MIB)
        .tls_cache_size(2)
        .build();
    drop(pool.get(5 * MIB));
    for _ in 0..10 {
        // Comes from, and goes to, this thread's slots.
        drop(pool.get(5 * MIB));
        assert_eq!(pool.trim(10 * MIB), 0);
        drop(pool.get(5 * MIB));
    }
    assert_eq!(pool.stats().thread_hits, 20);
}

#[test]
fn what_a_sleeping_thread_keeps_too_long_goes_back_by_itself() {
    let age = Duration::from_millis(20);
    let builder = BufferPool::builder().max_idle_age(age).tls_cache_size(4);
    // With a cap this thread uses its slots, without one its private stack.
    for builder in [builder.clone().max_bytes(64 * MIB), builder] {
        let pool = builder.build();
        assert_eq!(pool.max_idle_age(), Some(age));
        beside_a_sleeper(&pool, &[5 * MIB, 6 * MIB], || {
            // This thread is served from its own cache all the time.
            let start = Instant::now();
            while pool.held_bytes() > 2 * MIB {
                drop(pool.get(2 * MIB));
                assert!(start.elapsed() < WATCHDOG, "never freed");
            }
        });
        // Only this thread's first lease went past its cache.
        assert_eq!(pool.stats().fresh, 3, "what is in use stays");
    }
}

#[test]
fn no_more_goes_than_has_to_where_shards_keep_little() {
    for (max_buffers, left) in [(0, 3), (1, 7), (16, 7)] {
        let pool = BufferPool::builder()
            .max_bytes(64 * MIB)
            .tls_cache_size(3)
            .num_shards(4)
            .max_buffers_per_shard(max_buffers)
            .build();
        drop([2; 7].map(|mib| pool.get(mib * MIB)));
        assert_eq!(pool.held_bytes(), 2 * MIB * left);
        for fewer in (0..left).rev() {
            assert_eq!(pool.trim(2 * MIB * fewer), 2 * MIB);
            assert_eq!(pool.held_bytes(), 2 * MIB * fewer);
        }
    }
}
