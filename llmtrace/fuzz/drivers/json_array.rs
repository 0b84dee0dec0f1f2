//! A streamed JSON array. An input is a byte for the cuts, and the bytes.

use std::fmt::Write as _;

use llmtrace::http::json_array;

use super::{MOST, both, note_part};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let (mut decoder, mut out) = (json_array::Decoder::new(), String::new());
        cuts.each(bytes, |piece| {
            decoder.push(piece, |element| note_part(&mut out, b"", element.data, element.part));
            assert!(decoder.buffered() <= MOST);
        });
        decoder.finish(|element| note_part(&mut out, b"", element.data, element.part));
        writeln!(out, "{}", decoder.is_over()).expect("a string");
        out
    });
}
