//! The results for people.

use ckload::ByteSize;

use crate::load::Measured;

pub(crate) fn print(measured: &Measured) {
    println!("swaps            {}", measured.swaps);
    println!("connections      {}", measured.connections);
    println!("requests         {}", measured.requests);
    println!("failed requests  {}", measured.failed_requests);
    println!(
        "swap, recycled   {:.1} ms (median)",
        measured.recycled_seconds * 1e3
    );
    println!(
        "swap, fresh      {:.1} ms (median)",
        measured.fresh_seconds * 1e3
    );
    let resident: Vec<String> = measured
        .resident_bytes
        .iter()
        .map(|&bytes| ByteSize::b(bytes).to_string())
        .collect();
    println!(
        "resident memory  {} (after each tenth swap)",
        resident.join(", ")
    );
}
