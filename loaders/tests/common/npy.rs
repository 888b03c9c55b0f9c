//! A writer of NumPy arrays.

/// An array: its header as NumPy writes it, and its elements.
pub(crate) fn npy(descr: &str, is_fortran: bool, shape: &str, elements: &[u8]) -> Vec<u8> {
    let order = if is_fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    npy_with(1, &header, elements)
}

/// An array with this header, whatever it is.
pub(crate) fn npy_with(version: u8, header: &str, elements: &[u8]) -> Vec<u8> {
    let before = if version == 1 { 10 } else { 12 };
    let padded = (before + header.len() + 1).next_multiple_of(64) - before;
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    if version == 1 {
        bytes.extend((padded as u16).to_le_bytes());
    } else {
        bytes.extend((padded as u32).to_le_bytes());
    }
    bytes.extend(format!("{header:<0$}\n", padded - 1).as_bytes());
    bytes.extend(elements);
    bytes
}
