//! The frames of a WebSocket that carries a session with an LLM: texts are redacted as JSON, every
//! other content is filled. Headers of frames and their masks stay.

use super::FILLER;
use super::json::Json;

/// Longest frame header: two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;
/// The status code of a close frame.
const CODE: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Of the message under way.
    Text,
    Close,
    Other,
}

/// One direction.
#[derive(Clone, Debug)]
pub struct WebSocket {
    head: [u8; MAX_HEADER],
    have: usize,
    /// Of the frame at hand, behind its header.
    left: u64,
    at: u64,
    mask: [u8; 4],
    content: Content,
    /// The message under way is a text that is not compressed and of which nothing is missing.
    readable: bool,
    /// No frame: everything from here on is filled.
    broken: bool,
    json: Json,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            head: [0; MAX_HEADER],
            have: 0,
            left: 0,
            at: 0,
            mask: [0; 4],
            content: Content::Other,
            readable: false,
            broken: false,
            json: Json::new(false),
        }
    }
}

impl WebSocket {
    pub fn redact(&mut self, bytes: &mut [u8]) {
        for b in bytes {
            if self.broken {
                *b = FILLER;
            } else if self.left > 0 {
                let mask = self.mask[(self.at % 4) as usize];
                *b = self.content(*b ^ mask) ^ mask;
                self.left -= 1;
                self.at += 1;
            } else {
                self.header(*b);
                if self.broken {
                    *b = FILLER;
                }
            }
        }
    }

    /// `len` bytes are missing.
    pub fn gap(&mut self, len: u64) {
        if self.left >= len && !self.broken {
            self.left -= len;
            self.at += len;
            if self.content == Content::Text {
                self.readable = false;
            }
        } else {
            self.broken = true;
        }
    }

    fn content(&mut self, b: u8) -> u8 {
        match self.content {
            Content::Text if self.readable => self.json.byte(b),
            Content::Close if self.at < CODE => b,
            _ => FILLER,
        }
    }

    /// The next byte of a header.
    fn header(&mut self, b: u8) {
        self.head[self.have] = b;
        self.have += 1;
        let head = &self.head[..self.have];
        let [first, second, ..] = *head else { return };
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let masked = second & 0x80 != 0;
        if head.len() < 2 + length + if masked { 4 } else { 0 } {
            return;
        }
        let left = match length {
            0 => u64::from(second & 0x7f),
            n => head[2..2 + n].iter().fold(0, |sum, &b| sum << 8 | u64::from(b)),
        };
        let mask = head[2 + length..].first_chunk().copied();
        (self.left, self.at, self.mask, self.have) = (left, 0, mask.unwrap_or_default(), 0);
        let opcode = first & 0x0f;
        // Anything else changes what a payload is: an extension that nobody agreed on.
        let known = matches!(opcode, 0..=2 | 8..=10) && first & 0x70 == 0;
        self.broken = !known || left >> 63 != 0 || opcode >= 8 && left > 125;
        self.content = match opcode {
            0 => Content::Text,
            1 | 2 => {
                self.json.reset();
                self.readable = opcode == 1;
                Content::Text
            }
            8 => Content::Close,
            _ => Content::Other,
        };
    }
}
