//! `cargo xtask fuzz ws`; see drivers/ws.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::ws::check(input));
