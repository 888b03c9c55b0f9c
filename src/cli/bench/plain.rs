//! Loading without this project: what programs do today. Headers are parsed by nobody in these times.
//!
//! New memory has no pages yet: the system puts them there while it is read or copied to, so their faults are in the time of that.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ckload::{Arrangement, Checkpoint, MappedFile, usage};
use memmap2::MmapMut;

use super::results::{Phases, Sample};
use crate::cli::Error;

/// Reads each file whole into memory of its own, as `std::fs::read` does.
pub(super) fn read(checkpoint: &Checkpoint) -> Result<Sample, Error> {
    timed(|clock| {
        let mut memory = Vec::new();
        for info in checkpoint.files() {
            let failed = failed(&info.path);
            let mut file = clock.opening(|| File::open(&info.path)).map_err(&failed)?;
            let read = || -> io::Result<MmapMut> {
                let mut bytes = fresh(info.bytes)?;
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            };
            memory.push(clock.reading(read).map_err(&failed)?);
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
            let copy = || -> io::Result<MmapMut> {
                let mut bytes = fresh(tensor.bytes)?;
                maps[tensor.file].copy_to(tensor.offset, &mut bytes)?;
                Ok(bytes)
            };
            let failed = failed(&files[tensor.file].path);
            memory.push(clock.reading(copy).map_err(failed)?);
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
    read: Duration,
}

impl Clock {
    fn opening<T>(&mut self, work: impl FnOnce() -> T) -> T {
        add_time(&mut self.open, work)
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
    let [open, read] = [clock.open, clock.read].map(|time| time.as_secs_f64());
    Ok(Sample {
        seconds,
        phases: Some(Phases::of(seconds, open, 0.0, read)),
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

/// Memory straight from the system: an allocator would hand out again what was freed before.
fn fresh(bytes: u64) -> io::Result<MmapMut> {
    MmapMut::map_anon(bytes as usize)
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
    fn memory_is_new_each_time() {
        // Of a size that an allocator would keep when it is freed.
        let bytes = 1 << 20;
        for _ in 0..3 {
            let before = usage::page_faults();
            let mut memory = fresh(bytes).unwrap();
            assert!(memory.iter().all(|&byte| byte == 0));
            memory.fill(1);
            assert!(usage::page_faults() > before);
        }
        assert!(fresh(0).unwrap().is_empty());
    }

    #[test]
    fn phases_are_parts_of_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        Gpt2::TINY.blueprint().write_file(&path, 0).unwrap();
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(no_mmap_copy(&checkpoint), None);
        for load in [read as fn(&Checkpoint) -> _, mmap_copy, mmap_touch] {
            let sample = load(&checkpoint).unwrap();
            let phases = sample.phases.unwrap();
            let sum = phases.open + phases.allocate + phases.read + phases.rest;
            assert!((sum - sample.seconds).abs() < 1e-9, "{phases:?}");
            assert!(phases.open > 0.0 && phases.read > 0.0, "{phases:?}");
        }
        drop(folder);
        assert!(matches!(read(&checkpoint), Err(Error::Read { .. })));
        assert!(matches!(mmap_touch(&checkpoint), Err(Error::Read { .. })));
    }
}
