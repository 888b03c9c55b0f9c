//! Instructions of one hot get + drop of 1 MiB, which do not move with the machine's neighbours.
//!
//! Without arguments it counts for every pool: it runs itself under callgrind with two numbers of iterations, and divides
//! the difference. To see which lines the instructions belong to:
//!
//! ```text
//! cargo build --release
//! valgrind --tool=callgrind --callgrind-out-file=hot.out target/release/hot --pool ckload-pool --iterations 100000
//! callgrind_annotate --inclusive=yes hot.out
//! callgrind_annotate --auto=yes hot.out            # source lines
//! ```

use std::{env, hint::black_box, io, process::Command};

use ckload_peers_pools::pools::{
    ArrayQueuePool, BytesMutArena, Ckload, Knobs, Lifeguard, Malloc, ObjectPool, Opool, Peer, Pool,
    ShardedSlab, Stack, Zeropool03, Zeropool07,
};
use clap::Parser;

const MIB: usize = 1 << 20;
/// Enough that a rounding error of the division is none.
const COUNTED: u64 = 10_000;

/// Counts the instructions of a hot get + drop.
#[derive(Parser)]
struct Options {
    /// Only run this pool's loop, for a profiler to watch.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// How often the loop runs.
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    iterations: u64,
    /// Size of the buffer, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = MIB)]
    len: usize,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let Some(name) = options.pool else {
        return count_all(options.len);
    };
    let peer = Peer::ALL
        .into_iter()
        .find(|peer| peer.name() == name)
        .ok_or_else(|| io::Error::other(format!("no pool is called '{name}'")))?;
    let run = match peer {
        Peer::Ckload => hot::<Ckload>,
        Peer::Zeropool03 => hot::<Zeropool03>,
        Peer::Zeropool07 => hot::<Zeropool07>,
        Peer::Opool => hot::<Opool>,
        Peer::ObjectPool => hot::<ObjectPool>,
        Peer::ArrayQueue => hot::<ArrayQueuePool>,
        Peer::Lifeguard => hot::<Lifeguard>,
        Peer::BytesMut => hot::<BytesMutArena>,
        Peer::ShardedSlab => hot::<ShardedSlab>,
        Peer::Malloc => hot::<Malloc>,
        Peer::Stack => hot::<Stack>,
    };
    run(options.len, options.iterations);
    Ok(())
}

#[inline(never)]
fn hot<P: Pool>(len: usize, iterations: u64) {
    let pool = P::new(&Knobs::up_to(len));
    for _ in 0..iterations {
        let buffer = pool.get(black_box(len));
        black_box(&buffer);
    }
}

fn count_all(len: usize) -> io::Result<()> {
    println!("| pool | instructions per get + drop |\n|---|---:|");
    for peer in Peer::ALL {
        let once = count(peer, len, COUNTED)?;
        let twice = count(peer, len, 2 * COUNTED)?;
        let each = (twice - once) as f64 / COUNTED as f64;
        println!("| {} | {each:.1} |", peer.name());
    }
    Ok(())
}

/// All instructions of a run with so many iterations.
fn count(peer: Peer, len: usize, iterations: u64) -> io::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--pool", peer.name()])
        .args(["--iterations", &iterations.to_string()])
        .args(["--len", &len.to_string()])
        .output()
        .map_err(|error| io::Error::other(format!("valgrind has to be installed: {error}")))?;
    let log = String::from_utf8_lossy(&output.stderr);
    log.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("callgrind counted nothing:\n{log}")))
}
