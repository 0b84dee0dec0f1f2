//! The OpenAI Realtime API: one WebSocket, many responses, each an exchange of its own.
//!
//! A response begins with the client's `response.create`, or, where the server detects the end of
//! speech, with `input_audio_buffer.committed`; its first token is its first delta, and
//! `response.done` says how it ended.

use std::collections::VecDeque;

use super::route::{self, Operation};
use super::{Choice, Dialect, Facts, Route};
use crate::http::RequestHead;
use crate::llm::exchange::{Exchange, Opening};
use crate::llm::json::clip;
use crate::llm::json::stream::{Paths, ROOT, Scanner, Value};
use crate::llm::json::unescape;
use crate::llm::outcome::{Finished, MAX_MODEL, MAX_USER_AGENT, Ns, Role, Settings, Usage};

const ROUTE: Route = route::route(Dialect::Realtime, Operation::Chat, "/v1/realtime").streams();
/// The status that opens a WebSocket.
const SWITCHING: u16 = 101;
/// Most responses of one session that are followed at once. More are neither started nor counted.
pub const MAX_RESPONSES: usize = 16;
/// Longest id of a response that is told apart, in bytes.
const MAX_ID: usize = 64;

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// What became of a message.
#[derive(Debug)]
pub enum Act {
    /// A response was asked for.
    /// At this time.
    Started(Ns),
    Finished(Box<Finished>),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    method: Box<str>,
    user_agent: Option<Box<str>>,
    model: Option<Box<str>>,
    client: Message,
    server: Message,
    /// Asked for by the client, not yet taken up by the server.
    asked: VecDeque<Exchange>,
    /// Under way, by the server's id for it.
    active: Vec<(Box<[u8]>, Exchange)>,
    /// When the server last took what was said for complete.
    committed: Option<Ns>,
    /// A message of the client was missed: it may have asked for a response.
    missed: bool,
    /// Nothing more is known of what the client says, or of what the server does.
    blind: bool,
    deaf: bool,
}

/// None: not a session with an LLM.
pub fn classify(head: &RequestHead<'_>) -> Option<Session> {
    let path = head.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.ends_with("/realtime") || head.method != "GET" {
        return None;
    }
    // Azure names a deployment instead.
    let model = head.query("model").or_else(|| head.query("deployment"));
    Some(Session {
        method: clip(head.method, 16).into(),
        user_agent: head.user_agent.map(|agent| clip(agent, MAX_USER_AGENT).into()),
        model: model.map(|model| clip(model, MAX_MODEL).into()),
        client: Message::default(),
        server: Message::default(),
        asked: VecDeque::new(),
        active: Vec::new(),
        committed: None,
        missed: false,
        blind: false,
        deaf: false,
    })
}

mod node {
    pub const TYPE: u8 = 1;
    pub const RESPONSE_ID: u8 = 2;
    pub const DELTA: u8 = 3;
    pub const RESPONSE: u8 = 4;
    pub const ID: u8 = 5;
    pub const STATUS: u8 = 6;
    pub const DETAILS: u8 = 7;
    pub const REASON: u8 = 8;
    pub const USAGE: u8 = 9;
    pub const INPUT: u8 = 10;
    pub const OUTPUT: u8 = 11;
    pub const INPUT_DETAILS: u8 = 12;
    pub const CACHED: u8 = 13;
    pub const SESSION: u8 = 14;
    pub const MODEL: u8 = 15;
}

const PATHS: Paths = &[
    (ROOT, "type", node::TYPE),
    (ROOT, "response_id", node::RESPONSE_ID),
    (ROOT, "delta", node::DELTA),
    (ROOT, "response", node::RESPONSE),
    (node::RESPONSE, "id", node::ID),
    (node::RESPONSE, "status", node::STATUS),
    (node::RESPONSE, "status_details", node::DETAILS),
    (node::DETAILS, "reason", node::REASON),
    (node::RESPONSE, "usage", node::USAGE),
    (node::USAGE, "input_tokens", node::INPUT),
    (node::USAGE, "output_tokens", node::OUTPUT),
    (node::USAGE, "input_token_details", node::INPUT_DETAILS),
    (node::INPUT_DETAILS, "cached_tokens", node::CACHED),
    (ROOT, "session", node::SESSION),
    (node::SESSION, "model", node::MODEL),
];

/// A message as it goes by.
#[derive(Debug)]
struct Message {
    scanner: Scanner,
    started: Ns,
    said: Said,
}

impl Default for Message {
    fn default() -> Self {
        Self { scanner: Scanner::new(PATHS), started: 0, said: Said::default() }
    }
}

#[derive(Debug, Default)]
struct Said {
    kind: Kind,
    /// Of the response.
    id: Box<[u8]>,
    delta: bool,
    status: Status,
    reason: Option<Box<[u8]>>,
    usage: Usage,
    model: Option<Box<str>>,
    holed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Other,
    Create,
    Committed,
    Session,
    Created,
    Delta,
    Done,
    Error,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        match name {
            b"response.create" => Self::Create,
            b"input_audio_buffer.committed" => Self::Committed,
            b"session.created" | b"session.updated" => Self::Session,
            b"response.created" => Self::Created,
            b"response.done" => Self::Done,
            b"error" => Self::Error,
            // Text, audio, its transcript, arguments of calls, and their older names.
            _ if name.starts_with(b"response.") && name.ends_with(b".delta") => Self::Delta,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Unknown,
    Completed,
    Cancelled,
    Failed,
    Incomplete,
}

impl Message {
    fn push(&mut self, bytes: &[u8]) {
        let Self { scanner, said, .. } = self;
        let id = |raw: &[u8]| raw[..raw.len().min(MAX_ID)].into();
        scanner.push(bytes, |node, value| match (node, value) {
            (node::TYPE, Value::String(raw)) => said.kind = Kind::of(raw),
            (node::RESPONSE_ID | node::ID, Value::String(raw)) => said.id = id(raw),
            (node::DELTA, Value::String(raw)) => said.delta = !raw.is_empty(),
            (node::STATUS, Value::String(raw)) => {
                said.status = match raw {
                    b"completed" => Status::Completed,
                    b"cancelled" => Status::Cancelled,
                    b"failed" => Status::Failed,
                    b"incomplete" => Status::Incomplete,
                    _ => Status::Unknown,
                }
            }
            (node::REASON, Value::String(raw)) => said.reason = Some(raw.into()),
            (node::INPUT, value) => said.usage.prompt = value.number(),
            (node::OUTPUT, value) => said.usage.output = value.number(),
            (node::CACHED, value) => said.usage.cached = value.number(),
            (node::MODEL, Value::String(raw)) => said.model = Some(unescape(raw, MAX_MODEL)),
            _ => {}
        });
    }
}

impl Session {
    /// The first byte of a message came.
    pub fn begin(&mut self, from: From, t: Ns) {
        *self.side(from) = Message { started: t, ..Message::default() };
    }

    /// Content of the message.
    pub fn data(&mut self, from: From, bytes: &[u8]) {
        self.side(from).push(bytes);
    }

    /// A part of the message is missing.
    pub fn hole(&mut self, from: From) {
        self.side(from).said.holed = true;
    }

    /// The last byte of the message came.
    pub fn end(
        &mut self,
        from: From,
        t: Ns,
        role: Role,
        settings: &Settings,
        mut on: impl FnMut(Act),
    ) {
        let Message { started, said, .. } = std::mem::take(self.side(from));
        match (from, said.kind) {
            (From::Client, _) if said.holed => self.missed = true,
            (From::Server, _) if said.holed => self.lose_all(t, on),
            (From::Client, Kind::Create) if !self.deaf && self.open() < MAX_RESPONSES => {
                self.asked.push_back(self.start(started, role, settings));
                on(Act::Started(started));
            }
            (From::Server, Kind::Session) => self.model = said.model.or(self.model.take()),
            (From::Server, Kind::Committed) => self.committed = Some(t),
            (From::Server, Kind::Created) => {
                let mut exchange = match self.asked.pop_front() {
                    Some(exchange) => exchange,
                    None if self.active.len() >= MAX_RESPONSES => return,
                    None => {
                        let t0 = self.committed.take().unwrap_or(started);
                        let mut exchange = self.start(t0, role, settings);
                        if self.missed || self.blind {
                            exchange.lost(t);
                        }
                        on(Act::Started(t0));
                        exchange
                    }
                };
                self.missed = false;
                exchange.message(t, SWITCHING, None, &Facts::default());
                self.active.push((said.id, exchange));
            }
            (From::Server, Kind::Delta) => {
                let Some(at) = self.find(&said.id) else { return };
                let choice = Choice { tokens: said.delta, ..Choice::default() };
                self.active[at].1.message(t, SWITCHING, Some(choice), &Facts::default());
            }
            (From::Server, Kind::Done) => {
                let Some(at) = self.find(&said.id) else { return };
                let (_, exchange) = self.active.remove(at);
                on(Act::Finished(Box::new(done(exchange, t, &said))));
            }
            // It names no response. While one is asked for and not taken up, that is what failed.
            (From::Server, Kind::Error) => {
                if let Some(mut exchange) = self.asked.pop_front() {
                    let facts = Facts { error: true, ..Facts::default() };
                    exchange.message(t, SWITCHING, None, &facts);
                    exchange.response_end(t);
                    on(Act::Finished(Box::new(exchange.finish())));
                }
            }
            _ => {}
        }
    }

    /// A side cannot be followed any further: responses that it would tell of are not told of, or
    /// are incomplete.
    pub fn lost(&mut self, from: From, t: Ns, on: impl FnMut(Act)) {
        *self.side(from) = Message::default();
        match from {
            From::Client => self.blind = true,
            From::Server => {
                self.deaf = true;
                self.lose_all(t, on);
            }
        }
    }

    /// Ends every open response in one way.
    pub fn end_all(&mut self, mut how: impl FnMut(&mut Exchange), mut on: impl FnMut(Act)) {
        let active = self.active.drain(..).map(|(_, exchange)| exchange);
        for mut exchange in active.chain(self.asked.drain(..)) {
            how(&mut exchange);
            on(Act::Finished(Box::new(exchange.finish())));
        }
    }

    /// Responses asked for or under way.
    pub fn open(&self) -> usize {
        self.asked.len() + self.active.len()
    }

    /// Those responses, the oldest first.
    pub fn exchanges(&mut self) -> impl Iterator<Item = &mut Exchange> {
        self.active.iter_mut().map(|(_, exchange)| exchange).chain(&mut self.asked)
    }

    pub fn endpoint(&self) -> &'static str {
        ROUTE.endpoint
    }

    fn lose_all(&mut self, t: Ns, on: impl FnMut(Act)) {
        self.end_all(|exchange| exchange.lost(t), on);
    }

    fn side(&mut self, from: From) -> &mut Message {
        match from {
            From::Client => &mut self.client,
            From::Server => &mut self.server,
        }
    }

    fn start(&self, t0: Ns, role: Role, settings: &Settings) -> Exchange {
        let opening = Opening {
            route: ROUTE,
            method: &self.method,
            user_agent: self.user_agent.as_deref(),
            model: self.model.as_deref(),
        };
        Exchange::of_session(settings, role, t0, &opening)
    }

    /// The response of that id; a server that names none has one at a time.
    fn find(&self, id: &[u8]) -> Option<usize> {
        let at = self.active.iter().position(|(known, _)| **known == *id);
        at.or_else(|| (self.active.len() == 1 && id.is_empty()).then_some(0))
    }
}

/// What `response.done` says.
fn done(mut exchange: Exchange, t: Ns, said: &Said) -> Finished {
    let finish: &[u8] = match (&said.reason, said.status) {
        (Some(reason), _) => reason,
        (None, Status::Completed) => b"completed",
        (None, Status::Cancelled) => b"cancelled",
        (None, Status::Failed) => b"failed",
        (None, Status::Incomplete) => b"incomplete",
        (None, Status::Unknown) => b"",
    };
    let choice = Choice { finish: (!finish.is_empty()).then_some(finish), ..Choice::default() };
    let facts = Facts {
        usage: Some(said.usage),
        error: said.status == Status::Failed,
        done: matches!(said.status, Status::Completed | Status::Incomplete),
        ..Facts::default()
    };
    exchange.message(t, SWITCHING, Some(choice), &facts);
    match said.status {
        // The client broke it off, by a message or by speaking.
        Status::Cancelled => exchange.client_left(t),
        _ => exchange.response_end(t),
    }
    exchange.finish()
}

#[cfg(test)]
mod tests;
