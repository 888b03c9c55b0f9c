//! Files that break a rule of the format are refused, and the error names the file and the place or the remedy.

use ckload_loaders::{ByteOrder, Checkpoint, Error, Loader};

use crate::common::{Entry, Gguf, Value, failure, random, random_gguf, write};
use crate::small;

/// A malformed file: what it is, the file, the kind of the error, and what its message says.
type Case = (&'static str, Vec<u8>, &'static str, &'static str);

#[track_caller]
fn check(cases: Vec<Case>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("the-model.gguf");
    for (what, bytes, kind, says) in cases {
        write(&path, &bytes);
        let Err(error) = Checkpoint::open(&path) else {
            panic!("{what}: accepted");
        };
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{what}: {message}");
        assert_eq!(error.path(), Some(path.as_path()), "{what}: {message}");
        assert!(message.contains("the-model.gguf"), "{what}: {message}");
        assert!(message.contains(says), "{what}: {message}");
        assert!(!message.contains('\n'), "{what}: {message}");
    }
}

/// The small file with one thing changed.
fn broken(
    what: &'static str,
    kind: &'static str,
    says: &'static str,
    change: impl FnOnce(&mut Gguf),
) -> Case {
    let mut file = small();
    change(&mut file);
    (what, file.to_bytes(), kind, says)
}

fn malformed(what: &'static str, says: &'static str, change: impl FnOnce(&mut Gguf)) -> Case {
    broken(what, "malformed", says, change)
}

#[test]
fn versions_and_counts() {
    let version = |what, version: u32, says| malformed(what, says, |file| file.version = version);
    let big = |version: u32, says| {
        malformed("a version in the other order", says, |file| {
            (file.version, file.order) = (version, ByteOrder::Big);
        })
    };
    let tensors = |count, kind, says| {
        broken("tensors", kind, says, |file| {
            file.tensor_count = Some(count);
        })
    };
    let values =
        |count, kind, says| broken("values", kind, says, |file| file.value_count = Some(count));
    check(vec![
        version("version 0", 0, "version 0 is not known"),
        version("version 1", 1, "version 1 is not read"),
        version("a later version", 4, "version 4 is not known, 2 and 3 are"),
        version("no version", u32::MAX, "bytes 4..8"),
        big(1, "version 1 is not read"),
        big(4, "version 4"),
        tensors(u64::MAX, "malformed", "bytes 8..16"),
        tensors(1 << 63, "malformed", "tensors do not fit"),
        tensors(1 << 60, "malformed", "bytes 8..16"),
        tensors(1 << 32, "malformed", "bytes 8..16"),
        tensors(1_000_000, "truncated", "are missing"),
        tensors(100, "truncated", "are missing"),
        values(u64::MAX, "malformed", "bytes 16..24"),
        values(u64::MAX / 14 + 1, "malformed", "values do not fit"),
        values(1 << 32, "malformed", "bytes 16..24"),
        values(1_000_000, "truncated", "are missing"),
        values(100, "truncated", "are missing"),
        tensors(3, "malformed", "name of tensor number 2"), // padding stands there
        values(2, "malformed", "tensor"),
        values(4, "malformed", "name of tensor number 0"),
    ]);
}

#[test]
fn keys_and_values() {
    let value = |what, says, value| {
        malformed(what, says, move |file| {
            file.values.push((b"the.key".to_vec(), value));
        })
    };
    let key = |what, says, key: &[u8]| {
        let key = key.to_vec();
        malformed(what, says, move |file| {
            file.values.push((key, Value::U8(1)));
        })
    };
    let long = |what, says, kind, length: u64| {
        broken(what, kind, says, move |file| {
            let length = length.to_le_bytes().to_vec();
            file.values
                .push((b"the.key".to_vec(), Value::Raw(8, length)));
        })
    };
    let array = |what, says, kind, of: u32, count: u64| {
        broken(what, kind, says, move |file| {
            let head = [&of.to_le_bytes()[..], &count.to_le_bytes()].concat();
            file.values.push((b"the.key".to_vec(), Value::Raw(9, head)));
        })
    };
    let deep = |depth: usize| {
        let inner = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        Value::Raw(9, inner.repeat(depth))
    };
    let alignment = |what, alignment| {
        malformed(what, "power of two", |file| {
            file.values[1].1 = alignment;
        })
    };
    let mut huge_key = small().header();
    huge_key.truncate(24);
    huge_key.extend([0xFF; 100]);
    check(vec![
        value(
            "a type beyond the last",
            "has the number 13",
            Value::Raw(13, vec![0; 9]),
        ),
        value(
            "a type far beyond",
            "key \"the.key\"",
            Value::Raw(u32::MAX, vec![0; 9]),
        ),
        array(
            "elements of no type",
            "has the number 13",
            "malformed",
            13,
            1,
        ),
        key("a key twice", "key \"list\": it occurs twice", b"list"),
        key("an empty key", "no letter", b""),
        key(
            "a key that is not UTF-8",
            "name of key number 3: not UTF-8",
            b"\xff",
        ),
        key("a key over the limit", "limit of 65535", &[b'k'; 65_536]),
        (
            "a key of all the bytes there are",
            huge_key,
            "malformed",
            "name of key number 0",
        ),
        long(
            "a string of all the bytes there are",
            "the.key",
            "malformed",
            u64::MAX,
        ),
        long(
            "a string with the sign bit",
            "the.key",
            "malformed",
            1 << 63,
        ),
        long("a string of a gibibyte", "the.key", "malformed", 1 << 30),
        long(
            "a string beyond the file",
            "are missing",
            "truncated",
            1 << 20,
        ),
        array(
            "an array of all there are",
            "do not fit",
            "malformed",
            0,
            u64::MAX,
        ),
        array(
            "a product that overflows",
            "do not fit",
            "malformed",
            12,
            (1 << 61) + 1,
        ),
        array(
            "strings that overflow",
            "do not fit",
            "malformed",
            8,
            (1 << 61) + 1,
        ),
        array(
            "arrays that overflow",
            "do not fit",
            "malformed",
            9,
            u64::MAX / 12 + 2,
        ),
        array("a gibielement", "do not fit", "malformed", 0, 1 << 30),
        array(
            "an array beyond the file",
            "are missing",
            "truncated",
            0,
            1 << 20,
        ),
        array(
            "strings beyond the file",
            "are missing",
            "truncated",
            8,
            1 << 16,
        ),
        value("arrays seventeen deep", "deeper than 16", deep(17)),
        value(
            "arrays a hundred thousand deep",
            "deeper than 16",
            deep(100_000),
        ),
        alignment("no alignment", Value::U32(0)),
        alignment("an alignment that is no power of two", Value::U32(33)),
        alignment("an alignment of another width", Value::U64(32)),
        alignment("a signed alignment", Value::I32(32)),
        alignment("an alignment in letters", Value::string("32")),
        broken(
            "an alignment beyond the file",
            "truncated",
            "are missing",
            |file| {
                file.values[1].1 = Value::U32(1 << 31);
                file.entries.iter_mut().for_each(|entry| entry.offset = 0);
                file.entries.pop();
            },
        ),
    ]);
}

#[test]
fn tensors() {
    let tensor = |what, says, change: fn(&mut Entry)| {
        malformed(what, says, move |file| change(&mut file.entries[1]))
    };
    let dims = |what, says, kind: u32, dims: &[u64]| {
        let dims = dims.to_vec();
        malformed(what, says, move |file| {
            (file.entries[1].dims, file.entries[1].kind) = (dims, kind);
        })
    };
    let cut = |what, says, change: fn(&mut Entry)| {
        broken(what, "truncated", says, move |file| {
            change(&mut file.entries[1]);
        })
    };
    check(vec![
        tensor(
            "a name twice",
            "tensor \"token_embd.weight\": it occurs twice",
            |entry| {
                entry.name = b"token_embd.weight".to_vec();
            },
        ),
        tensor(
            "a name that is not UTF-8",
            "name of tensor number 1: not UTF-8",
            |entry| {
                entry.name = b"\xc3\x28".to_vec();
            },
        ),
        tensor("a name over the limit", "limit of 65535", |entry| {
            entry.name = vec![b'n'; 65_536];
        }),
        dims("five dimensions", "5 dimensions", 24, &[1, 1, 1, 1, 33]),
        dims("many dimensions", "1000 dimensions", 24, &[1; 1000]),
        dims(
            "elements that overflow",
            "overflows",
            24,
            &[1 << 32, 1 << 32],
        ),
        dims(
            "elements that overflow to 0",
            "overflows",
            24,
            &[1 << 62, 4],
        ),
        dims(
            "elements that overflow to 33",
            "overflows",
            24,
            &[33, 1 << 32, 1 << 32, 1],
        ),
        dims("elements below zero", "overflows", 24, &[1 << 63]),
        dims("all the elements there are", "overflows", 24, &[u64::MAX]),
        dims("bytes that overflow", "overflows", 27, &[1 << 62]),
        dims(
            "an overflow before a zero",
            "overflows",
            24,
            &[1 << 32, 1 << 32, 0],
        ),
        dims(
            "an overflow behind a zero",
            "overflows",
            24,
            &[0, 1 << 32, 1 << 32],
        ),
        dims("blocks that overflow", "overflows", 15, &[1 << 62, 2]),
        dims(
            "half a block",
            "not whole blocks of Q4_K, of 256",
            12,
            &[128, 2],
        ),
        dims(
            "a block and a half",
            "not whole blocks of Q8_0, of 32",
            8,
            &[48],
        ),
        dims("blocks across rows", "not whole blocks", 2, &[1, 32]),
        dims("a scalar of blocks", "rows of 1 elements", 2, &[]),
        tensor(
            "an offset within the alignment",
            "not a multiple of the alignment 32",
            |entry| {
                entry.offset += 1;
            },
        ),
        tensor(
            "an overlap",
            "overlap those of \"token_embd.weight\"",
            |entry| {
                entry.offset = 32;
            },
        ),
        tensor("the same place", "overlap", |entry| entry.offset = 0),
        tensor("an end that overflows", "overflow", |entry| {
            entry.offset = u64::MAX - 31;
        }),
        tensor("an end that overflows by its size", "overflow", |entry| {
            (entry.offset, entry.dims) = (u64::MAX - 1023, vec![1 << 20]);
        }),
        tensor("without elements, within another", "overlap", |entry| {
            (entry.offset, entry.dims) = (32, vec![0]);
        }),
        cut("one byte too many", "1 are missing", |entry| {
            entry.dims = vec![34];
        }),
        cut("far beyond the file", "are missing", |entry| {
            entry.offset = 1 << 50;
        }),
        cut("a size beyond the file", "are missing", |entry| {
            entry.dims = vec![1 << 50];
        }),
        cut(
            "without elements, beyond the file",
            "are missing",
            |entry| {
                (entry.offset, entry.dims) = (1 << 20, vec![0]);
            },
        ),
        broken("no data at all", "truncated", "are missing", |file| {
            file.data.clear();
        }),
    ]);
}

#[test]
fn types_that_were_removed_or_never_were() {
    let kind = |kind, says| malformed("a type", says, move |file| file.entries[1].kind = kind);
    check(vec![
        kind(
            4,
            "tensor \"output.weight\": its type Q4_2 (number 4) was removed",
        ),
        kind(5, "Q4_3"),
        kind(
            31,
            "Q4_0_4_4 (number 31) was removed from ggml; convert the model to Q4_0",
        ),
        kind(32, "Q4_0_4_8"),
        kind(33, "Q4_0_8_8"),
        kind(36, "IQ4_NL_4_4"),
        kind(37, "IQ4_NL_4_8"),
        kind(
            38,
            "IQ4_NL_8_8 (number 38) was removed from ggml; convert the model to IQ4_NL",
        ),
        kind(43, "has the number 43, which ggml has not"),
        kind(u32::MAX, "has the number 4294967295"),
    ]);
}

#[test]
fn a_file_that_stops_at_any_byte_is_truncated() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let mut file = small();
        file.order = order;
        let whole = file.to_bytes();
        check(
            (0..whole.len())
                .map(|len| ("cut", whole[..len].to_vec(), "truncated", "are missing"))
                .collect(),
        );
        let cut = &whole[..whole.len() - 10];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.gguf");
        write(&path, cut);
        match failure(Checkpoint::open(&path)) {
            Error::Truncated {
                expected, found, ..
            } => assert_eq!((expected, found), (whole.len() as u64, cut.len() as u64)),
            error => panic!("{error}"),
        }
    }
}

#[test]
fn damaged_headers_give_an_error_or_a_model_and_nothing_else() {
    let mut random = random();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    for round in 0..1_000 {
        let file = if round % 4 == 0 {
            random_gguf(&mut random).0
        } else {
            small()
        };
        let header = file.header().len();
        let mut bytes = file.to_bytes();
        for _ in 0..random.usize(1..4) {
            damage(&mut bytes, header, &mut random);
        }
        write(&path, &bytes);
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            let model = Loader::new()
                .threads(1)
                .load(&checkpoint)
                .expect("the header was accepted");
            assert_eq!(model.tensors().len(), checkpoint.tensors().len());
        }
    }
}

fn damage(bytes: &mut Vec<u8>, header: usize, random: &mut fastrand::Rng) {
    let at = random.usize(4..header.min(bytes.len()).max(5));
    match random.u8(..6) {
        _ if bytes.len() <= at => {}
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 => bytes.truncate(at),
        3 => bytes.insert(at, random.u8(..)),
        4 => {
            let end = bytes.len().min(at + 8);
            bytes[at..end].fill(random.choice([0, 0x7F, 0xFF]).expect("not empty"));
        }
        _ => drop(bytes.remove(at)),
    }
}
