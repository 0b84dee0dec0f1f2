//! `cargo xtask fuzz encoding`; see drivers/encoding.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::encoding::check(input));
