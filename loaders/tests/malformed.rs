//! Files that break a rule of the format are refused, and the error names the file and the place or the remedy.

mod common;

use std::path::Path;

use ckload_loaders::{Checkpoint, Error, Loader};
use common::{
    Content, Escapes, Shard, entry, failure, header, octets, random, safetensors_bytes, write,
};

/// A malformed file: what it is, its bytes, the kind of the error, and what its message says.
struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    kind: &'static str,
    says: &'static str,
}

fn case(
    what: &'static str,
    bytes: impl Into<Vec<u8>>,
    kind: &'static str,
    says: &'static str,
) -> Case {
    Case {
        what,
        bytes: bytes.into(),
        kind,
        says,
    }
}

/// A header that breaks a rule, before `data` bytes of data.
fn malformed(
    what: &'static str,
    header: impl AsRef<[u8]>,
    data: usize,
    says: &'static str,
) -> Case {
    case(
        what,
        safetensors_bytes(header, &vec![7; data]),
        "malformed",
        says,
    )
}

/// A header whose entry for one F32 tensor of 4 bytes is replaced.
fn malformed_entry(what: &'static str, entry: &str, says: &'static str) -> Case {
    malformed(
        what,
        format!(r#"{{"first":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},{entry}}}"#),
        8,
        says,
    )
}

#[track_caller]
fn check(cases: Vec<Case>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("the-model.safetensors");
    for Case {
        what,
        bytes,
        kind,
        says,
    } in cases
    {
        write(&path, &bytes);
        let Err(error) = Checkpoint::open(&path) else {
            panic!("{what}: accepted");
        };
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{what}: {message}");
        assert_eq!(error.path(), Some(path.as_path()), "{what}: {message}");
        assert!(
            message.contains("the-model.safetensors"),
            "{what}: {message}"
        );
        assert!(message.contains(says), "{what}: {message}");
        assert!(!message.contains('\n'), "{what}: {message}");
    }
}

#[test]
fn lengths() {
    let whole = Shard::of(vec![octets("a", 100)]).to_bytes();
    let length = |bytes: u64| [&bytes.to_le_bytes(), &b"{}      "[..]].concat();
    check(vec![
        case("an empty file", "", "truncated", "0 of 8 bytes"),
        case(
            "less than the length",
            &whole[..7],
            "truncated",
            "7 of 8 bytes",
        ),
        case(
            "nothing but the length",
            &whole[..8],
            "truncated",
            "fetch the file again",
        ),
        case(
            "within the header",
            &whole[..20],
            "truncated",
            "fetch the file again",
        ),
        case(
            "within the data",
            &whole[..whole.len() - 37],
            "truncated",
            "37 are missing",
        ),
        case(
            "without the last byte",
            &whole[..whole.len() - 1],
            "truncated",
            "1 are missing",
        ),
        case(
            "a header beyond the file",
            length(100),
            "truncated",
            "92 are missing",
        ),
        case(
            "a header at the limit, beyond the file",
            length(100_000_000),
            "truncated",
            "missing",
        ),
        case(
            "a header over the limit",
            length(100_000_001),
            "malformed",
            "limit of 100000000",
        ),
        case(
            "a header of all the bytes there are",
            length(u64::MAX),
            "malformed",
            "bytes 0..8",
        ),
        case(
            "a length whose end overflows",
            length(u64::MAX - 7),
            "malformed",
            "bytes 0..8",
        ),
        case(
            "a length with the sign bit",
            length(1 << 63),
            "malformed",
            "bytes 0..8",
        ),
        case(
            "trailing bytes",
            [&whole[..], b"PK\x03\x04"].concat(),
            "trailing_bytes",
            "4 bytes after",
        ),
        case(
            "one trailing byte",
            [&whole[..], b"\0"].concat(),
            "trailing_bytes",
            "1 bytes after",
        ),
        case(
            "data that no tensor has",
            safetensors_bytes("{}", b"1234"),
            "trailing_bytes",
            "4 bytes after",
        ),
    ]);
}

#[test]
fn headers_that_are_no_json_object() {
    let nested = format!("{{\"a\":{}", "[".repeat(100_000));
    let nested_metadata = format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000));
    check(vec![
        malformed("an empty header", "", 0, "bytes 8..8"),
        malformed("white space", "    ", 0, "bytes 8..12"),
        malformed("not JSON", "tensors!", 0, "bytes 8..16"),
        malformed("JSON that stops", r#"{"a":{"dtype":"U8""#, 0, "bytes 8..26"),
        malformed("JSON and then more", "{}{}", 0, "bytes 8..12"),
        malformed("JSON and then NULs", "{}\0\0", 0, "bytes 8..12"),
        malformed("a byte order mark", "\u{feff}{}", 0, "bytes 8..13"),
        malformed("an array", "[]", 0, "object"),
        malformed("a number", "12345678", 0, "object"),
        malformed("null", "null", 0, "object"),
        malformed("not UTF-8", b"{\"\xff\xfe\":1}", 0, "UTF-8"),
        malformed("half of a surrogate pair", br#"{"\ud83e":1}"#, 0, "header"),
        malformed("a comma too many", "{,}", 0, "header"),
        malformed("deeply nested", nested, 0, "header"),
        malformed("deeply nested metadata", nested_metadata, 0, "header"),
    ]);
}

#[test]
fn ranges() {
    let a = |begin, end| entry("a", "U8", "[4]", begin..end);
    let b = |begin, end| entry("b", "U8", "[4]", begin..end);
    let far = u64::MAX;
    check(vec![
        malformed("an overlap", header(&[a(0, 4), b(2, 6)]), 6, "\"b\""),
        malformed(
            "the same range twice",
            header(&[a(0, 4), b(0, 4)]),
            4,
            "overlaps",
        ),
        malformed("a gap between", header(&[a(0, 4), b(5, 9)]), 9, "4..5"),
        malformed("a gap before", header(&[a(3, 7)]), 7, "0..3"),
        malformed(
            "a range within another",
            header(&[entry("a", "U8", "[8]", 0..8), b(2, 6)]),
            8,
            "overlaps",
        ),
        malformed("an end before the begin", header(&[a(4, 0)]), 4, "\"a\""),
        malformed(
            "an empty tensor inside another",
            header(&[a(0, 4), entry("b", "U8", "[0]", 2..2)]),
            4,
            "\"b\"",
        ),
        malformed(
            "an empty tensor behind the data",
            header(&[a(0, 4), entry("b", "U8", "[0]", 9..9)]),
            4,
            "\"b\"",
        ),
        malformed("a begin beyond all", header(&[a(far - 4, far)]), 4, "\"a\""),
        case(
            "a range beyond the file",
            safetensors_bytes(header(&[a(0, 4), b(4, 8)]), &[0; 6]),
            "truncated",
            "2 are missing",
        ),
        case(
            "a range beyond any file",
            safetensors_bytes(
                header(&[entry("a", "U8", &format!("[{}]", far / 8), 0..far / 8)]),
                &[0; 6],
            ),
            "truncated",
            "missing",
        ),
    ]);
}

#[test]
fn shapes_and_dtypes() {
    let tensor = |dtype, shape: &str| header(&[entry("the.tensor", dtype, shape, 0..8)]);
    let mut cases = vec![
        malformed("too few elements", tensor("F32", "[1]"), 8, "takes 4 bytes"),
        malformed(
            "too many elements",
            tensor("F32", "[3]"),
            8,
            "takes 12 bytes",
        ),
        malformed(
            "no elements but bytes",
            tensor("F32", "[0]"),
            8,
            "takes 0 bytes",
        ),
        malformed(
            "a scalar of another size",
            tensor("F32", "[]"),
            8,
            "takes 4 bytes",
        ),
        malformed(
            "a product that overflows",
            tensor("U8", "[4294967296, 4294967296]"),
            8,
            "overflow",
        ),
        malformed(
            "a product that overflows to 8",
            tensor("U8", "[9223372036854775812, 2]"),
            8,
            "overflow",
        ),
        malformed(
            "bits that overflow",
            tensor("F64", "[2305843009213693953]"),
            8,
            "overflow",
        ),
        malformed(
            "an overflow before a zero",
            tensor("U8", "[4294967296, 4294967296, 0]"),
            8,
            "",
        ),
        malformed("an end within a byte", tensor("F4", "[15]"), 8, "byte"),
        malformed(
            "an end within a byte, of six bits",
            tensor("F6_E3M2", "[11]"),
            8,
            "byte",
        ),
        malformed(
            "a dimension too large for 64 bits",
            tensor("U8", "[18446744073709551624]"),
            8,
            "header",
        ),
        malformed("a dimension below zero", tensor("U8", "[-8]"), 8, "header"),
        malformed("a fractional dimension", tensor("U8", "[8.0]"), 8, "header"),
        malformed(
            "a dimension in quotes",
            tensor("U8", "[\"8\"]"),
            8,
            "header",
        ),
        malformed("a shape that is a number", tensor("U8", "8"), 8, "header"),
        malformed("a shape that is null", tensor("U8", "null"), 8, "header"),
    ];
    for dtype in ["F128", "f32", "", "F32 ", "float32", "F8", "Q4_K"] {
        cases.push(malformed(
            "an unknown dtype",
            tensor(dtype, "[2]"),
            8,
            "the.tensor",
        ));
    }
    check(cases);
}

#[test]
fn entries() {
    let tensor = |fields: &str| format!("\"the.tensor\":{{{fields}}}");
    let rest = r#""dtype":"F32","shape":[1]"#;
    let offsets = |offsets: &str| tensor(&format!("{rest},\"data_offsets\":{offsets}"));
    check(vec![
        malformed_entry("three offsets", &offsets("[4,8,8]"), "the.tensor"),
        malformed_entry("one offset", &offsets("[4]"), "the.tensor"),
        malformed_entry("no offset", &offsets("[]"), "the.tensor"),
        malformed_entry("offsets below zero", &offsets("[-4,0]"), "the.tensor"),
        malformed_entry("fractional offsets", &offsets("[4.0,8.0]"), "the.tensor"),
        malformed_entry(
            "offsets too large for 64 bits",
            &offsets("[4,18446744073709551624]"),
            "the.tensor",
        ),
        malformed_entry("offsets that are null", &offsets("null"), "the.tensor"),
        malformed_entry("offsets left out", &tensor(rest), "data_offsets"),
        malformed_entry(
            "a shape left out",
            &tensor(r#""dtype":"F32","data_offsets":[4,8]"#),
            "shape",
        ),
        malformed_entry(
            "a dtype left out",
            &tensor(r#""shape":[1],"data_offsets":[4,8]"#),
            "dtype",
        ),
        malformed_entry("a dtype twice", &offsets(r#"[4,8],"dtype":"I32""#), "dtype"),
        malformed_entry("a shape twice", &offsets(r#"[4,8],"shape":[1]"#), "shape"),
        malformed_entry(
            "a dtype that is a number",
            &tensor(r#""dtype":1,"shape":[1],"data_offsets":[4,8]"#),
            "the.tensor",
        ),
        malformed_entry(
            "an entry that is null",
            r#""the.tensor":null"#,
            "the.tensor",
        ),
        malformed_entry(
            "an entry that is a number",
            r#""the.tensor":1"#,
            "the.tensor",
        ),
    ]);
}

#[test]
fn names_that_occur_twice() {
    let one = |name, begin: u64| entry(name, "U8", "[4]", begin..begin + 4);
    let empty = |name| entry(name, "U8", "[0]", 0..0);
    let twice = |entries: &[String]| header(entries);
    check(vec![
        malformed(
            "with equal ranges",
            twice(&[one("a", 0), one("a", 0)]),
            4,
            "twice",
        ),
        malformed(
            "with ranges of their own",
            twice(&[one("a", 0), one("a", 4)]),
            8,
            "twice",
        ),
        malformed(
            "with something between",
            twice(&[one("a", 0), one("b", 4), one("a", 8)]),
            12,
            "\"a\"",
        ),
        malformed(
            "without bytes",
            twice(&[empty("a"), empty("a")]),
            0,
            "twice",
        ),
        malformed(
            "as empty names",
            twice(&[one("", 0), one("", 4)]),
            8,
            "twice",
        ),
        malformed(
            "one of them escaped",
            twice(&[one("a", 0), one("\\u0061", 4)]),
            8,
            "twice",
        ),
    ]);
}

#[test]
fn metadata() {
    let metadata = |value: &str| format!("{{\"__metadata__\":{value}}}");
    check(vec![
        malformed("a number", metadata(r#"{"epoch":1}"#), 0, "header"),
        malformed("null", metadata(r#"{"epoch":null}"#), 0, "header"),
        malformed(
            "an object",
            metadata(r#"{"config":{"a":"b"}}"#),
            0,
            "header",
        ),
        malformed("a list", metadata(r#"{"authors":["a","b"]}"#), 0, "header"),
        malformed("a list in its place", metadata("[]"), 0, "header"),
        malformed("a string in its place", metadata("\"pt\""), 0, "header"),
        malformed("a key twice", metadata(r#"{"a":"1","a":"2"}"#), 0, "twice"),
        malformed(
            "all of it twice",
            r#"{"__metadata__":{},"__metadata__":{}}"#,
            0,
            "twice",
        ),
        malformed(
            "a tensor of its name",
            header(&[entry("__metadata__", "U8", "[4]", 0..4)]),
            4,
            "header",
        ),
    ]);
}

#[test]
fn what_people_really_meet_under_a_model_s_name() {
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707\nsize 548105171\n";
    let mut tar = vec![b'm'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    check(vec![
        case(
            "a Git LFS pointer",
            pointer,
            "lfs_pointer",
            "548105171 bytes",
        ),
        case("a Git LFS pointer", pointer, "lfs_pointer", "git lfs pull"),
        case(
            "a web page",
            "<!DOCTYPE html>\n<html><head>",
            "html_page",
            "download it again",
        ),
        case(
            "a web page in capitals",
            "\r\n <HTML lang=en>",
            "html_page",
            "HTML",
        ),
        case(
            "a web page with a byte order mark",
            "\u{feff}<!doctype HTML>",
            "html_page",
            "HTML",
        ),
        case(
            "a store's error",
            "<?xml version=\"1.0\"?><Error>",
            "other_format",
            "XML",
        ),
        case(
            "a server's error",
            r#"{"error":"Repository not found"}"#,
            "other_format",
            "JSON",
        ),
        case("GGML", "lmgg\x01\0\0\0\0\0\0\0", "other_format", "GGML"),
        case(
            "the start of a torch.save",
            "PK\x03\x04\0\0\x08\x08\0\0\0\0",
            "malformed",
            "fetch it again",
        ),
        case(
            "the start of an old torch.save",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
            "malformed",
            "fetch it again",
        ),
        case(
            "a pickle",
            b"\x80\x05\x95\x0b\0\0\0\0\0\0\0",
            "other_format",
            "pickle",
        ),
        case(
            "Keras",
            b"\x89HDF\r\n\x1a\n\0\0\0\0",
            "other_format",
            "HDF5",
        ),
        case(
            "the start of a NumPy array",
            b"\x93NUMPY\x01\0\x76\0{",
            "truncated",
            "fetch the file again",
        ),
        case(
            "gzip",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
            "other_format",
            "gzip",
        ),
        case(
            "zstd",
            b"\x28\xb5\x2f\xfd\x24\0\x01\0\0",
            "other_format",
            "zstd",
        ),
        case("tar", tar, "other_format", "tar"),
    ]);
}

/// A header's length may begin like another format's magic: 640 is `80 02`, as a pickle begins, and 123 is `{`.
#[test]
fn a_length_that_looks_like_another_format() {
    let one = header(&[entry("a", "U8", "[4]", 0..4)]);
    for length in [
        123,
        640,
        896,
        1152,
        1408,
        35_615,
        u16::from_le_bytes(*b"BZ").into(),
        0x2020,
    ] {
        let padded = format!("{one:length$}");
        let whole = safetensors_bytes(&padded, &[7; 4]);
        accept("a valid file", &whole, &["a"]);
        check(vec![
            case(
                "without the last byte",
                &whole[..whole.len() - 1],
                "truncated",
                "1 are missing",
            ),
            case(
                "within the header",
                &whole[..100],
                "truncated",
                "are missing",
            ),
            case(
                "with a byte more",
                [&whole[..], b"x"].concat(),
                "trailing_bytes",
                "1 bytes after",
            ),
            malformed("with a gap", padded.replace("[0,4]", "[1,5]"), 5, "0..1"),
        ]);
    }
}

#[test]
fn a_download_that_stopped_short_says_how_much_is_missing() {
    let whole = Shard::of(vec![octets("a", 10_000), octets("b", 20_000)]).to_bytes();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(&path, &whole[..12_345]);
    match failure(Checkpoint::open(&path)) {
        Error::Truncated {
            expected, found, ..
        } => {
            assert_eq!((expected, found), (whole.len() as u64, 12_345));
        }
        error => panic!("{error}"),
    }
}

#[test]
fn a_sparse_file_of_a_length_that_lies_takes_no_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let huge = 1 << 40;
    write(
        &path,
        &safetensors_bytes(
            header(&[entry("a", "U8", &format!("[{huge}]"), 0..huge)]),
            &[],
        ),
    );
    assert_eq!(failure(Checkpoint::open(&path)).kind(), "truncated");
}

/// Opens and loads a file that looks unusual and is valid.
#[track_caller]
fn accept(what: &str, bytes: &[u8], names: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(&path, bytes);
    let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
    let model = Loader::new()
        .load(&checkpoint)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let loaded: Vec<&str> = model
        .tensors()
        .iter()
        .map(ckload_loaders::Tensor::name)
        .collect();
    assert_eq!(loaded, names, "{what}");
}

#[test]
fn unusual_files_that_are_valid() {
    let one = |name, begin: u64| entry(name, "U8", "[4]", begin..begin + 4);
    let empty = |name, at| entry(name, "F32", "[3,0]", at..at);
    let accept = |what, header: String, data: usize, names: &[&str]| {
        accept(what, &safetensors_bytes(header, &vec![1; data]), names);
    };
    accept("no tensors", "{}".into(), 0, &[]);
    accept(
        "nothing but metadata",
        r#"{"__metadata__":{"format":"pt"}}"#.into(),
        0,
        &[],
    );
    accept(
        "empty metadata",
        format!(r#"{{"__metadata__":{{}},{}}}"#, one("a", 0)),
        4,
        &["a"],
    );
    accept(
        "a scalar",
        header(&[entry("a", "F64", "[]", 0..8)]),
        8,
        &["a"],
    );
    accept(
        "nothing but empty tensors",
        header(&[empty("a", 0), empty("b", 0)]),
        0,
        &["a", "b"],
    );
    accept(
        "several empty tensors at one offset",
        header(&[
            empty("x", 4),
            one("a", 0),
            empty("y", 4),
            one("b", 4),
            empty("z", 8),
        ]),
        8,
        &["a", "x", "y", "b", "z"],
    );
    accept(
        "an empty tensor before one of its offset",
        header(&[one("a", 0), empty("e", 0)]),
        4,
        &["e", "a"],
    );
    accept(
        "a zero beside a huge dimension",
        header(&[entry("a", "U8", "[0,9223372036854775807]", 0..0)]),
        0,
        &["a"],
    );
    accept(
        "an order unlike that of the bytes",
        header(&[one("c", 8), one("a", 0), one("b", 4)]),
        12,
        &["a", "b", "c"],
    );
    accept("an empty name", header(&[one("", 0)]), 4, &[""]);
    accept(
        "escaped names",
        header(&[one(r#"a\"\\\n\u0000\ud83e\udd80"#, 0)]),
        4,
        &["a\"\\\n\0🦀"],
    );
    accept(
        "names beyond ASCII",
        header(&[one("权重.ß", 0)]),
        4,
        &["权重.ß"],
    );
    let long = "n".repeat(70_000);
    accept("a long name", header(&[one(&long, 0)]), 4, &[&long]);
    accept(
        "names that look like metadata",
        header(&[one("metadata", 0), one("__metadata", 4)]),
        8,
        &["metadata", "__metadata"],
    );
    accept(
        "white space around",
        format!("\n\t {} \r\n ", header(&[one("a", 0)])),
        4,
        &["a"],
    );
    accept(
        "a size in half bytes",
        header(&[entry("a", "F4", "[3,2]", 0..3)]),
        3,
        &["a"],
    );
}

#[test]
fn every_dtype_of_the_format() {
    let dtypes = "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64";
    let bytes_of_8 = [
        8, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 32, 32, 32, 64, 64, 64, 64,
    ];
    for (dtype, bytes) in dtypes.split(' ').zip(bytes_of_8) {
        let header = header(&[entry("a", dtype, "[8]", 0..bytes)]);
        accept(
            dtype,
            &safetensors_bytes(header, &vec![1; bytes as usize]),
            &["a"],
        );
    }
}

#[test]
fn every_header_length_is_valid() {
    for padding in 0..16 {
        let mut shard = Shard::of(vec![octets("a", 5)]);
        shard.style.behind = padding;
        shard.style.escapes = Escapes::All;
        accept("padding", &shard.to_bytes(), &["a"]);
    }
}

#[test]
fn damaged_headers_give_an_error_or_a_model_and_nothing_else() {
    let mut random = random();
    let shard = Shard::of(vec![
        octets("h.0.weight", 24),
        Content {
            shape: vec![],
            ..octets("scalar", 1)
        },
        Content {
            shape: vec![0, 5],
            ..octets("none", 0)
        },
        octets("h.0.bias", 7),
    ]);
    let valid = shard.to_bytes();
    let header_end = valid.len() - 32;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    for _ in 0..1_000 {
        let mut bytes = valid.clone();
        for _ in 0..random.usize(1..4) {
            damage(&mut bytes, header_end, &mut random);
        }
        write(&path, &bytes);
        open_and_load(&path);
    }
}

fn damage(bytes: &mut Vec<u8>, header_end: usize, random: &mut fastrand::Rng) {
    let at = random.usize(..header_end.min(bytes.len()).max(1));
    match random.u8(..5) {
        _ if bytes.is_empty() => {}
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 => bytes.truncate(at),
        3 => bytes.insert(at, random.u8(b' '..0x80)),
        _ => drop(bytes.remove(at)),
    }
}

/// Every outcome is fine but a panic, and a model without all the tensors that were announced.
fn open_and_load(path: &Path) {
    if let Ok(checkpoint) = Checkpoint::open(path) {
        let model = Loader::new()
            .threads(1)
            .load(&checkpoint)
            .expect("the header was accepted");
        assert_eq!(model.tensors().len(), checkpoint.tensors().len());
    }
}
