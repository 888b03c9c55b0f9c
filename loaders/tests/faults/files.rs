//! Files that change, shrink or vanish between the look at a checkpoint and its load.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ckload_loaders::{Checkpoint, Error, Io, Loader};
use rustix::fs::{CWD, Mode, mkfifoat};

use crate::child::{User, in_child};
use crate::common::{
    KIB, Sample, WAYS, await_all_returned, failure, octets, stream_failure, watched,
};
use crate::{check_that_good_files_load, pool, truncate};

/// Opens a checkpoint, does `harm` to its file, and returns what each way of loading says, by each way of reading.
fn failures_after(harm: impl Fn(&Path)) -> Vec<Error> {
    let mut errors = Vec::new();
    for io in Io::ALL {
        for way in WAYS {
            let sample = Sample::uniform(10, 100 * KIB);
            let pool = pool();
            let loader = Loader::new().pool(&pool).io(io);
            let checkpoint = sample.open();
            harm(&sample.path);
            let error = failure(way.load(&loader, &checkpoint));
            assert!(
                error.to_string().contains("model.safetensors"),
                "{way:?}, {io}: {error}"
            );
            assert_eq!(error.path(), Some(sample.path.as_path()));
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
            errors.push(error);
        }
    }
    errors
}

#[track_caller]
fn assert_changed(errors: &[Error], expected: &str) {
    for error in errors {
        match error {
            Error::Changed { what, .. } => assert!(what.contains(expected), "{error}"),
            error => panic!("{error}"),
        }
        assert!(
            error.to_string().contains("open the checkpoint again"),
            "{error}"
        );
    }
}

#[test]
fn a_file_truncated_before_the_load() {
    assert_changed(&failures_after(|path| truncate(path, 500_000)), "size");
    assert_changed(&failures_after(|path| truncate(path, 0)), "size");
}

#[test]
fn a_file_that_grew_before_the_load() {
    assert_changed(&failures_after(|path| truncate(path, 2_000_000)), "size");
}

#[test]
fn a_file_replaced_by_another_of_its_size() {
    let replace = |path: &Path| {
        let other = path.with_extension("new");
        fs::copy(path, &other).expect("room on the disk");
        fs::rename(&other, path).expect("a rename");
    };
    assert_changed(&failures_after(replace), "another file");
}

#[test]
fn a_file_written_over_before_the_load() {
    let write_over = |path: &Path| {
        let bytes = fs::read(path).expect("it is there");
        fs::write(path, bytes).expect("room on the disk");
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .expect("it is there");
        let later = SystemTime::now() + Duration::from_secs(1); // clocks of file systems are coarse
        file.set_modified(later).expect("our own file");
    };
    assert_changed(&failures_after(write_over), "modification time");
}

#[test]
fn a_file_deleted_before_the_load() {
    for error in failures_after(|path| fs::remove_file(path).expect("it is there")) {
        assert_eq!(error.kind(), "io");
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}

#[test]
fn a_file_that_may_not_be_read_any_more() {
    let name = "files::a_file_that_may_not_be_read_any_more";
    in_child(name, User::Unprivileged, || {
        let forbid = |path: &Path| {
            fs::set_permissions(path, Permissions::from_mode(0o000)).expect("our own file");
        };
        for error in failures_after(forbid) {
            assert_eq!(error.kind(), "io");
            assert!(error.to_string().contains("denied"), "{error}");
        }
        let sample = Sample::uniform(2, 1000);
        forbid(&sample.path);
        let error = failure(Checkpoint::open(&sample.path));
        assert_eq!(error.path(), Some(sample.path.as_path()));
        assert!(error.to_string().contains("denied"), "{error}");
    });
}

/// What is not a file cannot be read as one, and a pipe must not be waited for.
#[test]
fn something_else_in_the_file_s_place() {
    type Make = fn(&Path);
    let things: [(&str, Make); 5] = [
        ("pipe", |path| {
            mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe");
        }),
        ("folder", |path| fs::create_dir(path).expect("a folder")),
        ("socket", |path| {
            drop(UnixListener::bind(path).expect("a socket"));
        }),
        ("device", |path| symlink("/dev/zero", path).expect("a link")),
        ("loop", |path| symlink(path, path).expect("a link")),
    ];
    watched(move || {
        for (what, make) in things {
            let replace = |path: &Path| {
                fs::remove_file(path).expect("it is there");
                make(path);
            };
            for error in failures_after(replace) {
                let is_folder = error.to_string().contains("is a folder");
                assert_eq!(is_folder, what == "folder", "{error}");
                assert!(
                    matches!(error.kind(), "no_checkpoint" | "io"),
                    "{what}: {error}"
                );
            }
        }
    });
}

/// Opens a checkpoint in two files, does `harm` to the second, and returns what each way of loading says.
fn failures_after_harm_to_a_shard(harm: impl Fn(&Path)) -> Vec<Error> {
    let mut errors = Vec::new();
    for io in Io::ALL {
        for way in WAYS {
            let sample = Sample::uniform(2, 1000);
            let other = Sample::of(vec![octets("other", 1000)]);
            let second = sample.folder.path().join("second.safetensors");
            fs::copy(&other.path, &second).expect("room on the disk");
            let checkpoint = Checkpoint::open(sample.folder.path()).expect("two good files");
            harm(&second);
            let pool = pool();
            let loader = Loader::new().pool(&pool).io(io);
            let error = failure(way.load(&loader, &checkpoint));
            assert_eq!(error.path(), Some(second.as_path()), "{way:?}, {io}");
            await_all_returned(&pool);
            check_that_good_files_load(&loader);
            errors.push(error);
        }
    }
    errors
}

#[test]
fn a_shard_deleted_before_the_load() {
    let delete = |path: &Path| fs::remove_file(path).expect("it is there");
    for error in failures_after_harm_to_a_shard(delete) {
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}

#[test]
fn a_shard_that_may_not_be_read_any_more() {
    let name = "files::a_shard_that_may_not_be_read_any_more";
    in_child(name, User::Unprivileged, || {
        let forbid = |path: &Path| {
            fs::set_permissions(path, Permissions::from_mode(0o000)).expect("our own file");
        };
        for error in failures_after_harm_to_a_shard(forbid) {
            assert!(error.to_string().contains("denied"), "{error}");
        }
    });
}

#[test]
fn auto_never_reads_through_a_map() {
    let sample = Sample::uniform(8, 100 * KIB);
    let model = Loader::new().load(&sample.open()).expect("a good file");
    assert_eq!(
        model.report().io.mmap_bytes,
        0,
        "a truncated file would end the process"
    );
}

#[test]
fn a_stream_fails_as_a_load_does() {
    let sample = Sample::uniform(3, 1000);
    let checkpoint = sample.open();
    truncate(&sample.path, 2000);
    assert_eq!(
        stream_failure(&Loader::new(), &checkpoint).kind(),
        "changed"
    );
}
