//! A WebSocket that carries a session with an LLM: each of its responses is an exchange.

use super::Sink;
use super::counts::{Lost, Resync};
use super::cx::Cx;
use super::ending::Ending;
use super::link::{Shared, request_direction, time};
use crate::conn::Piece;
use crate::http::ws::{Event, Extensions, Parser, WsError};
use crate::llm::dialect::realtime::{Act, From, Session};
use crate::llm::{Exchange, Outcome, Peer, Role, Running};
use crate::record::Direction;

#[derive(Debug)]
pub(super) struct WebSocket {
    client: Parser,
    server: Parser,
    session: Box<Session>,
    /// As both ends were called when the oldest response that is open began, so that what was
    /// counted up is counted down.
    peer: Option<Peer>,
}

impl WebSocket {
    pub fn new(session: Box<Session>, extensions: Extensions) -> Self {
        let Extensions { deflate, client_resets, server_resets } = extensions;
        Self {
            client: Parser::new(deflate, client_resets),
            server: Parser::new(deflate, server_resets),
            session,
            peer: None,
        }
    }

    /// Responses that are asked for or under way.
    pub fn open(&self) -> usize {
        self.session.open()
    }

    /// Each of those.
    pub fn running(&mut self, on: &mut impl FnMut(Running<'_>, &Peer)) {
        let Some(peer) = &self.peer else { return };
        for exchange in self.session.exchanges() {
            if let Some(running) = exchange.running() {
                on(running, peer);
            }
        }
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
        let role = shared.role;
        let from = if direction == request_direction(role) { From::Client } else { From::Server };
        let Self { client, server, session, peer } = self;
        let parser = if from == From::Client { client } else { server };
        let settings = cx.settings;
        let endpoint = session.endpoint();
        let mut tell =
            Teller { shared, open: session.open(), peer, endpoint, lost: Lost::ResponseGap, cx };
        let mut on = |event: Event<'_>| match event {
            Event::Start { .. } => session.begin(from, t),
            Event::Data(bytes) => session.data(from, bytes),
            Event::End => session.end(from, t, role, settings, |act| tell.act(act)),
            Event::Gap => session.hole(from),
            Event::Close(_) => {}
            Event::Lost => {
                tell.cx.counts.resync(Resync::Gap);
                session.lost(from, t, |act| tell.act(act));
            }
            Event::Error(error) => {
                let (resync, lost) = match error {
                    WsError::BadFrame => (Resync::BadFrame, Lost::ResponseError),
                    WsError::BadCoding => (Resync::BadCoding, Lost::Coding),
                    WsError::Bomb => (Resync::BadCoding, Lost::CodingBomb),
                };
                tell.cx.counts.resync(resync);
                tell.lost = lost;
                session.lost(from, t, |act| tell.act(act));
            }
        };
        match piece {
            Piece::Bytes { bytes, .. } => parser.push(bytes, &mut on),
            Piece::Gap { len, .. } => parser.gap(len.unwrap_or(u64::MAX), &mut on),
        }
    }

    pub fn end<K: Sink>(&mut self, ending: Ending, shared: &mut Shared, cx: &mut Cx<'_, K>) {
        match ending {
            // Half a WebSocket is none.
            Ending::Noted | Ending::ClientShut(_) => {}
            Ending::ClientLeft(at) => self.finish_all(shared, None, cx, |e| e.client_left(at)),
            Ending::ServerLeft { at, .. } => {
                let left = shared.peer_left.filter(|_| shared.role == Role::Server);
                self.finish_all(shared, None, cx, |e| {
                    // The close is the answer to that of a client which has left.
                    if let Some(left) = left {
                        e.client_left(left);
                    }
                    e.server_left(at);
                });
            }
        }
    }

    /// Ends every open response in one way.
    pub fn finish_all<K: Sink>(
        &mut self,
        shared: &mut Shared,
        lost: Option<Lost>,
        cx: &mut Cx<'_, K>,
        how: impl FnMut(&mut Exchange),
    ) {
        let Self { session, peer, .. } = self;
        let endpoint = session.endpoint();
        let lost = lost.unwrap_or(Lost::Unknown);
        let mut tell = Teller { shared, open: session.open(), peer, endpoint, lost, cx };
        session.end_all(how, |act| tell.act(act));
    }
}

/// Passes on what became of responses.
struct Teller<'t, 'c, K> {
    shared: &'t mut Shared,
    /// Responses that are open.
    open: usize,
    /// [`WebSocket::peer`].
    peer: &'t mut Option<Peer>,
    endpoint: &'static str,
    lost: Lost,
    cx: &'t mut Cx<'c, K>,
}

impl<K: Sink> Teller<'_, '_, K> {
    fn act(&mut self, act: Act) {
        let Shared { role, peer: known, .. } = &mut *self.shared;
        if self.open == 0 {
            *self.peer = None;
        }
        let peer = self.peer.get_or_insert_with(|| self.cx.peer(*role, known).clone());
        match act {
            Act::Started(t) => {
                self.open += 1;
                self.cx.counts.started += 1;
                self.cx.sink.started_at(t, *role, &peer.server, self.endpoint);
            }
            Act::Finished(finished) => {
                self.open = self.open.saturating_sub(1);
                self.cx.counts.finished += 1;
                let lost = (finished.outcome == Outcome::Incomplete).then_some(self.lost);
                self.cx.over(&finished, lost, peer);
            }
        }
    }
}
