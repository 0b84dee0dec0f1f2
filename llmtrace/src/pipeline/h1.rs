//! HTTP/1 on one connection: the two parsers, and the exchanges whose responses are to come.

mod flow;

use super::Sink;
use super::counts::{Lost, Resync, Verdict};
use super::cx::Cx;
use super::early::Early;
use super::ending::Ending;
use super::link::{Shared, Switch, request_direction, time};
use crate::conn::Piece;
use crate::http::{RequestParser, ResponseParser, Sniff, looks_like_request, looks_like_response};
use crate::record::{Direction, Ns};
use flow::Flow;

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub(super) struct Http1 {
    request: RequestParser,
    response: ResponseParser,
    pub flow: Flow,
    /// Bytes that wait for those of the other direction: a response for its request, or what
    /// follows a request for another protocol for the answer to that.
    early: Option<Box<Early>>,
}

/// What a connection is, if it is not what it was taken for.
#[derive(Debug)]
pub(super) enum Turn {
    Stay,
    /// No HTTP/1 after all; joined in its middle.
    Unknown,
    /// From here on another protocol.
    Switch(Box<Switch>),
}

impl Http1 {
    /// `lost`: it was joined in its middle. `early` are response bytes that came before.
    pub fn new(lost: bool, early: Option<Box<Early>>) -> Self {
        let (request, response) = Default::default();
        let mut new = Self { request, response, flow: Flow::default(), early };
        if lost {
            new.request.lose();
            new.response.lose();
        }
        new
    }

    /// Whether the next bytes of a direction would begin a request.
    pub fn begins_request(&self) -> bool {
        self.request.is_idle() || self.request.is_lost()
    }

    /// The bytes that wait for those of the other direction.
    #[inline]
    pub fn early(&self) -> Option<&Early> {
        self.early.as_deref()
    }

    /// The next piece of one direction.
    #[inline]
    pub fn piece<K: Sink>(
        &mut self,
        shared: &mut Shared,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) -> Turn {
        if direction == request_direction(shared.role) {
            self.request_piece(shared, direction, piece, cx)
        } else {
            self.response_piece(shared, direction, piece, cx)
        }
    }

    fn request_piece<K: Sink>(
        &mut self,
        shared: &mut Shared,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) -> Turn {
        let t = time(direction, piece);
        if self.flow.asks_for_another && !self.flow.sending {
            // What follows is of the one protocol or the other, as the answer will say.
            Early::hold(&mut self.early, direction, piece);
            return Turn::Stay;
        }
        let Self { request, response, flow, .. } = self;
        let begun = flow.begun;
        match piece {
            Piece::Bytes { bytes, .. } => {
                if request.is_lost() {
                    if looks_like_request(bytes) == Sniff::No {
                        return Turn::Stay;
                    }
                    request.resync();
                }
                let fresh = request.is_idle();
                flow.waited_since = shared.waited_since(t).filter(|_| fresh);
                request.push(bytes, |e| flow.on_request(&e, t, shared, response, cx));
                // What was taken for the beginning of a head was none; perhaps this is one.
                if flow.failed.is_some()
                    && flow.begun == begun
                    && !fresh
                    && looks_like_request(bytes) != Sniff::No
                {
                    flow.request_failed(t, cx);
                    request.resync();
                    request.push(bytes, |e| flow.on_request(&e, t, shared, response, cx));
                }
            }
            Piece::Gap { .. } if request.is_lost() => flow.holed = true,
            Piece::Gap { len: Some(len), .. } => {
                request.gap(len, |e| flow.on_request(&e, t, shared, response, cx));
            }
            Piece::Gap { len: None, .. } => {
                request.lose();
                flow.failed = Some((Lost::RequestGap, Resync::Gap));
            }
        }
        if let Some((reason, _)) = flow.failed {
            flow.request_failed(t, cx);
            // On a connection without a single exchange it was no HTTP at all.
            if reason == Lost::RequestError && flow.begun == 0 {
                if !cx.meta.from_birth {
                    return Turn::Unknown;
                }
                cx.verdict = Some(Verdict::NotHttp);
            }
        }
        if self.flow.begun != begun && self.early.is_some() {
            return self.replay_early(shared, cx);
        }
        Turn::Stay
    }

    #[inline]
    fn response_piece<K: Sink>(
        &mut self,
        shared: &mut Shared,
        direction: Direction,
        piece: Piece<'_>,
        cx: &mut Cx<'_, K>,
    ) -> Turn {
        let t = time(direction, piece);
        if self.flow.open.is_empty() {
            self.unasked(direction, piece, cx);
            return Turn::Stay;
        }
        let Self { response, flow, .. } = self;
        let before = response.is_lost() || response.is_idle() && flow.after_hole;
        match piece {
            Piece::Bytes { bytes, .. } => {
                flow.response_last = t;
                if response.is_lost() {
                    let doubtful = flow.doubtful && t >= flow.newest;
                    // What is left of a response that was given up, or one to a request that was
                    // missed: no answer comes before it was asked for.
                    if looks_like_response(bytes) == Sniff::No && !doubtful
                        || flow.open.len() == 1 && t < flow.newest
                    {
                        return Turn::Stay;
                    }
                    if looks_like_response(bytes) == Sniff::No {
                        flow.lose_all(t, Lost::ResponseGap, cx);
                        return Turn::Stay;
                    }
                    flow.doubtful = false;
                    response.resync();
                    for pending in &flow.open {
                        response.expect(pending.asked);
                    }
                }
                response.push(bytes, |e| flow.on_response(&e, t, cx));
            }
            Piece::Gap { .. } if response.is_lost() => {
                flow.failed = Some((Lost::ResponseGap, Resync::Gap));
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
            flow.response_failed(t, before, cx);
            response.lose();
        }
        if flow.ended {
            flow.ended = false;
            return self.after_response(shared, cx);
        }
        Turn::Stay
    }

    /// What the end of a response decides.
    fn after_response<K: Sink>(&mut self, shared: &mut Shared, cx: &mut Cx<'_, K>) -> Turn {
        let Self { response, flow, early, .. } = self;
        if let Some(switch) = flow.switch.take() {
            let early = early.take().map(|early| early.pieces).unwrap_or_default();
            return Turn::Switch(Box::new(Switch { to: *switch, at: flow.response_last, early }));
        }
        if flow.tunnel {
            cx.verdict = Some(Verdict::Tunnel);
        } else if flow.open.is_empty() && !response.is_idle() && !response.is_lost() {
            // More bytes than were asked for.
            response.lose();
            cx.counts.resync(Resync::Unasked);
        }
        if early.is_some() && !flow.asks_for_another {
            // The other protocol was declined.
            return self.replay_early(shared, cx);
        }
        Turn::Stay
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
            Early::hold(&mut self.early, direction, piece);
        } else if !self.response.is_lost() && bytes.iter().any(|b| !b.is_ascii_whitespace()) {
            self.response.lose();
            cx.counts.resync(Resync::Unasked);
        }
    }

    fn replay_early<K: Sink>(&mut self, shared: &mut Shared, cx: &mut Cx<'_, K>) -> Turn {
        let Some(mut early) = self.early.take() else { return Turn::Stay };
        if early.direction != request_direction(shared.role) && self.flow.open.len() == 1 {
            // No answer comes before it was asked for: these were to a request that was missed.
            let newest = self.flow.newest;
            let others = early.pieces.iter().take_while(|(t, _)| *t < newest).count();
            if others > 0 {
                let bytes = early.pieces.drain(..others).map(|p| p.1.len() as u64);
                cx.counts.unasked_bytes += bytes.sum::<u64>();
                cx.counts.resync(Resync::Unasked);
                self.response.lose();
            }
        }
        let mut pieces = early.pieces.into_iter();
        for (t, bytes) in pieces.by_ref() {
            let piece = Piece::Bytes { enter: t, exit: t, bytes: &bytes };
            match self.piece(shared, early.direction, piece, cx) {
                Turn::Stay => {}
                turn => return turn,
            }
        }
        Turn::Stay
    }

    /// Gives up waiting for the other direction.
    pub fn drop_early<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        if let Some(early) = self.early.take() {
            if self.flow.asks_for_another {
                self.request.lose();
                cx.counts.resync(Resync::Unanswered);
                return;
            }
            cx.counts.unasked_bytes += early.pieces.iter().map(|p| p.1.len() as u64).sum::<u64>();
            cx.counts.resync(Resync::Unasked);
            self.response.lose();
        }
    }

    /// An end of the connection, or of one of its directions; nothing more comes in time's order.
    #[cold]
    pub fn end<K: Sink>(&mut self, ending: Ending, cx: &mut Cx<'_, K>) {
        let flow = &mut self.flow;
        match ending {
            Ending::Noted => return,
            Ending::ClientShut(at) => {
                flow.open.iter_mut().for_each(|p| p.exchange.client_left(at));
                return;
            }
            Ending::ServerLeft { at, eof } => {
                if eof {
                    self.response_eof(at, cx);
                }
                self.flow.finish_all(cx, |e| e.server_left(at));
            }
            Ending::ClientLeft(at) => flow.finish_all(cx, |e| e.client_left(at)),
        }
        self.flow.sending = false;
        self.response.lose();
    }

    /// Completes a body that lasts until the close.
    fn response_eof<K: Sink>(&mut self, at: Ns, cx: &mut Cx<'_, K>) {
        let Self { response, flow, .. } = self;
        let t = if flow.response_last == 0 { at } else { flow.response_last };
        response.eof(|e| flow.on_response(&e, t, cx));
        flow.ended = false;
        // What came of a head was none: that this is only seen now changes nothing.
        flow.response_failed(t, false, cx);
    }
}
