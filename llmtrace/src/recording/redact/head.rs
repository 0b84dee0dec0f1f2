//! Message heads: names of fields stay, their values only if they are listed.

use super::FILLER;
use crate::http::MAX_HEAD;

/// Fields whose values stay.
const KEPT: &[&[u8]] = &[
    b"accept",
    b"accept-encoding",
    b"cache-control",
    b"connection",
    b"content-length",
    b"content-type",
    b"date",
    b"expect",
    b"grpc-status",
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
const KEPT_QUERY: &[&[u8]] = &[b"alt", b"api-version", b"deployment", b"model", b"stream"];
const MAX_NAME: usize = 32;
const MAX_METHOD: usize = 16;
const VERSION: &[u8] = b"HTTP/1.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the first line, before its target: a method, or the version of a response.
    Start,
    /// In the target of a request, or after the version of a response.
    Rest,
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
    request: bool,
    kept: bool,
    /// The head as it was, to be parsed as a whole at its end.
    pub raw: Vec<u8>,
}

impl Head {
    pub fn new(request: bool) -> Self {
        Self {
            state: State::Start,
            name: [0; MAX_NAME],
            name_len: 0,
            line: 0,
            first_line: true,
            request,
            kept: false,
            raw: Vec::new(),
        }
    }

    /// Fields without a first line.
    pub fn trailers() -> Self {
        Self { state: State::Name, first_line: false, ..Self::new(false) }
    }

    /// The byte to put in the place of the next one, and whether it ends the head. None: it is
    /// too long, or no head.
    pub fn byte(&mut self, b: u8) -> Option<(u8, bool)> {
        if self.raw.len() == MAX_HEAD {
            return None;
        }
        self.raw.push(b);
        if b == b'\n' {
            let empty = self.line == 0 && !self.first_line;
            if !empty && matches!(self.state, State::Start | State::Name) {
                return None;
            }
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
        self.inside(b).map(|b| (b, false))
    }

    fn inside(&mut self, b: u8) -> Option<u8> {
        match self.state {
            State::Start => {
                let fits = match self.request {
                    true if b == b' ' => {
                        self.state = State::Rest;
                        self.line > 1
                    }
                    true => b.is_ascii_uppercase() && self.line <= MAX_METHOD,
                    false => {
                        if self.line == VERSION.len() {
                            self.state = State::Rest;
                        }
                        VERSION.get(self.line - 1) == Some(&b)
                    }
                };
                return fits.then_some(b);
            }
            State::Rest if b == b'?' && self.request => self.query(),
            State::Rest => {}
            State::Query | State::QueryValue(_) if b == b' ' => self.state = State::Rest,
            State::Query | State::QueryValue(_) if b == b'&' => self.query(),
            State::Query if b == b'=' => {
                self.state = State::QueryValue(KEPT_QUERY.contains(&self.name()));
            }
            State::Query => self.push_name(b),
            State::Name if b == b':' => {
                self.kept = KEPT.contains(&self.name());
                self.state = State::Value(self.kept);
            }
            State::Name => {
                if !(b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
                    return None;
                }
                self.push_name(b.to_ascii_lowercase());
            }
            State::QueryValue(kept) | State::Value(kept) => {
                let plain = kept || matches!(b, b' ' | b'\t');
                return Some(if plain { b } else { FILLER });
            }
        }
        Some(b)
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

fn bare(name: &[u8]) -> &[u8] {
    let name = name.strip_prefix(b"?").unwrap_or(name);
    name.strip_suffix(b"=").unwrap_or(name)
}

/// Which bytes of a request's target are values of its query that go.
pub fn hidden(target: &[u8]) -> Vec<bool> {
    let query = memchr::memchr(b'?', target).unwrap_or(target.len());
    let mut hidden = vec![false; query];
    for parameter in target[query..].split_inclusive(|&b| b == b'&') {
        let name = memchr::memchr(b'=', parameter).map_or(parameter.len(), |at| at + 1);
        let (name, value) = parameter.split_at(name);
        let stays = KEPT_QUERY.contains(&bare(name));
        hidden.extend(name.iter().map(|_| false));
        hidden.extend(value.iter().map(|&b| !stays && b != b'&'));
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_stays() {
        let text = "POST /v1/x?alt=sse&key=s3cret HTTP/1.1\r\nHost: a:1\r\nAuthorization: Bearer k y\r\nX-Api-Key:abc\r\ncontent-length: 3\r\n\r\nbody";
        let expected = "POST /v1/x?alt=sse&key=xxxxxx HTTP/1.1\r\nHost: a:1\r\nAuthorization: xxxxxx x x\r\nX-Api-Key:xxx\r\ncontent-length: 3\r\n\r\n";
        let mut head = Head::new(true);
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
    #[test]
    fn what_is_no_head_ends_at_once() {
        let kept = |request: bool, text: &str| {
            let mut head = Head::new(request);
            text.bytes().take_while(|&b| head.byte(b).is_some()).count()
        };
        assert_eq!(kept(true, "Some words of a prompt"), 1);
        assert_eq!(kept(false, "Set-Cookie: a"), 0);
        assert_eq!(kept(false, "HTTP/2"), 5);
        assert_eq!(kept(true, "POST\n"), 4);
        assert_eq!(kept(true, "GET / HTTP/1.1\r\nno name\r\n"), 18);
        assert_eq!(kept(true, &format!("GET /{}", "a".repeat(MAX_HEAD))), MAX_HEAD);
    }
}
