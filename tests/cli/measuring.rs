//! What loads are measured against: loads without the pool, and plain reads.

use crate::support::{Model, ckload, json_of, stdout_of, uncached};

#[test]
fn a_comparison_says_that_it_measured_and_how_often() {
    let model = Model::of_large_tensors(2);
    let text =
        stdout_of(
            ckload()
                .arg(model.path())
                .args(["--compare", "--repeat", "3", "--resident"]),
        );
    for part in [
        "loaded into memory, 3 interleaved rounds and a warm-up; medians",
        "without the pool  with the pool\n",
        "\nallocation ",
        "\nfresh ",
        "\nrecycled ",
        "\nSaved     ",
        "measured: medians of 3 rounds",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

/// Who loads first would pay for the disk.
#[test]
fn a_comparison_is_not_of_a_cold_load_with_a_warm_one() {
    let model = Model::of_large_tensors(16);
    if uncached(&model).is_none() {
        return;
    }
    let options = ["--compare", "--repeat", "1", "--io", "buffered"];
    let text = stdout_of(ckload().arg(model.path()).args(options));
    assert!(
        text.contains(", without and with the pool, after a warm-up\n"),
        "{text}"
    );
    assert!(text.contains("of what plain reads of it reach"), "{text}");
    assert!(!text.contains("the page cache lacked"), "{text}");
}

/// An archive of one array of zeros, deflated in blocks that are as large as what is in them.
fn deflated_zeros(len: usize) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({len},), }}").into_bytes();
    header.resize(117, b' ');
    header.push(b'\n');
    let array = [&b"\x93NUMPY\x01\x00\x76\x00"[..], &header, &vec![0; len]].concat();

    let mut packed = Vec::new();
    let blocks = array.chunks(0xffff);
    let last = blocks.len() - 1;
    for (number, block) in blocks.enumerate() {
        let size = block.len() as u16;
        packed.push(u8::from(number == last));
        packed.extend(size.to_le_bytes());
        packed.extend((!size).to_le_bytes());
        packed.extend(block);
    }

    let name = b"zeros.npy";
    let mut member = vec![20, 0, 0, 0, 8, 0]; // version, flags, method
    member.extend([0; 8]); // time, date, CRC-32
    for size in [packed.len(), array.len()] {
        member.extend((size as u32).to_le_bytes());
    }
    member.extend([name.len() as u8, 0, 0, 0]); // nothing extra
    let local = [&b"PK\x03\x04"[..], &member, name, &packed].concat();
    // No comment, the first disk, no attributes, at the start.
    let entry = [&b"PK\x01\x02\x14\x00"[..], &member, &[0; 14], name].concat();
    let mut end = b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00".to_vec();
    for size in [entry.len(), local.len()] {
        end.extend((size as u32).to_le_bytes());
    }
    end.extend([0, 0]);
    [local, entry, end].concat()
}

#[test]
fn what_is_compressed_is_not_measured_against_reads() {
    let model = Model::holding(&deflated_zeros(17 << 20));
    let report = json_of(ckload().arg(model.path()).arg("--json"));
    let loaded = &report["models"][0];
    assert_eq!(loaded["bytes"], 17 << 20);
    assert_eq!(loaded.get("limit"), None, "{loaded}");
    let plain = Model::of_large_tensors(9);
    let report = json_of(ckload().arg(plain.path()).arg("--json"));
    assert!(report["models"][0]["limit"]["bytes_per_second"].is_f64());
}
