//! A form. An input is a byte for the cuts, and the bytes.

use std::fmt::Write as _;

use llmtrace::http::multipart;

use super::{MOST, both};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let decoder = multipart::Decoder::new("multipart/form-data; boundary=xYz");
        let (mut decoder, mut out) = (decoder.expect("a boundary"), String::new());
        cuts.each(bytes, |piece| {
            decoder.push(piece, |field| writeln!(out, "{field:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        });
        out
    });
}
