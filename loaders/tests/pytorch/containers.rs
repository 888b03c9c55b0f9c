//! Archives and legacy files that break a rule, or are damaged.

use crate::common::pickle::{Py, dict, ordered, text};
use crate::common::torch::{Saved, Storage};
use crate::common::zip::{Packing, TORCH, Zip};
use crate::common::{random, write};
use crate::{Sample, names, refuse, storage};
use ckload_loaders::Checkpoint;

#[test]
fn archives_that_break_a_rule() {
    let s = storage();
    let object = dict(vec![("w", s.whole())]).pickle();
    let archive = |members: &[(&str, &[u8])]| {
        let mut zip = Zip::default();
        for (name, data) in members {
            zip.member(name, data, TORCH);
        }
        zip.finish()
    };
    refuse(
        "no storage",
        &archive(&[("m/data.pkl", &object)]),
        "malformed",
        "lacks its storage \"0\"",
    );
    refuse(
        "two pickles",
        &archive(&[("m/data.pkl", &object), ("n/data.pkl", &object)]),
        "malformed",
        "only one can be meant",
    );
    refuse(
        "a byte order",
        &archive(&[("m/data.pkl", &object), ("m/byteorder", b"middle")]),
        "malformed",
        "neither `little` nor `big`",
    );
    refuse(
        "no pickle",
        &archive(&[("m/weights.bin", &object)]),
        "other_format",
        "neither PyTorch's data.pkl nor NumPy's arrays",
    );
    refuse("no members", &archive(&[]), "other_format", "zip archive");
    refuse(
        "a pickle that breaks off",
        &archive(&[("m/data.pkl", &object[..object.len() - 1])]),
        "malformed",
        "breaks off",
    );
    let mut zip = Zip::default();
    zip.member("m/data.pkl", &object, TORCH);
    zip.member_with("m/data/0", &s.bytes, TORCH, |stated| stated.method = 12);
    refuse("another method", &zip.finish(), "malformed", "contradict");
    let saved = Saved {
        object: dict(vec![("w", s.whole())]),
        storages: vec![s],
    };
    let whole = saved.archive();
    for cut in [1, 22, 100, whole.len() / 2] {
        refuse(
            "a cut archive",
            &whole[..whole.len() - cut],
            "malformed",
            "fetch it again",
        );
    }
}

#[test]
fn directories_of_archives_that_break_a_rule() {
    let s = storage();
    let saved = Saved {
        object: dict(vec![("w", s.whole())]),
        storages: vec![s],
    };
    let whole = saved.archive();
    let large = Packing {
        large: true,
        ..TORCH
    };
    let large = saved.archive_packed(large, None);
    let end = whole.len() - 22;
    let with_comment = |comment: &[u8]| {
        let mut bytes = whole.clone();
        let len = (comment.len() as u16).to_le_bytes();
        bytes[end + 20..].copy_from_slice(&len);
        bytes.extend(comment);
        bytes
    };
    for comment in [&b"mine"[..], b"PK\x05\x06 and more", &[b'c'; 65_535]] {
        let checkpoint = Sample::new(&with_comment(comment)).open();
        assert_eq!(names(&checkpoint), ["w"]);
    }
    let start_of_list = u32::from_le_bytes([
        whole[end + 16],
        whole[end + 17],
        whole[end + 18],
        whole[end + 19],
    ]) as usize;
    let edit = |bytes: &[u8], at: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let inserted = |at: usize| [&whole[..at], b"#!/bin/sh\n", &whole[at..]].concat();
    let cases = [
        (
            "bytes behind",
            [&whole[..], b"\0"].concat(),
            "ends with a list",
        ),
        (
            "bytes before the list",
            inserted(start_of_list),
            "not right before it",
        ),
        (
            "bytes behind the list",
            inserted(end),
            "not right before it",
        ),
        ("another disk", edit(&whole, end + 4, &[1]), "several parts"),
        (
            "more members",
            edit(&whole, end + 10, &[9]),
            "says that it has 9",
        ),
        (
            "no list",
            edit(&whole, end + 12, &[0; 4]),
            "not right before it",
        ),
        (
            "a list beyond the file",
            edit(&whole, end + 16, &[0xfe; 4]),
            "not right before it",
        ),
        (
            "no entry",
            edit(&whole, start_of_list, b"PK\x01\x03"),
            "breaks off",
        ),
        (
            "a long name",
            edit(&whole, start_of_list + 28, &[0xff; 2]),
            "breaks off",
        ),
        (
            "a name that is not UTF-8",
            edit(&whole, start_of_list + 46, &[0xff]),
            "not UTF-8",
        ),
        (
            "another name",
            edit(&whole, start_of_list + 46, b"n"),
            "contradict each other",
        ),
        (
            "another place",
            edit(&whole, start_of_list + 42, &[1]),
            "no member where",
        ),
        (
            "another method",
            edit(&whole, start_of_list + 10, &[8]),
            "contradict each other",
        ),
        (
            "an encrypted member",
            edit(&whole, 6, &[9]),
            "contradict each other",
        ),
        (
            "no 64-bit record",
            edit(&large, large.len() - 98, b"KP"),
            "no record with 64-bit",
        ),
        (
            "a far 64-bit record",
            edit(&large, large.len() - 34, &[0; 8]),
            "no record with 64-bit",
        ),
        (
            "a 64-bit record after the end",
            edit(&large, large.len() - 34, &[0xff; 8]),
            "is not before",
        ),
        (
            "no 64-bit locator",
            edit(&large, large.len() - 42, b"KP"),
            "not right before it",
        ),
        (
            "64 bits that contradict 32",
            edit(&large, large.len() - 10, &[7; 4]),
            "contradicts",
        ),
    ];
    for (what, bytes, says) in cases {
        refuse(what, &bytes, "malformed", says);
    }
}

#[test]
fn legacy_files_that_break_a_rule() {
    let s = storage();
    let object = dict(vec![("w", s.whole())]);
    let saved = Saved {
        object: object.clone(),
        storages: vec![s.clone()],
    };
    let whole = saved.legacy();
    let pickles = |keys: Vec<Py>| Saved::legacy_pickles(&object, Py::List(keys));
    let with_storage = |mut bytes: Vec<u8>, count: u64| {
        bytes.extend(count.to_le_bytes());
        bytes.extend(&s.bytes);
        bytes
    };
    refuse(
        "within a pickle",
        &whole[..100],
        "malformed",
        "the file ends within it",
    );
    refuse(
        "within a storage",
        &whole[..whole.len() - 1],
        "truncated",
        "1 are missing",
    );
    refuse(
        "within a count",
        &whole[..whole.len() - 28],
        "truncated",
        "fetch the file again",
    );
    refuse(
        "trailing bytes",
        &[&whole[..], b"\0"].concat(),
        "trailing_bytes",
        "1 bytes after",
    );
    refuse(
        "another count",
        &with_storage(pickles(vec![text("0")]), 5),
        "malformed",
        "5 elements where the object expects 6",
    );
    refuse(
        "a huge count",
        &with_storage(pickles(vec![text("0")]), u64::MAX),
        "malformed",
        "where the object expects 6",
    );
    refuse(
        "a key that is not needed",
        &with_storage(pickles(vec![text("1")]), 6),
        "malformed",
        "does not refer to it",
    );
    refuse(
        "no key",
        &pickles(vec![]),
        "malformed",
        "lacks its storage \"0\"",
    );
    let twice = with_storage(with_storage(pickles(vec![text("0"), text("0")]), 6), 6);
    refuse("a key twice", &twice, "malformed", "there twice");
    let mut version = whole.clone();
    let at = version
        .windows(3)
        .position(|bytes| bytes == [b'J', 0xe9, 3]);
    version[at.expect("the version") + 1] = 0xe8;
    refuse("another version", &version, "malformed", "not 1001");
    refuse(
        "another pickle",
        &object.pickle(),
        "other_format",
        "torch.save did not write",
    );
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    refuse("a tar", &tar, "other_format", "torch before 0.1.10");
}

#[test]
fn damaged_files_give_an_error_or_a_checkpoint_and_nothing_else() {
    let mut random = random();
    let (s, t) = (Storage::floats("0", 24, 0), Storage::floats("1", 3, 100));
    let saved = Saved {
        object: dict(vec![
            ("state", ordered(vec![("a", s.whole()), ("b", t.whole())])),
            ("view", s.view(6, &[3, 2], &[2, 6])),
            ("list", Py::List(vec![Py::Int(300), Py::None, t.whole()])),
        ]),
        storages: vec![s, t],
    };
    let deflated = Packing {
        deflated: true,
        ..Packing::default()
    };
    let files = [
        saved.archive(),
        saved.archive_packed(deflated, None),
        saved.legacy(),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.pt");
    for valid in files {
        for _ in 0..1_000 {
            let mut bytes = valid.clone();
            for _ in 0..random.usize(1..4) {
                damage(&mut bytes, &mut random);
            }
            write(&path, &bytes);
            if let Ok(checkpoint) = Checkpoint::open(&path) {
                let file = bytes.len() as u64;
                for info in checkpoint.tensors() {
                    assert!(info.offset <= file, "{info:?}");
                }
            }
        }
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    match random.u8(..5) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 if random.u8(..8) == 0 => bytes.truncate(at),
        2 | 3 => bytes.insert(at, random.u8(..)),
        _ => drop(bytes.remove(at)),
    }
}
