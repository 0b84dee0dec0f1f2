//! The tables of header fields. Of all fields only a few matter here, so the others keep their
//! place and nothing else.
//!
//! A legal reference counts from the newest entry and never reaches an evicted one. So entries are
//! found by position alone, and sizes (and SETTINGS_HEADER_TABLE_SIZE, which only allows what a
//! size update in the block then announces) merely bound the memory. That also makes a table useful
//! whose beginning was missed: what was inserted since is known, what lies before it is not.

use std::collections::VecDeque;

/// Most bytes of a table, as HPACK counts them; older entries are unknown.
pub const MAX_TABLE: usize = 64 * 1024;
/// What a table holds until an update says otherwise.
const DEFAULT_TABLE: usize = 4096;
/// What HPACK counts for an entry besides its text.
const OVERHEAD: usize = 32;

/// The fields that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Authority,
    Method,
    Path,
    Status,
    ContentEncoding,
    ContentType,
    GrpcStatus,
    Traceparent,
    Tracestate,
    UserAgent,
    /// Known, and of no interest.
    Other,
    /// In the part of the table that was missed.
    Unknown,
}

/// How many of them are kept.
pub const KEPT: usize = Name::Other as usize;

impl Name {
    pub fn of(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":status" => Self::Status,
            b"content-encoding" => Self::ContentEncoding,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            b"traceparent" => Self::Traceparent,
            b"tracestate" => Self::Tracestate,
            b"user-agent" => Self::UserAgent,
            _ => Self::Other,
        }
    }

    pub fn is_kept(self) -> bool {
        (self as usize) < KEPT
    }
}

/// RFC 7541, appendix A: what matters of it.
pub const STATIC: usize = 61;

fn fixed(index: usize) -> (Name, &'static [u8]) {
    match index {
        1 => (Name::Authority, b""),
        2 => (Name::Method, b"GET"),
        3 => (Name::Method, b"POST"),
        4 => (Name::Path, b"/"),
        5 => (Name::Path, b"/index.html"),
        8 => (Name::Status, b"200"),
        9 => (Name::Status, b"204"),
        10 => (Name::Status, b"206"),
        11 => (Name::Status, b"304"),
        12 => (Name::Status, b"400"),
        13 => (Name::Status, b"404"),
        14 => (Name::Status, b"500"),
        26 => (Name::ContentEncoding, b""),
        31 => (Name::ContentType, b""),
        58 => (Name::UserAgent, b""),
        _ => (Name::Other, b""),
    }
}

#[derive(Debug)]
struct Entry {
    name: Name,
    value: Box<[u8]>,
    size: u32,
}

#[derive(Debug)]
pub struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// There may be entries before these.
    missed: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: DEFAULT_TABLE, missed: false }
    }
}

impl Table {
    /// One whose entries so far are not known.
    pub fn missed() -> Self {
        Self { max: MAX_TABLE, missed: true, ..Self::default() }
    }

    /// None: there is no such entry.
    pub fn get(&self, index: usize) -> Option<(Name, &[u8])> {
        match index {
            0 => None,
            1..=STATIC => Some(fixed(index)),
            _ => match self.entries.get(index - STATIC - 1) {
                Some(entry) => Some((entry.name, &entry.value)),
                None => self.missed.then_some((Name::Unknown, b"")),
            },
        }
    }

    /// `len` is that of the name, or less: what is counted must not be more than the encoder counts,
    /// or an entry would be let go that it still refers to.
    pub fn insert(&mut self, name: Name, len: usize, value: &[u8]) {
        let size = OVERHEAD.saturating_add(len).saturating_add(value.len());
        if size > self.max {
            self.missed |= self.max == MAX_TABLE;
            self.evict(0);
            return;
        }
        self.evict(self.max - size);
        self.size += size;
        let value = if name.is_kept() { value.into() } else { Box::default() };
        self.entries.push_front(Entry { name, value, size: size as u32 });
    }

    /// A size update.
    pub fn resize(&mut self, max: usize) {
        self.missed |= max > MAX_TABLE;
        self.max = max.min(MAX_TABLE);
        self.evict(self.max);
    }

    fn evict(&mut self, down_to: usize) {
        while self.size > down_to
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size as usize;
        }
    }

    /// Heap bytes held.
    pub fn heap(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.size
    }
}
