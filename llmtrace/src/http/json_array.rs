//! A JSON array that is streamed: each element is handed out as soon as its last byte came.
//!
//! Nothing is held beyond one element, and one that is longer than `MAX_EVENT` is handed out as it
//! comes. A text that is no array is handed out as the one element.

use super::{MAX_EVENT, Part, buf};

/// Memory for a split element that is kept for the next one.
const KEEP: usize = 1024;

/// An object or array that is an element, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    pub data: &'a [u8],
    pub part: Part,
}

#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Open brackets inside the element.
    depth: u64,
    /// The element so far, if it did not begin in this piece.
    buf: Vec<u8>,
    /// The element is longer than `MAX_EVENT`: the buffer holds nothing of it.
    long: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the array.
    #[default]
    Start,
    Between,
    /// In a string that is itself an element; not handed out.
    Text {
        escaped: bool,
    },
    Element,
    /// In a string inside an element.
    String {
        escaped: bool,
    },
    /// After the array.
    Over,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.buf.capacity()
    }

    /// The array's closing bracket came.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub fn push(&mut self, bytes: &[u8], mut on: impl FnMut(Element<'_>)) {
        // Where the element at hand begins in this piece.
        let mut start = 0;
        let mut at = 0;
        while let Some(&b) = bytes.get(at) {
            at += 1;
            match self.state {
                State::Over => return,
                State::Start => match b {
                    b'[' => self.state = State::Between,
                    b'{' => (self.state, self.depth, start) = (State::Element, 1, at - 1),
                    // A byte order mark, white space.
                    _ => {}
                },
                State::Between => match b {
                    b'{' | b'[' => (self.state, self.depth, start) = (State::Element, 1, at - 1),
                    b'"' => self.state = State::Text { escaped: false },
                    b']' => self.state = State::Over,
                    _ => {}
                },
                State::Text { escaped: true } => self.state = State::Text { escaped: false },
                State::Text { escaped: false } => match b {
                    b'"' => self.state = State::Between,
                    b'\\' => self.state = State::Text { escaped: true },
                    _ => {}
                },
                State::Element | State::String { .. } => {
                    at = self.inside(bytes, at - 1);
                    if self.depth == 0 {
                        self.dispatch(&bytes[start..at], &mut on);
                    }
                }
            }
        }
        if matches!(self.state, State::Element | State::String { .. }) {
            self.keep(&bytes[start..], &mut on);
        }
    }

    /// Goes on at `at` in an element, up to its end or that of the piece.
    fn inside(&mut self, bytes: &[u8], mut at: usize) -> usize {
        if self.state == (State::String { escaped: true }) {
            self.state = State::String { escaped: false };
            at += 1;
        }
        while at < bytes.len() {
            if self.state == State::Element {
                let rest = &bytes[at..];
                let Some(i) =
                    rest.iter().position(|b| matches!(b, b'"' | b'[' | b']' | b'{' | b'}'))
                else {
                    break;
                };
                at += i + 1;
                match rest[i] {
                    b'"' => self.state = State::String { escaped: false },
                    b'{' | b'[' => self.depth += 1,
                    _ => {
                        self.depth -= 1;
                        if self.depth == 0 {
                            self.state = State::Between;
                            return at;
                        }
                    }
                }
            } else {
                // Most strings are short.
                let rest = &bytes[at..];
                let near = rest.iter().take(16).position(|b| matches!(b, b'"' | b'\\'));
                let Some(i) = near.or_else(|| memchr::memchr2(b'"', b'\\', rest)) else { break };
                at += i + 1;
                if rest[i] == b'"' {
                    self.state = State::Element;
                } else if at < bytes.len() {
                    at += 1;
                } else {
                    self.state = State::String { escaped: true };
                }
            }
        }
        bytes.len()
    }

    /// The body is over: hands out what there is of an element that is not complete.
    pub fn finish(&mut self, mut on: impl FnMut(Element<'_>)) {
        if matches!(self.state, State::Element | State::String { .. }) {
            self.state = State::Between;
            self.dispatch(&[], &mut on);
        }
    }

    fn keep(&mut self, bytes: &[u8], on: &mut impl FnMut(Element<'_>)) {
        let kept = if self.long { 0 } else { buf::append(&mut self.buf, bytes, MAX_EVENT) };
        let rest = &bytes[kept..];
        if rest.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.long, true) {
            on(Element { data: &self.buf, part: Part::Begin });
            buf::clear(&mut self.buf, KEEP);
        }
        on(Element { data: rest, part: Part::More });
    }

    fn dispatch(&mut self, rest: &[u8], on: &mut impl FnMut(Element<'_>)) {
        if self.buf.is_empty() && !self.long && rest.len() <= MAX_EVENT {
            return on(Element { data: rest, part: Part::Whole });
        }
        self.keep(rest, on);
        if std::mem::take(&mut self.long) {
            return on(Element { data: b"", part: Part::End });
        }
        on(Element { data: &self.buf, part: Part::Whole });
        buf::clear(&mut self.buf, KEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The elements and whether each came in parts; whether the array came to its end.
    fn elements(bytes: &[u8], size: usize) -> (Vec<(String, bool)>, bool) {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::<(String, bool)>::new());
        let mut on = |element: Element<'_>| {
            let text = String::from_utf8_lossy(element.data);
            match element.part {
                Part::Whole | Part::Begin => {
                    seen.push((text.into(), element.part == Part::Begin));
                }
                Part::More | Part::End => seen.last_mut().unwrap().0.push_str(&text),
            }
        };
        bytes.chunks(size.max(1)).for_each(|piece| decoder.push(piece, &mut on));
        decoder.finish(&mut on);
        assert!(decoder.buffered() <= KEEP);
        (seen, decoder.is_over())
    }

    #[test]
    fn pretty_printed() {
        let text =
            b"[{\n  \"a\": [\"]}\", \"\\\"\"]\n}\n,\r\n{\"b\": {}}\n, \"x]\\\"\", 3, [[1]]\n]\n";
        for size in 1..text.len() {
            let (seen, over) = elements(text, size);
            let seen: Vec<_> = seen.into_iter().map(|element| element.0).collect();
            assert_eq!(seen, ["{\n  \"a\": [\"]}\", \"\\\"\"]\n}", "{\"b\": {}}", "[[1]]"]);
            assert!(over);
        }
    }

    #[test]
    fn what_is_no_array_or_not_whole() {
        assert_eq!(elements(b" {\"error\":{}} ", 3).0, [("{\"error\":{}}".into(), false)]);
        assert_eq!(elements(b"[{\"a\":1", 2), (vec![("{\"a\":1".into(), false)], false));
        assert_eq!(elements(b"[]", 1), (vec![], true));
    }

    #[test]
    fn a_long_element_is_handed_out_as_it_comes() {
        let mut text = b"[{\"a\":\"".to_vec();
        text.resize(MAX_EVENT + 100, b'x');
        text.extend_from_slice(b"\"},{}]");
        for size in [1000, MAX_EVENT, text.len()] {
            let (seen, over) = elements(&text, size);
            assert_eq!((seen[0].0.len(), seen[0].1), (MAX_EVENT + 101, true));
            assert_eq!((&seen[1], over), (&("{}".into(), false), true));
        }
    }

    proptest! {
        #[test]
        fn any_split(text in "[\\[\\]{}\",\\\\a ]{0,60}", size in 1usize..9) {
            prop_assert_eq!(elements(text.as_bytes(), size), elements(text.as_bytes(), text.len()));
        }
    }
}
