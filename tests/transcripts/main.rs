//! Sessions with the command, one file a subject: what is typed, and what is shown, word for word.
//!
//! `TRYCMD=overwrite cargo test --test transcripts` writes down what is shown now. What differs between machines and runs is `[..]`, in
//! which a difference is not seen: times, rates, threads, locked memory.

#[test]
fn sessions_are_as_they_were() {
    trycmd::TestCases::new()
        .case("tests/transcripts/*.md")
        .default_bin_name("ckload")
        .env("HF_HUB_CACHE", "hub")
        .env("LC_ALL", "C.UTF-8")
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "")
        // Of help; a terminal that the tests run in would decide otherwise.
        .env("COLUMNS", "100");
}
