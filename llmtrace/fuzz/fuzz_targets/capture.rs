//! `cargo xtask fuzz capture`; see drivers/capture.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::capture::check(input));
