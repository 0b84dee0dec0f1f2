//! How open exchanges end when their connection does.
//!
//! Whoever leaves first decides. A FIN of the client is noted, no more: it may still get its
//! answer (the exchange knows that a cut decides nothing before the end).

use super::Sink;
use super::counts::Lost;
use super::cx::Cx;
use super::link::{Link, Side};
use crate::llm::Role;
use crate::record::{EndReason, Ns};

impl Link {
    /// One direction of the connection, or all of it, ended at `t`.
    pub(super) fn end<K: Sink>(&mut self, reason: EndReason, t: Ns, cx: &mut Cx<'_, K>) {
        use EndReason::*;
        let Side::Http(role) = self.side else { return };
        if !self.busy() {
            return;
        }
        match (role, reason) {
            (Role::Server, PeerFin | ReadEof) => {
                for pending in &mut self.flow.open {
                    pending.exchange.client_left(t);
                }
                return;
            }
            (Role::Server, PeerReset | ReadReset | WriteBroken) => {
                self.flow.finish_all(cx, |e| e.client_left(t));
            }
            (Role::Server, LocalFin | LocalReset | Closed) => {
                if reason != LocalReset {
                    self.response_eof(cx);
                }
                self.flow.finish_all(cx, |e| e.server_left(t));
            }
            (Role::Client, PeerFin | WriteBroken) => {
                self.flow.peer_left.get_or_insert(t);
                return;
            }
            (Role::Client, ReadEof) => {
                self.response_eof(cx);
                let t = self.flow.peer_left.unwrap_or(t);
                self.flow.finish_all(cx, |e| e.server_left(t));
            }
            (Role::Client, PeerReset | ReadReset) => {
                let t = self.flow.peer_left.unwrap_or(t);
                self.flow.finish_all(cx, |e| e.server_left(t));
            }
            (Role::Client, LocalFin | LocalReset | Closed) => match self.flow.peer_left {
                Some(left) => {
                    self.response_eof(cx);
                    self.flow.finish_all(cx, |e| e.server_left(left));
                }
                None => self.flow.finish_all(cx, |e| e.client_left(t)),
            },
        }
        self.give_up();
    }

    /// No byte went either way for too long.
    pub(super) fn timed_out<K: Sink>(&mut self, t: Ns, cx: &mut Cx<'_, K>) {
        self.flow.finish_all(cx, |e| e.timed_out(t));
        self.give_up();
    }

    /// The connection will not be followed any more.
    pub(super) fn lose<K: Sink>(&mut self, t: Ns, reason: Lost, cx: &mut Cx<'_, K>) {
        self.flow.lose_all(t, reason, cx);
        self.give_up();
    }

    /// Nothing more will come from the server: the end of a body that lasts until then.
    fn response_eof<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        let Self { response, flow, .. } = self;
        let t = flow.response_last;
        response.eof(|event| flow.on_response(event, t, cx));
    }

    /// Neither direction is followed before the next request.
    fn give_up(&mut self) {
        self.request.lose();
        self.response.lose();
        self.flow.sending = false;
        self.flow.failed = None;
        self.flow.ended = false;
    }
}
