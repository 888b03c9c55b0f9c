//! Whatever goes wrong: one error that says what and where, no hang, every buffer back, and the next load works.

#[path = "../common/mod.rs"]
mod common;

mod child;
mod files;
mod limits;
mod panics;
mod racing;
mod served;
mod vanishing;

use std::fs::OpenOptions;
use std::path::Path;

use ckload_loaders::Loader;
use ckload_pool::BufferPool;

use common::{KIB, Sample, WAYS};

fn pool() -> BufferPool {
    BufferPool::builder().min_buffer_size(64 * KIB).build()
}

fn truncate(path: &Path, bytes: u64) {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("it is there");
    file.set_len(bytes).expect("a file may have any length");
}

#[track_caller]
fn check_that_good_files_load(loader: &Loader) {
    let good = Sample::uniform(10, 100 * KIB);
    let checkpoint = good.open();
    for way in WAYS {
        way.load_checked(loader, &checkpoint, &good)
            .expect("a good file");
    }
}
