//! One request and its response, as a state machine that is told what happened and when.
//!
//! The caller reports what the HTTP parsers say, in order of time, and asks for the result once
//! the exchange is over or given up.

use percent_encoding::percent_decode_str;

use super::body::{self, Body};
use super::dialect::{
    self, Asked, Call, Choice, Dialect, Facts, Operation, Proof, Request, Route, Said,
};
use super::json::clip;
use super::outcome::{
    Drops, Finished, MAX_MODEL, MAX_PATH, MAX_TRACEPARENT, MAX_TRACESTATE, MAX_USER_AGENT, Ns,
    Outcome, Phase, Role, Settings,
};
use super::payload::Payload;
use super::progress::Running;
use super::track::Stream;
use crate::http::head::Framing;
use crate::http::{RequestHead, ResponseHead};

/// An exchange that is not over. One that is no call of an LLM holds almost nothing and ignores
/// everything.
#[derive(Debug)]
pub struct Exchange {
    role: Role,
    start: Ns,
    lost: Option<Ns>,
    live: Option<Box<Live>>,
}

/// What the responses of one session have in common.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    pub route: Route,
    pub method: &'a str,
    pub user_agent: Option<&'a str>,
    pub model: Option<&'a str>,
}

#[derive(Debug)]
struct Live {
    route: Route,
    method: Box<str>,
    path: Box<str>,
    user_agent: Option<Box<str>>,
    traceparent: Option<Box<str>>,
    tracestate: Option<Box<str>>,
    /// While the request's body comes.
    request: Option<Box<Request>>,
    asked: Asked,
    request_end: Option<Ns>,
    first_byte: Option<Ns>,
    last_byte: Option<Ns>,
    status: Option<u16>,
    /// The response lasts until the connection closes: its end proves nothing.
    until_close: bool,
    is_stream: bool,
    body: Body,
    request_bytes: u64,
    response_bytes: u64,
    stream: Stream,
    payload: Option<Box<Payload>>,
    /// The response came to the end of its framing.
    end: Option<Ns>,
    /// The first thing that cut the exchange short.
    cut: Option<(Ns, Cut)>,
    /// When the first byte of the request had come to the server's socket, if it is known.
    arrived: Option<Ns>,
    /// For how long writes of the response were held back, if it is known.
    held: Option<Ns>,
    /// How a gRPC call ended.
    grpc_status: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Client,
    Server,
    Idle,
}

impl Exchange {
    /// `t0` is when the first byte of the request's head came.
    pub fn start(settings: &Settings, role: Role, t0: Ns, head: &RequestHead<'_>) -> Self {
        let live = dialect::classify(head).and_then(|call| Live::of_request(settings, head, &call));
        Self { role, start: t0, lost: None, live }
    }

    /// One response of a session that has no message heads (see [`dialect::realtime`]).
    pub fn of_session(settings: &Settings, role: Role, t0: Ns, opening: &Opening<'_>) -> Self {
        let mut live = Live::new(settings, opening.route, opening.method, opening.user_agent);
        live.asked.model = opening.model.map(Into::into);
        live.request_end = Some(t0);
        live.is_stream = true;
        let live = Some(Box::new(live));
        Self { role, start: t0, lost: None, live }
    }

    /// Whether this is a call of an LLM; nothing else is worth counting. Where the path alone does
    /// not say it, this becomes true with the part of the request's body that does.
    #[inline]
    pub fn is_llm(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.route.sure)
    }

    /// The first byte of the request had waited in the socket since `t`.
    pub fn waited(&mut self, t: Ns) {
        if let Some(live) = &mut self.live {
            live.arrived = Some(t);
        }
    }

    /// Writes of the response were held back for so long, by a client that reads slowly.
    pub fn held_back(&mut self, ns: Ns) {
        if let Some(live) = &mut self.live {
            live.held = Some(ns);
        }
    }

    /// Whether this is a call of an LLM, or may still turn out to be one.
    #[inline]
    pub fn may_be_llm(&self) -> bool {
        self.live.is_some()
    }

    pub fn started(&self) -> Ns {
        self.start
    }

    /// What the request asked for, as far as it has come.
    pub fn asked(&self) -> Option<&Asked> {
        self.live.as_ref().map(|live| &live.asked)
    }

    pub fn endpoint(&self) -> &'static str {
        self.live.as_ref().map_or("", |live| live.route.endpoint)
    }

    pub fn request_body(&mut self, bytes: &[u8]) {
        let Some(live) = &mut self.live else { return };
        live.request_bytes += bytes.len() as u64;
        if let Some(payload) = &mut live.payload {
            payload.prompt.push(bytes);
        }
        let Some(request) = &mut live.request else { return };
        match request.push(bytes, &mut live.asked) {
            _ if live.route.sure => {}
            Proof::Is(dialect) => (live.route.sure, live.route.dialect) = (true, dialect),
            Proof::IsNot => self.live = None,
            Proof::None => {}
        }
    }

    /// The rest of the request's body cannot be read.
    pub fn request_unread(&mut self) {
        let Some(live) = &mut self.live else { return };
        live.request = None;
        if !live.route.sure {
            self.live = None;
        }
    }

    /// The last byte of the request came.
    pub fn request_end(&mut self, t: Ns) {
        let Some(live) = &mut self.live else { return };
        if live.route.sure {
            live.request = None;
            live.request_end = Some(t);
        } else {
            self.live = None;
        }
    }

    /// The response's head (not a 1xx one); `t` is when its first byte came.
    pub fn response_head(&mut self, t: Ns, head: &ResponseHead<'_>) {
        let Some(live) = &mut self.live else { return };
        live.first_byte = Some(t);
        live.last_byte = Some(t);
        live.status = Some(head.status);
        live.grpc_status = live.grpc_status.or(head.grpc_status);
        live.until_close = head.framing == Framing::UntilClose;
        let framing = body::Framing::of(&live.route, &live.asked, head);
        live.is_stream = framing.is_stream();
        live.body = if head.is_encoded() || head.framing == Framing::Tunnel {
            Body::None
        } else {
            Body::new(framing, live.route.dialect)
        };
    }

    #[inline]
    pub fn response_body(&mut self, t: Ns, bytes: &[u8]) {
        let Some(live) = &mut self.live else { return };
        live.response_bytes += bytes.len() as u64;
        live.last_byte = Some(t);
        match &mut live.body {
            Body::Events(events) => events.push(t, bytes, &mut live.stream),
            Body::Messages(messages) => {
                let status = body::on_messages(t, bytes, messages, &mut live.stream);
                live.grpc_status = live.grpc_status.or(status);
            }
            Body::Whole(whole) => {
                whole.push(bytes);
                if let Some(payload) = &mut live.payload {
                    payload.completion.push(bytes);
                }
            }
            Body::None => {}
        }
    }

    /// The trailers of a gRPC call, or a response that is nothing else.
    pub fn grpc_status(&mut self, status: u32) {
        if let Some(live) = &mut self.live {
            live.grpc_status.get_or_insert(status);
        }
    }

    /// One message of a session, with what it says; `status` is that of the session's opening.
    pub fn message(&mut self, t: Ns, status: u16, choice: Option<Choice<'_>>, facts: &Facts<'_>) {
        let Some(live) = &mut self.live else { return };
        live.status = Some(status);
        live.first_byte.get_or_insert(t);
        live.last_byte = Some(t);
        body::on_message(t, choice, facts, &mut live.stream);
    }

    /// The response is complete as far as HTTP can tell; `t` is when its last byte came.
    pub fn response_end(&mut self, t: Ns) {
        let Some(live) = &mut self.live else { return };
        live.end = Some(t);
        if let Body::Events(events) = &mut live.body {
            events.finish(t, &mut live.stream);
        }
    }

    /// Bytes of the request or of the response are missing: the exchange is given up.
    pub fn lost(&mut self, t: Ns) {
        self.lost.get_or_insert(t);
        if let Some(live) = &mut self.live {
            live.body = Body::None;
            live.request = None;
        }
    }

    /// The client closed its side, or broke the connection off. The phase is that of the first
    /// such report: a server may write its first token to a client that has left.
    pub fn client_left(&mut self, t: Ns) {
        self.cut(t, Cut::Client);
    }

    /// The server closed its side, or broke the connection off.
    pub fn server_left(&mut self, t: Ns) {
        self.cut(t, Cut::Server);
    }

    /// Nothing happened for too long.
    pub fn timed_out(&mut self, t: Ns) {
        self.cut(t, Cut::Idle);
    }

    /// A client that only closes its own side may still get its answer; so a cut decides nothing
    /// before the end.
    fn cut(&mut self, t: Ns, what: Cut) {
        if let Some(live) = &mut self.live
            && live.end.is_none()
            && live.cut.is_none()
        {
            live.cut = Some((t, what));
        }
    }

    /// How far a call of an LLM has come, and what it brought since the last call of this.
    pub fn running(&mut self) -> Option<Running<'_>> {
        let live = self.live.as_mut().filter(|live| live.route.sure)?;
        let progress = live.stream.take_progress();
        Some(Running {
            role: self.role,
            endpoint: live.route.endpoint,
            model: live.stream.model.as_deref().or(live.asked.model.as_deref()),
            stream: if live.status.is_some() { live.is_stream } else { live.asked.stream },
            status: live.status,
            start: self.start,
            first_token: live.stream.first_token,
            last_token: live.stream.last_token,
            token_events: live.stream.token_events,
            progress,
        })
    }

    /// Whether the response is complete as far as HTTP can tell.
    pub fn is_over(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.end.is_some())
    }

    /// Bytes of memory held.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.live.as_ref().map_or(0, |live| live.size())
    }

    pub fn finish(self) -> Finished {
        match self.live {
            Some(live) if live.route.sure => live.finish(self.role, self.start, self.lost),
            _ => Finished::new(self.role, self.start),
        }
    }
}

impl Live {
    /// None: not a call of an LLM.
    fn of_request(
        settings: &Settings,
        head: &RequestHead<'_>,
        call: &Call<'_>,
    ) -> Option<Box<Self>> {
        let route = call.route;
        let plain = head.content_encoding.is_none_or(|c| c.eq_ignore_ascii_case("identity"));
        let request = if plain { Request::new(&route, head.content_type) } else { None };
        if request.is_none() && !route.sure {
            return None;
        }
        let model = call.model.map(|model| {
            let model = percent_decode_str(model).decode_utf8_lossy();
            clip(&model, MAX_MODEL).into()
        });
        let mut live = Self::new(settings, route, head.method, head.user_agent);
        live.path = clip(head.path(), MAX_PATH).into();
        live.request = request.map(Box::new);
        live.asked.model = model;
        live.traceparent = head.traceparent.map(|t| clip(t, MAX_TRACEPARENT).into());
        live.tracestate = head.tracestate.map(|t| members(t, MAX_TRACESTATE).into());
        Some(Box::new(live))
    }

    fn new(settings: &Settings, route: Route, method: &str, user_agent: Option<&str>) -> Self {
        Self {
            route,
            method: clip(method, 16).into(),
            path: route.endpoint.into(),
            user_agent: user_agent.map(|agent| clip(agent, MAX_USER_AGENT).into()),
            traceparent: None,
            tracestate: None,
            request: None,
            asked: Asked { stream: route.streams, ..Asked::default() },
            request_end: None,
            first_byte: None,
            last_byte: None,
            status: None,
            until_close: false,
            is_stream: false,
            body: Body::None,
            request_bytes: 0,
            response_bytes: 0,
            stream: Stream::new(settings),
            payload: settings.payload.then(Box::default),
            end: None,
            cut: None,
            arrived: None,
            held: None,
            grpc_status: None,
        }
    }

    fn finish(mut self: Box<Self>, role: Role, start: Ns, lost: Option<Ns>) -> Finished {
        let (said, drops) = match std::mem::replace(&mut self.body, Body::None) {
            Body::Whole(whole) => (Some(whole.said()), Drops::default()),
            Body::Events(events) => (None, events.drops()),
            Body::Messages(_) | Body::None => (None, Drops::default()),
        };
        let outcome = match lost {
            Some(_) => Outcome::Incomplete,
            None => self.outcome(said.as_ref()),
        };
        // Without a response there is only what the request asked for.
        let stream = if self.status.is_some() { self.is_stream } else { self.asked.stream };
        let end = match (self.end, self.cut) {
            _ if lost.is_some() => lost.unwrap_or(start),
            (Some(end), _) => end,
            (None, Some(_)) if self.stream.done => self.last_byte.unwrap_or(start),
            // It may have been cut before it began: by a server that had just closed.
            (None, Some((t, _))) => t.max(start),
            (None, None) => self.last_byte.or(self.request_end).unwrap_or(start),
        };
        let said = said.unwrap_or_default();
        let server = role == Role::Server;
        let progress = self.stream.take_progress();
        let (repetition, text) = self.stream.take_read();
        let mut payload = self.payload.take();
        if let (Some(payload), Some(text), true) = (&mut payload, text, self.is_stream) {
            payload.completion = text;
        }
        let answered = match self.route.operation {
            Operation::Chat | Operation::Completion if self.is_stream => {
                Some(self.stream.token_events > 0)
            }
            _ => said.answered,
        };
        Finished {
            role,
            method: self.method,
            endpoint: self.route.endpoint,
            path: self.path,
            operation: self.route.operation,
            model: self.stream.model.take().or(said.model).or_else(|| self.asked.model.take()),
            asked: self.asked,
            stream,
            status: self.status,
            outcome,
            finish_reason: self.stream.take_finish_reason().or(said.finish),
            start,
            request_end: self.request_end,
            first_byte: self.first_byte,
            first_token: self.stream.first_token,
            last_token: self.stream.last_token,
            end,
            events: self.stream.events,
            token_events: self.stream.token_events,
            first_tokens: self.stream.first_tokens,
            usage: if self.is_stream { self.stream.total_usage() } else { said.usage },
            max_stall: self.stream.max_stall,
            itl_source: self.stream.itl_source(),
            itl: self.stream.itl,
            token_times: self.stream.token_times,
            progress,
            queued: self.arrived.filter(|_| server).map(|t| start.saturating_sub(t)),
            blocked: self.held.filter(|_| server),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            repetition,
            answered,
            payload,
            user_agent: self.user_agent,
            traceparent: self.traceparent,
            tracestate: self.tracestate,
            drops,
        }
    }

    fn outcome(&self, said: Option<&Said>) -> Outcome {
        if self.status.is_some_and(|status| status >= 400) {
            return Outcome::HttpError;
        }
        if let Dialect::Grpc(_) = self.route.dialect
            && let Some(outcome) = self.grpc_outcome()
        {
            return outcome;
        }
        if self.stream.error || said.is_some_and(|said| said.error) {
            return Outcome::StreamError;
        }
        if self.stream.done || self.ended_properly(said) {
            return Outcome::Success;
        }
        match self.cut {
            // By time, not by order: the record of a write may come after that of a FIN it led to.
            Some((t, Cut::Client)) => Outcome::ClientDisconnect(match self.stream.first_token {
                Some(first) if first <= t => Phase::MidStream,
                _ => Phase::BeforeFirstToken,
            }),
            Some((_, Cut::Server)) => Outcome::ServerDisconnect,
            Some((_, Cut::Idle)) => Outcome::Timeout,
            None if self.end.is_some() => Outcome::ServerDisconnect,
            None => Outcome::Incomplete,
        }
    }

    /// A call that was refused is an HTTP error in all but the number; one that fails after its
    /// first message, an error inside a stream. Without a status it was cut short.
    fn grpc_outcome(&self) -> Option<Outcome> {
        const CANCELLED: u32 = 1;
        match self.grpc_status? {
            0 if self.stream.error => Some(Outcome::StreamError),
            0 => Some(Outcome::Success),
            // The server's answer to a client that has left.
            CANCELLED if matches!(self.cut, Some((_, Cut::Client))) => None,
            _ if self.stream.events > 0 => Some(Outcome::StreamError),
            _ => Some(Outcome::HttpError),
        }
    }

    fn ended_properly(&self, said: Option<&Said>) -> bool {
        if self.end.is_none() || matches!(self.route.dialect, Dialect::Grpc(_)) {
            return false;
        }
        // A gateway may end the answer that it had to give up properly as far as HTTP can tell.
        // Triton's answers have no end of their own.
        if self.is_stream
            && matches!(self.cut, Some((_, Cut::Client)))
            && self.route.dialect != Dialect::Triton
        {
            return self.stream.has_finished();
        }
        // A body that lasts until the close looks the same when it is cut short.
        !self.until_close
            || match said {
                Some(said) => said.complete,
                None if self.is_stream => self.stream.has_finished(),
                None => self.cut.is_none(),
            }
    }

    fn size(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |r| size_of::<Request>() + r.buffered());
        let payload = self.payload.as_ref().map_or(0, |p| {
            size_of::<Payload>() + p.prompt.bytes.capacity() + p.completion.bytes.capacity()
        });
        size_of::<Self>() + self.body.size() + request + payload + self.stream.heap()
    }
}

/// As many members of a list as fit, from the first on.
fn members(list: &str, max: usize) -> &str {
    let clipped = clip(list, max);
    if clipped.len() == list.len() {
        return list;
    }
    let whole = list[clipped.len()..].starts_with(',');
    if whole { clipped } else { clipped.rsplit_once(',').map_or("", |(whole, _)| whole) }
}

#[cfg(test)]
mod tests;
