//! `cargo xtask fuzz eventstream`; see drivers/eventstream.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::eventstream::check(input));
