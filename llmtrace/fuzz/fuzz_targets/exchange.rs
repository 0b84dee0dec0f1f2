//! Any bytes as a connection's two directions, in any pieces: no panic, bounded memory, and the
//! same result however they are cut. `cargo +nightly fuzz run exchange` in `llmtrace/`.

#![no_main]

#[path = "../driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|input: &[u8]| driver::check(input));
