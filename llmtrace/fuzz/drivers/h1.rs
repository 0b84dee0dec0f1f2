//! One direction of an HTTP/1 connection. An input is a byte for the cuts, one of flags (1: responses;
//! 2: a gap of 5 bytes in the middle; 4: what follows it begins a message; 8: the first request was a
//! HEAD), and the bytes.

use std::fmt::{Debug, Write as _};

use llmtrace::http::{Asked, Event, MAX_HEAD, RequestParser, ResponseParser};

use super::Cuts;

fn note<H: Debug>(log: &mut String, event: &Event<'_, H>) {
    let _ = match event {
        Event::Body(bytes) | Event::Other(bytes) => {
            bytes.iter().try_for_each(|b| write!(log, "{b:02x}"))
        }
        event => write!(log, " {event:?} "),
    };
}

/// Drives a parser of either kind, which have the same methods.
macro_rules! drive {
    ($parser:expr, $flags:expr, $bytes:expr, $cuts:expr) => {{
        let (mut parser, mut log) = ($parser, String::new());
        let middle = if $flags & 2 != 0 { $bytes.len() / 2 } else { $bytes.len() };
        for (n, half) in [&$bytes[..middle], &$bytes[middle..]].into_iter().enumerate() {
            if n == 1 && $flags & 2 != 0 {
                parser.gap(5, |event| note(&mut log, &event));
                if $flags & 4 != 0 {
                    parser.resync();
                }
            }
            $cuts.each(half, |piece| {
                parser.push(piece, |event| note(&mut log, &event));
                // A vector that grows to its limit has at most twice that.
                assert!(parser.buffered() <= 2 * MAX_HEAD, "{}", parser.buffered());
            });
        }
        // What is wrong with a head in pieces may be found at its end only.
        parser.eof(|event| note(&mut log, &event));
        let _ = write!(log, "{} {}", parser.is_idle(), parser.is_lost());
        log
    }};
}

fn drive(flags: u8, bytes: &[u8], mut cuts: Cuts) -> String {
    if flags & 1 == 0 {
        return drive!(RequestParser::new(), flags, bytes, cuts);
    }
    let mut parser = ResponseParser::new();
    if flags & 8 != 0 {
        parser.expect(Asked::Head);
    }
    drive!(parser, flags, bytes, cuts)
}

pub fn check(input: &[u8]) {
    let [cuts, flags, bytes @ ..] = input else { return };
    assert_eq!(drive(*flags, bytes, Cuts::Whole), drive(*flags, bytes, Cuts::of(*cuts)));
}
