//! Server-sent events. Line ends may be LF, CR or CRLF, and may be cut anywhere.
//!
//! An event that lies in one piece is handed out where it lies; only one that comes in several
//! pieces, or has several data lines, is copied. One that is longer than `MAX_EVENT` is handed out
//! as it comes.

use super::{MAX_EVENT, MAX_EVENT_NAME, Part, buf};

/// Memory for a split event that is kept for the next one.
const KEEP: usize = 1024;

/// An event that has data, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Empty if none was given; cut to `MAX_EVENT_NAME`. Of an event in parts, the end has it.
    pub name: &'a [u8],
    pub data: &'a [u8],
    pub part: Part,
}

/// Most bytes that say which field a line is, with the space that may stand before its value.
const MAX_FIELD: usize = 8;
/// Bytes that say that a line is one of data.
const DATA: usize = b"data: ".len();

#[derive(Debug, Default)]
pub struct Decoder {
    /// Data of the event so far at `data.0..data.1`, then the line that is not complete.
    buf: Vec<u8>,
    data: (usize, usize),
    has_data: bool,
    name: Vec<u8>,
    /// The line that is not complete was too long.
    line_cut: bool,
    /// The event is longer than `MAX_EVENT`: the buffer holds nothing of its data.
    long: bool,
    /// The line that is not complete is one of data, and is handed out as it comes.
    flows: bool,
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
            bytes = self.skip_bom(bytes, &mut on);
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
                return self.keep_line(bytes, &mut on);
            };
            self.keep_line(&bytes[..end], &mut on);
            self.end_kept_line(&mut on);
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
                self.line(line, &mut here, &mut on);
            }
        }
        if let Some(name) = here.name {
            self.keep_name(name);
        }
        if let Some(line) = here.data {
            self.keep_data(line, &mut on);
        }
        if !bytes.is_empty() {
            self.keep_line(bytes, &mut on);
        }
    }

    /// The body is over: hands out an event whose last empty line did not come.
    pub fn finish(&mut self, mut on: impl FnMut(Event<'_>)) {
        if self.has_line() {
            self.end_kept_line(&mut on);
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
            let data = value(line);
            if line.len() <= MAX_EVENT {
                on(Event { name, data, part: Part::Whole });
            } else {
                on(Event { name: b"", data, part: Part::Begin });
                on(Event { name, data: b"", part: Part::End });
            }
        } else if self.has_data {
            let data = &self.buf[self.data.0..self.data.1];
            let part = if self.long { Part::End } else { Part::Whole };
            on(Event { name, data, part });
            self.has_data = false;
            self.long = false;
            self.data = (0, 0);
            buf::clear(&mut self.buf, KEEP);
        }
        self.name.clear();
    }

    /// A line that lies in this piece.
    #[inline]
    fn line<'a>(&mut self, line: &'a [u8], here: &mut Here<'a>, on: &mut impl FnMut(Event<'_>)) {
        match field(line) {
            Field::Data if !self.has_data && here.data.is_none() => here.data = Some(line),
            Field::Data => {
                if let Some(first) = here.data.take() {
                    self.keep_data(first, on);
                }
                self.keep_data(line, on);
            }
            Field::Name(name) => here.name = Some(name),
            Field::Other => {}
        }
    }

    /// Whether a part of a line is in the buffer.
    #[inline]
    fn has_line(&self) -> bool {
        self.buf.len() > self.data.1 || self.line_cut || self.flows
    }

    fn keep_name(&mut self, name: &[u8]) {
        self.name.clear();
        buf::append(&mut self.name, name, MAX_EVENT_NAME);
    }

    fn keep_data(&mut self, line: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        self.keep_line(line, on);
        self.end_kept_line(on);
    }

    /// Appends to the line in the buffer.
    fn keep_line(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        if self.flows {
            return more(bytes, on);
        }
        // The limit must not depend on where the pieces were cut, and must leave room for the name
        // of an event.
        let (start, end) = self.data;
        let room = MAX_EVENT_NAME + MAX_FIELD;
        let max = match self.long {
            true => room,
            false => end + MAX_EVENT.saturating_sub(end - start).max(room),
        };
        let kept = buf::append(&mut self.buf, bytes, max);
        let line = &self.buf[end..];
        let known = kept < bytes.len() || self.long && line.len() >= DATA;
        if known && matches!(field(line), Field::Data) {
            self.hand_out_line(on);
            self.flows = true;
            more(&bytes[kept..], on);
        } else if kept < bytes.len() {
            self.line_cut = true;
        }
    }

    /// Hands out the data that are in the buffer, those of the line at its end too.
    #[cold]
    fn hand_out_line(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let (start, end) = self.data;
        if self.has_data {
            if !self.long {
                on(Event { name: b"", data: &self.buf[start..end], part: Part::Begin });
            }
            more(b"\n", on);
            more(value(&self.buf[end..]), on);
        } else {
            on(Event { name: b"", data: value(&self.buf[end..]), part: Part::Begin });
        }
        (self.has_data, self.long, self.data) = (true, true, (0, 0));
        buf::clear(&mut self.buf, KEEP);
    }

    /// The line in the buffer is complete.
    fn end_kept_line(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        if std::mem::take(&mut self.flows) {
            return;
        }
        let (start, end) = self.data;
        let line = &self.buf[end..];
        self.line_cut = false;
        match field(line) {
            Field::Data if self.long => self.hand_out_line(on),
            Field::Data => {
                let skip = line.len() - value(line).len();
                if self.has_data {
                    // Join: the separator takes the place of the field's name.
                    if self.buf.len() - start > MAX_EVENT {
                        return self.hand_out_line(on);
                    }
                    self.buf.drain(end..end + skip);
                    self.buf.insert(end, b'\n');
                    self.data = (start, self.buf.len());
                } else {
                    self.data = (skip, self.buf.len());
                    self.has_data = true;
                }
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
    fn skip_bom<'a>(&mut self, mut bytes: &'a [u8], on: &mut dyn FnMut(Event<'_>)) -> &'a [u8] {
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
                        Bom::One => self.keep_line(&[0xEF], on),
                        Bom::Two => self.keep_line(&[0xEF, 0xBB], on),
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

/// Hands out more of a long event.
fn more(data: &[u8], on: &mut dyn FnMut(Event<'_>)) {
    if !data.is_empty() {
        on(Event { name: b"", data, part: Part::More });
    }
}

#[cfg(test)]
mod tests;
