//! From parser events to exchanges: the part of a connection's state that both directions share.

use super::counts::{Lost, Resync};
use super::cx::Cx;
use super::link::{Flow, Pending};
use super::{QUIET_NS, Sink};
use crate::http::{
    Asked, Event, MAX_PIPELINE, RequestEvent, RequestHead, ResponseEvent, ResponseParser,
};
use crate::llm::{Exchange, Role};
use crate::record::Ns;

impl Pending {
    /// Bytes of this exchange are missing or could not be read.
    fn lose(&mut self, t: Ns, reason: Lost) {
        if self.lost.is_none() {
            self.lost = Some(reason);
            self.exchange.lost(t);
        }
    }
}

impl Flow {
    #[inline]
    pub(super) fn on_request<K: Sink>(
        &mut self,
        event: &RequestEvent<'_>,
        t: Ns,
        response: &mut ResponseParser,
        cx: &mut Cx<'_, K>,
    ) {
        match event {
            Event::Start => self.request_start = t,
            Event::Head(head) => self.begin(head, t, response, cx),
            Event::Body(bytes) => {
                if let Some(p) = self.sent() {
                    p.exchange.request_body(bytes);
                    if p.peer.is_none() && p.exchange.is_llm() {
                        self.started(cx);
                    }
                }
            }
            Event::Gap(_) => {
                if let Some(p) = self.sent() {
                    p.lose(t, Lost::RequestGap);
                }
            }
            Event::End => {
                if let Some(p) = self.sent() {
                    p.exchange.request_end(t);
                }
                self.sending = false;
            }
            Event::Error(e) => self.failed = Some((Lost::RequestError, (*e).into())),
            Event::Lost => self.failed = Some((Lost::RequestGap, Resync::Gap)),
            Event::Interim(_) | Event::Truncated | Event::Tunnel => {}
        }
    }

    #[inline]
    pub(super) fn on_response<K: Sink>(
        &mut self,
        event: &ResponseEvent<'_>,
        t: Ns,
        cx: &mut Cx<'_, K>,
    ) {
        match event {
            Event::Body(bytes) => {
                if let Some(p) = self.open.front_mut() {
                    p.exchange.response_body(t, bytes);
                }
            }
            Event::Start => self.response_start = t,
            Event::Head(head) => {
                let start = self.response_start;
                if let Some(p) = self.open.front_mut() {
                    p.exchange.response_head(start, head);
                }
            }
            Event::Gap(_) => {
                if let Some(p) = self.open.front_mut() {
                    p.lose(t, Lost::ResponseGap);
                }
            }
            Event::End => self.response_end(t, cx),
            Event::Tunnel => {
                self.tunnel = true;
                self.response_end(t, cx);
            }
            Event::Error(e) => self.failed = Some((Lost::ResponseError, (*e).into())),
            Event::Lost => self.failed = Some((Lost::ResponseGap, Resync::Gap)),
            Event::Interim(_) | Event::Truncated => {}
        }
    }

    /// The body of the request that is being sent showed that it is a call of an LLM.
    #[cold]
    fn started<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        let role = self.role.unwrap_or(Role::Server);
        if let Some(pending) = self.open.back_mut() {
            pending.peer = Some(cx.started(role, &mut self.peer, &pending.exchange));
        }
    }

    /// The exchange whose request is being sent.
    fn sent(&mut self) -> Option<&mut Pending> {
        if self.sending { self.open.back_mut().map(|p| &mut **p) } else { None }
    }

    fn begin<K: Sink>(
        &mut self,
        head: &RequestHead<'_>,
        t: Ns,
        response: &mut ResponseParser,
        cx: &mut Cx<'_, K>,
    ) {
        let role = self.role.unwrap_or(Role::Server);
        let asked = Asked::of(head.method);
        let start = self.request_start;
        let mut exchange = Exchange::start(cx.settings, role, start, head);
        let peer = exchange.is_llm().then(|| cx.started(role, &mut self.peer, &exchange));
        if let (Role::Server, Some(left)) = (role, self.peer_left) {
            exchange.client_left(left.max(start));
        }
        let mut pending = Box::new(Pending { exchange, asked, peer, lost: None });
        self.begun += 1;
        if self.open.is_empty() {
            self.pipelined = false;
            // Whatever was still to come of responses that were lost has come by now.
            self.confused &= start.saturating_sub(self.response_last) < QUIET_NS;
        } else {
            self.pipelined = true;
        }
        let room = self.open.len() < MAX_PIPELINE && (response.is_lost() || response.expect(asked));
        let reason = match (self.confused, room) {
            (true, _) => Some(Lost::Pipeline),
            (_, false) => Some(Lost::TooMany),
            _ => None,
        };
        if let Some(reason) = reason {
            pending.lose(t, reason);
            cx.finished(*pending);
            self.sending = false;
            self.confused = true;
            response.lose();
            return;
        }
        self.open.push_back(pending);
        self.sending = true;
    }

    fn response_end<K: Sink>(&mut self, t: Ns, cx: &mut Cx<'_, K>) {
        if let Some(p) = self.open.front_mut() {
            p.exchange.response_end(t);
        }
        self.ended = true;
        self.finish_oldest(cx);
    }

    fn finish_oldest<K: Sink>(&mut self, cx: &mut Cx<'_, K>) {
        let Some(pending) = self.open.pop_front() else { return };
        if self.open.is_empty() {
            // An answer before the end of its request: what is still sent belongs to nothing.
            self.sending = false;
        }
        cx.finished(*pending);
    }

    /// Ends every open exchange in one way.
    pub(super) fn finish_all<K: Sink>(
        &mut self,
        cx: &mut Cx<'_, K>,
        mut how: impl FnMut(&mut Exchange),
    ) {
        while let Some(pending) = self.open.front_mut() {
            how(&mut pending.exchange);
            self.finish_oldest(cx);
        }
    }

    /// Ends every open exchange as incomplete.
    pub(super) fn lose_all<K: Sink>(&mut self, t: Ns, reason: Lost, cx: &mut Cx<'_, K>) {
        while let Some(pending) = self.open.front_mut() {
            pending.lose(t, reason);
            self.finish_oldest(cx);
        }
    }

    /// The request direction cannot be followed up to its next message. What was being sent is
    /// incomplete; its response will still come, and those before it are whole.
    #[cold]
    pub(super) fn request_failed<K: Sink>(&mut self, t: Ns, cx: &mut Cx<'_, K>) {
        let Some((lost, resync)) = self.failed.take() else { return };
        cx.counts.resync(resync);
        if let Some(p) = self.sent() {
            p.lose(t, lost);
        }
        self.sending = false;
    }

    /// The response direction cannot be followed up to its next message, and what was missed may
    /// have been the end of any open response.
    #[cold]
    pub(super) fn response_failed<K: Sink>(&mut self, t: Ns, cx: &mut Cx<'_, K>) {
        let Some((lost, resync)) = self.failed.take() else { return };
        cx.counts.resync(resync);
        self.confused |= self.pipelined || self.open.len() > 1;
        self.lose_all(t, lost, cx);
    }
}
