//! Server-sent events: names stay, data are redacted as JSON, everything else is filled.

use super::FILLER;
use super::json::Json;

/// Longest event name that is kept.
const MAX_NAME: u8 = 64;
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a line came, all of them of this field's name.
    Name(u8),
    /// After the colon, where one space may stand.
    Colon(Value),
    In(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Data,
    /// The name of an event, of which so many bytes came.
    Event(u8),
    Other,
}

#[derive(Clone, Debug)]
pub struct Sse {
    state: State,
    line: [u8; 8],
    after_cr: bool,
    bom: u8,
    json: Json,
}

const FIELDS: [&[u8]; 4] = [b"data", b"event", b"id", b"retry"];

impl Default for Sse {
    fn default() -> Self {
        Self { state: State::Name(0), line: [0; 8], after_cr: false, bom: 0, json: Json::new(true) }
    }
}

impl Sse {
    /// Redacts bytes where they are.
    pub fn redact(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.state == State::In(Value::Data) {
                // Up to the end of the line it is the JSON's.
                let end = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
                if end > 0 {
                    self.json.redact(&mut bytes[..end]);
                    self.after_cr = false;
                    bytes = &mut bytes[end..];
                    continue;
                }
            }
            bytes[0] = self.byte(bytes[0]);
            bytes = &mut bytes[1..];
        }
    }

    /// The byte to put in the place of the next one.
    pub fn byte(&mut self, b: u8) -> u8 {
        if self.bom < 3 {
            if BOM[usize::from(self.bom)] == b {
                self.bom += 1;
                return b;
            }
            self.bom = 3;
        }
        if matches!(b, b'\r' | b'\n') {
            let same = b == b'\n' && self.after_cr;
            self.after_cr = b == b'\r';
            if !same {
                // An empty line ends the event.
                if self.state == State::Name(0) {
                    self.json.reset();
                }
                self.state = State::Name(0);
            }
            return b;
        }
        self.after_cr = false;
        match self.state {
            State::Name(len) => self.name(b, len),
            State::Colon(value) => {
                self.state = State::In(value);
                if b == b' ' { b } else { self.value(b, value) }
            }
            State::In(value) => self.value(b, value),
        }
    }

    fn name(&mut self, b: u8, len: u8) -> u8 {
        let name = &self.line[..usize::from(len)];
        if b == b':' {
            let value = match name {
                b"data" => Value::Data,
                b"event" => Value::Event(0),
                _ => Value::Other,
            };
            self.state = State::Colon(value);
            return b;
        }
        let at = usize::from(len);
        let fits = FIELDS.iter().any(|f| f.starts_with(name) && f.get(at) == Some(&b));
        if !fits {
            self.state = State::In(Value::Other);
            return FILLER;
        }
        self.line[at] = b;
        self.state = State::Name(len + 1);
        b
    }

    fn value(&mut self, b: u8, value: Value) -> u8 {
        match value {
            Value::Data => self.json.byte(b),
            Value::Event(len) if len < MAX_NAME => {
                self.state = State::In(Value::Event(len + 1));
                let plain = b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
                if plain { b } else { FILLER }
            }
            Value::Event(_) | Value::Other => FILLER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let text = "\u{feff}event: a.b\r\ndata: {\"text\":\"so\"}\r\n\r\n: ping me\ndata: words\n\ndata: {\"id\":\ndata: \"7\"}\n\nid: 5\nsecret\ndata:[DONE]\n\n";
        let expected = "\u{feff}event: a.b\r\ndata: {\"text\":\"xx\"}\r\n\r\n: xxxxxxx\ndata: xxxxx\n\ndata: {\"id\":\ndata: \"7\"}\n\nid: x\nxxxxxx\ndata:[DONE]\n\n";
        let mut sse = Sse::default();
        let out: Vec<u8> = text.bytes().map(|b| sse.byte(b)).collect();
        let mut whole = text.as_bytes().to_vec();
        Sse::default().redact(&mut whole);
        assert_eq!(whole, out);
        let out = String::from_utf8(out).unwrap();
        // A comment's space is the separator's.
        assert_eq!(out, expected);
    }
}
