//! HTTP/2 (RFC 9113), one parser for each direction of a connection.
//!
//! What an onlooker need not know is passed over: settings, flow control, priorities. A loss inside
//! a frame costs that frame; one that may hold a frame's header costs the direction until a frame
//! can be told from anything else again.

pub mod frame;
mod head;
pub mod hpack;

use super::{MAX_HEAD, buf};
use frame::{Frame, HEADER, Kind, flag};
use hpack::Fields;

pub use frame::{PREFACE, Speaker, begins_frame, begins_with_settings, speaker};
pub use head::{grpc_status, request, response};

/// Longest header block that is accepted, in bytes.
pub const MAX_BLOCK: usize = MAX_HEAD;
/// Most streams of one connection that are followed at once.
pub const MAX_STREAMS: usize = 1024;

/// Why a direction could not be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum H2Error {
    #[error("not the client's preface")]
    BadPreface,
    #[error("malformed frame")]
    BadFrame,
}

/// What a parser reports, in the order of the bytes.
#[derive(Debug)]
pub enum Event<'e> {
    /// The first byte of a frame has come.
    Start,
    /// A header block is complete.
    Headers { stream: u32, fields: &'e Fields },
    /// A header block came that cannot be read: too long, malformed, or a part is missing. So are
    /// the fields that it has added to the table.
    BadHeaders { stream: u32 },
    /// Never empty.
    Data { stream: u32, bytes: &'e [u8] },
    /// Bytes of this stream's content are missing.
    Gap { stream: u32, len: u64 },
    /// The sender has no more for this stream.
    End { stream: u32 },
    /// The sender gives up this stream.
    Reset { stream: u32, code: u32 },
    /// Streams past `last` were and will be ignored by the sender.
    GoAway { last: u32 },
    /// The direction cannot be followed; the parser is lost.
    Error(H2Error),
    /// Bytes are missing where they were needed; the parser is lost.
    Lost,
}

/// Parses what one end sends.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// The frame header being read.
    head: [u8; HEADER],
    /// What is kept of the payload being read.
    payload: Vec<u8>,
    /// The header block being read, if it goes on in another frame.
    block: Option<Block>,
    hpack: hpack::Decoder,
    /// Bytes are missing in the payload being read.
    holed: bool,
    /// Bytes went by while nothing could be read.
    skipped: bool,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    /// Too long, or a part is missing.
    bad: bool,
    /// That of a pushed request, which only the table needs.
    pushed: bool,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// So many bytes of a frame header have come.
    Head(usize),
    /// So many bytes of the payload are to come.
    Payload(Frame, u32),
    /// Content, as far as it is not padding; then the padding. The padding's length is not known
    /// before its first byte.
    Data {
        frame: Frame,
        left: u32,
        padding: Option<u32>,
    },
    Lost,
}

impl Parser {
    /// Of a client, from its first byte.
    pub fn client() -> Self {
        Self::with(State::Preface(0), hpack::Decoder::default())
    }

    /// Of a server, from its first byte.
    pub fn server() -> Self {
        Self::with(State::Head(0), hpack::Decoder::default())
    }

    /// Of an end whose first bytes were not seen.
    pub fn joined() -> Self {
        Self::with(State::Lost, hpack::Decoder::joined())
    }

    fn with(state: State, hpack: hpack::Decoder) -> Self {
        let payload = Vec::new();
        Self { state, head: [0; HEADER], payload, block: None, hpack, holed: false, skipped: false }
    }

    /// After an error or a loss, until `resync`.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Whether the next byte begins a frame.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Head(0))
    }

    /// A frame begins at the next byte. What the header table holds is not known. Whether frames
    /// may have been missed since the loss was reported.
    pub fn resync(&mut self) -> bool {
        self.state = State::Head(0);
        self.block = None;
        std::mem::take(&mut self.skipped)
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.bytes.capacity());
        self.payload.capacity() + block + self.hpack.heap()
    }

    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Event<'_>)) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => {
                    self.skipped = true;
                    return;
                }
                State::Preface(seen) => {
                    let n = bytes.len().min(PREFACE.len() - *seen);
                    if bytes[..n] != PREFACE[*seen..*seen + n] {
                        return self.fail(H2Error::BadPreface, on);
                    }
                    *seen += n;
                    bytes = &bytes[n..];
                    if *seen == PREFACE.len() {
                        self.state = State::Head(0);
                    }
                }
                State::Head(seen) => {
                    if *seen == 0 {
                        on(Event::Start);
                    }
                    let n = bytes.len().min(HEADER - *seen);
                    self.head[*seen..*seen + n].copy_from_slice(&bytes[..n]);
                    *seen += n;
                    bytes = &bytes[n..];
                    if *seen == HEADER && !self.begin(&mut on) {
                        return;
                    }
                }
                State::Payload(frame, left) => {
                    let n = bytes.len().min(*left as usize);
                    let (now, later) = bytes.split_at(n);
                    *left -= n as u32;
                    bytes = later;
                    let kept = buf::append(&mut self.payload, now, most(frame.kind));
                    self.holed |= kept < n && frame.kind.has_fields();
                    let (frame, over) = (*frame, *left == 0);
                    if over && !self.end(frame, &mut on) {
                        return;
                    }
                }
                State::Data { frame, left, padding } => {
                    if padding.is_none() {
                        *padding = Some(u32::from(bytes[0]));
                        *left -= 1;
                        bytes = &bytes[1..];
                    }
                    let content = left.saturating_sub(padding.unwrap_or(0));
                    let n = bytes.len().min(content as usize);
                    if n > 0 {
                        on(Event::Data { stream: frame.stream, bytes: &bytes[..n] });
                    }
                    let n = bytes.len().min(*left as usize);
                    *left -= n as u32;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        self.end_data(&mut on);
                    }
                }
            }
        }
    }

    /// `len` bytes are missing here.
    pub fn gap(&mut self, len: u64, mut on: impl FnMut(Event<'_>)) {
        match &mut self.state {
            State::Lost => self.skipped = true,
            State::Payload(frame, left) if u64::from(*left) >= len => {
                *left -= len as u32;
                self.holed = true;
                let (frame, over) = (*frame, *left == 0);
                if over {
                    self.end(frame, &mut on);
                }
            }
            State::Data { frame, left, padding } if u64::from(*left) >= len => {
                *left -= len as u32;
                // If this was missed, some padding will be taken for content of a lost exchange.
                padding.get_or_insert(0);
                let (stream, over) = (frame.stream, *left == 0);
                on(Event::Gap { stream, len });
                if over {
                    self.end_data(&mut on);
                }
            }
            _ => {
                self.lose();
                on(Event::Lost);
            }
        }
    }

    /// Nothing is known of the bytes to come.
    pub fn lose(&mut self) {
        *self = Self::joined();
    }

    /// A frame header is complete. False: it is none.
    fn begin(&mut self, on: &mut impl FnMut(Event<'_>)) -> bool {
        let frame = Frame::parse(&self.head);
        let in_order = match &self.block {
            Some(block) => frame.kind == Kind::Continuation && frame.stream == block.stream,
            None => frame.kind != Kind::Continuation,
        };
        if !frame.is_valid() || !in_order {
            self.fail(H2Error::BadFrame, on);
            return false;
        }
        self.payload.clear();
        self.holed = false;
        self.state = match frame.kind {
            Kind::Data => {
                let padding = (!frame.has(flag::PADDED)).then_some(0);
                State::Data { frame, left: frame.len, padding }
            }
            _ => State::Payload(frame, frame.len),
        };
        match self.state {
            State::Payload(frame, 0) => self.end(frame, on),
            State::Data { left: 0, .. } => {
                self.end_data(on);
                true
            }
            _ => true,
        }
    }

    fn end_data(&mut self, on: &mut impl FnMut(Event<'_>)) {
        if let State::Data { frame, .. } = self.state
            && frame.has(flag::END_STREAM)
        {
            on(Event::End { stream: frame.stream });
        }
        self.state = State::Head(0);
    }

    /// The payload of a frame other than DATA is complete. False: the frame is none.
    fn end(&mut self, frame: Frame, on: &mut impl FnMut(Event<'_>)) -> bool {
        self.state = State::Head(0);
        let stream = frame.stream;
        match frame.kind {
            Kind::Headers | Kind::PushPromise => {
                let pushed = frame.kind == Kind::PushPromise;
                let fragment = fragment(frame, &self.payload);
                if fragment.is_none() && !self.holed {
                    self.fail(H2Error::BadFrame, on);
                    return false;
                }
                let block = Block {
                    stream,
                    ends_stream: !pushed && frame.has(flag::END_STREAM),
                    bytes: fragment.unwrap_or_default().to_vec(),
                    bad: self.holed,
                    pushed,
                };
                self.add_block(block, frame.has(flag::END_HEADERS), on);
            }
            Kind::Continuation => {
                if let Some(mut block) = self.block.take() {
                    let added = buf::append(&mut block.bytes, &self.payload, MAX_BLOCK);
                    block.bad |= self.holed || added < self.payload.len();
                    self.add_block(block, frame.has(flag::END_HEADERS), on);
                }
            }
            Kind::Reset => {
                // Without its code it is a reset all the same.
                let code = self.payload.first_chunk().map_or(u32::MAX, |b| u32::from_be_bytes(*b));
                on(Event::Reset { stream, code });
            }
            Kind::GoAway if !self.holed => {
                let last = self.payload.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                on(Event::GoAway { last: last & 0x7fff_ffff });
            }
            _ => {}
        }
        if self.payload.capacity() > 1024 {
            self.payload = Vec::new();
        }
        true
    }

    fn add_block(&mut self, block: Block, over: bool, on: &mut impl FnMut(Event<'_>)) {
        if !over {
            self.block = Some(block);
            return;
        }
        let Block { stream, ends_stream, bytes, bad, pushed } = block;
        let fields = if bad { None } else { self.hpack.decode(&bytes).ok() };
        match &fields {
            Some(fields) if !pushed => on(Event::Headers { stream, fields }),
            Some(_) => {}
            None => {
                self.hpack = hpack::Decoder::joined();
                on(Event::BadHeaders { stream });
            }
        }
        if ends_stream {
            on(Event::End { stream });
        }
    }

    #[cold]
    fn fail(&mut self, error: H2Error, mut on: impl FnMut(Event<'_>)) {
        self.lose();
        on(Event::Error(error));
    }
}

impl Kind {
    pub fn has_fields(self) -> bool {
        matches!(self, Self::Headers | Self::PushPromise | Self::Continuation)
    }
}

/// How much of a payload is kept.
fn most(kind: Kind) -> usize {
    match kind {
        kind if kind.has_fields() => MAX_BLOCK,
        Kind::Reset | Kind::GoAway => 8,
        _ => 0,
    }
}

/// The part of a header block that is in the payload of a HEADERS or PUSH_PROMISE frame.
pub fn fragment(frame: Frame, payload: &[u8]) -> Option<&[u8]> {
    let (padding, payload) = match frame.has(flag::PADDED) {
        true => payload.split_first().map(|(&n, rest)| (usize::from(n), rest))?,
        false => (0, payload),
    };
    let skip = match frame.kind {
        Kind::PushPromise => 4,
        _ if frame.has(flag::PRIORITY) => 5,
        _ => 0,
    };
    payload.get(skip..payload.len().checked_sub(padding)?)
}

#[cfg(test)]
mod tests;
