//! Server-sent events. Line ends may be LF, CR or CRLF, and may be cut anywhere.
//!
//! An event that lies in one piece is handed out where it lies; only one that comes in several
//! pieces, or has several data lines, is copied.

use super::{MAX_EVENT, MAX_EVENT_NAME, buf};

/// Memory for a split event that is kept for the next one.
const KEEP: usize = 1024;

/// An event that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Empty if none was given; cut to `MAX_EVENT_NAME`.
    pub name: &'a [u8],
    pub data: &'a [u8],
    /// The event was longer than `MAX_EVENT`: `data` is its head.
    pub truncated: bool,
}

#[derive(Debug, Default)]
pub struct Decoder {
    /// Data of the event so far at `data.0..data.1`, then the line that is not complete.
    buf: Vec<u8>,
    data: (usize, usize),
    has_data: bool,
    name: Vec<u8>,
    /// The line that is not complete was too long.
    line_cut: bool,
    truncated: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    bom: Bom,
}

/// A byte order mark may precede the stream.
#[derive(Clone, Copy, Debug, Default)]
enum Bom {
    #[default]
    Start,
    One,
    Two,
    Over,
}

/// Data of the event so far, as long as no more than one line of it was seen in this piece.
#[derive(Clone, Copy, Default)]
struct Here<'a> {
    name: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        self.buf.capacity() + self.name.capacity()
    }

    #[inline]
    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Event<'_>)) {
        if !matches!(self.bom, Bom::Over) {
            bytes = self.skip_bom(bytes);
        }
        if bytes.is_empty() {
            return;
        }
        if self.after_cr {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        if self.has_line() {
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                return self.keep_line(bytes);
            };
            self.keep_line(&bytes[..end]);
            self.end_kept_line();
            bytes = self.after(bytes, end);
        }
        let mut here = Here::default();
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let line = &bytes[..end];
            bytes = self.after(bytes, end);
            if line.is_empty() {
                self.dispatch(&here, &mut on);
                here = Here::default();
            } else {
                self.line(line, &mut here);
            }
        }
        if let Some(name) = here.name {
            self.keep_name(name);
        }
        if let Some(line) = here.data {
            self.keep_data(line);
        }
        if !bytes.is_empty() {
            self.keep_line(bytes);
        }
    }

    /// The body is over: hands out an event whose last empty line did not come.
    pub fn finish(&mut self, mut on: impl FnMut(Event<'_>)) {
        if self.has_line() {
            self.end_kept_line();
        }
        self.dispatch(&Here::default(), &mut on);
    }

    /// What follows the line end at `end`.
    #[inline]
    fn after<'a>(&mut self, bytes: &'a [u8], end: usize) -> &'a [u8] {
        let rest = &bytes[end + 1..];
        if bytes[end] == b'\r' {
            match rest.split_first() {
                Some((b'\n', rest)) => return rest,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        rest
    }

    #[inline]
    fn dispatch(&mut self, here: &Here<'_>, on: &mut impl FnMut(Event<'_>)) {
        let name = here.name.unwrap_or(&self.name);
        let name = &name[..name.len().min(MAX_EVENT_NAME)];
        if let Some(line) = here.data {
            let (data, truncated) = cut(line);
            on(Event { name, data, truncated });
        } else if self.has_data {
            let data = &self.buf[self.data.0..self.data.1];
            on(Event { name, data, truncated: self.truncated });
            self.has_data = false;
            self.truncated = false;
            self.data = (0, 0);
            buf::clear(&mut self.buf, KEEP);
        }
        self.name.clear();
    }

    /// A line that lies in this piece.
    #[inline]
    fn line<'a>(&mut self, line: &'a [u8], here: &mut Here<'a>) {
        match field(line) {
            Field::Data if !self.has_data && here.data.is_none() => here.data = Some(line),
            Field::Data => {
                if let Some(first) = here.data.take() {
                    self.keep_data(first);
                }
                self.keep_data(line);
            }
            Field::Name(name) => here.name = Some(name),
            Field::Other => {}
        }
    }

    /// Whether a part of a line is in the buffer.
    #[inline]
    fn has_line(&self) -> bool {
        self.buf.len() > self.data.1 || self.line_cut
    }

    fn keep_name(&mut self, name: &[u8]) {
        self.name.clear();
        buf::append(&mut self.name, name, MAX_EVENT_NAME);
    }

    fn keep_data(&mut self, line: &[u8]) {
        self.keep_line(line);
        self.end_kept_line();
    }

    /// Appends to the line in the buffer.
    fn keep_line(&mut self, bytes: &[u8]) {
        // The limit must not depend on where the pieces were cut, and must leave room for a
        // field's name.
        let (start, end) = self.data;
        let max = end + MAX_EVENT.saturating_sub(end - start).max(8);
        if buf::append(&mut self.buf, bytes, max) < bytes.len() {
            self.line_cut = true;
        }
    }

    /// The line in the buffer is complete.
    fn end_kept_line(&mut self) {
        let (start, end) = self.data;
        let line = &self.buf[end..];
        let cut = std::mem::take(&mut self.line_cut);
        match field(line) {
            Field::Data => {
                let skip = line.len() - value(line).len();
                if self.has_data {
                    // Join: the separator takes the place of the field's name.
                    self.buf.drain(end..end + skip);
                    self.buf.insert(end, b'\n');
                    if self.buf.len() - start > MAX_EVENT {
                        self.buf.truncate(start + MAX_EVENT);
                        self.truncated = true;
                    }
                    self.data = (start, self.buf.len());
                } else {
                    self.data = (skip, self.buf.len());
                    self.has_data = true;
                }
                self.truncated |= cut;
            }
            Field::Name(name) => {
                let mut kept = std::mem::take(&mut self.name);
                kept.clear();
                buf::append(&mut kept, name, MAX_EVENT_NAME);
                self.name = kept;
                self.buf.truncate(end);
            }
            Field::Other => self.buf.truncate(end),
        }
    }

    #[cold]
    fn skip_bom<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let Some((&b, rest)) = bytes.split_first() {
            self.bom = match (self.bom, b) {
                (Bom::Start, 0xEF) => Bom::One,
                (Bom::One, 0xBB) => Bom::Two,
                (Bom::Two, 0xBF) => {
                    self.bom = Bom::Over;
                    return rest;
                }
                (seen, _) => {
                    self.bom = Bom::Over;
                    match seen {
                        Bom::One => self.keep_line(&[0xEF]),
                        Bom::Two => self.keep_line(&[0xEF, 0xBB]),
                        Bom::Start | Bom::Over => {}
                    }
                    return bytes;
                }
            };
            bytes = rest;
        }
        bytes
    }
}

enum Field<'a> {
    Data,
    Name(&'a [u8]),
    Other,
}

#[inline]
fn field(line: &[u8]) -> Field<'_> {
    if line.starts_with(b"data:") || line == b"data" {
        Field::Data
    } else if line.starts_with(b"event:") {
        Field::Name(value(line))
    } else {
        Field::Other
    }
}

/// What follows the colon and one space.
#[inline]
fn value(line: &[u8]) -> &[u8] {
    let colon = if line.starts_with(b"data") { 4 } else { 5 };
    match line.get(colon + 1..) {
        Some([b' ', rest @ ..]) => rest,
        Some(rest) => rest,
        None => &[],
    }
}

#[inline]
fn cut(line: &[u8]) -> (&[u8], bool) {
    if line.len() > MAX_EVENT { (value(&line[..MAX_EVENT]), true) } else { (value(line), false) }
}

#[cfg(test)]
mod tests;
