//! Server-sent events. An input is a byte for the cuts, and the bytes.

use llmtrace::http::{MAX_EVENT, MAX_EVENT_NAME, Part, sse};

use super::{MOST, both, note_part};

pub fn check(input: &[u8]) {
    both(input, |bytes, mut cuts| {
        let (mut decoder, mut out) = (sse::Decoder::new(), String::new());
        let mut on = |event: sse::Event<'_>| {
            assert!(event.name.len() <= MAX_EVENT_NAME);
            assert!(event.data.len() <= MAX_EVENT || event.part != Part::Whole);
            note_part(&mut out, event.name, event.data, event.part);
        };
        cuts.each(bytes, |piece| {
            decoder.push(piece, &mut on);
            assert!(decoder.buffered() <= MOST);
        });
        decoder.finish(on);
        out
    });
}
