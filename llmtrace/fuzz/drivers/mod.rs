//! What drives the code with any bytes; shared by the fuzzer and by tests. Each driver takes an
//! input, runs it (most of them whole and in pieces), and panics where something is not as it must be.

#![allow(dead_code, reason = "a fuzz target uses one of these, a test all")]

pub mod capture;
pub mod dialect;
pub mod encoding;
pub mod eventstream;
pub mod exchange;
pub mod h1;
pub mod h2;
pub mod json;
pub mod json_array;
pub mod multipart;
pub mod ndjson;
pub mod pipeline;
pub mod sse;
pub mod ws;

use std::fmt::Write as _;

use llmtrace::http::{MAX_EVENT, Part};

/// A corpus, and what it drives.
#[derive(Clone, Copy)]
pub struct Driver {
    pub name: &'static str,
    /// Files that the corpus has at least.
    pub least: usize,
    pub check: fn(&[u8]),
}

const fn driver(name: &'static str, least: usize, check: fn(&[u8])) -> Driver {
    Driver { name, least, check }
}

pub const ALL: [Driver; 14] = [
    driver("capture", 7, capture::check),
    driver("dialect", dialect::DIALECTS.len(), dialect::check),
    driver("encoding", 4, encoding::check),
    driver("eventstream", 5, eventstream::check),
    driver("exchange", 12, exchange::check),
    driver("h1", 4, h1::check),
    driver("h2", 4, h2::check),
    driver("json", 3, json::check),
    driver("json_array", 4, json_array::check),
    driver("multipart", 3, multipart::check),
    driver("ndjson", 4, ndjson::check),
    driver("pipeline", 4, pipeline::check),
    driver("sse", 4, sse::check),
    driver("ws", 4, ws::check),
];

/// Most memory that the decoder of a body may hold.
const MOST: usize = MAX_EVENT + 16 * 1024;

/// Gives what follows an input's first byte to `run`, whole and in pieces, and compares what it says.
fn both(input: &[u8], run: impl Fn(&[u8], Cuts) -> String) {
    let Some((&cuts, bytes)) = input.split_first() else { return };
    assert_eq!(run(bytes, Cuts::Whole), run(bytes, Cuts::of(cuts)));
}

/// What a splitter handed out, but for where a long event was cut.
fn note_part(out: &mut String, name: &[u8], data: &[u8], part: Part) {
    let quote = |out: &mut String| data.iter().try_for_each(|b| write!(out, "{b:02x}"));
    let _ = match part {
        Part::Whole => writeln!(out, "{name:?} {}", String::from_utf8_lossy(data)),
        Part::Begin => write!(out, "long ").and_then(|()| quote(out)),
        Part::More => quote(out),
        Part::End => writeln!(out, " {name:?}"),
    };
}

/// How bytes are cut into pieces.
#[derive(Clone, Copy, Debug)]
pub enum Cuts {
    Whole,
    /// Pieces of one byte.
    Bytes,
    /// Pieces of 1 to 64 bytes.
    Random(u64),
}

impl Cuts {
    /// As the first byte of an input says.
    pub fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Bytes,
            seed => Self::Random(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        }
    }

    fn next(&mut self, left: usize) -> usize {
        let size = match self {
            Self::Whole => left,
            Self::Bytes => 1,
            Self::Random(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                (*state % 64) as usize + 1
            }
        };
        size.min(left)
    }

    /// Hands on `bytes` piece by piece.
    pub fn each(&mut self, mut bytes: &[u8], mut to: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.next(bytes.len()));
            to(piece);
            bytes = rest;
        }
    }
}
