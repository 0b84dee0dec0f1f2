//! HTTP/2: frames stay, DATA is redacted as the body that it is part of, and of a header block the
//! values that are not listed.
//!
//! Both ends of a connection keep what a header block says, and later blocks refer to it. So a value
//! is replaced by one that takes as many bytes, coded or not, and nothing else of the block changes:
//! references stay what they were, and lead to filler. That needs the whole block. If it came in
//! several records, those wait for the last.

use std::collections::BTreeMap;

use super::FILLER;
use super::head;
use super::text::{Calls, Text};
use crate::http::h2::frame::{Frame, HEADER, Kind, flag};
use crate::http::h2::hpack::{Decoder, Fields, Literal, Name, huffman};
use crate::http::h2::{self, MAX_BLOCK, MAX_STREAMS, PREFACE};

/// Most payload that is kept of the frames of one header block: padding and priorities included.
const MAX_HELD: usize = 2 * MAX_BLOCK;
/// Most frames of one.
const MAX_FRAMES: usize = 256;
/// Longest SETTINGS that are believed to be some.
const MAX_SETTINGS: u32 = 6 * 32;
/// In the place of what cannot be read of a header block: a reference to entry 0, which is an error.
const NO_FIELD: u8 = 0x80;
/// Bytes of a GOAWAY that are no text.
const GOAWAY: u32 = 8;

/// Where bytes of a connection are: the record, and how far into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub number: u64,
    pub at: usize,
}

/// Bytes that it was not known before what may be seen of.
#[derive(Debug)]
pub struct Patch {
    pub place: Place,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct Stream {
    calls: Calls,
    request: Text,
    response: Text,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the client's preface have come.
    Preface(usize),
    /// So many bytes of a frame header have come.
    Head(usize),
    Payload {
        frame: Frame,
        at: u32,
        padding: u32,
    },
    Lost,
}

/// One direction.
#[derive(Debug)]
struct Side {
    state: State,
    head: [u8; HEADER],
    hpack: Decoder,
    held: Option<Held>,
}

/// A header block under way.
#[derive(Debug, Default)]
struct Held {
    /// The payloads of its frames, and where each of them ends.
    bytes: Vec<u8>,
    frames: Vec<(Frame, usize)>,
    places: Vec<(Place, usize)>,
    /// Too long, or a part is missing.
    bad: bool,
}

#[derive(Debug)]
pub struct Http2 {
    client: Side,
    server: Side,
    streams: BTreeMap<u32, Stream>,
}

impl Side {
    fn new(state: State, hpack: Decoder) -> Self {
        Self { state, head: [0; HEADER], hpack, held: None }
    }

    fn lose(&mut self) {
        *self = Self::new(State::Lost, Decoder::joined());
    }
}

impl Http2 {
    /// From the client's first byte, of which so many have been seen.
    pub fn new(preface: usize) -> Self {
        Self {
            client: Side::new(State::Preface(preface), Decoder::default()),
            server: Side::new(State::Head(0), Decoder::default()),
            streams: BTreeMap::new(),
        }
    }

    /// After an upgrade from HTTP/1, whose request is the first stream.
    pub fn upgraded(calls: Calls) -> Self {
        let mut new = Self::new(0);
        let first = Stream { calls, request: Text::Opaque, response: Text::Opaque };
        new.streams.insert(1, first);
        new
    }

    /// Joined in its middle.
    pub fn joined() -> Self {
        let side = || Side::new(State::Lost, Decoder::joined());
        Self { client: side(), server: side(), streams: BTreeMap::new() }
    }

    fn side(&mut self, asks: bool) -> &mut Side {
        if asks { &mut self.client } else { &mut self.server }
    }

    /// Whether bytes of this record wait for the rest of their header block.
    pub fn holds(&self, asks: bool, number: u64) -> bool {
        let side = if asks { &self.client } else { &self.server };
        let mut places = side.held.iter().flat_map(|held| &held.places);
        places.any(|(place, _)| place.number == number)
    }

    /// Redacts the next bytes of one direction, which are at `place`.
    pub fn bytes(&mut self, asks: bool, place: Place, bytes: &mut [u8], out: &mut Vec<Patch>) {
        let side = self.side(asks);
        if matches!(side.state, State::Lost) && h2::begins_frame(bytes) {
            side.state = State::Head(0);
        }
        let mut at = 0;
        while at < bytes.len() {
            let here = Place { at: place.at + at, ..place };
            let rest = &mut bytes[at..];
            at += match self.side(asks).state {
                State::Lost => {
                    rest.fill(FILLER);
                    rest.len()
                }
                State::Preface(seen) => self.preface(asks, seen, rest),
                State::Head(seen) => self.head(asks, seen, rest, out),
                State::Payload { frame, at, padding } => {
                    self.payload(asks, frame, (at, padding), here, rest, out)
                }
            };
        }
    }

    /// `len` bytes are missing in one direction; None: nobody knows how many.
    pub fn gap(&mut self, asks: bool, len: Option<u64>, out: &mut Vec<Patch>) {
        let side = self.side(asks);
        match (&mut side.state, len) {
            (State::Payload { frame, at, .. }, Some(len)) if u64::from(frame.len - *at) >= len => {
                *at += len as u32;
                let (frame, over) = (*frame, *at == frame.len);
                if let Some(held) = &mut side.held {
                    held.give_up();
                }
                if frame.kind == Kind::Data
                    && let Some(text) = self.text(asks, frame.stream)
                {
                    *text = Text::Opaque;
                }
                if over {
                    self.end(asks, frame, out);
                }
            }
            _ => side.lose(),
        }
    }

    fn preface(&mut self, asks: bool, seen: usize, bytes: &mut [u8]) -> usize {
        let n = bytes.len().min(PREFACE.len() - seen);
        if bytes[..n] != PREFACE[seen..seen + n] {
            self.side(asks).lose();
            return 0;
        }
        let seen = seen + n;
        let over = seen == PREFACE.len();
        self.side(asks).state = if over { State::Head(0) } else { State::Preface(seen) };
        n
    }

    fn head(&mut self, asks: bool, seen: usize, bytes: &[u8], out: &mut Vec<Patch>) -> usize {
        let side = self.side(asks);
        let n = bytes.len().min(HEADER - seen);
        side.head[seen..seen + n].copy_from_slice(&bytes[..n]);
        side.state = State::Head(seen + n);
        if seen + n < HEADER {
            return n;
        }
        let frame = Frame::parse(&side.head);
        let continues = side.held.is_some();
        if !frame.is_valid() || continues != (frame.kind == Kind::Continuation) {
            side.lose();
            return 0;
        }
        if frame.kind.has_fields() {
            side.held.get_or_insert_default();
        }
        side.state = State::Payload { frame, at: 0, padding: 0 };
        if frame.len == 0 {
            self.end(asks, frame, out);
        }
        n
    }

    fn payload(
        &mut self,
        asks: bool,
        frame: Frame,
        (at, mut padding): (u32, u32),
        place: Place,
        bytes: &mut [u8],
        out: &mut Vec<Patch>,
    ) -> usize {
        let n = bytes.len().min((frame.len - at) as usize);
        let bytes = &mut bytes[..n];
        match frame.kind {
            Kind::Data => {
                let mut rest = &mut *bytes;
                let mut from = at;
                if at == 0 && frame.has(flag::PADDED) {
                    padding = u32::from(rest[0]);
                    rest = &mut rest[1..];
                    from = 1;
                }
                let content = frame.len.saturating_sub(padding).saturating_sub(from) as usize;
                let (content, pad) = rest.split_at_mut(content.min(rest.len()));
                match self.text(asks, frame.stream) {
                    Some(text) => text.redact(content),
                    None => content.fill(FILLER),
                }
                pad.fill(0);
            }
            kind if kind.has_fields() => {
                if let Some(held) = &mut self.side(asks).held {
                    held.push(place, bytes);
                }
                bytes.fill(NO_FIELD);
            }
            Kind::GoAway => {
                let stays = GOAWAY.saturating_sub(at) as usize;
                bytes[stays.min(n)..].fill(FILLER);
            }
            Kind::Settings if frame.len <= MAX_SETTINGS => {}
            Kind::WindowUpdate | Kind::Reset | Kind::Priority => {}
            _ => bytes.fill(FILLER),
        }
        let at = at + n as u32;
        self.side(asks).state = State::Payload { frame, at, padding };
        if at == frame.len {
            self.end(asks, frame, out);
        }
        n
    }

    fn text(&mut self, asks: bool, stream: u32) -> Option<&mut Text> {
        let stream = self.streams.get_mut(&stream)?;
        Some(if asks { &mut stream.request } else { &mut stream.response })
    }

    /// A frame is complete.
    fn end(&mut self, asks: bool, frame: Frame, out: &mut Vec<Patch>) {
        let side = self.side(asks);
        side.state = State::Head(0);
        let mut ends = frame.kind == Kind::Data && frame.has(flag::END_STREAM);
        if frame.kind.has_fields()
            && let Some(held) = &mut side.held
        {
            held.end_frame(frame);
            if !frame.has(flag::END_HEADERS) {
                return;
            }
            ends = held.frames.first().is_some_and(|(first, _)| {
                first.kind == Kind::Headers && first.has(flag::END_STREAM)
            });
            self.block(asks, out);
        }
        // What a client gave up may go on until its server knows.
        if !asks && (ends || frame.kind == Kind::Reset) {
            self.streams.remove(&frame.stream);
        }
    }

    /// A header block is complete.
    fn block(&mut self, asks: bool, out: &mut Vec<Patch>) {
        let side = self.side(asks);
        let Some(mut held) = side.held.take() else { return };
        let Some(fields) = held.redact(&mut side.hpack) else {
            side.hpack = Decoder::joined();
            return;
        };
        held.hand_on(out);
        let Some((Frame { kind: Kind::Headers, stream, .. }, _)) = held.frames.first() else {
            return;
        };
        if asks { self.request(*stream, &fields) } else { self.response(*stream, &fields) }
    }

    fn request(&mut self, id: u32, fields: &Fields) {
        // A head is named by its method: others are trailers.
        let Some(head) = h2::request(fields) else { return };
        let calls = Calls::of(&head);
        let request = Text::of(head.content_type, head.content_encoding, calls, true);
        if let Some(stream) = self.streams.get_mut(&id) {
            // Its response was recorded first.
            (stream.calls, stream.request) = (calls, request);
        } else {
            self.make_room();
            self.streams.insert(id, Stream { calls, request, response: Text::Opaque });
        }
    }

    /// Lets the oldest stream go if there are as many as are followed: it may have been given up.
    fn make_room(&mut self) {
        if self.streams.len() >= MAX_STREAMS {
            self.streams.pop_first();
        }
    }

    fn response(&mut self, id: u32, fields: &Fields) {
        let Some(head) = h2::response(fields).filter(|head| head.status >= 200) else { return };
        if !self.streams.contains_key(&id) {
            self.make_room();
        }
        // The record of a request may come after that of its response: then the structure has to stay.
        let unknown =
            || Stream { calls: Calls::Llm, request: Text::Opaque, response: Text::Opaque };
        let stream = self.streams.entry(id).or_insert_with(unknown);
        stream.response = Text::of(head.content_type, head.content_encoding, stream.calls, false);
    }
}

impl Held {
    fn push(&mut self, place: Place, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > MAX_HELD {
            self.give_up();
        }
        if !self.bad {
            self.bytes.extend_from_slice(bytes);
            self.places.push((place, bytes.len()));
        }
    }

    fn end_frame(&mut self, frame: Frame) {
        if self.frames.len() < MAX_FRAMES {
            self.frames.push((frame, self.bytes.len()));
        } else {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        *self = Self { bad: true, frames: std::mem::take(&mut self.frames), ..Self::default() };
    }

    /// Takes out what is not listed. None: the block cannot be read.
    fn redact(&mut self, hpack: &mut Decoder) -> Option<Fields> {
        if self.bad {
            return None;
        }
        let Self { bytes, frames, .. } = self;
        let (mut parts, mut begin) = (Vec::new(), 0);
        for &(frame, end) in &*frames {
            let payload = &bytes[begin..end];
            let part = h2::fragment(frame, payload)?;
            let from = begin + part.as_ptr() as usize - payload.as_ptr() as usize;
            parts.push((from..from + part.len(), end));
            begin = end;
        }
        let mut block: Vec<u8> = Vec::with_capacity(bytes.len());
        parts.iter().for_each(|(part, _)| block.extend_from_slice(&bytes[part.clone()]));
        let mut literals = Vec::new();
        let fields = hpack.decode_with(&block, |literal| literals.push(literal)).ok()?;
        literals.iter().for_each(|literal| hide(&mut block, literal));
        let mut rest = &block[..];
        for (part, end) in parts {
            let (now, later) = rest.split_at(part.len());
            bytes[part.clone()].copy_from_slice(now);
            bytes[part.end..end].fill(0);
            rest = later;
        }
        Some(fields)
    }

    fn hand_on(&mut self, out: &mut Vec<Patch>) {
        let mut rest = &self.bytes[..];
        for &(place, len) in &self.places {
            let (now, later) = rest.split_at(len);
            out.push(Patch { place, bytes: now.to_vec() });
            rest = later;
        }
    }
}

/// Takes a value out of its block, as far as it is not listed.
fn hide(block: &mut [u8], literal: &Literal) {
    let Literal { name, text, coded } = literal;
    let bytes = &mut block[text.clone()];
    let mut value = Vec::new();
    match coded {
        true if huffman::decode(bytes, &mut value).is_err() => return bytes.fill(NO_FIELD),
        true => {}
        false => value.extend_from_slice(bytes),
    }
    let hidden = match name {
        Name::Path => head::hidden(&value),
        // Nobody is to try to decode filler.
        Name::ContentEncoding => vec![!value.eq_ignore_ascii_case(b"identity"); value.len()],
        name => vec![!name.is_kept(); value.len()],
    };
    if !hidden.contains(&true) {
        return;
    }
    if *coded {
        let new = huffman::hide(&value, &hidden);
        match new.len() == bytes.len() {
            true => bytes.copy_from_slice(&new),
            false => bytes.fill(NO_FIELD),
        }
    } else {
        let goes = bytes.iter_mut().zip(hidden).filter(|(_, hidden)| *hidden);
        goes.for_each(|(b, _)| *b = FILLER);
    }
}
