//! `cargo xtask fuzz dialect`; see drivers/dialect.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::dialect::check(input));
