//! `cargo xtask fuzz ndjson`; see drivers/ndjson.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::ndjson::check(input));
