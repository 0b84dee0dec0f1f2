//! Lines of JSON. An input is a byte for the cuts, and the bytes.

use llmtrace::http::ndjson;

use super::{MOST, both, note_part};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let (mut decoder, mut out) = (ndjson::Decoder::new(), String::new());
        cuts.each(bytes, |piece| {
            decoder.push(piece, |line| note_part(&mut out, b"", line.data, line.part));
            assert!(decoder.buffered() <= MOST);
        });
        decoder.finish(|line| note_part(&mut out, b"", line.data, line.part));
        out
    });
}
