//! Newline-delimited JSON: one text a line.
//!
//! A line that lies in one piece is handed out where it lies; only one that comes in several is
//! copied. One that is longer than `MAX_EVENT` is handed out as it comes.

use super::{MAX_EVENT, Part, buf};

/// Memory for a split line that is kept for the next one.
const KEEP: usize = 1024;

/// A line that is not blank, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub data: &'a [u8],
    pub part: Part,
}

#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    /// The line is longer than `MAX_EVENT`: the buffer holds nothing of it.
    long: bool,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.buf.capacity()
    }

    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Line<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.buf.is_empty() && !self.long && line.len() <= MAX_EVENT {
                dispatch(line, &mut on);
            } else {
                self.keep(line, &mut on);
                self.finish(&mut on);
            }
        }
        self.keep(bytes, &mut on);
    }

    /// The body is over: hands out a line whose end did not come.
    pub fn finish(&mut self, mut on: impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.long) {
            on(Line { data: b"", part: Part::End });
        } else {
            dispatch(&self.buf, &mut on);
        }
        buf::clear(&mut self.buf, KEEP);
    }

    fn keep(&mut self, bytes: &[u8], on: &mut impl FnMut(Line<'_>)) {
        if self.long {
            return more(bytes, on);
        }
        // White space before a text is no part of it, however much there is.
        let bytes = if self.buf.is_empty() { bytes.trim_ascii_start() } else { bytes };
        let kept = buf::append(&mut self.buf, bytes, MAX_EVENT);
        if kept < bytes.len() {
            on(Line { data: &self.buf, part: Part::Begin });
            more(&bytes[kept..], on);
            self.long = true;
            buf::clear(&mut self.buf, KEEP);
        }
    }
}

fn dispatch(line: &[u8], on: &mut impl FnMut(Line<'_>)) {
    let data = line.trim_ascii();
    if !data.is_empty() {
        on(Line { data, part: Part::Whole });
    }
}

fn more(data: &[u8], on: &mut impl FnMut(Line<'_>)) {
    if !data.is_empty() {
        on(Line { data, part: Part::More });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines, and whether each came in parts.
    fn lines(bytes: &[u8], size: usize) -> Vec<(String, bool)> {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::<(String, bool)>::new());
        let mut on = |line: Line<'_>| match line.part {
            Part::Whole | Part::Begin => {
                seen.push((String::from_utf8_lossy(line.data).into(), line.part == Part::Begin));
            }
            Part::More | Part::End => {
                seen.last_mut().unwrap().0.push_str(&String::from_utf8_lossy(line.data));
            }
        };
        bytes.chunks(size.max(1)).for_each(|piece| decoder.push(piece, &mut on));
        decoder.finish(&mut on);
        assert!(decoder.buffered() <= KEEP);
        seen
    }

    #[test]
    fn any_line_end() {
        let text = b"{\"a\":1}\n\r\n{\"b\":2}\r\n\n  {\"c\":3} ";
        for size in 1..text.len() {
            let seen: Vec<_> = lines(text, size).into_iter().map(|line| line.0).collect();
            assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
        }
    }

    #[test]
    fn a_long_line_is_handed_out_as_it_comes() {
        let mut text = vec![b'x'; MAX_EVENT + 10];
        text.extend_from_slice(b"\n{}\n");
        for size in [1000, MAX_EVENT, text.len()] {
            let seen = lines(&text, size);
            assert_eq!((seen[0].0.len(), seen[0].1), (MAX_EVENT + 10, true));
            assert_eq!(seen[1], ("{}".into(), false));
        }
        let mut decoder = Decoder::new();
        let mut n = 0;
        for _ in 0..1000 {
            decoder.push(&[b'y'; 4096], |line| n += line.data.len());
            assert!(decoder.buffered() <= MAX_EVENT);
        }
        assert_eq!(n, 4_096_000);
        // Blank lines are none, long or not.
        assert_eq!(lines(&[b' '; MAX_EVENT + 10], 1000), []);
    }

    proptest! {
        #[test]
        fn any_split(text in "[ab \r\n]{0,60}", size in 1usize..9) {
            prop_assert_eq!(lines(text.as_bytes(), size), lines(text.as_bytes(), text.len()));
        }
    }
}
