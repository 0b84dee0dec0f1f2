//! HTTP/2 on one connection: its two parsers, and an exchange for each stream.

mod streams;

use std::collections::VecDeque;

use super::counts::{Lost, Resync, Verdict};
use super::cx::Cx;
use super::early::Early;
use super::ending::Ending;
use super::link::{Shared, request_direction, time};
use super::pending::Pending;
use super::{EARLY_BYTES, Sink};
use crate::conn::{HOLD_NS, Piece};
use crate::http::h2::hpack::{Fields, Name};
use crate::http::h2::{self, Event, H2Error, Parser};
use crate::llm::{Exchange, Peer, Running};
use crate::record::{Direction, Ns};
use streams::{Stream, Streams};

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Http2 {
    client: Parser,
    server: Parser,
    state: State,
}

/// What both directions share.
#[derive(Debug, Default)]
struct State {
    streams: Streams,
    /// The highest stream that the client was seen to open.
    last: u32,
    /// When the first byte of the frame at hand came, in either direction.
    frame: [Ns; 2],
    /// Since when the first byte of the read at hand had waited, until a frame begins with it; and
    /// the same of the client's frame at hand.
    waited_since: Option<Ns>,
    frame_waited: Option<Ns>,
    /// Streams that the client gave up, and when it is known how far they had come: another
    /// thread's write may be recorded later.
    left: VecDeque<(Ns, u32)>,
    /// What came for streams that are not open yet: two threads' records may have changed places.
    early: Vec<(Ns, u32, Ahead)>,
    early_bytes: usize,
    /// Nothing was exchanged yet.
    fresh: bool,
    /// Joined in its middle.
    joined: bool,
    failed: Option<(Lost, Resync)>,
}

/// A part of a response that came before its request.
#[derive(Debug)]
enum Ahead {
    Headers(Fields),
    Data(Vec<u8>),
    End,
}

impl Http2 {
    /// From its first byte. `early` are bytes of the server that came before the client's.
    pub fn new(early: Option<Box<Early>>) -> Self {
        let mut server = Parser::server();
        for (_, bytes) in early.into_iter().flat_map(|early| early.pieces) {
            // Nothing of a stream: the client has not opened any.
            server.push(&bytes, |_| {});
        }
        let state = State { fresh: true, ..State::default() };
        Self { client: Parser::client(), server, state }
    }

    /// After an upgrade from HTTP/1, whose request is the first stream.
    pub fn upgraded(first: Option<Box<Pending>>) -> Self {
        let mut new = Self::new(None);
        new.state.last = 1;
        if let Some(pending) = first {
            let _ = new.state.streams.open(Stream::new(1, pending));
        }
        new
    }

    /// Joined in its middle.
    pub fn joined() -> Self {
        let state = State { joined: true, ..State::default() };
        Self { client: Parser::joined(), server: Parser::joined(), state }
    }

    /// Tells `on` of every LLM exchange that is open.
    pub fn running(&mut self, on: &mut impl FnMut(Running<'_>, &Peer)) {
        self.state.streams.iter_mut().for_each(|s| s.pending.running(on));
    }

    pub fn is_busy(&self) -> bool {
        !self.state.streams.is_empty()
    }

    /// LLM exchanges that are open.
    pub fn open(&self) -> usize {
        self.state.streams.iter().filter(|s| s.pending.exchange.is_llm()).count()
    }

    pub fn waits(&self) -> bool {
        !self.state.left.is_empty()
    }

    /// The next piece of one direction.
    pub fn piece<K: Sink>(
        &mut self,
        shared: &mut Shared,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) {
        let t = time(direction, piece);
        let Self { client, server, state } = self;
        let from_client = direction == request_direction(shared.role);
        let parser = if from_client { client } else { server };
        if let Piece::Bytes { bytes, .. } = piece
            && parser.is_lost()
            && h2::begins_frame(bytes)
            && parser.resync()
        {
            // What went by unread may have been about streams that were opened meanwhile.
            match from_client {
                true => state.doubt(Lost::RequestGap),
                false => state.lose_all(t, Lost::ResponseGap, cx),
            }
        }
        if from_client {
            state.waited_since = shared.waited_since(t).filter(|_| parser.is_between_frames());
        }
        let mut on = |event: Event<'_>| match from_client {
            true => state.on_request(&event, t, shared, cx),
            false => state.on_response(&event, t, cx),
        };
        match piece {
            Piece::Bytes { bytes, .. } => parser.push(bytes, &mut on),
            Piece::Gap { len: Some(len), .. } => parser.gap(len, &mut on),
            Piece::Gap { len: None, .. } => {
                parser.lose();
                on(Event::Lost);
            }
        }
        if let Some((lost, resync)) = state.failed.take() {
            cx.counts.resync(resync);
            if state.fresh && cx.meta.from_birth && resync == Resync::BadFrame {
                cx.verdict = Some(Verdict::NotHttp);
            }
            if from_client {
                state.doubt(lost);
            } else {
                state.lose_all(t, lost, cx);
            }
        }
    }

    /// Time passes: what was given up long enough ago is over. `Ns::MAX`: whenever that was.
    pub fn settle<K: Sink>(&mut self, now: Ns, cx: &mut Cx<'_, K>) {
        let state = &mut self.state;
        while let Some(&(due, id)) = state.left.front()
            && due <= now
        {
            state.left.pop_front();
            state.finish(id, cx);
        }
    }

    /// An end of the connection.
    pub fn end<K: Sink>(&mut self, ending: Ending, cx: &mut Cx<'_, K>) {
        match ending {
            Ending::Noted => {}
            Ending::ClientShut(at) => {
                self.state.streams.iter_mut().for_each(|s| s.pending.exchange.client_left(at));
            }
            Ending::ClientLeft(at) => self.finish_all(cx, |e| e.client_left(at)),
            Ending::ServerLeft { at, .. } => self.finish_all(cx, |e| e.server_left(at)),
        }
    }

    /// Ends every open exchange in one way.
    pub fn finish_all<K: Sink>(&mut self, cx: &mut Cx<'_, K>, mut how: impl FnMut(&mut Exchange)) {
        for mut stream in self.state.streams.take() {
            how(&mut stream.pending.exchange);
            stream.close(cx);
        }
        self.state.left.clear();
    }

    /// Ends every open exchange as incomplete.
    pub fn lose_all<K: Sink>(&mut self, t: Ns, reason: Lost, cx: &mut Cx<'_, K>) {
        self.state.lose_all(t, reason, cx);
    }
}

impl State {
    fn on_request<K: Sink>(
        &mut self,
        event: &Event<'_>,
        t: Ns,
        shared: &mut Shared,
        cx: &mut Cx<'_, K>,
    ) {
        match event {
            Event::Start => {
                self.frame[0] = t;
                self.frame_waited = self.waited_since.take();
            }
            // On a stream that is open these are trailers.
            Event::Headers { stream, fields } if self.opens(*stream) => {
                self.last = *stream;
                match h2::request(fields) {
                    Some(head) => {
                        let start = self.frame[0];
                        let mut pending = Pending::begin(&head, start, shared, cx);
                        if let Some(since) = self.frame_waited.take() {
                            pending.exchange.waited(since);
                        }
                        self.begin(Stream::new(*stream, pending), t, cx);
                    }
                    None => cx.counts.resync(Resync::UnknownHeaders),
                }
            }
            Event::BadHeaders { stream } => {
                cx.counts.resync(Resync::BadHeaders);
                if self.opens(*stream) {
                    self.last = *stream;
                }
            }
            Event::Data { stream, bytes } => {
                if let Some(stream) = self.streams.get(*stream) {
                    stream.pending.request_body(bytes, shared, cx);
                }
            }
            Event::Gap { stream, .. } => {
                if let Some(stream) = self.streams.get(*stream) {
                    stream.pending.lose(t, Lost::RequestGap);
                }
            }
            Event::End { stream } => {
                if let Some(stream) = self.streams.get(*stream) {
                    stream.pending.exchange.request_end(t);
                    stream.sent = true;
                }
            }
            Event::Reset { stream: id, .. } => {
                if let Some(stream) = self.streams.get(*id) {
                    stream.pending.exchange.client_left(t);
                    stream.pending.held_until = Some(cx.held);
                    self.left.push_back((t.saturating_add(HOLD_NS), *id));
                    // Streams that are reset make room for others, which may be as many.
                    if self.left.len() > h2::MAX_STREAMS
                        && let Some((_, id)) = self.left.pop_front()
                    {
                        self.finish(id, cx);
                    }
                }
            }
            _ => self.other(event, (Lost::RequestGap, Lost::RequestError)),
        }
    }

    fn on_response<K: Sink>(&mut self, event: &Event<'_>, t: Ns, cx: &mut Cx<'_, K>) {
        match event {
            Event::Data { stream, bytes } if self.is_ahead(*stream) => {
                self.hold(t, *stream, Ahead::Data(bytes.to_vec()), cx);
            }
            Event::Headers { stream, fields } if self.is_ahead(*stream) => {
                let start = self.frame[1];
                self.hold(start, *stream, Ahead::Headers((*fields).clone()), cx);
            }
            Event::End { stream } if self.is_ahead(*stream) => {
                self.hold(t, *stream, Ahead::End, cx);
            }
            Event::Data { stream, bytes } => {
                if let Some(stream) = self.streams.get(*stream) {
                    stream.content(t, bytes);
                }
            }
            Event::Start => self.frame[1] = t,
            Event::Headers { stream, fields } => {
                let start = self.frame[1];
                if let Some(stream) = self.streams.get(*stream) {
                    stream.headers(start, t, fields, cx.held);
                }
            }
            Event::BadHeaders { stream } => {
                cx.counts.resync(Resync::BadHeaders);
                if let Some(stream) = self.streams.get(*stream) {
                    stream.pending.lose(t, Lost::ResponseError);
                }
            }
            Event::Gap { stream, .. } => {
                if let Some(stream) = self.streams.get(*stream) {
                    stream.pending.lose(t, Lost::ResponseGap);
                }
            }
            Event::End { stream: id } => self.answer_ends(*id, t, cx),
            Event::Reset { stream: id, .. } => {
                if let Some(stream) = self.streams.get(*id) {
                    stream.pending.exchange.server_left(t);
                    self.finish(*id, cx);
                }
            }
            Event::GoAway { last } => {
                for mut stream in self.streams.take_after(*last) {
                    stream.pending.exchange.server_left(t);
                    stream.close(cx);
                }
            }
            _ => self.other(event, (Lost::ResponseGap, Lost::ResponseError)),
        }
    }

    fn other(&mut self, event: &Event<'_>, (gap, error): (Lost, Lost)) {
        match event {
            Event::Error(H2Error::BadPreface | H2Error::BadFrame) => {
                self.failed = Some((error, Resync::BadFrame));
            }
            Event::Lost => self.failed = Some((gap, Resync::Gap)),
            _ => {}
        }
    }

    /// Whether this stream is one that the client has not been seen to open.
    fn opens(&self, stream: u32) -> bool {
        stream % 2 == 1 && stream > self.last
    }

    /// The same of what the server sends. Of a connection joined in its middle, the streams that
    /// were open by then are not ahead of anything.
    fn is_ahead(&self, stream: u32) -> bool {
        self.opens(stream) && (self.last > 0 || !self.joined)
    }

    /// A response is complete.
    fn answer_ends<K: Sink>(&mut self, id: u32, t: Ns, cx: &mut Cx<'_, K>) {
        if let Some(stream) = self.streams.get(id) {
            // A doubt about trailers stays.
            stream.doubt = stream.doubt.filter(|lost| *lost == Lost::UnknownHeaders);
            stream.must_be_answered(t);
            stream.pending.exchange.response_end(t);
            self.finish(id, cx);
        }
    }

    fn begin<K: Sink>(&mut self, stream: Stream, t: Ns, cx: &mut Cx<'_, K>) {
        let id = stream.id;
        self.fresh = false;
        if let Err(mut stream) = self.streams.open(stream) {
            stream.pending.lose(t, Lost::TooMany);
            stream.close(cx);
            return;
        }
        if self.early.is_empty() {
            return;
        }
        let mut early = std::mem::take(&mut self.early);
        early.retain_mut(|(t, of, ahead)| {
            if *of != id {
                return true;
            }
            if let Some(stream) = self.streams.get(id) {
                match ahead {
                    Ahead::Headers(fields) => stream.headers(*t, *t, fields, cx.held),
                    Ahead::Data(bytes) => stream.content(*t, bytes),
                    Ahead::End => self.answer_ends(id, *t, cx),
                }
            }
            false
        });
        self.early = early;
        if self.early.is_empty() {
            self.early_bytes = 0;
        }
    }

    /// Keeps what came for a stream that is not open yet.
    fn hold<K: Sink>(&mut self, t: Ns, stream: u32, ahead: Ahead, cx: &mut Cx<'_, K>) {
        let stale = |since: &Ns| t.saturating_sub(*since) > HOLD_NS;
        if self.early.first().is_some_and(|(since, ..)| stale(since))
            || self.early_bytes > EARLY_BYTES
        {
            // Its request will not come.
            self.forget_early();
        }
        if self.early.is_empty() {
            cx.counts.resync(Resync::UnknownStream);
        }
        self.early_bytes += match &ahead {
            Ahead::Data(bytes) => bytes.len().max(64),
            // A block has a bound of its own; here its usual size will do.
            Ahead::Headers(_) | Ahead::End => 512,
        };
        self.early.push((t, stream, ahead));
    }

    fn forget_early(&mut self) {
        self.early = Vec::new();
        self.early_bytes = 0;
    }

    fn lose_all<K: Sink>(&mut self, t: Ns, reason: Lost, cx: &mut Cx<'_, K>) {
        for mut stream in self.streams.take() {
            stream.pending.lose(t, reason);
            stream.close(cx);
        }
        self.left.clear();
        self.forget_early();
    }

    /// A part of what the client sent is not known, a reset perhaps.
    fn doubt(&mut self, lost: Lost) {
        for stream in self.streams.iter_mut() {
            stream.doubt = Some(lost);
            if !stream.sent {
                stream.pending.lose(self.frame[0], lost);
            }
        }
    }

    fn finish<K: Sink>(&mut self, id: u32, cx: &mut Cx<'_, K>) {
        if let Some(stream) = self.streams.remove(id) {
            stream.close(cx);
        }
    }
}

impl Stream {
    fn content(&mut self, t: Ns, bytes: &[u8]) {
        self.must_be_answered(t);
        self.pending.response_body(t, bytes);
    }

    /// A response begins with its head: where none came, the beginning was missed.
    #[inline]
    fn must_be_answered(&mut self, t: Ns) {
        if !self.answered {
            self.pending.lose(t, Lost::ResponseGap);
        }
    }

    /// A header block of the response, whose first byte came at `start`. Until then `held` was of
    /// other streams.
    fn headers(&mut self, start: Ns, t: Ns, fields: &Fields, held: Ns) {
        let status = h2::grpc_status(fields);
        if let Some(status) = status {
            self.pending.exchange.grpc_status(status);
        }
        if self.answered {
            // Trailers. What matters of them may be what is not known.
            if fields.unknown && status.is_none() {
                self.doubt = Some(Lost::UnknownHeaders);
            }
            return;
        }
        match h2::response(fields) {
            Some(head) if (100..200).contains(&head.status) => {}
            Some(head) => {
                self.answered = true;
                self.pending.held_before = held;
                self.pending.response_head(start, &head);
            }
            None if fields.unknown || fields.get(Name::Status).is_none() => {
                self.answered = true;
                self.pending.lose(t, Lost::UnknownHeaders);
            }
            None => self.pending.lose(t, Lost::ResponseError),
        }
    }
}
