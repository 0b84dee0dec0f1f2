//! `cargo +nightly fuzz run h2` in `llmtrace/`; see drivers/h2.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::h2::check(input));
