//! Reads files in an asynchronous program: `spawn_blocking` reads into a pooled buffer, which then travels to whoever awaits it.
//!
//! A buffer is owned and `'static`, so it crosses tasks and threads; wherever it is dropped, it goes back to its pool. A full pool makes the
//! blocking thread wait, never a task of the runtime. Writes its own files, checks their contents, and ends by itself:
//!
//! ```text
//! cargo run -p ckload-pool --example tokio_files
//! ```

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use ckload_pool::{BufferPool, PooledBuffer};
use tokio::{runtime::Runtime, task};

const FILES: usize = 24;

/// Reads a whole file.
async fn read(pool: &BufferPool, path: PathBuf) -> io::Result<PooledBuffer> {
    let pool = pool.clone();
    let reading = task::spawn_blocking(move || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len() as usize;
        let mut buffer = pool
            .get_timeout(len, Duration::from_secs(10))
            .map_err(io::Error::other)?;
        file.read_exact(&mut buffer)?;
        Ok(buffer)
    });
    reading.await.map_err(io::Error::other)?
}

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number}.bin"))
}

/// Shards of one size, but for the last.
fn len(number: usize) -> usize {
    if number + 1 < FILES {
        1_500_000
    } else {
        70_001
    }
}

async fn read_all(pool: &BufferPool, folder: &Path) -> io::Result<()> {
    // All at once; the pool's limit decides how many are in memory.
    let tasks: Vec<_> = (0..FILES)
        .map(|number| {
            let (pool, path) = (pool.clone(), path(folder, number));
            task::spawn(async move {
                let buffer = read(&pool, path).await?;
                assert_eq!(buffer.len(), len(number));
                assert!(buffer.iter().all(|&byte| byte == number as u8));
                io::Result::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    for number in 0..FILES {
        fs::write(path(folder.path(), number), vec![number as u8; len(number)])?;
    }
    let pool = BufferPool::builder()
        .min_buffer_size(64 << 10)
        .max_bytes(8 << 20)
        .build();
    let runtime = Runtime::new()?;
    for _ in 0..3 {
        runtime.block_on(read_all(&pool, folder.path()))?;
    }

    let stats = pool.stats();
    println!("{} files read\n{stats}", stats.gets);
    assert!(stats.peak_bytes <= 8 << 20 && stats.leased_bytes == 0);
    assert!(stats.hits() > 4 * stats.fresh);
    Ok(())
}
