//! Newline-delimited JSON: one text a line.
//!
//! A line that lies in one piece is handed out where it lies; only one that comes in several is
//! copied.

use super::{MAX_EVENT, buf};

/// Memory for a split line that is kept for the next one.
const KEEP: usize = 1024;

/// A line that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub data: &'a [u8],
    /// The line was longer than `MAX_EVENT`: `data` is its head.
    pub truncated: bool,
}

#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    truncated: bool,
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
            if self.buf.is_empty() {
                let head = &line[..line.len().min(MAX_EVENT)];
                dispatch(head, head.len() < line.len(), &mut on);
            } else {
                self.keep(line);
                self.finish(&mut on);
            }
        }
        self.keep(bytes);
    }

    /// The body is over: hands out a line whose end did not come.
    pub fn finish(&mut self, mut on: impl FnMut(Line<'_>)) {
        dispatch(&self.buf, std::mem::take(&mut self.truncated), &mut on);
        buf::clear(&mut self.buf, KEEP);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.truncated |= buf::append(&mut self.buf, bytes, MAX_EVENT) < bytes.len();
    }
}

fn dispatch(line: &[u8], truncated: bool, on: &mut impl FnMut(Line<'_>)) {
    let data = line.trim_ascii();
    if !data.is_empty() {
        on(Line { data, truncated });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8], size: usize) -> Vec<(String, bool)> {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        let mut on = |line: Line<'_>| {
            seen.push((String::from_utf8_lossy(line.data).into_owned(), line.truncated));
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
    fn a_long_line_is_cut_and_the_next_is_whole() {
        let mut text = vec![b'x'; MAX_EVENT + 10];
        text.extend_from_slice(b"\n{}\n");
        for size in [1000, MAX_EVENT, text.len()] {
            let seen = lines(&text, size);
            assert_eq!((seen[0].0.len(), seen[0].1), (MAX_EVENT, true));
            assert_eq!(seen[1], ("{}".into(), false));
        }
        let mut decoder = Decoder::new();
        for _ in 0..1000 {
            decoder.push(&[b'y'; 4096], |_| panic!("no line"));
        }
        assert!(decoder.buffered() <= MAX_EVENT);
    }

    proptest! {
        #[test]
        fn any_split(text in "[ab \r\n]{0,60}", size in 1usize..9) {
            prop_assert_eq!(lines(text.as_bytes(), size), lines(text.as_bytes(), text.len()));
        }
    }
}
