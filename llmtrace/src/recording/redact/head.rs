//! Message heads: names of fields stay, their values only if they are listed.

use super::FILLER;
use crate::http::MAX_HEAD;

/// Fields whose values stay.
const KEPT: &[&[u8]] = &[
    b"accept",
    b"accept-encoding",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"date",
    b"expect",
    b"host",
    b"keep-alive",
    b"retry-after",
    b"server",
    b"te",
    b"traceparent",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"user-agent",
    b"vary",
];
/// Query parameters whose values stay.
const KEPT_QUERY: &[&[u8]] = &[b"alt", b"api-version", b"stream"];
const MAX_NAME: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// In the query of a request's target: a parameter's name, a value that stays or not.
    Query,
    QueryValue(bool),
    Name,
    Value(bool),
}

/// One head as it goes by.
#[derive(Debug)]
pub struct Head {
    state: State,
    name: [u8; MAX_NAME],
    name_len: usize,
    /// Bytes since the last line end, CR aside.
    line: usize,
    first_line: bool,
    kept: bool,
    /// The head as it was, to be parsed as a whole at its end.
    pub raw: Vec<u8>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            state: State::Start,
            name: [0; MAX_NAME],
            name_len: 0,
            line: 0,
            first_line: true,
            kept: false,
            raw: Vec::new(),
        }
    }
}

impl Head {
    /// The byte to put in the place of the next one, and whether it ends the head. None: too long.
    pub fn byte(&mut self, b: u8) -> Option<(u8, bool)> {
        if self.raw.len() == MAX_HEAD {
            return None;
        }
        self.raw.push(b);
        if b == b'\n' {
            let empty = self.line == 0 && !self.first_line;
            self.line = 0;
            self.first_line = false;
            self.state = State::Name;
            self.name_len = 0;
            return Some((b, empty));
        }
        if b == b'\r' {
            return Some((b, false));
        }
        self.line += 1;
        Some((self.inside(b), false))
    }

    fn inside(&mut self, b: u8) -> u8 {
        match self.state {
            State::Start => {
                if b == b'?' {
                    self.query();
                }
                b
            }
            State::Query | State::QueryValue(_) if b == b' ' => {
                self.state = State::Start;
                b
            }
            State::Query | State::QueryValue(_) if b == b'&' => {
                self.query();
                b
            }
            State::Query if b == b'=' => {
                self.state = State::QueryValue(KEPT_QUERY.contains(&self.name()));
                b
            }
            State::Query => {
                self.push_name(b);
                b
            }
            // A line that goes on: part of the value before.
            State::Name if self.line == 1 && matches!(b, b' ' | b'\t') => {
                self.state = State::Value(self.kept);
                b
            }
            State::Name if b == b':' => {
                self.kept = KEPT.contains(&self.name());
                self.state = State::Value(self.kept);
                b
            }
            State::Name => {
                if !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                    // No field's name.
                    self.state = State::Value(false);
                    return FILLER;
                }
                self.push_name(b.to_ascii_lowercase());
                b
            }
            State::QueryValue(kept) | State::Value(kept) => {
                if kept || matches!(b, b' ' | b'\t') { b } else { FILLER }
            }
        }
    }

    fn query(&mut self) {
        self.state = State::Query;
        self.name_len = 0;
    }

    fn push_name(&mut self, b: u8) {
        if let Some(place) = self.name.get_mut(self.name_len) {
            *place = b;
        }
        self.name_len += 1;
    }

    /// Empty if it is too long to be listed.
    fn name(&self) -> &[u8] {
        self.name.get(..self.name_len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_stays() {
        let text = "POST /v1/x?alt=sse&key=s3cret HTTP/1.1\r\nHost: a:1\r\nAuthorization: Bearer k y\r\nX-Api-Key:abc\r\n more\r\ncontent-length: 3\r\nno name\r\n\r\nbody";
        let expected = "POST /v1/x?alt=sse&key=xxxxxx HTTP/1.1\r\nHost: a:1\r\nAuthorization: xxxxxx x x\r\nX-Api-Key:xxx\r\n xxxx\r\ncontent-length: 3\r\nnoxxxxx\r\n\r\n";
        let mut head = Head::default();
        let mut out = Vec::new();
        for b in text.bytes() {
            let (b, over) = head.byte(b).unwrap();
            out.push(b);
            if over {
                break;
            }
        }
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(head.raw.len(), expected.len());
    }
}
