//! Server-sent events. An input is a byte for the cuts, and the bytes.

use std::fmt::Write as _;

use llmtrace::http::{MAX_EVENT, MAX_EVENT_NAME, sse};

use super::{MOST, both};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let (mut decoder, mut out) = (sse::Decoder::new(), String::new());
        let mut on = |event: sse::Event<'_>| {
            assert!(event.data.len() <= MAX_EVENT && event.name.len() <= MAX_EVENT_NAME);
            writeln!(out, "{event:?}").expect("a string");
        };
        cuts.each(bytes, |piece| {
            decoder.push(piece, &mut on);
            assert!(decoder.buffered() <= MOST);
        });
        decoder.finish(on);
        out
    });
}
