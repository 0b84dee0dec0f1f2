//! `cargo xtask fuzz exchange`; see drivers/exchange.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::exchange::check(input));
