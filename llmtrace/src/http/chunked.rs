//! The chunked transfer coding.

use super::{H1Error, MAX_CHUNK_LINE};

/// An incremental decoder of one chunked body.
#[derive(Clone, Debug)]
pub struct Chunked {
    /// Size of the chunk whose line is being read, or what is left of its data.
    size: u64,
    /// Bytes of the current size line, or of the trailers.
    line: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Start,
    Digits,
    /// After the size: spaces, extensions.
    Extension,
    Data,
    /// After the data, before CR or LF.
    DataEnd,
    /// After the data and CR.
    DataLf,
    /// At the start of a trailer line; an empty one ends the body.
    Trailer,
    /// At the start of a trailer line, after CR.
    TrailerLf,
    /// Inside a trailer line.
    TrailerLine,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { size: 0, line: 0, state: State::Start }
    }
}

impl Chunked {
    /// Takes bytes, hands out data. `Some(n)`: the body ended after `n` of them.
    #[inline]
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut on: impl FnMut(&[u8]),
    ) -> Result<Option<usize>, H1Error> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Data {
                let left = &bytes[at..];
                let take = usize::try_from(self.size).map_or(left.len(), |n| n.min(left.len()));
                self.size -= take as u64;
                at += take;
                if self.size == 0 {
                    self.state = State::DataEnd;
                }
                on(&left[..take]);
                // The usual case: the whole chunk and its line end in one piece.
                if self.size == 0 && left.len() >= take + 2 && left[take..take + 2] == *b"\r\n" {
                    at += 2;
                    self.state = State::Start;
                }
                continue;
            }
            let b = bytes[at];
            at += 1;
            if self.step(b)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// One byte of framing; true when the body is over.
    #[inline]
    fn step(&mut self, b: u8) -> Result<bool, H1Error> {
        match self.state {
            State::Start | State::Digits => match hex(b) {
                Some(d) => {
                    if self.size >> 60 != 0 {
                        return Err(H1Error::BadChunk);
                    }
                    self.size = self.size << 4 | u64::from(d);
                    self.count()?;
                    self.state = State::Digits;
                }
                None if self.state == State::Start => return Err(H1Error::BadChunk),
                None => match b {
                    b'\n' => self.line_end(),
                    b'\r' | b' ' | b'\t' | b';' => self.state = State::Extension,
                    _ => return Err(H1Error::BadChunk),
                },
            },
            State::Extension => match b {
                b'\n' => self.line_end(),
                _ => self.count()?,
            },
            State::DataEnd => match b {
                b'\r' => self.state = State::DataLf,
                b'\n' => self.state = State::Start,
                _ => return Err(H1Error::BadChunk),
            },
            State::DataLf => match b {
                b'\n' => self.state = State::Start,
                _ => return Err(H1Error::BadChunk),
            },
            State::Trailer => match b {
                b'\n' => return Ok(true),
                b'\r' => self.state = State::TrailerLf,
                _ => {
                    self.count()?;
                    self.state = State::TrailerLine;
                }
            },
            State::TrailerLf => match b {
                b'\n' => return Ok(true),
                _ => return Err(H1Error::BadChunk),
            },
            State::TrailerLine => match b {
                b'\n' => self.state = State::Trailer,
                _ => self.count()?,
            },
            State::Data => {}
        }
        Ok(false)
    }

    fn line_end(&mut self) {
        self.line = 0;
        self.state = if self.size == 0 { State::Trailer } else { State::Data };
    }

    #[inline]
    fn count(&mut self) -> Result<(), H1Error> {
        self.line += 1;
        if self.line as usize > MAX_CHUNK_LINE { Err(H1Error::ChunkLineTooLong) } else { Ok(()) }
    }

    /// Bytes are missing. True if all of them were data of the current chunk.
    pub fn gap(&mut self, len: u64) -> bool {
        if self.state != State::Data || self.size < len {
            return false;
        }
        self.size -= len;
        if self.size == 0 {
            self.state = State::DataEnd;
        }
        true
    }
}

#[inline]
fn hex(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}
