//! Any bytes as the response of any dialect, in any pieces: no panic, bounded memory, and the same result
//! however they are cut. `cargo +nightly fuzz run dialect` in `llmtrace/`.

#![no_main]

#[path = "../bodies.rs"]
#[expect(dead_code, reason = "each target drives one of them")]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::dialect(input));
