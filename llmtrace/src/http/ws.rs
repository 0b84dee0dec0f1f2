//! WebSocket messages (RFC 6455), with permessage-deflate (RFC 7692): one parser for each direction.
//!
//! A message is handed on in pieces as it comes, so its size costs nothing.

use super::encoding::{CodingError, Inflate};

/// Most bytes that one compressed message may become.
pub const MAX_MESSAGE: u64 = 64 * 1024 * 1024;
/// Longest frame header: two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;
/// What a sender leaves away at the end of a compressed message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// What both ends agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    pub deflate: bool,
    /// The client, or the server, starts each message with an empty window.
    pub client_resets: bool,
    pub server_resets: bool,
}

impl Extensions {
    /// From the server's `Sec-WebSocket-Extensions`. None: another extension may change anything.
    pub fn parse(value: Option<&str>) -> Option<Self> {
        let mut agreed = Self::default();
        for extension in value.unwrap_or("").split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let mut parts = extension.split(';').map(str::trim);
            if parts.next() != Some("permessage-deflate") || agreed.deflate {
                return None;
            }
            agreed.deflate = true;
            for part in parts {
                agreed.client_resets |= part == "client_no_context_takeover";
                agreed.server_resets |= part == "server_no_context_takeover";
            }
        }
        Some(agreed)
    }
}

/// What a parser reports, in the order of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'e> {
    /// The first byte of a message (not of a control frame) has come.
    Start { text: bool },
    /// Content, never empty.
    Data(&'e [u8]),
    /// The message is complete.
    End,
    /// The sender will send no more; with its status code if it gave one.
    Close(Option<u16>),
    /// The direction cannot be followed; the parser is lost.
    Error(WsError),
    /// Bytes are missing where they were needed; the parser is lost.
    Lost,
    /// Bytes of this message are missing; the next one is whole again.
    Gap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WsError {
    #[error("malformed WebSocket frame")]
    BadFrame,
    #[error("WebSocket message cannot be decompressed")]
    BadCoding,
    #[error("WebSocket message grows past every bound")]
    Bomb,
}

#[derive(Debug)]
pub struct Parser {
    state: State,
    head: [u8; MAX_HEADER],
    have: usize,
    /// The message under way.
    message: Option<Message>,
    deflate: Option<Deflate>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    compressed: bool,
    /// Bytes that decompression made of it.
    out: u64,
    /// A part is missing.
    holed: bool,
    /// The compressed data said that it is over.
    over: bool,
}

struct Deflate {
    inflate: Option<Box<Inflate>>,
    /// The sender starts each message with an empty window.
    resets: bool,
    /// Part of the window is missing: nothing can be read before it is empty.
    spoilt: bool,
}

impl std::fmt::Debug for Deflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflate").field("resets", &self.resets).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Payload(Frame),
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    fin: bool,
    left: u64,
    mask: [u8; 4],
    /// Bytes of the payload so far.
    at: u64,
    /// A close frame's code, as far as it has come.
    code: [u8; 2],
}

mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PONG: u8 = 10;
}

impl Parser {
    pub fn new(deflate: bool, resets: bool) -> Self {
        Self {
            state: State::Head,
            head: [0; MAX_HEADER],
            have: 0,
            message: None,
            deflate: deflate.then_some(Deflate { inflate: None, resets, spoilt: false }),
        }
    }

    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    pub fn push(&mut self, mut bytes: &[u8], mut on: impl FnMut(Event<'_>)) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return,
                State::Head => {
                    self.head[self.have] = bytes[0];
                    self.have += 1;
                    bytes = &bytes[1..];
                    if self.have == 1 && !self.begin(&mut on) {
                        return;
                    }
                    if self.have == header_len(&self.head[..self.have]) && !self.payload(&mut on) {
                        return;
                    }
                }
                State::Payload(frame) => {
                    let n = usize::try_from(frame.left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    let (now, later) = bytes.split_at(n);
                    bytes = later;
                    if !self.content(now, &mut on) {
                        return;
                    }
                }
            }
        }
    }

    /// `len` bytes are missing here.
    pub fn gap(&mut self, len: u64, mut on: impl FnMut(Event<'_>)) {
        match &mut self.state {
            State::Lost => {}
            State::Payload(frame) if frame.left >= len => {
                frame.left -= len;
                frame.at += len;
                if frame.opcode < opcode::CLOSE
                    && let Some(message) = &mut self.message
                {
                    message.holed = true;
                    if message.compressed
                        && let Some(deflate) = &mut self.deflate
                    {
                        deflate.spoilt = true;
                    }
                    on(Event::Gap);
                }
                if frame.left == 0 {
                    self.end(&mut on);
                }
            }
            _ => {
                self.state = State::Lost;
                self.message = None;
                on(Event::Lost);
            }
        }
    }

    /// The first byte of a frame. False: it is none.
    fn begin(&mut self, on: &mut impl FnMut(Event<'_>)) -> bool {
        let first = self.head[0];
        let opcode = first & 0x0f;
        let compressed = first & 0x40 != 0;
        let good = match opcode {
            opcode::TEXT | opcode::BINARY => {
                self.message.is_none() && (!compressed || self.deflate.is_some())
            }
            opcode::CONTINUATION => self.message.is_some() && !compressed,
            opcode::CLOSE..=opcode::PONG => first & 0x80 != 0 && !compressed,
            _ => false,
        };
        if !good || first & 0x30 != 0 {
            self.fail(WsError::BadFrame, on);
            return false;
        }
        if matches!(opcode, opcode::TEXT | opcode::BINARY) {
            self.message = Some(Message { compressed, out: 0, holed: false, over: false });
            on(Event::Start { text: opcode == opcode::TEXT });
        }
        true
    }

    /// A frame header is complete.
    fn payload(&mut self, on: &mut impl FnMut(Event<'_>)) -> bool {
        let head = &self.head[..self.have];
        self.have = 0;
        let (opcode, fin) = (head[0] & 0x0f, head[0] & 0x80 != 0);
        let mask = if head[1] & 0x80 == 0 { 0 } else { 4 };
        let (head, mask) = head.split_at(head.len() - mask);
        let left = match head[1] & 0x7f {
            126 | 127 => head[2..].iter().fold(0, |n, &b| n << 8 | u64::from(b)),
            n => u64::from(n),
        };
        if opcode >= opcode::CLOSE && left > 125 || left >> 63 != 0 {
            self.fail(WsError::BadFrame, on);
            return false;
        }
        let mask = mask.try_into().unwrap_or_default();
        self.state = State::Payload(Frame { opcode, fin, left, mask, at: 0, code: [0; 2] });
        left > 0 || self.end(on)
    }

    fn content(&mut self, bytes: &[u8], on: &mut impl FnMut(Event<'_>)) -> bool {
        let State::Payload(frame) = &mut self.state else { return true };
        let Self { message, deflate, .. } = self;
        for chunk in bytes.chunks(UNMASK) {
            let mut plain = [0; UNMASK];
            let plain = &mut plain[..chunk.len()];
            for (i, (to, from)) in plain.iter_mut().zip(chunk).enumerate() {
                *to = from ^ frame.mask[(frame.at as usize).wrapping_add(i) % 4];
            }
            if frame.opcode == opcode::CLOSE {
                for (i, &b) in plain.iter().enumerate() {
                    if let Some(to) = frame.code.get_mut(frame.at as usize + i) {
                        *to = b;
                    }
                }
            } else if frame.opcode < opcode::CLOSE
                && let Some(message) = message
                && let Err(error) = deliver(message, deflate, plain, on)
            {
                self.fail(error, on);
                return false;
            }
            frame.at += chunk.len() as u64;
            frame.left -= chunk.len() as u64;
        }
        frame.left > 0 || self.end(on)
    }

    /// A frame is complete.
    fn end(&mut self, on: &mut impl FnMut(Event<'_>)) -> bool {
        let State::Payload(frame) = self.state else { return true };
        self.state = State::Head;
        if frame.opcode == opcode::CLOSE {
            on(Event::Close((frame.at >= 2).then(|| u16::from_be_bytes(frame.code))));
        } else if frame.opcode < opcode::CLOSE
            && frame.fin
            && let Some(mut message) = self.message.take()
        {
            if let Err(error) = finish(&mut message, &mut self.deflate, on) {
                self.fail(error, on);
                return false;
            }
            on(Event::End);
        }
        true
    }

    #[cold]
    fn fail(&mut self, error: WsError, on: &mut impl FnMut(Event<'_>)) {
        self.state = State::Lost;
        self.message = None;
        self.deflate = None;
        on(Event::Error(error));
    }
}

/// What is unmasked at a time.
const UNMASK: usize = 4096;

fn header_len(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 == 0 { 0 } else { 4 }
}

fn deliver(
    message: &mut Message,
    deflate: &mut Option<Deflate>,
    bytes: &[u8],
    on: &mut impl FnMut(Event<'_>),
) -> Result<(), WsError> {
    if !message.compressed {
        on(Event::Data(bytes));
        return Ok(());
    }
    if message.over {
        return Ok(());
    }
    let Some(deflate) = deflate.as_mut().filter(|deflate| !deflate.spoilt) else {
        if !message.holed {
            message.holed = true;
            on(Event::Gap);
        }
        return Ok(());
    };
    let inflate = deflate.inflate.get_or_insert_with(|| Box::new(Inflate::new(false)));
    let out = &mut message.out;
    let over = inflate.push(bytes, &mut |data| {
        *out += data.len() as u64;
        if *out > MAX_MESSAGE {
            return Err(CodingError::Bomb);
        }
        on(Event::Data(data));
        Ok(())
    });
    match over {
        Ok(over) => {
            message.over = over;
            Ok(())
        }
        Err(CodingError::Bomb) => Err(WsError::Bomb),
        Err(_) => Err(WsError::BadCoding),
    }
}

/// The end of a message.
fn finish(
    message: &mut Message,
    deflate: &mut Option<Deflate>,
    on: &mut impl FnMut(Event<'_>),
) -> Result<(), WsError> {
    if message.compressed {
        deliver(message, deflate, &TAIL, on)?;
        // After a final block a new stream begins.
        if let Some(deflate) = deflate
            && (deflate.resets || message.over)
        {
            deflate.spoilt = false;
            if let Some(inflate) = &mut deflate.inflate {
                inflate.reset();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
