//! What drives the code with any bytes; shared by the fuzzer and by tests. Each driver takes an
//! input, runs it whole and in pieces, and panics where the two differ.

#![allow(dead_code, reason = "a fuzz target uses one of these, a test all")]

pub mod encoding;
pub mod exchange;
pub mod h2;
pub mod pipeline;
pub mod ws;

/// The name of a corpus, and what it drives.
type Driver = (&'static str, fn(&[u8]));

pub const ALL: [Driver; 5] = [
    ("encoding", encoding::check),
    ("exchange", exchange::check),
    ("h2", h2::check),
    ("pipeline", pipeline::check),
    ("ws", ws::check),
];

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
