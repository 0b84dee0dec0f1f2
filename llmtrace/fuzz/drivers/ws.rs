//! One direction of a WebSocket. An input is a byte for the cuts, one of flags (1: compressed, 2:
//! message by message, 4: a gap of 5 bytes in the middle), and the bytes.

use std::fmt::Write as _;

use llmtrace::http::ws::{Event, Parser};

use super::Cuts;

fn note(log: &mut String, event: &Event<'_>) {
    let _ = match event {
        Event::Data(bytes) => bytes.iter().try_for_each(|b| write!(log, "{b:02x}")),
        other => write!(log, " {other:?} "),
    };
}

fn drive(flags: u8, bytes: &[u8], mut cuts: Cuts) -> String {
    let mut parser = Parser::new(flags & 1 != 0, flags & 2 != 0);
    let mut log = String::new();
    let middle = if flags & 4 != 0 { bytes.len() / 2 } else { bytes.len() };
    cuts.each(&bytes[..middle], |piece| parser.push(piece, |event| note(&mut log, &event)));
    if flags & 4 != 0 {
        parser.gap(5, |event| note(&mut log, &event));
    }
    cuts.each(&bytes[middle..], |piece| parser.push(piece, |event| note(&mut log, &event)));
    log
}

pub fn check(input: &[u8]) {
    let [cuts, flags, bytes @ ..] = input else { return };
    let (whole, pieces) =
        (drive(*flags, bytes, Cuts::Whole), drive(*flags, bytes, Cuts::of(*cuts)));
    // What a bad compressed message gave before its fault was found depends on the pieces.
    let fault = |log: &str| log.contains("BadCoding");
    assert_eq!(fault(&whole), fault(&pieces));
    if !fault(&whole) {
        assert_eq!(whole, pieces);
    }
}
