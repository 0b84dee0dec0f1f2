//! `cargo xtask fuzz sse`; see drivers/sse.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::sse::check(input));
