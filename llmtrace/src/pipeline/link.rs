//! The HTTP state of one connection: which direction carries requests, the two parsers, and the
//! exchanges whose responses are to come.

use std::collections::VecDeque;

use super::counts::{Lost, Resync, Verdict};
use super::cx::Cx;
use super::{EARLY_BYTES, JOINED_BYTES, JOINED_ONE_WAY_BYTES, Sink};
use crate::conn::{HOLD_NS, Peer, Piece};
use crate::http::{
    Asked, RequestParser, ResponseParser, Sniff, looks_like_request, looks_like_response,
};
use crate::llm::{Exchange, Role};
use crate::record::{Direction, EndReason, Ns};

/// What a connection is taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Side {
    /// No request line was seen yet.
    #[default]
    Unknown,
    Http(Role),
    /// Not looked at any more.
    Silent,
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub side: Side,
    pub request: RequestParser,
    pub response: ResponseParser,
    pub flow: Flow,
    /// Response bytes whose request has not come yet.
    early: Option<Box<Early>>,
    /// Bytes of either direction before the first request line.
    unknown: [u64; 2],
    /// On the pipeline's list of connections that wait for time to pass.
    pub listed: bool,
    /// Records that came although nobody looks at this connection.
    pub ignored: u32,
}

/// What both directions share.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub role: Option<Role>,
    /// Exchanges whose response is not over, the oldest first. Boxed: an idle connection holds
    /// none, and the queue of one that had some stays small.
    pub open: VecDeque<Box<Pending>>,
    /// The request parser is inside the request of the newest of them.
    pub sending: bool,
    /// Exchanges ever begun.
    pub begun: u64,
    pub peer: Option<Peer>,
    /// When the other side was seen to send no more; its last bytes may still wait to be read.
    pub peer_left: Option<Ns>,
    /// Requests were sent before the response to the one before.
    pub pipelined: bool,
    /// A loss on a pipelined connection: nobody knows any more which response is whose.
    pub confused: bool,
    pub request_start: Ns,
    pub response_start: Ns,
    /// The last byte of a response.
    pub response_last: Ns,
    pub failed: Option<(Lost, Resync)>,
    pub tunnel: bool,
    /// A response ended in this call.
    pub ended: bool,
}

/// An exchange under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub exchange: Exchange,
    pub asked: Asked,
    /// As they were called at the start, so that what was counted up is counted down. None if
    /// this is no call of an LLM.
    pub peer: Option<Peer>,
    pub lost: Option<Lost>,
}

#[derive(Debug)]
struct Early {
    direction: Direction,
    since: Ns,
    bytes: usize,
    pieces: Vec<(Ns, Vec<u8>)>,
}

/// The direction of the traced process that carries requests.
pub(super) fn request_direction(role: Role) -> Direction {
    match role {
        Role::Server => Direction::Read,
        Role::Client => Direction::Write,
    }
}

impl Link {
    pub fn busy(&self) -> bool {
        !self.flow.open.is_empty()
    }

    /// Which connections have to stay if there is no room for all.
    pub fn rank(&self) -> u8 {
        match self.side {
            Side::Silent => 0,
            _ if self.busy() => 2,
            _ => 1,
        }
    }

    /// Whether the next bytes of a direction would begin a request.
    #[cold]
    pub fn begins_request(&self, direction: Direction) -> bool {
        matches!(self.side, Side::Http(role) if request_direction(role) == direction)
            && (self.request.is_idle() || self.request.is_lost())
    }

    /// Whether response bytes wait for their request.
    pub fn waits(&self) -> bool {
        self.early.is_some()
    }

    /// Whether so many of them wait that the request has to come now.
    pub fn waits_for_room(&self) -> Option<Direction> {
        let early = self.early.as_ref().filter(|e| e.bytes > EARLY_BYTES)?;
        Some(match early.direction {
            Direction::Read => Direction::Write,
            Direction::Write => Direction::Read,
        })
    }

    /// The next piece of one direction.
    #[inline]
    pub fn piece<K: Sink>(&mut self, direction: Direction, piece: Piece<'_>, cx: &mut Cx<'_, K>) {
        match self.side {
            Side::Http(role) => {
                if direction == request_direction(role) {
                    self.request_piece(direction, piece, cx);
                } else {
                    self.response_piece(direction, piece, cx);
                }
            }
            Side::Unknown => self.unknown_piece(direction, piece, cx),
            Side::Silent => {}
        }
    }

    /// A piece of a connection that has not shown which way its requests go.
    #[cold]
    fn unknown_piece<K: Sink>(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) {
        let Piece::Bytes { bytes, .. } = piece else {
            self.unknown[direction as usize] += 1;
            self.lose_both();
            return;
        };
        let first = self.unknown == [0, 0];
        let joined = !(cx.meta.from_birth && (first || self.early.is_some()));
        if first && joined {
            cx.counts.resync(Resync::Joined);
        }
        let seen = &mut self.unknown[direction as usize];
        *seen += bytes.len() as u64;
        if looks_like_request(bytes) != Sniff::No {
            let role = match direction {
                Direction::Read => Role::Server,
                Direction::Write => Role::Client,
            };
            self.side = Side::Http(role);
            self.flow.role = Some(role);
            self.early = self.early.take().filter(|e| e.direction != direction);
            if joined {
                self.lose_both();
            }
            self.request_piece(direction, piece, cx);
        } else if self.early.is_some() || looks_like_response(bytes) != Sniff::No {
            self.hold_early(direction, piece);
        } else if cx.meta.from_birth && first {
            cx.verdict = Some(Verdict::NotHttp);
        } else {
            self.lose_both();
            let [a, b] = self.unknown;
            if a.min(b) > JOINED_BYTES || a.max(b) > JOINED_ONE_WAY_BYTES {
                cx.verdict = Some(Verdict::NoRequest);
            }
        }
    }

    fn lose_both(&mut self) {
        self.request.lose();
        self.response.lose();
    }

    fn request_piece<K: Sink>(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) {
        let t = time(direction, piece);
        let Self { request, response, flow, .. } = self;
        let begun = flow.begun;
        match piece {
            Piece::Bytes { bytes, .. } => {
                if request.is_lost() {
                    if looks_like_request(bytes) == Sniff::No {
                        return;
                    }
                    request.resync();
                }
                let fresh = request.is_idle();
                request.push(bytes, |e| flow.on_request(&e, t, response, cx));
                // What was taken for the beginning of a head was none; perhaps this is one.
                if flow.failed.is_some()
                    && flow.begun == begun
                    && !fresh
                    && looks_like_request(bytes) != Sniff::No
                {
                    flow.request_failed(t, cx);
                    request.resync();
                    request.push(bytes, |e| flow.on_request(&e, t, response, cx));
                }
            }
            Piece::Gap { len: Some(len), .. } => {
                request.gap(len, |e| flow.on_request(&e, t, response, cx));
            }
            Piece::Gap { len: None, .. } => {
                request.lose();
                flow.failed = Some((Lost::RequestGap, Resync::Gap));
            }
        }
        if let Some((reason, _)) = flow.failed {
            flow.request_failed(t, cx);
            if reason == Lost::RequestError {
                self.request_error(cx);
            }
        }
        if self.flow.begun != begun && self.early.is_some() {
            self.replay_early(cx);
        }
    }

    /// After an error: on a connection without a single exchange it was no HTTP at all.
    #[cold]
    fn request_error<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        if self.flow.begun > 0 {
            return;
        }
        if cx.meta.from_birth {
            cx.verdict = Some(Verdict::NotHttp);
        } else {
            self.side = Side::Unknown;
            self.flow.role = None;
            self.lose_both();
        }
    }

    fn response_piece<K: Sink>(
        &mut self,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) {
        let t = time(direction, piece);
        if self.flow.open.is_empty() {
            return self.unasked(direction, piece, cx);
        }
        let Self { request, response, flow, .. } = self;
        match piece {
            Piece::Bytes { bytes, .. } => {
                flow.response_last = t;
                if response.is_lost() {
                    // What is left of a response that was given up.
                    if looks_like_response(bytes) == Sniff::No {
                        return;
                    }
                    response.resync();
                    for pending in &flow.open {
                        response.expect(pending.asked);
                    }
                }
                response.push(bytes, |e| flow.on_response(&e, t, cx));
            }
            Piece::Gap { len: Some(len), .. } => {
                response.gap(len, |e| flow.on_response(&e, t, cx));
            }
            Piece::Gap { len: None, .. } => {
                response.lose();
                flow.failed = Some((Lost::ResponseGap, Resync::Gap));
            }
        }
        if flow.failed.is_some() {
            flow.response_failed(t, cx);
            response.lose();
        }
        if flow.ended {
            flow.ended = false;
            if flow.open.is_empty() && !response.is_idle() && !response.is_lost() {
                // More bytes than were asked for.
                response.lose();
                cx.counts.resync(Resync::Unasked);
            }
        }
        if flow.tunnel {
            request.tunnel();
            cx.verdict = Some(Verdict::Tunnel);
        }
    }

    /// Response bytes while nothing was asked: two threads' records may have changed places, so
    /// what looks like a response waits a little for its request.
    #[cold]
    fn unasked<K: Sink>(&mut self, direction: Direction, piece: Piece<'_>, cx: &mut Cx<'_, K>) {
        let Piece::Bytes { bytes, .. } = piece else {
            self.drop_early(cx);
            self.response.lose();
            return;
        };
        if self.early.is_some() || looks_like_response(bytes) != Sniff::No {
            self.hold_early(direction, piece);
        } else if !self.response.is_lost() && bytes.iter().any(|b| !b.is_ascii_whitespace()) {
            self.response.lose();
            cx.counts.resync(Resync::Unasked);
        }
    }

    fn hold_early(&mut self, direction: Direction, piece: Piece<'_>) {
        let Piece::Bytes { bytes, exit, .. } = piece else { return };
        let early = self.early.get_or_insert_with(|| {
            Box::new(Early { direction, since: exit, bytes: 0, pieces: Vec::new() })
        });
        if early.direction == direction {
            // The caller looks at `waits_for_room` before the next record, and a record is small.
            early.bytes += bytes.len().max(64);
            early.pieces.push((time(direction, piece), bytes.to_vec()));
        }
    }

    fn replay_early<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        let Some(early) = self.early.take() else { return };
        for (t, bytes) in early.pieces {
            let piece = Piece::Bytes { enter: t, exit: t, bytes: &bytes };
            self.response_piece(early.direction, piece, cx);
        }
    }

    /// Gives up waiting for the request of what came early.
    pub fn drop_early<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        if let Some(early) = self.early.take() {
            cx.counts.unasked_bytes += early.pieces.iter().map(|p| p.1.len() as u64).sum::<u64>();
            cx.counts.resync(Resync::Unasked);
            self.response.lose();
        }
    }

    /// Time passes.
    pub fn tick<K: Sink>(&mut self, now: Ns, cx: &mut Cx<'_, K>) {
        if self.early.as_ref().is_some_and(|e| now.saturating_sub(e.since) > HOLD_NS) {
            self.drop_early(cx);
        }
    }

    /// Whether an end decides nothing yet: who closed its side may still get, or have sent, a
    /// whole response.
    pub fn only_notes(&self, reason: EndReason) -> bool {
        matches!(
            (reason, self.flow.role),
            (EndReason::PeerFin, _)
                | (EndReason::ReadEof, Some(Role::Server))
                | (EndReason::WriteBroken, Some(Role::Client))
        )
    }

    /// An end of the connection, or of one of its directions; nothing more comes in time's order.
    #[cold]
    pub fn end<K: Sink>(&mut self, reason: EndReason, at: Ns, cx: &mut Cx<'_, K>) {
        use EndReason::*;
        let Side::Http(role) = self.side else { return };
        let flow = &mut self.flow;
        match (role, reason) {
            (_, PeerFin) | (Role::Server, ReadEof) | (Role::Client, WriteBroken) => {
                let left = *flow.peer_left.get_or_insert(at);
                if role == Role::Server {
                    flow.open.iter_mut().for_each(|p| p.exchange.client_left(left));
                }
                return;
            }
            (Role::Server, LocalFin | Closed) => {
                self.response_eof(at, cx);
                self.flow.finish_all(cx, |e| e.server_left(at));
            }
            (Role::Server, LocalReset) => flow.finish_all(cx, |e| e.server_left(at)),
            (Role::Server, PeerReset | WriteBroken | ReadReset) => {
                flow.finish_all(cx, |e| e.client_left(at));
            }
            (Role::Client, PeerReset | ReadReset) => {
                let left = flow.peer_left.unwrap_or(at);
                flow.finish_all(cx, |e| e.server_left(left));
            }
            (Role::Client, ReadEof) => {
                let left = flow.peer_left.unwrap_or(at);
                self.server_gone(left, cx);
            }
            (Role::Client, LocalFin | LocalReset | Closed) => match flow.peer_left {
                Some(left) => self.server_gone(left, cx),
                None => flow.finish_all(cx, |e| e.client_left(at)),
            },
        }
        self.flow.sending = false;
        self.response.lose();
    }

    fn server_gone<K: Sink>(&mut self, at: Ns, cx: &mut Cx<'_, K>) {
        self.response_eof(at, cx);
        self.flow.finish_all(cx, |e| e.server_left(at));
    }

    /// Completes a body that lasts until the close.
    fn response_eof<K: Sink>(&mut self, at: Ns, cx: &mut Cx<'_, K>) {
        let Self { response, flow, .. } = self;
        let t = if flow.response_last == 0 { at } else { flow.response_last };
        response.eof(|e| flow.on_response(&e, t, cx));
        flow.ended = false;
        flow.failed = None;
    }

    /// Nothing came for too long.
    pub fn timed_out<K: Sink>(&mut self, now: Ns, cx: &mut Cx<'_, K>) {
        let server_left = self.flow.peer_left.filter(|_| self.flow.role == Some(Role::Client));
        self.flow.finish_all(cx, |e| {
            if let Some(t) = server_left {
                e.server_left(t);
            }
            e.timed_out(now);
        });
    }

    /// Looks at this connection no more.
    pub fn silence(&mut self) {
        *self = Self { side: Side::Silent, listed: self.listed, ..Self::default() };
    }
}

/// When bytes were there: those read at the call's end, those written at its beginning.
#[inline]
fn time(direction: Direction, piece: Piece<'_>) -> Ns {
    let (Piece::Bytes { enter, exit, .. } | Piece::Gap { enter, exit, .. }) = piece;
    match direction {
        Direction::Read => exit,
        Direction::Write => enter,
    }
}
