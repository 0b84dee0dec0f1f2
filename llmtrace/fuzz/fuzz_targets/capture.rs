//! Any bytes as a capture file: no panic, bounded memory. `cargo +nightly fuzz run capture` in
//! `llmtrace/`.

#![no_main]

#[path = "../capture_driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    driver::check(input);
});
