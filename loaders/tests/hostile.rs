//! Files that are made to exhaust whoever opens them are refused, and cost little memory.

mod common;

use std::path::Path;

use ckload_loaders::{Checkpoint, usage};
use common::pickle::{Py, dict};
use common::torch::{Saved, Storage};
use common::zip::{Packing, Stated, TORCH, Zip};
use common::{MIB, failure, octets, watched, write};

/// What opening any of these files may add to the process's peak, in bytes, beside the file's own size.
const MOST_BYTES: u64 = 256 << 20;

/// An archive whose pickle is these opcodes.
fn archive(opcodes: &[u8]) -> Vec<u8> {
    let object = Py::Raw(opcodes.to_vec());
    let storages = vec![Storage::floats("0", 6, 0)];
    Saved { object, storages }.archive()
}

fn archive_of(object: Py) -> Vec<u8> {
    archive(&{
        let pickle = object.pickle();
        pickle[2..pickle.len() - 1].to_vec()
    })
}

/// Lists in which the one before is twice, `depth` times; the innermost has `leaf`.
fn laughs(depth: usize, leaf: &Py) -> Vec<u8> {
    let pickle = Py::List(vec![leaf.clone()]).pickle();
    let mut opcodes = pickle[2..pickle.len() - 1].to_vec();
    for _ in 0..depth {
        // Remember it, and put it twice into a new list.
        opcodes.extend(b"q\x010](h\x01h\x01e");
    }
    opcodes
}

/// A dictionary of `count` lists under one key of `len` letters.
fn many_places(len: usize, count: usize) -> Vec<u8> {
    let key = [&(len as u32).to_le_bytes()[..], &vec![b'k'; len]].concat();
    let items = b"h\x01h\x02".repeat(count);
    [b"X", &key[..], b"q\x010]q\x02Na0}(", &items, b"u"].concat()
}

fn bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let s = Storage::floats("0", 6, 0);
    let deflated = Packing {
        deflated: true,
        ..TORCH
    };
    let mut bomb = Zip::default();
    let noise = octets("noise", 200_000).bytes;
    bomb.member_with("m/data.pkl", &noise, deflated, |stated| {
        stated.bytes = 200_000_000;
    });
    let mut lie = Zip::default();
    lie.member_with("m/data.pkl", b"N.", deflated, |stated| {
        stated.bytes = 1 << 31;
    });
    let mut short = Zip::default();
    short.member_with("m/data.pkl", b"N.", deflated, |stated| stated.bytes = 2000);
    let mut stored = Zip::default();
    stored.member_with("m/data.pkl", b"N.", TORCH, |stated| stated.bytes = 1 << 31);
    let mut beyond = Zip::default();
    beyond.member_with("m/data.pkl", b"N.", TORCH, |stated| {
        (stated.packed, stated.bytes) = (1 << 31, 1 << 31);
    });
    let mut overlap = Zip::default();
    overlap.member("m/data.pkl", &vec![b'N'; 1000], Packing::default());
    for number in 0..10_000 {
        let same = Stated {
            method: 0,
            flags: 0x800,
            packed: 1000,
            bytes: 1000,
            header: 0,
        };
        overlap.entry(&format!("m/data/{number}"), same, false);
    }
    let mut many = Zip::default();
    for number in 0..60_000 {
        many.member(&format!("m/{number}"), b"", Packing::default());
    }
    let name = |name: &str| {
        let mut zip = Zip::default();
        zip.member("m/data.pkl", b"N.", TORCH);
        zip.member(name, b"", TORCH);
        zip.finish()
    };
    let mut twice = Zip::default();
    twice.member("m/data.pkl", b"N.", TORCH);
    twice.member("m/data.pkl", b"N.", TORCH);
    let mut encrypted = Zip::default();
    encrypted.member_with("m/data.pkl", b"N.", TORCH, |stated| stated.flags |= 1);
    let huge_text = [b"X\xff\xff\xff\xff", &b"text"[..]].concat();
    let huge_bytes = [b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", &b"text"[..]].concat();
    let deep_tuples = [b"N".to_vec(), vec![0x85; 5 * MIB]].concat();
    let deep_lists = [vec![b']'; 2 * MIB], vec![b'a'; 2 * MIB - 1]].concat();
    vec![
        ("a bomb", bomb.finish(), "over the limit of 100000000"),
        ("a bomb that lies", lie.finish(), "more than deflate can"),
        (
            "less than is said",
            short.finish(),
            "inflates to 2 of 2000 bytes",
        ),
        (
            "stored in fewer bytes",
            stored.finish(),
            "is stored, but takes 2 bytes",
        ),
        ("beyond the file", beyond.finish(), "overlap what begins at"),
        (
            "members over each other",
            overlap.finish(),
            "overlap what begins at",
        ),
        ("many members", many.finish(), "a zip archive with neither"),
        (
            "a path that leaves",
            name("m/data/../../etc/passwd"),
            "leads out of the archive",
        ),
        (
            "an absolute path",
            name("/etc/passwd"),
            "leads out of the archive",
        ),
        (
            "a path of Windows",
            name("m\\..\\x"),
            "leads out of the archive",
        ),
        (
            "a name twice",
            twice.finish(),
            "overlap what begins at|two members have this name",
        ),
        ("an encrypted member", encrypted.finish(), "is encrypted"),
        ("text of 4 GiB", archive(&huge_text), "breaks off"),
        ("bytes beyond memory", archive(&huge_bytes), "breaks off"),
        (
            "a memo of 4 billion",
            archive(b"Nr\xff\xff\xff\xff"),
            "beyond the pickle's size",
        ),
        (
            "marks without end",
            archive(&vec![b'('; 5 * MIB]),
            "nested more than 10000 deep",
        ),
        (
            "tuples in tuples",
            archive(&deep_tuples),
            "take more memory|nested more than 256 deep",
        ),
        (
            "lists in lists",
            archive(&deep_lists),
            "take more memory|nested more than 256 deep",
        ),
        (
            "a value again and again",
            archive(&[b"N".to_vec(), vec![b'2'; 5 * MIB]].concat()),
            "take more memory",
        ),
        (
            "dictionaries",
            archive(&vec![b'}'; 5 * MIB]),
            "take more memory",
        ),
        (
            "calls of calls",
            archive(&[b"N".to_vec(), b")R".repeat(3 * MIB)].concat()),
            "take more memory",
        ),
        (
            "a billion names",
            archive(&laughs(60, &s.whole())),
            "more than 1048576 names|too many paths|many times",
        ),
        (
            "a wide list on many paths",
            archive(&laughs(
                40,
                &Py::List([vec![s.whole()], vec![Py::Int(1); MIB]].concat()),
            )),
            "too many paths",
        ),
        (
            "a name of a million letters on many paths",
            archive(&laughs(30, &dict(vec![(&*"n".repeat(MIB), s.whole())]))),
            "names of more than",
        ),
        (
            "a long key at many places",
            archive(&many_places(MIB, MIB)),
            "too many paths",
        ),
        ("an extension", archive(b"\x82\x01"), "extension registry"),
        ("buffers elsewhere", archive(b"\x97"), "outside of itself"),
        ("no such opcode", archive(b"\xff"), "opcode 0xff"),
        ("nothing on the stack", archive(b"R"), "not there"),
        ("below a mark", archive(b"N(R"), "not there"),
        ("no mark", archive(b"t"), "a mark that is not set"),
        (
            "an empty place in the memo",
            archive(b"h\x07"),
            "nothing is in the memo at 7",
        ),
        (
            "a key without a value",
            archive(b"}(Nu"),
            "a key has no value",
        ),
        ("appending to a number", archive(b"K\x01Na"), "no list"),
        ("state of a number", archive(b"K\x01Nb"), "has none"),
        ("values left over", archive(b"NN"), "left over"),
        ("a global without a name", archive(b"NN\x93"), "no text"),
        ("a number of letters", archive(b"Ione\n"), "not a number"),
        (
            "a protocol of the future",
            archive(b"\x80\x06N"),
            "protocol 6",
        ),
    ]
}

/// Opens a file that has to be refused, and checks the error: one of what `says` has between bars.
fn refuse(path: &Path, what: &str, says: &str) {
    let message = failure(Checkpoint::open(path)).to_string();
    let said = says.split('|').any(|says| message.contains(says));
    assert!(said, "{what}: {}", &message[..message.len().min(500)]);
}

#[test]
fn hostile_files_are_refused_in_little_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.pt");
    let bombs = bombs(); // which takes more memory than opening them
    let before = usage::peak_rss_bytes().expect("/proc is there");
    let largest = bombs.iter().map(|(_, bytes, _)| bytes.len()).max();
    for (what, bytes, says) in bombs {
        write(&path, &bytes);
        let path = path.clone();
        watched(move || refuse(&path, what, says));
    }
    let after = usage::peak_rss_bytes().expect("/proc is there");
    let most = MOST_BYTES + largest.expect("there are some") as u64;
    assert!(
        after - before < most,
        "opening took {} bytes",
        after - before
    );
}

#[test]
fn shared_values_without_tensors_cost_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.pt");
    let s = Storage::floats("0", 6, 0);
    let wide = Py::List(vec![Py::Int(1); 1000]);
    let laughs = Py::Raw(laughs(60, &wide));
    write(
        &path,
        &archive_of(dict(vec![("config", laughs), ("a", s.whole())])),
    );
    let checkpoint = watched(move || Checkpoint::open(&path)).expect("nothing is wrong with it");
    assert_eq!(checkpoint.tensors().len(), 1);
    // A list in itself.
    let path = folder.path().join("cyclic.pt");
    write(&path, &archive(b"]q\x01h\x01a"));
    assert!(Checkpoint::open(&path).expect("valid").tensors().is_empty());
}
