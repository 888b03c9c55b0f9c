//! Loading without this project: what programs do today. Headers are parsed by nobody in these times.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ckload::{Arrangement, Checkpoint, MappedFile, usage};

use super::results::{Phases, Sample};
use crate::cli::Error;

/// Memory is touched at this distance, which no machine's pages fall short of.
const PAGE: usize = 4096;

/// Reads each file whole into memory of its own.
pub(super) fn read(checkpoint: &Checkpoint) -> Result<Sample, Error> {
    timed(|clock| {
        let mut memory = Vec::new();
        for info in checkpoint.files() {
            let failed = failed(&info.path);
            let mut file = clock.opening(|| File::open(&info.path)).map_err(&failed)?;
            let mut bytes = clock.allocating(|| touched(info.bytes));
            clock
                .reading(|| file.read_exact(&mut bytes))
                .map_err(&failed)?;
            memory.push(bytes);
        }
        Ok(memory)
    })
}

/// Maps each file and copies each tensor into memory of its own.
pub(super) fn mmap_copy(checkpoint: &Checkpoint) -> Result<Sample, Error> {
    timed(|clock| {
        let files = checkpoint.files();
        let maps = clock.opening(|| maps(checkpoint))?;
        let mut memory = Vec::with_capacity(checkpoint.tensors().len());
        for tensor in checkpoint.tensors() {
            let mut bytes = clock.allocating(|| touched(tensor.bytes));
            clock
                .reading(|| maps[tensor.file].copy_to(tensor.offset, &mut bytes))
                .map_err(failed(&files[tensor.file].path))?;
            memory.push(bytes);
        }
        Ok(memory)
    })
}

/// Maps each file and looks at every page.
pub(super) fn mmap_touch(checkpoint: &Checkpoint) -> Result<Sample, Error> {
    timed(|clock| {
        let maps = clock.opening(|| maps(checkpoint))?;
        clock.reading(|| maps.iter().for_each(MappedFile::touch));
        Ok(maps)
    })
}

/// Why [`mmap_copy`] cannot load the checkpoint, if so.
pub(super) fn no_mmap_copy(checkpoint: &Checkpoint) -> Option<String> {
    let tensors = checkpoint.tensors().iter();
    let apart = tensors
        .filter(|tensor| tensor.arrangement() != Arrangement::InPlace)
        .count();
    (apart > 0).then(|| format!("{apart} tensors do not lie in one piece of their file"))
}

/// The time of each phase so far.
#[derive(Default)]
struct Clock {
    open: Duration,
    allocate: Duration,
    read: Duration,
}

impl Clock {
    fn opening<T>(&mut self, work: impl FnOnce() -> T) -> T {
        add_time(&mut self.open, work)
    }

    fn allocating<T>(&mut self, work: impl FnOnce() -> T) -> T {
        add_time(&mut self.allocate, work)
    }

    fn reading<T>(&mut self, work: impl FnOnce() -> T) -> T {
        add_time(&mut self.read, work)
    }
}

fn add_time<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    *total += start.elapsed();
    done
}

/// Times `load`; what it returns is freed outside the time.
fn timed<T>(load: impl FnOnce(&mut Clock) -> Result<T, Error>) -> Result<Sample, Error> {
    let mut clock = Clock::default();
    let faults_before = usage::page_faults();
    let start = Instant::now();
    let loaded = black_box(load(&mut clock)?);
    let seconds = start.elapsed().as_secs_f64();
    let page_faults = usage::page_faults().saturating_sub(faults_before);
    drop(loaded);
    let [open, allocate, read] =
        [clock.open, clock.allocate, clock.read].map(|time| time.as_secs_f64());
    Ok(Sample {
        seconds,
        phases: Some(Phases::of(seconds, open, allocate, read)),
        page_faults,
    })
}

fn maps(checkpoint: &Checkpoint) -> Result<Vec<MappedFile>, Error> {
    let map = |path: &Path| MappedFile::beware_of_truncation(&File::open(path)?);
    let files = checkpoint.files().iter();
    files
        .map(|info| map(&info.path).map_err(failed(&info.path)))
        .collect()
}

/// Fresh memory that page faults have brought.
fn touched(bytes: u64) -> Vec<u8> {
    let mut memory = vec![0; bytes as usize];
    for byte in memory.iter_mut().step_by(PAGE) {
        *black_box(byte) = 1;
    }
    memory
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    |source| Error::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use ckload::synth::Gpt2;

    use super::*;

    #[test]
    fn phases_are_parts_of_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(no_mmap_copy(&checkpoint), None);
        for (load, allocates) in [
            (read as fn(&Checkpoint) -> _, true),
            (mmap_copy, true),
            (mmap_touch, false),
        ] {
            let sample = load(&checkpoint).unwrap();
            let phases = sample.phases.unwrap();
            let sum = phases.open + phases.allocate + phases.read + phases.rest;
            assert!((sum - sample.seconds).abs() < 1e-9, "{phases:?}");
            assert!(phases.open > 0.0 && phases.read > 0.0, "{phases:?}");
            assert_eq!(phases.allocate > 0.0, allocates, "{phases:?}");
        }
        drop(folder);
        assert!(matches!(read(&checkpoint), Err(Error::Read { .. })));
        assert!(matches!(mmap_touch(&checkpoint), Err(Error::Read { .. })));
    }
}
