//! One connection: which direction asks, and where in their messages both directions are.

use std::collections::VecDeque;

use super::FILLER;
use super::head::Head;
use super::json::Json;
use super::sse::Sse;
use super::websocket::WebSocket;
use crate::http::chunked::Chunked;
use crate::http::head::{Framing, request, response};
use crate::http::{Asked, MAX_PIPELINE, Sniff, looks_like_request, looks_like_response};
use crate::llm::dialect::{classify, realtime};
use crate::record::Direction;

/// The text of a body.
#[derive(Debug)]
enum Text {
    Json(Box<Json>),
    Sse(Box<Sse>),
    /// Coded, cut, or of no kind that is known: filled whole.
    Opaque,
}

impl Text {
    /// Of a call of an LLM the structure stays, of anything else nothing.
    fn of(content_type: Option<&str>, coded: bool, llm: bool) -> Self {
        let essence = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
        if coded || !llm {
            Self::Opaque
        } else if essence.eq_ignore_ascii_case("text/event-stream") {
            Self::Sse(Box::default())
        } else {
            // What is no JSON is filled from its first byte on.
            Self::Json(Box::new(Json::new(false)))
        }
    }

    fn redact(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Json(json) => json.redact(bytes),
            Self::Sse(sse) => sse.redact(bytes),
            Self::Opaque => bytes.fill(FILLER),
        }
    }
}

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
    /// The real response is still to come.
    Interim,
    Bad,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    asked: Asked,
    /// Calls an LLM.
    llm: bool,
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
}

impl Link {
    /// Redacts the next bytes of one direction.
    pub fn bytes(&mut self, direction: Direction, from_birth: bool, bytes: &mut [u8]) {
        let first = !std::mem::replace(&mut self.seen, true);
        let is_request = looks_like_request(bytes) != Sniff::No;
        let is_response = looks_like_response(bytes) != Sniff::No;
        if self.asks.is_none() && (is_request || is_response) {
            self.asks = Some(match direction {
                d if is_request => d,
                Direction::Read => Direction::Write,
                Direction::Write => Direction::Read,
            });
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
        }
        if !asking {
            self.forget();
            self.follow();
        }
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
    pub fn gap(&mut self, direction: Direction, len: Option<u64>) {
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
        State::Tunnel | State::Lost => {
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
    let Ok(Some((head, _))) = request(raw) else { return Next::Bad };
    let llm = classify(&head).is_some();
    if asked.len() < MAX_PIPELINE {
        let session = realtime::classify(&head).is_some();
        asked.push_back(Request { asked: Asked::of(head.method), llm, session });
    }
    let coded = head.content_encoding.is_some_and(|v| !v.eq_ignore_ascii_case("identity"));
    Next::Body(head.framing, Text::of(head.content_type, coded, llm))
}

fn response_end(raw: &[u8], asked: &mut VecDeque<Request>) -> Next {
    let Ok(Some((head, _))) = response(raw) else { return Next::Bad };
    if (100..200).contains(&head.status) && head.status != 101 {
        return Next::Interim;
    }
    // The record of a request may come after that of its response: then the structure has to stay.
    let unknown = Request { asked: Asked::Other, llm: true, session: false };
    let Request { asked, llm, session } = asked.pop_front().unwrap_or(unknown);
    let websocket = head.upgrade.is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    // With an extension (compression) its frames are filled like anything else.
    if head.status == 101 && session && websocket && head.websocket_extensions.is_none() {
        return Next::Session;
    }
    let framing = match asked {
        Asked::Head => Framing::None,
        Asked::Connect if (200..300).contains(&head.status) => Framing::Tunnel,
        _ => head.framing,
    };
    Next::Body(framing, Text::of(head.content_type, head.is_encoded(), llm))
}
