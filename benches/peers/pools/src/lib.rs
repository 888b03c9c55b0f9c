//! Measures the buffer pool of ckload against other pools, row by row.
//!
//! ```text
//! cargo run --release                         # every row, about three minutes; a table on standard output
//! cargo run --release -- --quick              # a smoke run of some seconds; its figures mean nothing
//! cargo run --release -- --rows threads       # only rows whose title contains the word
//! cargo run --release -- --save ../../runs      # also writes runs/<date>-<machine>/pools.{json,md}
//! cargo run --release --bin hot               # instructions per get + drop, counted by callgrind
//! ```
//!
//! # Method
//!
//! A machine drifts: its clock, its neighbours, its memory. A harness that runs one benchmark after another, as criterion
//! does, compares one pool's good minute with another's bad one. Here a row is measured in rounds; in each round every pool
//! runs the row once, for some milliseconds, and the order rotates from round to round. The table shows medians over the
//! rounds; the raw samples are in the JSON.
//!
//! Every pool of a row lives on a thread of its own (some pools keep one cache per thread, whichever pool a buffer came
//! from), and only one of them runs at a time. The lengths asked for and the buffers pass through [`std::hint::black_box`].
//!
//! A round in which other processes took more than a twentieth of the CPUs' time is measured again, for as long as a row's
//! patience lasts; rows that had to keep such rounds say so.
//!
//! # What is compared
//!
//! * Buffers need not be initialised: for a pool that hands out `Vec`s with spare capacity, nothing is zeroed. That
//!   favours the others, since ours are always initialised.
//! * Each peer is called the cheapest way it offers: guards that borrow the pool where there are such (ours are owned and
//!   may outlive it), `alloc_uninit` of zeropool 0.7.0 (its `alloc` overwrites the whole buffer with zeros each time).
//! * Pools without sizes (opool, object-pool, `ArrayQueue`, lifeguard, the bare stack) hold buffers of the row's largest
//!   size, so that they never search and never grow, and waste memory in rows with several sizes.
//! * Ours and zeropool 0.3.1 keep no buffer under 1 MiB by default. Rows with smaller ones set `min_buffer_size` to 4 KiB,
//!   in ours and both zeropools, but for the row that says 'default settings'.
//! * 'malloc' is `Vec::with_capacity(len)`, dropped: no zeroing, pages untouched. (`vec![0; len]` would be what initialised
//!   bytes cost; it is slower by the zeroing.)
//! * 'BytesMut' is one `BytesMut` per thread that hands out its whole capacity by `split_off` and takes it back by `reserve`,
//!   which reuses the memory when the last handle is gone.
//! * 'stack' is a bare thread-local stack: the floor. It has no sizes, no bounds, no sharing, and is no pool; ratios to the
//!   best other pool leave it out.

pub mod measure;
pub mod pools;
pub mod report;
pub mod rows;
pub mod save;
