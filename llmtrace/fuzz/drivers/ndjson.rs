//! Lines of JSON. An input is a byte for the cuts, and the bytes.

use std::fmt::Write as _;

use llmtrace::http::ndjson;

use super::{MOST, both};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let (mut decoder, mut out) = (ndjson::Decoder::new(), String::new());
        cuts.each(bytes, |piece| {
            decoder.push(piece, |line| writeln!(out, "{line:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        });
        decoder.finish(|line| writeln!(out, "{line:?}").expect("a string"));
        out
    });
}
