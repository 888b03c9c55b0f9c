//! A GGUF header takes bounded memory, whatever it claims. Alone in its process, whose memory it measures.

mod common;

use std::fs::File;

use ckload_loaders::Checkpoint;
use common::{Gguf, MIB, Value, failure, write};

/// The most memory that the process ever had, in bytes.
fn peak() -> u64 {
    let process = procfs::process::Process::myself().expect("/proc");
    let status = process.status().expect("a status");
    status.vmhwm.expect("it is there") * 1024
}

/// In a sparse file of a tebibyte there is room for what each of these headers claims.
#[test]
fn headers_that_claim_a_lot_take_little() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let array = |of: u32, count: u64| {
        let head = [&of.to_le_bytes()[..], &count.to_le_bytes()].concat();
        Gguf::new().value("key", Value::Raw(9, head))
    };
    let string = Value::Raw(8, (1u64 << 39).to_le_bytes().to_vec());
    let (mut tensors, mut values) = (Gguf::new(), Gguf::new());
    tensors.tensor_count = Some(1 << 35);
    values.value_count = Some(1 << 35);
    let mut name = Gguf::new();
    name.tensor_count = Some(1);
    let long_name = [name.header(), (1u64 << 38).to_le_bytes().to_vec()].concat();
    let headers = [
        array(0, 1 << 39).header(),
        array(7, 1 << 32).header(),
        array(8, 1 << 36).header(),
        array(9, 1 << 35).header(),
        Gguf::new().value("key", string).header(),
        tensors.header(),
        values.header(),
        long_name,
    ];
    let before = peak();
    for header in headers {
        write(&path, &header);
        let file = File::options().write(true).open(&path);
        let grown = file.and_then(|file| file.set_len(1 << 40));
        grown.expect("a file system with sparse files");
        assert_eq!(failure(Checkpoint::open(&path)).kind(), "malformed");
    }
    let taken = peak() - before;
    assert!(taken < 4 * MIB as u64, "{taken} bytes");

    // Two arrays, each of which would do alone.
    let head = |count: u64| [&0u32.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let zeros = [head(1_000_000), vec![0; 1_000_000]].concat();
    let two = Gguf::new()
        .value("first", Value::Raw(9, zeros))
        .value("second", Value::Raw(9, head(11_000_000)));
    write(&path, &two.header());
    let error = failure(Checkpoint::open(&path));
    assert_eq!(error.kind(), "malformed", "{error}");
    assert!(error.to_string().contains("second"), "{error}");
    let taken = peak() - before;
    assert!(taken < 64 * MIB as u64, "{taken} bytes");

    // What is no text takes three times as much once it is.
    let string = Value::String(vec![0xFF; 100 * MIB]);
    write(&path, &Gguf::new().value("key", string).header());
    let error = failure(Checkpoint::open(&path));
    assert_eq!(error.kind(), "malformed", "{error}");
}
