//! `cargo xtask fuzz h2`; see drivers/h2.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::h2::check(input));
