//! The state of one connection: what it speaks, and what every protocol needs to know of it.

use super::Sink;
use super::counts::Lost;
use super::cx::Cx;
use super::early::Early;
use super::ending::{self, ending};
use super::h1::{Http1, Turn};
use super::h2::Http2;
use super::held::{Arrival, Held};
use super::pending::Pending;
use super::start::{Found, Start};
use super::ws::WebSocket;
use crate::conn::{HOLD_NS, Piece};
use crate::http::ws::Extensions;
use crate::llm::dialect::realtime::Session;
use crate::llm::{Peer, Role, Running};
use crate::record::{Direction, EndReason, Ns};

/// What a connection is taken for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every connection is the large one")]
pub(super) enum Protocol {
    Unknown(Start),
    Http1(Http1),
    Http2(Box<Http2>),
    WebSocket(Box<WebSocket>),
    /// Not looked at any more.
    Silent,
}

/// What a connection has in whatever it speaks.
#[derive(Debug)]
pub(super) struct Shared {
    /// Which end the traced process is; nothing before the protocol is known.
    pub role: Role,
    pub peer: Option<Peer>,
    /// When the other side was seen to send no more; its last bytes may still wait to be read.
    pub peer_left: Option<Ns>,
    pub arrival: Option<Arrival>,
    pub held: Held,
}

impl Shared {
    /// Since when the request that begins with a read had waited; `read` is when that ended.
    pub fn waited_since(&mut self, read: Ns) -> Option<Ns> {
        let arrival = self.arrival.take_if(|a| a.read == read && self.role == Role::Server)?;
        Some(arrival.since)
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Link {
    protocol: Protocol,
    shared: Shared,
    /// On the pipeline's list of connections that wait for time to pass.
    pub listed: bool,
    /// Records that came although nobody looks at this connection.
    pub ignored: u32,
}

/// An agreement on another protocol.
#[derive(Debug)]
pub(super) struct Switch {
    pub to: To,
    /// When the last byte of the agreement came.
    pub at: Ns,
    /// What the client had sent by then.
    pub early: Vec<(Ns, Vec<u8>)>,
}

/// `rest` is what the server sent right behind the agreement.
#[derive(Debug)]
pub(super) enum To {
    /// `first` is the exchange that goes on as the first stream.
    Http2 {
        first: Option<Box<Pending>>,
        rest: Vec<u8>,
    },
    WebSocket {
        session: Box<Session>,
        extensions: Extensions,
        rest: Vec<u8>,
    },
}

impl Default for Link {
    fn default() -> Self {
        Self {
            protocol: Protocol::Unknown(Start::default()),
            shared: Shared {
                role: Role::Server,
                peer: None,
                peer_left: None,
                arrival: None,
                held: Held::default(),
            },
            listed: false,
            ignored: 0,
        }
    }
}

impl Link {
    /// The connection's ends are to be named again.
    pub fn forget_peer(&mut self) {
        self.shared.peer = None;
    }
}

/// The direction of the traced process that carries requests.
#[inline]
pub(super) fn request_direction(role: Role) -> Direction {
    match role {
        Role::Server => Direction::Read,
        Role::Client => Direction::Write,
    }
}

pub(super) fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Read => Direction::Write,
        Direction::Write => Direction::Read,
    }
}

impl Link {
    #[inline]
    pub fn is_silent(&self) -> bool {
        matches!(self.protocol, Protocol::Silent)
    }

    pub fn busy(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(http1) => !http1.flow.open.is_empty(),
            Protocol::Http2(http2) => http2.is_busy(),
            Protocol::WebSocket(ws) => ws.open() > 0,
            Protocol::Unknown(_) | Protocol::Silent => false,
        }
    }

    /// LLM exchanges that are open.
    pub fn open(&self) -> usize {
        match &self.protocol {
            Protocol::Http1(http1) => {
                http1.flow.open.iter().filter(|p| p.exchange.is_llm()).count()
            }
            Protocol::Http2(http2) => http2.open(),
            Protocol::WebSocket(ws) => ws.open(),
            Protocol::Unknown(_) | Protocol::Silent => 0,
        }
    }

    /// Tells `on` of every LLM exchange that is open.
    pub fn running(&mut self, on: &mut impl FnMut(Running<'_>, &Peer)) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.flow.open.iter_mut().for_each(|p| p.running(on)),
            Protocol::Http2(http2) => http2.running(on),
            Protocol::WebSocket(ws) => ws.running(on),
            Protocol::Unknown(_) | Protocol::Silent => {}
        }
    }

    /// Which connections have to stay if there is no room for all.
    pub fn rank(&self) -> u8 {
        match self.protocol {
            Protocol::Silent => 0,
            _ if self.busy() => 2,
            _ => 1,
        }
    }

    /// Whether the next bytes of a direction would begin a request, before which the response to
    /// the one before must be over.
    #[cold]
    pub fn begins_request(&self, direction: Direction) -> bool {
        match &self.protocol {
            Protocol::Http1(http1) => {
                request_direction(self.shared.role) == direction && http1.begins_request()
            }
            _ => false,
        }
    }

    /// The direction that carries requests, as far as is known.
    pub fn request_direction(&self) -> Direction {
        request_direction(self.shared.role)
    }

    fn early(&self) -> Option<&Early> {
        match &self.protocol {
            Protocol::Unknown(start) => start.early.as_deref(),
            Protocol::Http1(http1) => http1.early(),
            _ => None,
        }
    }

    /// Whether something waits for bytes of the other direction, or for time to pass.
    #[inline]
    pub fn waits(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(http1) => http1.early().is_some(),
            Protocol::Http2(http2) => http2.waits(),
            _ => self.early().is_some(),
        }
    }

    /// Whether so many of them wait that the other direction has to come now.
    pub fn waits_for_room(&self) -> Option<Direction> {
        let early = self.early().filter(|e| e.bytes > super::EARLY_BYTES)?;
        Some(opposite(early.direction))
    }

    /// What the read that ends at `read` takes had waited since `since`.
    pub fn arrived(&mut self, since: Ns, read: Ns) {
        self.shared.arrival = Some(Arrival { since, read });
    }

    /// From `at` on the socket takes no more.
    pub fn refused(&mut self, at: Ns) {
        self.shared.held.refused(at);
    }

    /// The next piece of one direction.
    #[inline]
    pub fn piece<K: Sink>(&mut self, direction: Direction, piece: Piece<'_>, cx: &mut Cx<'_, K>) {
        let (Piece::Bytes { enter, exit, .. } | Piece::Gap { enter, exit, .. }) = piece;
        if direction == Direction::Write {
            self.shared.held.wrote(enter, exit);
        }
        cx.held = self.shared.held.total(time(direction, piece));
        self.parse(direction, piece, cx);
    }

    #[inline]
    fn parse<K: Sink>(&mut self, direction: Direction, piece: Piece<'_>, cx: &mut Cx<'_, K>) {
        if let Protocol::Http1(http1) = &mut self.protocol {
            match http1.piece(&mut self.shared, direction, piece, cx) {
                Turn::Stay => {}
                turn => self.turn(turn, cx),
            }
        } else {
            self.other_piece(direction, piece, cx);
        }
    }

    fn other_piece<K: Sink>(&mut self, direction: Direction, piece: Piece<'_>, cx: &mut Cx<'_, K>) {
        match &mut self.protocol {
            Protocol::Unknown(start) => {
                let Some(Found { protocol, role, pieces }) = start.piece(direction, piece, cx)
                else {
                    return;
                };
                self.protocol = protocol;
                self.shared.role = role;
                for (t, bytes) in pieces {
                    self.parse(direction, Piece::Bytes { enter: t, exit: t, bytes: &bytes }, cx);
                }
                self.parse(direction, piece, cx);
            }
            Protocol::Http2(http2) => http2.piece(&mut self.shared, direction, piece, cx),
            Protocol::WebSocket(ws) => ws.piece(&mut self.shared, direction, piece, cx),
            Protocol::Http1(_) | Protocol::Silent => {}
        }
    }

    /// The connection is not what it was taken for.
    #[cold]
    fn turn<K: Sink>(&mut self, turn: Turn, cx: &mut Cx<'_, K>) {
        let switch = match turn {
            Turn::Stay => return,
            Turn::Unknown => {
                self.protocol = Protocol::Unknown(Start::again());
                return;
            }
            Turn::Switch(switch) => *switch,
        };
        let Switch { to, at, early } = switch;
        let (protocol, rest) = match to {
            To::Http2 { first, rest } => (Protocol::Http2(Box::new(Http2::upgraded(first))), rest),
            To::WebSocket { session, extensions, rest } => {
                (Protocol::WebSocket(Box::new(WebSocket::new(session, extensions))), rest)
            }
        };
        self.protocol = protocol;
        let client = request_direction(self.shared.role);
        if !rest.is_empty() {
            let piece = Piece::Bytes { enter: at, exit: at, bytes: &rest };
            self.parse(opposite(client), piece, cx);
        }
        for (t, bytes) in early {
            self.parse(client, Piece::Bytes { enter: t, exit: t, bytes: &bytes }, cx);
        }
    }

    /// Gives up waiting for bytes of the other direction.
    pub fn drop_early<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        cx.held = self.shared.held.total(0);
        match &mut self.protocol {
            Protocol::Unknown(start) => start.drop_early(cx),
            Protocol::Http1(http1) => http1.drop_early(cx),
            Protocol::Http2(http2) => http2.settle(Ns::MAX, cx),
            Protocol::WebSocket(_) | Protocol::Silent => {}
        }
    }

    /// Time passes.
    pub fn tick<K: Sink>(&mut self, now: Ns, cx: &mut Cx<'_, K>) {
        cx.held = self.shared.held.total(now);
        if let Protocol::Http2(http2) = &mut self.protocol {
            http2.settle(now, cx);
        } else if self.early().is_some_and(|e| now.saturating_sub(e.since) > HOLD_NS) {
            self.drop_early(cx);
        }
    }

    /// Whether an end decides nothing yet.
    pub fn only_notes(&self, reason: EndReason) -> bool {
        let known = !matches!(self.protocol, Protocol::Unknown(_) | Protocol::Silent);
        ending::only_notes(reason, known.then_some(self.shared.role))
    }

    /// An end of the connection, or of one of its directions; nothing more comes in time's order.
    #[cold]
    pub fn end<K: Sink>(&mut self, reason: EndReason, at: Ns, cx: &mut Cx<'_, K>) {
        cx.held = self.shared.held.total(at);
        let Self { protocol, shared, .. } = self;
        match protocol {
            Protocol::Unknown(_) | Protocol::Silent => {}
            Protocol::Http1(http1) => http1.end(ending(reason, at, shared), cx),
            Protocol::Http2(http2) => http2.end(ending(reason, at, shared), cx),
            Protocol::WebSocket(ws) => ws.end(ending(reason, at, shared), shared, cx),
        }
    }

    /// Nothing came for too long.
    pub fn timed_out<K: Sink>(&mut self, now: Ns, cx: &mut Cx<'_, K>) {
        cx.held = self.shared.held.total(now);
        let server_left = self.shared.peer_left.filter(|_| self.shared.role == Role::Client);
        let how = |exchange: &mut crate::llm::Exchange| {
            if let Some(t) = server_left {
                exchange.server_left(t);
            }
            exchange.timed_out(now);
        };
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.flow.finish_all(cx, how),
            Protocol::Http2(http2) => http2.finish_all(cx, how),
            Protocol::WebSocket(ws) => ws.finish_all(&mut self.shared, None, cx, how),
            Protocol::Unknown(_) | Protocol::Silent => {}
        }
    }

    /// Ends every open exchange as incomplete.
    pub fn lose_all<K: Sink>(&mut self, t: Ns, reason: Lost, cx: &mut Cx<'_, K>) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.flow.lose_all(t, reason, cx),
            Protocol::Http2(http2) => http2.lose_all(t, reason, cx),
            Protocol::WebSocket(ws) => {
                ws.finish_all(&mut self.shared, Some(reason), cx, |e| e.lost(t));
            }
            Protocol::Unknown(_) | Protocol::Silent => {}
        }
    }

    /// Looks at this connection no more.
    pub fn silence(&mut self) {
        *self = Self { protocol: Protocol::Silent, listed: self.listed, ..Self::default() };
    }
}

/// When bytes were there: those read at the call's end, those written at its beginning.
#[inline]
pub(super) fn time(direction: Direction, piece: Piece<'_>) -> Ns {
    let (Piece::Bytes { enter, exit, .. } | Piece::Gap { enter, exit, .. }) = piece;
    match direction {
        Direction::Read => exit,
        Direction::Write => enter,
    }
}
