//! `cargo xtask fuzz json_array`; see drivers/json_array.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::json_array::check(input));
