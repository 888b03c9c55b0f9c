//! NumPy arrays and archives of them: their dtypes, orders and bytes, and headers that break a rule.

mod common;

use ckload_loaders::{ByteOrder, Checkpoint, Dtype, Format, Loader};
use common::npy::{npy, npy_with};
use common::zip::{Packing, Zip};
use common::{failure, random, write};

/// Opens a file of these bytes.
fn open(bytes: &[u8]) -> Result<Checkpoint, ckload_loaders::Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("array.npy");
    write(&path, bytes);
    Checkpoint::open(path)
}

#[test]
fn every_dtype() {
    let types = [
        ("|b1", Dtype::BOOL, ByteOrder::Little),
        ("|i1", Dtype::I8, ByteOrder::Little),
        ("|u1", Dtype::U8, ByteOrder::Little),
        ("<i2", Dtype::I16, ByteOrder::Little),
        (">u2", Dtype::U16, ByteOrder::Big),
        ("<f2", Dtype::F16, ByteOrder::Little),
        (">i4", Dtype::I32, ByteOrder::Big),
        ("<u4", Dtype::U32, ByteOrder::Little),
        (">f4", Dtype::F32, ByteOrder::Big),
        ("<i8", Dtype::I64, ByteOrder::Little),
        ("<u8", Dtype::U64, ByteOrder::Little),
        ("<f8", Dtype::F64, ByteOrder::Little),
        ("<c8", Dtype::C64, ByteOrder::Little),
        (">c16", Dtype::C128, ByteOrder::Big),
    ];
    for (descr, dtype, byte_order) in types {
        let bytes = 6 * dtype.block().bytes;
        let file = npy(descr, false, "(2, 3)", &vec![1; bytes as usize]);
        let checkpoint = open(&file).expect("a valid array");
        assert_eq!(checkpoint.format(), Format::NumPy);
        let [info] = checkpoint.tensors() else {
            panic!("one array");
        };
        assert_eq!(info.name, "array");
        assert_eq!((info.dtype, info.byte_order), (dtype, byte_order));
        assert_eq!((info.shape.as_slice(), info.bytes), (&[2, 3][..], bytes));
        assert_eq!(info.offset, file.len() as u64 - bytes);
    }
}

#[test]
fn headers_that_look_unusual_are_valid() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    let cases = [
        (1, header),
        (2, header),
        (3, header),
        (1, "{'shape':(2,),'fortran_order':True,'descr':'<f4'}"),
        (
            1,
            "{\"descr\": \"<f4\", 'fortran_order': False, 'shape': (2L,)}",
        ),
        (
            1,
            " { 'descr' : '<f4' , 'fortran_order' : True , 'shape' : ( 1 , 2 ) , } ",
        ),
        (1, "{'descr': '<f8', 'fortran_order': False, 'shape': ()}"),
        (
            1,
            "{'descr': '<f8', 'fortran_order': True, 'shape': (1, 1)}",
        ),
    ];
    for (version, header) in cases {
        let elements = [1, 2, 3, 4, 5, 6, 7, 8];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("array.npy");
        write(&path, &npy_with(version, header, &elements));
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let model = Loader::new().load(&checkpoint).expect("it loads");
        assert!(model.tensors()[0].bytes()[..] == elements, "{header}");
    }
    let nothing = npy("<f4", false, "(0, 18446744073709551615)", &[]);
    assert_eq!(open(&nothing).expect("no elements").bytes(), 0);
}

#[test]
fn headers_that_break_a_rule() {
    let whole = npy("<f4", false, "(2, 3)", &[0; 24]);
    let header = |header: &str| npy_with(1, header, &[0; 24]);
    let described = |descr: &str| {
        header(&format!(
            "{{'descr': {descr}, 'fortran_order': False, 'shape': (6,)}}"
        ))
    };
    let shaped = |shape: &str| npy("<f4", false, shape, &[0; 24]);
    let mut long = b"\x93NUMPY\x02\0".to_vec();
    long.extend(u32::MAX.to_le_bytes());
    let mut version = whole.clone();
    version[6] = 4;
    let nested = format!("{{'descr': {}", "(".repeat(50_000));
    let dimensions = format!("({})", "1,".repeat(1000));
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        (
            "the magic alone",
            whole[..6].to_vec(),
            "truncated",
            "6 of 8 bytes",
        ),
        (
            "no length",
            whole[..9].to_vec(),
            "truncated",
            "9 of 10 bytes",
        ),
        (
            "within the header",
            whole[..50].to_vec(),
            "truncated",
            "50 of 128 bytes",
        ),
        (
            "within the elements",
            whole[..151].to_vec(),
            "truncated",
            "1 are missing",
        ),
        (
            "trailing bytes",
            [&whole[..], b"\0"].concat(),
            "trailing_bytes",
            "1 bytes after",
        ),
        (
            "two arrays",
            [&whole[..], &whole].concat(),
            "trailing_bytes",
            "152 bytes after",
        ),
        ("another version", version, "malformed", "version 4.0"),
        ("a header of 4 GiB", long, "malformed", "over the limit"),
        (
            "no dictionary",
            header("[]"),
            "malformed",
            "\"{\" is expected",
        ),
        (
            "a dictionary that stops",
            header("{'descr': '<f4'"),
            "malformed",
            "is expected",
        ),
        ("nested", header(&nested), "malformed", "no string"),
        (
            "a key too few",
            header("{'descr': '<f4', 'shape': (6,)}"),
            "malformed",
            "lacks",
        ),
        (
            "a key too many",
            header("{'descr': '<f4', 'x': 1}"),
            "malformed",
            "unknown key",
        ),
        (
            "a key twice",
            header("{'descr': '<f4', 'descr': '<f4'}"),
            "malformed",
            "\"descr\" twice",
        ),
        (
            "more than a dictionary",
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} + 1"),
            "malformed",
            "goes on",
        ),
        (
            "a call",
            header("{'descr': __import__('os')}"),
            "malformed",
            "no string",
        ),
        (
            "objects",
            described("'|O'"),
            "unsupported",
            "Python objects",
        ),
        (
            "records",
            described("[('a', '<f4')]"),
            "unsupported",
            "records",
        ),
        (
            "text",
            described("'<U6'"),
            "unsupported",
            "\"<U6\" is not supported",
        ),
        (
            "bytes",
            described("'|S4'"),
            "unsupported",
            "\"|S4\" is not supported",
        ),
        (
            "dates",
            described("'<M8[ns]'"),
            "unsupported",
            "\"<M8[ns]\" is not supported",
        ),
        (
            "long doubles",
            described("'<f16'"),
            "unsupported",
            "\"<f16\" is not supported",
        ),
        (
            "no order",
            described("'|f4'"),
            "unsupported",
            "\"|f4\" is not supported",
        ),
        (
            "no kind",
            described("''"),
            "unsupported",
            "\"\" is not supported",
        ),
        (
            "another letter",
            described("'ß4'"),
            "unsupported",
            "is not supported",
        ),
        (
            "a negative dimension",
            shaped("(-6,)"),
            "malformed",
            "no count",
        ),
        (
            "a dimension that is no number",
            shaped("(6.0,)"),
            "malformed",
            "is expected",
        ),
        (
            "a dimension too large",
            shaped("(18446744073709551616,)"),
            "malformed",
            "no count",
        ),
        (
            "too many dimensions",
            shaped(&dimensions),
            "malformed",
            "128 dimensions",
        ),
        (
            "elements beyond counting",
            shaped("(4611686018427387904, 4)"),
            "malformed",
            "overflows",
        ),
        (
            "elements beyond the file",
            shaped("(1099511627776,)"),
            "truncated",
            "missing",
        ),
        (
            "a shape that is a number",
            shaped("6"),
            "malformed",
            "\"(\" is expected",
        ),
    ];
    for (what, bytes, kind, says) in cases {
        let error = failure(open(&bytes));
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{what}: {message}");
        assert!(message.contains(says), "{what}: {message}");
        assert!(!message.contains('\n'), "{what}: {message}");
    }
}

#[test]
fn members_of_an_archive() {
    let plain = npy("<f4", false, "(2, 3)", &[1; 24]);
    let fortran = npy("<f8", true, "(3, 2)", &[2; 48]);
    let scalar = npy("<i8", false, "()", &[3; 8]);
    for (deflated, large) in [(false, false), (false, true), (true, false), (true, true)] {
        let packing = Packing {
            deflated,
            large,
            ..Packing::default()
        };
        let mut zip = Zip::default();
        let at = zip.member("layer/kernel.npy", &plain, packing);
        zip.member("fortran.npy", &fortran, packing);
        zip.member("step.npy", &scalar, packing);
        zip.member("README", b"no array", packing);
        let checkpoint = open(&zip.finish()).expect("a valid archive");
        assert_eq!(checkpoint.format(), Format::NumPy);
        let described: Vec<String> = (checkpoint.tensors().iter())
            .map(|info| {
                format!(
                    "{} {} {:?} {}",
                    info.name, info.dtype, info.shape, info.bytes
                )
            })
            .collect();
        assert_eq!(
            described,
            [
                "layer/kernel F32 [2, 3] 24",
                "fortran F64 [3, 2] 48",
                "step I64 [] 8"
            ]
        );
        let first = checkpoint.tensors()[0].offset as usize;
        let expected = if deflated { at.start } else { at.end - 24 };
        assert_eq!(first, expected);
    }
}

#[test]
fn plain_members_load_in_place() {
    let mut zip = Zip::default();
    zip.member(
        "a.npy",
        &npy("<f4", false, "(6,)", &[1; 24]),
        Packing::default(),
    );
    zip.member(
        "b.npy",
        &npy("|u1", false, "(3, 1)", &[7, 8, 9]),
        Packing::default(),
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("arrays.npz");
    write(&path, &zip.finish());
    let checkpoint = Checkpoint::open(&path).expect("a valid archive");
    let model = Loader::new().load(&checkpoint).expect("it loads");
    assert!(model.tensor("a").expect("it is there").bytes()[..] == [1; 24]);
    assert!(model.tensor("b").expect("it is there").bytes()[..] == [7, 8, 9]);
}

#[test]
fn members_that_break_a_rule_are_named() {
    let whole = npy("<f4", false, "(2, 3)", &[0; 24]);
    let cases: [(&str, &[u8], &str, &str); 4] = [
        (
            "too short",
            &whole[..151],
            "malformed",
            "are 152 bytes, the member has 151",
        ),
        (
            "too long",
            &[&whole[..], b"\0"].concat(),
            "malformed",
            "the member has 153",
        ),
        ("within the header", &whole[..60], "malformed", "breaks off"),
        ("no array", b"text", "malformed", "does not begin"),
    ];
    for deflated in [false, true] {
        let packing = Packing {
            deflated,
            ..Packing::default()
        };
        for (what, member, kind, says) in cases {
            let mut zip = Zip::default();
            zip.member("the.name.npy", member, packing);
            let error = failure(open(&zip.finish()));
            let message = error.to_string();
            assert_eq!(error.kind(), kind, "{what}: {message}");
            assert!(message.contains(says), "{what}: {message}");
            assert!(message.contains("tensor \"the.name\""), "{what}: {message}");
        }
    }
}

#[test]
fn damaged_files_give_an_error_or_a_checkpoint_and_nothing_else() {
    let mut random = random();
    let array = npy("<f4", false, "(2, 3)", &[1; 24]);
    let mut zip = Zip::default();
    let deflated = Packing {
        deflated: true,
        ..Packing::default()
    };
    zip.member("a.npy", &array, Packing::default());
    zip.member("b.npy", &array, deflated);
    let archive = zip.finish();
    for valid in [array, archive] {
        for _ in 0..1_000 {
            let mut bytes = valid.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] ^= 1 << random.u8(..8),
                    1 => bytes[at] = random.u8(..),
                    2 => bytes.insert(at, random.u8(..)),
                    _ => drop(bytes.remove(at)),
                }
            }
            if let Ok(checkpoint) = open(&bytes) {
                assert!(checkpoint.tensors().len() <= 2);
            }
        }
    }
}
