//! `cargo xtask fuzz pipeline`; see drivers/pipeline.rs.

#![no_main]

#[path = "../drivers/mod.rs"]
mod drivers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::pipeline::check(input));
