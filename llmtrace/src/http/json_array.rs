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
    #[inline]
    fn inside(&mut self, bytes: &[u8], mut at: usize) -> usize {
        if let State::String { escaped } = self.state {
            match string_end(bytes, at + usize::from(escaped)) {
                Ok(end) => at = end,
                Err(escaped) => {
                    self.state = State::String { escaped };
                    return bytes.len();
                }
            }
        }
        self.state = State::Element;
        let mut depth = self.depth;
        while let Some(&b) = bytes.get(at) {
            at += 1;
            match b {
                b'"' => match string_end(bytes, at) {
                    Ok(end) => at = end,
                    Err(escaped) => {
                        self.state = State::String { escaped };
                        at = bytes.len();
                    }
                },
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.state = State::Between;
                        break;
                    }
                }
                _ => {}
            }
        }
        self.depth = depth;
        at
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

/// Behind the quote that ends a string of which the next byte is at `at`. The piece is over before it:
/// whether its last byte escapes the next one.
#[inline]
fn string_end(bytes: &[u8], mut at: usize) -> Result<usize, bool> {
    while let Some(i) = bytes.get(at..).and_then(quote_or_escape) {
        at += i + 1;
        if bytes[at - 1] == b'"' {
            return Ok(at);
        }
        if at == bytes.len() {
            return Err(true);
        }
        at += 1;
    }
    Err(false)
}

/// Most strings are short: so many bytes are looked at eight at a time before it is worth to call upon
/// a search that is faster once it runs.
const NEAR: usize = 64;

/// Where the first quote or backslash is.
#[inline]
fn quote_or_escape(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk() {
        if at == NEAR {
            return memchr::memchr2(b'"', b'\\', &bytes[at..]).map(|i| at + i);
        }
        let word = u64::from_le_bytes(*eight);
        // The lowest bit that is set is that of the first byte which is zero.
        let zero = |x: u64| x.wrapping_sub(ONES) & !x & (ONES << 7);
        let found = zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    bytes[at..].iter().position(|b| matches!(b, b'"' | b'\\')).map(|i| at + i)
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

    #[test]
    fn the_first_quote_or_escape() {
        for len in 0..150 {
            let plain = vec![b'a'; len];
            assert_eq!(quote_or_escape(&plain), None);
            for at in 0..len {
                for (first, other) in [(b'"', b'\\'), (b'\\', b'"')] {
                    let mut text = plain.clone();
                    // Neighbours of what is looked for, and bytes of other letters.
                    text[len - 1] = other;
                    text[at] = first;
                    assert_eq!(quote_or_escape(&text), Some(at));
                    text[..at].fill(first ^ 1);
                    assert_eq!(quote_or_escape(&text), Some(at));
                    text[..at].fill(first | 0x80);
                    assert_eq!(quote_or_escape(&text), Some(at));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_split(text in "[\\[\\]{}\",\\\\a ]{0,60}", size in 1usize..9) {
            prop_assert_eq!(elements(text.as_bytes(), size), elements(text.as_bytes(), text.len()));
        }
    }
}
