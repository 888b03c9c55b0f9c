//! What loads leave in the page cache. The folder is in the target folder, as temporary folders often have no disk behind them.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout)] // says why nothing was tested

mod common;

use std::fs::File;
use std::num::NonZeroU64;
use std::path::PathBuf;

use ckload_loaders::{Checkpoint, Io, Loader, usage};
use common::{MIB, Shard, octets, watched, write};
use rustix::fs::{Advice, fadvise};

/// A checkpoint on a disk, or `None` where the kernel does not say what it caches, or does not let go of it.
struct OnDisk {
    path: PathBuf,
    file: File,
    _folder: tempfile::TempDir,
}

impl OnDisk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let path = folder.path().join("model.safetensors");
        let tensors = (0..24).map(|number| octets(&format!("t{number}"), MIB / 2 + number));
        write(&path, &Shard::of(tensors.collect()).to_bytes());
        let file = File::open(&path).expect("just written");
        file.sync_all().expect("written");
        let disk = Self {
            path,
            file,
            _folder: folder,
        };
        disk.forget();
        let is_gone = usage::cached_bytes(&disk.file) == Some(0);
        if !is_gone {
            println!("not tested: the page cache keeps this file, or does not tell");
        }
        is_gone.then_some(disk)
    }

    fn forget(&self) {
        fadvise(&self.file, 0, None, Advice::DontNeed).expect("advice");
    }

    /// Has the page cache hold these bytes, and whole pages around them.
    fn remember(&self, start: u64, len: u64) {
        use std::os::unix::fs::FileExt;
        fadvise(&self.file, 0, None, Advice::Random).expect("advice");
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, start).expect("there");
    }

    fn cached(&self) -> u64 {
        usage::cached_bytes(&self.file).expect("it told before")
    }

    fn drop_range(&self, start: u64, len: u64) {
        fadvise(&self.file, start, NonZeroU64::new(len), Advice::DontNeed).expect("advice");
    }
}

#[test]
fn what_a_load_brought_into_the_page_cache_goes_and_what_was_there_stays() {
    watched(|| {
        let Some(disk) = OnDisk::new() else { return };
        let checkpoint = Checkpoint::open(&disk.path).expect("it is whole");
        for io in Io::ALL {
            disk.forget();
            // Odd places: pages are shared with what was not there.
            disk.remember(3 * MIB as u64 + 77, MIB as u64);
            disk.remember(9 * MIB as u64, 4097);
            let before = disk.cached();
            assert!(before > MIB as u64);
            let loader = Loader::new().io(io).drop_cache(true);
            let model = loader.load(&checkpoint).expect("it loads");
            assert_eq!(model.tensors().len(), 24);
            assert_eq!(disk.cached(), before, "{io}, resident");
            for tensor in loader.stream(&checkpoint).expect("it begins") {
                tensor.expect("it loads");
            }
            // The last read's thread may still hold the file for a moment.
            while disk.cached() != before {
                std::thread::yield_now();
            }
            drop(loader.stream(&checkpoint).expect("it begins"));
        }
    });
}

#[test]
fn without_the_option_a_buffered_load_leaves_the_file_in_the_page_cache() {
    watched(|| {
        let Some(disk) = OnDisk::new() else { return };
        let checkpoint = Checkpoint::open(&disk.path).expect("it is whole");
        let loader = Loader::new().io(Io::Buffered);
        loader.load(&checkpoint).expect("it loads");
        assert!(disk.cached() >= checkpoint.bytes());
    });
}

#[test]
fn a_load_reads_past_the_page_cache_what_is_not_there_and_adds_nothing() {
    watched(|| {
        let Some(disk) = OnDisk::new() else { return };
        let checkpoint = Checkpoint::open(&disk.path).expect("it is whole");
        let direct = Loader::new().io(Io::Direct).load(&checkpoint);
        let report = direct.expect("it loads").report().clone();
        if report.io.direct_bytes == 0 {
            println!("not tested: no reads past the page cache in this file system");
            return;
        }
        disk.forget();
        disk.remember(0, 8 * MIB as u64);
        disk.drop_range(2 * MIB as u64, 2 * MIB as u64);
        let before = disk.cached();
        let model = Loader::new().load(&checkpoint).expect("it loads");
        let io = &model.report().io;
        assert_eq!(io.buffered_bytes + io.direct_bytes, checkpoint.bytes());
        // Six of twelve MiB were cached; threads that are just reading what is cached come upon what is not.
        assert!(io.buffered_bytes > 5 * MIB as u64, "{io:?}");
        assert!(io.direct_bytes > 2 * MIB as u64, "{io:?}");
        assert!(disk.cached() < before + 4 * MIB as u64);
    });
}
