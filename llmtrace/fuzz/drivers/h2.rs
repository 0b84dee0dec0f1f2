//! One direction of an HTTP/2 connection. An input is a byte for the cuts, one for what is parsed
//! (`c`lient, `s`erver, `j`oined, or a gap of 5 bytes in the middle of a server's), and the bytes.

use std::fmt::Write as _;

use llmtrace::http::h2::hpack::{MAX_TABLE, Name};
use llmtrace::http::h2::{self, Event, MAX_BLOCK, Parser};

use super::Cuts;

const NAMES: [Name; 5] =
    [Name::Method, Name::Path, Name::Status, Name::ContentType, Name::GrpcStatus];

fn note(log: &mut String, event: &Event<'_>) {
    let _ = match event {
        Event::Data { stream, bytes } => {
            bytes.iter().try_for_each(|b| write!(log, "{stream}:{b:02x} "))
        }
        Event::Headers { stream, fields } => {
            let kept = NAMES.map(|name| fields.get(name));
            write!(log, "Headers {stream} {kept:?} {} ", fields.unknown)
        }
        other => write!(log, "{other:?} "),
    };
}

fn drive(kind: u8, bytes: &[u8], mut cuts: Cuts) -> String {
    let mut parser = match kind {
        b'c' => Parser::client(),
        b'j' => Parser::joined(),
        _ => Parser::server(),
    };
    if kind == b'j' && h2::begins_frame(bytes) {
        let _ = h2::speaker(bytes);
        parser.resync();
    }
    let mut log = String::new();
    let middle = if kind == b'g' { bytes.len() / 2 } else { bytes.len() };
    for (n, half) in [&bytes[..middle], &bytes[middle..]].into_iter().enumerate() {
        if n == 1 && kind == b'g' {
            parser.gap(5, |event| note(&mut log, &event));
        }
        cuts.each(half, |piece| {
            parser.push(piece, |event| note(&mut log, &event));
            // A payload and a block, and the table with what it keeps beside the text.
            assert!(parser.buffered() < 3 * MAX_BLOCK + 4 * MAX_TABLE, "{}", parser.buffered());
        });
    }
    log
}

pub fn check(input: &[u8]) {
    let [cuts, kind, bytes @ ..] = input else { return };
    assert_eq!(drive(*kind, bytes, Cuts::Whole), drive(*kind, bytes, Cuts::of(*cuts)));
}
