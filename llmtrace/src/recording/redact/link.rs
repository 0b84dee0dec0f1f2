//! One connection: which direction asks, and where in their messages both directions are.

use std::collections::VecDeque;

use super::FILLER;
use super::h2::{Http2, Patch, Place};
use super::head::Head;
use super::text::{Calls, Text};
use super::websocket::WebSocket;
use crate::http::chunked::Chunked;
use crate::http::h2::{self, PREFACE, Speaker};
use crate::http::head::{Framing, request, response};
use crate::http::{Asked, MAX_PIPELINE, Sniff, looks_like_request, looks_like_response};
use crate::llm::dialect::realtime;
use crate::record::Direction;

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Head(Box<Head>),
    Length(u64, Text),
    Chunked(Chunked, Text),
    UntilClose(Text),
    /// Frames of a session with an LLM.
    WebSocket(Box<WebSocket>),
    /// HTTP/2 from here on.
    Http2(Box<Http2>),
    /// Not HTTP any more.
    Tunnel,
    /// Until a message begins.
    Lost,
}

/// What the end of a head leads to.
enum Next {
    Body(Framing, Text),
    /// The agreement on a WebSocket with an LLM.
    Session,
    /// The agreement on HTTP/2, or its beginning.
    Http2(Box<Http2>),
    /// The real response is still to come.
    Interim,
    Bad,
}

/// How much of HTTP/2's preface looks like the head of a request.
const PREFACE_HEAD: usize = 18;

#[derive(Clone, Copy, Debug)]
struct Request {
    asked: Asked,
    calls: Calls,
    /// Asks for a WebSocket with one.
    session: bool,
}

#[derive(Debug, Default)]
pub struct Link {
    /// The direction that carries requests.
    asks: Option<Direction>,
    request: State,
    response: State,
    /// Requests whose responses are to come.
    asked: VecDeque<Request>,
    seen: bool,
    /// Takes the place of all that, once the connection speaks it.
    http2: Option<Box<Http2>>,
}

impl Link {
    /// Redacts the next bytes of one direction, which are at `place`. What of them, or of earlier
    /// ones, is known only later is handed out then.
    pub fn bytes(
        &mut self,
        direction: Direction,
        from_birth: bool,
        place: Place,
        bytes: &mut [u8],
        out: &mut Vec<Patch>,
    ) {
        let first = !std::mem::replace(&mut self.seen, true);
        if self.asks.is_none() {
            self.sniff_http2(direction, first && from_birth, bytes);
        }
        if let (Some(http2), Some(asks)) = (&mut self.http2, self.asks) {
            return http2.bytes(asks == direction, place, bytes, out);
        }
        let preface = bytes.len().min(PREFACE_HEAD);
        let is_request =
            looks_like_request(bytes) != Sniff::No || bytes[..preface] == PREFACE[..preface];
        let is_response = looks_like_response(bytes) != Sniff::No;
        if self.asks.is_none() && (is_request || is_response) {
            self.asks = Some(if is_request { direction } else { other(direction) });
            if !(first && from_birth) {
                (self.request, self.response) = (State::Lost, State::Lost);
            }
        }
        let Some(asks) = self.asks else { return bytes.fill(FILLER) };
        let asking = asks == direction;
        let (state, begins) = match asking {
            true => (&mut self.request, is_request),
            false => (&mut self.response, is_response),
        };
        if matches!(state, State::Lost) {
            if !begins {
                return bytes.fill(FILLER);
            }
            *state = State::Idle;
        }
        let all = bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match asking {
                true => {
                    step(&mut self.request, true, rest, |raw| request_end(raw, &mut self.asked))
                }
                false => {
                    step(&mut self.response, false, rest, |raw| response_end(raw, &mut self.asked))
                }
            };
            rest = &mut rest[used..];
            let state = if asking { &mut self.request } else { &mut self.response };
            if let State::Http2(http2) = state {
                let http2 = std::mem::replace(http2, Box::new(Http2::joined()));
                let place = Place { at: place.at + all - rest.len(), ..place };
                return self.http2.insert(http2).bytes(asking, place, rest, out);
            }
        }
        if !asking {
            self.forget();
            self.follow();
        }
    }

    /// Whether the connection speaks HTTP/2, which its client's first bytes need not tell.
    fn sniff_http2(&mut self, direction: Direction, fresh: bool, bytes: &[u8]) {
        if fresh {
            // A server need not wait for its client.
            if h2::begins_with_settings(bytes) != Some(false) {
                self.asks = Some(other(direction));
                self.http2 = Some(Box::new(Http2::new(0)));
            }
        } else if h2::begins_frame(bytes)
            && let Some(speaker) = h2::speaker(bytes)
        {
            let asks = speaker == Speaker::Client;
            self.asks = Some(if asks { direction } else { other(direction) });
            self.http2 = Some(Box::new(Http2::joined()));
        }
    }

    /// Whether bytes of this record wait for others.
    pub fn holds(&self, direction: Direction, number: u64) -> bool {
        let asks = self.asks == Some(direction);
        self.http2.as_ref().is_some_and(|http2| http2.holds(asks, number))
    }

    /// A response that was lost may have been to any request: as the pipeline, it starts anew.
    fn forget(&mut self) {
        if matches!(self.response, State::Lost) {
            self.asked.clear();
        }
    }

    /// The server agreed on a WebSocket: what the client says from here on are frames. Where they
    /// begin is only known if it waited.
    fn follow(&mut self) {
        if matches!(self.response, State::WebSocket(_)) {
            self.request = match std::mem::replace(&mut self.request, State::Tunnel) {
                State::Idle => State::WebSocket(Box::default()),
                state @ State::WebSocket(_) => state,
                _ => State::Tunnel,
            };
        }
    }

    /// `len` bytes are missing in one direction; None: nobody knows how many.
    pub fn gap(&mut self, direction: Direction, len: Option<u64>, out: &mut Vec<Patch>) {
        if let (Some(http2), Some(asks)) = (&mut self.http2, self.asks) {
            return http2.gap(asks == direction, len, out);
        }
        let state = match self.asks {
            None => {
                self.seen = true;
                return;
            }
            Some(asks) if asks == direction => &mut self.request,
            Some(_) => &mut self.response,
        };
        let survives = match (&mut *state, len) {
            (State::Tunnel, _) => true,
            (State::WebSocket(frames), len) => {
                frames.gap(len.unwrap_or(u64::MAX));
                true
            }
            (State::Length(left, text), Some(len)) if *left >= len => {
                *left -= len;
                *text = Text::Opaque;
                true
            }
            (State::Chunked(chunked, text), Some(len)) => {
                *text = Text::Opaque;
                chunked.gap(len)
            }
            (State::UntilClose(text), Some(_)) => {
                *text = Text::Opaque;
                true
            }
            _ => false,
        };
        if !survives {
            *state = State::Lost;
            self.forget();
        } else if matches!(state, State::Length(0, _)) {
            *state = State::Idle;
        }
    }
}

/// Redacts the beginning of `bytes`; how many of them.
fn step(
    state: &mut State,
    request: bool,
    bytes: &mut [u8],
    head_over: impl FnOnce(&[u8]) -> Next,
) -> usize {
    let all = bytes.len();
    match state {
        State::Idle => {
            // Empty lines between messages.
            let empty = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if empty < all {
                *state = State::Head(Box::new(Head::new(request)));
            }
            empty
        }
        State::Head(head) => {
            for (i, b) in bytes.iter_mut().enumerate() {
                let Some((new, over)) = head.byte(*b) else {
                    *state = State::Lost;
                    return i;
                };
                *b = new;
                if over {
                    *state = after_head(head_over(&head.raw));
                    return i + 1;
                }
            }
            all
        }
        State::Length(left, text) => {
            let take = usize::try_from(*left).map_or(all, |n| n.min(all));
            text.redact(&mut bytes[..take]);
            *left -= take as u64;
            if *left == 0 {
                *state = State::Idle;
            }
            take
        }
        State::Chunked(chunked, text) => {
            // The decoder says which bytes are data; they lie in what it was given.
            let mut data: Vec<(usize, usize)> = Vec::new();
            let base = bytes.as_ptr() as usize;
            let end = chunked.push(bytes, |d| data.push((d.as_ptr() as usize - base, d.len())));
            let used = match end {
                Ok(Some(n)) => n,
                Ok(None) => all,
                Err(_) => {
                    bytes.fill(FILLER);
                    *state = State::Lost;
                    return all;
                }
            };
            let mut at = 0;
            for (start, len) in data {
                framing(&mut bytes[at..start]);
                text.redact(&mut bytes[start..start + len]);
                at = start + len;
            }
            framing(&mut bytes[at..used]);
            if end.is_ok_and(|end| end.is_some()) {
                *state = State::Idle;
            }
            used
        }
        State::UntilClose(text) => {
            text.redact(bytes);
            all
        }
        State::WebSocket(frames) => {
            frames.redact(bytes);
            all
        }
        State::Http2(_) | State::Tunnel | State::Lost => {
            bytes.fill(FILLER);
            all
        }
    }
}

/// Sizes of chunks and line ends stay; extensions and trailers do not.
fn framing(bytes: &mut [u8]) {
    for b in bytes {
        if !(b.is_ascii_hexdigit() || matches!(b, b'\r' | b'\n' | b';' | b' ' | b'\t' | b':')) {
            *b = FILLER;
        }
    }
}

fn after_head(next: Next) -> State {
    match next {
        Next::Interim => State::Idle,
        Next::Session => State::WebSocket(Box::default()),
        Next::Http2(http2) => State::Http2(http2),
        Next::Bad => State::Lost,
        Next::Body(framing, text) => match framing {
            Framing::None => State::Idle,
            Framing::Length(n) => State::Length(n, text),
            Framing::Chunked => State::Chunked(Chunked::default(), text),
            Framing::UntilClose => State::UntilClose(text),
            Framing::Tunnel => State::Tunnel,
        },
    }
}

fn request_end(raw: &[u8], asked: &mut VecDeque<Request>) -> Next {
    if raw == &PREFACE[..PREFACE_HEAD] {
        return Next::Http2(Box::new(Http2::new(PREFACE_HEAD)));
    }
    let Ok(Some((head, _))) = request(raw) else { return Next::Bad };
    let calls = Calls::of(&head);
    if asked.len() < MAX_PIPELINE {
        let session = realtime::classify(&head).is_some();
        asked.push_back(Request { asked: Asked::of(head.method), calls, session });
    }
    let text = Text::of(head.content_type, head.content_encoding, calls, true);
    Next::Body(head.framing, text)
}

fn response_end(raw: &[u8], asked: &mut VecDeque<Request>) -> Next {
    let Ok(Some((head, _))) = response(raw) else { return Next::Bad };
    if (100..200).contains(&head.status) && head.status != 101 {
        return Next::Interim;
    }
    // The record of a request may come after that of its response: then the structure has to stay.
    let unknown = Request { asked: Asked::Other, calls: Calls::Llm, session: false };
    let Request { asked, calls, session } = asked.pop_front().unwrap_or(unknown);
    let to = |protocol: &str| head.upgrade.is_some_and(|to| to.eq_ignore_ascii_case(protocol));
    if head.status == 101 && to("h2c") {
        return Next::Http2(Box::new(Http2::upgraded(calls)));
    }
    // With an extension (compression) its frames are filled like anything else.
    if head.status == 101 && session && to("websocket") && head.websocket_extensions.is_none() {
        return Next::Session;
    }
    let framing = match asked {
        Asked::Head => Framing::None,
        Asked::Connect if (200..300).contains(&head.status) => Framing::Tunnel,
        _ => head.framing,
    };
    Next::Body(framing, Text::of(head.content_type, head.content_encoding, calls, false))
}

fn other(direction: Direction) -> Direction {
    match direction {
        Direction::Read => Direction::Write,
        Direction::Write => Direction::Read,
    }
}
