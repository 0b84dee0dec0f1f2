//! `cargo xtask fuzz h1`; see drivers/h1.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::h1::check(input));
