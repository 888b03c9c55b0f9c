//! What a file is that is of no format known here, or no index.
//!
//! Asked only after a header was refused: no first bytes are suspicious in themselves, as they are a length there.

use std::path::Path;

use crate::Error;

/// How many of a file's first bytes [`name_impostor`] wants to see.
pub(crate) const SNIFF_BYTES: usize = 512;

/// First bytes of the formats that checkpoints are found in, and what to call each.
///
/// Sources: the GGUF specification, APPNOTE.TXT (zip), Python's pickle protocol 2 to 5, the HDF5 and NumPy format specifications, RFC 1952 (gzip), RFC 8878 (zstd), POSIX ustar.
const MAGICS: &[(usize, &[u8], &str)] = &[
    (0, b"GGUF", "a GGUF file"),
    (0, b"lmgg", "a GGML file (from before GGUF)"),
    (0, b"fmgg", "a GGMF file (from before GGUF)"),
    (0, b"tjgg", "a GGJT file (from before GGUF)"),
    (0, b"PK\x03\x04", "a zip archive"),
    (
        0,
        b"\x80\x02",
        "a Python pickle that torch.save did not write",
    ),
    (
        0,
        b"\x80\x03",
        "a Python pickle that torch.save did not write",
    ),
    (
        0,
        b"\x80\x04",
        "a Python pickle that torch.save did not write",
    ),
    (
        0,
        b"\x80\x05",
        "a Python pickle that torch.save did not write",
    ),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights are)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "an executable"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (
        257,
        b"ustar",
        "a tar archive (torch before 0.1.10 wrote such; save the checkpoint again with a newer one)",
    ),
];

/// Names what people really meet under a model's name, given the file's first bytes.
pub(crate) fn name_impostor(path: &Path, head: &[u8]) -> Option<Error> {
    let path = path.to_owned();
    if let Some(rest) = head.strip_prefix(b"version https://git-lfs") {
        return Some(Error::LfsPointer {
            path,
            bytes: lfs_size(rest),
        });
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = text.trim_ascii_start();
    let starts = |prefix: &[u8]| {
        text.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if starts(b"<!doctype html") || starts(b"<html") || starts(b"<head") || starts(b"<!--") {
        return Some(Error::HtmlPage { path });
    }
    if starts(b"<?xml") || starts(b"<Error>") {
        return Some(Error::OtherFormat {
            path,
            found: "an XML document (object stores send errors so)",
        });
    }
    let found = MAGICS
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(_, _, name)| *name)
        .or_else(|| starts(b"{").then_some("a JSON document"))?;
    Some(Error::OtherFormat { path, found })
}

/// As [`name_impostor`], of a file that is to hold bytes: it may be a text.
pub(crate) fn name_impostor_or_text(path: &Path, head: &[u8]) -> Option<Error> {
    let text = || Error::OtherFormat {
        path: path.to_owned(),
        found: "text",
    };
    name_impostor(path, head).or_else(|| is_text(head).then(text))
}

/// Whether these are characters that are written, all of them. The last may be cut.
///
/// Of fewer bytes than a header's length has, nothing can be said: the first bytes of some formats are letters.
fn is_text(head: &[u8]) -> bool {
    if head.len() < size_of::<u64>() {
        return false;
    }
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let is_written = |c: char| !c.is_control() || c.is_ascii_whitespace();
    text.chars().all(is_written)
}

/// The `size` line of a Git LFS pointer.
fn lfs_size(pointer: &[u8]) -> Option<u64> {
    std::str::from_utf8(pointer)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("size ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impostors_get_their_name() {
        let kind =
            |head: &[u8]| name_impostor_or_text(Path::new("m"), head).map(|error| error.kind());
        assert_eq!(
            kind(b"version https://git-lfs.github.com/spec/v1\n"),
            Some("lfs_pointer")
        );
        assert_eq!(kind(b"\n  <!DocType HTML><html>"), Some("html_page"));
        assert_eq!(kind(b"PK\x03\x04rest"), Some("other_format"));
        assert_eq!(
            kind(b"{\"error\": \"Repository not found\"}"),
            Some("other_format")
        );
        assert_eq!(kind(b"\x10\0\0\0\0\0\0\0{"), None);
        assert_eq!(kind(b""), None);
        assert_eq!(kind("Notes, größer".as_bytes()), Some("other_format"));
        assert_eq!(kind(b"Notes of \x1b"), None);
        assert_eq!(kind(b"Notes of \xff"), None);
        assert_eq!(kind(b"GGU"), None);
    }

    #[test]
    fn a_pointer_says_how_large_the_file_is() {
        let pointer =
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 548105171\n";
        let Some(Error::LfsPointer { bytes, .. }) = name_impostor(Path::new("m"), pointer) else {
            panic!("a pointer");
        };
        assert_eq!(bytes, Some(548_105_171));
    }
}
