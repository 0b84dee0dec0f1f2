//! `cargo xtask fuzz json`; see drivers/json.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::json::check(input));
