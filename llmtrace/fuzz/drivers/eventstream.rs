//! An AWS event stream. An input is a byte for the cuts, and the bytes.

use std::fmt::Write as _;

use llmtrace::http::eventstream;

use super::{MOST, both};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let (mut decoder, mut out) = (eventstream::Decoder::new(), String::new());
        cuts.each(bytes, |piece| {
            decoder.push(piece, |frame| writeln!(out, "{frame:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        });
        writeln!(out, "{} {}", decoder.bad(), decoder.long()).expect("a string");
        out
    });
}
