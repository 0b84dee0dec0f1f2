//! `cargo xtask fuzz multipart`; see drivers/multipart.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::multipart::check(input));
