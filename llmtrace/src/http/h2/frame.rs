//! Frame headers (RFC 9113, section 4.1), and where in a stream of bytes a frame may begin.

/// Bytes of a frame header.
pub const HEADER: usize = 9;
/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest frame that is believed in where a frame may or may not begin. Servers send up to 16 KiB
/// unless asked for more.
const MAX_PLAUSIBLE: u32 = 64 * 1024;
/// Most settings in a frame that is believed in: the registry has about a dozen.
const MAX_SETTINGS: u32 = 32;

pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// An extension's; to be ignored.
    Other,
}

#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub kind: Kind,
    pub flags: u8,
    pub stream: u32,
    pub len: u32,
}

impl Frame {
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let &[a, b, c, kind, flags, stream @ ..] = bytes;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::Reset,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Other,
        };
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Self { kind, flags, stream, len: u32::from_be_bytes([0, a, b, c]) }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the lengths and streams are those that the kind must have.
    pub fn is_valid(&self) -> bool {
        let (on_stream, len) = (self.stream != 0, self.len);
        match self.kind {
            Kind::Data | Kind::Headers | Kind::Continuation => on_stream,
            Kind::PushPromise => on_stream && len >= 4,
            Kind::Priority => on_stream && len == 5,
            Kind::Reset => on_stream && len == 4,
            Kind::Settings => !on_stream && len.is_multiple_of(6),
            Kind::Ping => !on_stream && len == 8,
            Kind::GoAway => !on_stream && len >= 8,
            Kind::WindowUpdate => len == 4,
            Kind::Other => true,
        }
    }

    /// Whether it also is what real ends send.
    fn is_plausible(&self) -> bool {
        let flags = match self.kind {
            Kind::Data => flag::END_STREAM | flag::PADDED,
            Kind::Headers => flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            Kind::Settings | Kind::Ping => flag::ACK,
            Kind::Continuation => flag::END_HEADERS,
            Kind::Priority | Kind::Reset | Kind::GoAway | Kind::WindowUpdate => 0,
            // Hardly anybody pushes, and an unknown kind looks like anything.
            Kind::PushPromise | Kind::Other => return false,
        };
        let settings = self.kind != Kind::Settings
            || self.len <= 6 * MAX_SETTINGS && !(self.has(flag::ACK) && self.len > 0);
        self.is_valid()
            && self.flags & !flags == 0
            && self.len <= MAX_PLAUSIBLE
            && (self.stream == 0 || self.stream % 2 == 1)
            && settings
    }
}

/// The frames that lie in `bytes` if one begins there: their headers, and what is there of their
/// payloads.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (Frame, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<HEADER>()?;
        let frame = Frame::parse(head);
        let (payload, rest) = rest.split_at(rest.len().min(frame.len as usize));
        bytes = rest;
        Some((frame, payload))
    })
}

/// Whether a frame begins here, as far as can be told: several plausible ones in a row, or one that
/// ends exactly where a call's bytes do.
pub fn begins_frame(bytes: &[u8]) -> bool {
    let (mut whole, mut used) = (0, 0);
    for (frame, payload) in frames(bytes) {
        if !frame.is_plausible() {
            return false;
        }
        used += HEADER + payload.len();
        whole += u32::from(payload.len() == frame.len as usize);
        if payload.len() < frame.len as usize {
            return whole >= 3;
        }
    }
    whole >= 3 || whole > 0 && used == bytes.len()
}

/// Whether these are the first bytes of an end that speaks first: its settings. None: too few.
pub fn begins_with_settings(bytes: &[u8]) -> Option<bool> {
    let mut head = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let n = bytes.len().min(HEADER);
    // The length's low byte is its own; everything else is fixed.
    if n >= 3 {
        head[2] = bytes[2];
    }
    if bytes[..n] != head[..n] || u32::from(head[2]) > 6 * MAX_SETTINGS || head[2] % 6 != 0 {
        return Some(false);
    }
    (n == HEADER).then_some(true)
}

/// Who sends a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Client,
    Server,
}

/// Who speaks, if one of the frames in `bytes` begins a header block: the first field of a request
/// and that of a response differ, and usually come from the static table.
pub fn speaker(bytes: &[u8]) -> Option<Speaker> {
    frames(bytes).filter(|(frame, _)| frame.kind == Kind::Headers).find_map(|(frame, payload)| {
        let padded = usize::from(frame.has(flag::PADDED));
        let priority = if frame.has(flag::PRIORITY) { 5 } else { 0 };
        let mut block = payload.get(padded + priority..)?;
        // Size updates come first.
        while block.first()? & 0xe0 == 0x20 {
            super::hpack::integer(&mut block, 5).ok()?;
        }
        let field = *block.first()?;
        let index = match field {
            0x80.. => field & 0x7f,
            0x40.. => field & 0x3f,
            _ => field & 0x0f,
        };
        match index {
            1..=7 => Some(Speaker::Client),
            8..=14 => Some(Speaker::Server),
            _ => None,
        }
    })
}
