//! From parser events to exchanges.

use std::collections::VecDeque;

use crate::http::ws::Extensions;
use crate::http::{
    Event, MAX_PIPELINE, RequestEvent, RequestHead, ResponseEvent, ResponseHead, ResponseParser,
};
use crate::llm::Exchange;
use crate::llm::dialect::realtime::{self, Session};
use crate::pipeline::counts::{Lost, Resync};
use crate::pipeline::cx::Cx;
use crate::pipeline::link::{Shared, To};
use crate::pipeline::pending::Pending;
use crate::pipeline::{EARLY_BYTES, QUIET_NS, Sink};
use crate::record::Ns;

/// The part of the state that both directions share.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Flow {
    /// Exchanges whose response is not over, the oldest first. Boxed: an idle connection holds
    /// none, and the queue of one that had some stays small.
    pub open: VecDeque<Box<Pending>>,
    /// The request parser is inside the request of the newest of them.
    pub sending: bool,
    /// Exchanges ever begun.
    pub begun: u64,
    /// Requests were sent before the response to the one before.
    pub pipelined: bool,
    /// A loss on a pipelined connection: nobody knows any more which response is whose.
    pub confused: bool,
    /// Requests may have been missed since the newest exchange began.
    pub holed: bool,
    /// The same before it began, and when that was.
    pub after_hole: bool,
    pub newest: Ns,
    /// One exchange is open, and bytes before its response are missing, or of it: those that
    /// follow will tell.
    pub doubtful: bool,
    pub request_start: Ns,
    /// Since when the first byte of the read at hand had waited, until a request begins with it.
    pub waited_since: Option<Ns>,
    /// The same of the request at hand.
    request_waited: Option<Ns>,
    pub response_start: Ns,
    /// The last byte of a response.
    pub response_last: Ns,
    pub failed: Option<(Lost, Resync)>,
    pub tunnel: bool,
    /// The newest request asks for another protocol.
    pub asks_for_another: bool,
    /// What it asks for, where that matters here.
    session: Option<Box<Session>>,
    /// The protocol from here on.
    pub switch: Option<Box<To>>,
    /// A response ended in this call.
    pub ended: bool,
}

impl Flow {
    #[inline]
    pub(in crate::pipeline) fn on_request<K: Sink>(
        &mut self,
        event: &RequestEvent<'_>,
        t: Ns,
        shared: &mut Shared,
        response: &mut ResponseParser,
        cx: &mut Cx<'_, K>,
    ) {
        match event {
            Event::Start => {
                self.request_start = t;
                self.request_waited = self.waited_since.take();
            }
            Event::Head(head) => self.begin(head, t, shared, response, cx),
            Event::Body(bytes) => {
                if let Some(p) = self.sent() {
                    p.request_body(bytes, shared, cx);
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
            Event::Interim(_) | Event::Truncated | Event::Tunnel | Event::Other(_) => {}
        }
    }

    #[inline]
    pub(in crate::pipeline) fn on_response<K: Sink>(
        &mut self,
        event: &ResponseEvent<'_>,
        t: Ns,
        cx: &mut Cx<'_, K>,
    ) {
        match event {
            Event::Body(bytes) => {
                if let Some(p) = self.open.front_mut() {
                    p.response_body(t, bytes);
                }
            }
            Event::Start => self.response_start = t,
            Event::Head(head) => {
                if self.asks_for_another && self.open.len() == 1 {
                    self.answered(head);
                }
                let start = self.response_start;
                if let Some(p) = self.open.front_mut() {
                    p.response_head(start, head);
                }
            }
            Event::Gap(_) => {
                if let Some(p) = self.open.front_mut() {
                    p.lose(t, Lost::ResponseGap);
                }
            }
            Event::End => self.response_end(t, cx),
            Event::Tunnel => self.tunneled(t, cx),
            Event::Other(bytes) => {
                let Some(switch) = &mut self.switch else { return };
                let (To::WebSocket { rest, .. } | To::Http2 { rest, .. }) = &mut **switch;
                // No more than one piece, so this loses nothing.
                rest.extend_from_slice(&bytes[..bytes.len().min(EARLY_BYTES - rest.len())]);
            }
            Event::Error(e) => self.failed = Some((Lost::ResponseError, (*e).into())),
            Event::Lost => self.failed = Some((Lost::ResponseGap, Resync::Gap)),
            Event::Interim(_) | Event::Truncated => {}
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
        shared: &mut Shared,
        response: &mut ResponseParser,
        cx: &mut Cx<'_, K>,
    ) {
        let start = self.request_start;
        let mut pending = Pending::begin(head, start, shared, cx);
        let asked = pending.asked;
        if let Some(since) = self.request_waited.take() {
            pending.exchange.waited(since);
        }
        if head.upgrade {
            self.asks_for_another = true;
            self.session = realtime::classify(head).map(Box::new);
        }
        self.begun += 1;
        if self.doubtful {
            // Another request, and nothing has come of the response.
            self.lose_all(t, Lost::ResponseGap, cx);
        }
        self.after_hole = std::mem::take(&mut self.holed);
        self.newest = start;
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

    /// The answer to a request for another protocol.
    #[cold]
    fn answered(&mut self, head: &ResponseHead<'_>) {
        self.asks_for_another = false;
        let session = self.session.take();
        let upgrade = head.upgrade.filter(|_| head.status == 101).unwrap_or("");
        let rest = Vec::new();
        self.switch = if upgrade.eq_ignore_ascii_case("h2c") {
            Some(Box::new(To::Http2 { first: None, rest }))
        } else if upgrade.eq_ignore_ascii_case("websocket")
            && let Some(session) = session
            && let Some(extensions) = Extensions::parse(head.websocket_extensions)
        {
            Some(Box::new(To::WebSocket { session, extensions, rest }))
        } else {
            None
        };
    }

    #[cold]
    fn tunneled<K: Sink>(&mut self, t: Ns, cx: &mut Cx<'_, K>) {
        self.tunnel = true;
        if let Some(To::Http2 { first, .. }) = self.switch.as_deref_mut() {
            // The request is answered as the first stream.
            *first = self.open.pop_front();
            self.sending = false;
            self.ended = true;
        } else {
            self.response_end(t, cx);
        }
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
            self.asks_for_another = false;
            self.session = None;
            self.doubtful = false;
        }
        if let Some(next) = self.open.front_mut() {
            next.held_before = cx.held;
        }
        cx.finished(*pending);
    }

    /// Ends every open exchange in one way.
    pub(in crate::pipeline) fn finish_all<K: Sink>(
        &mut self,
        cx: &mut Cx<'_, K>,
        mut how: impl FnMut(&mut Exchange),
    ) {
        if self.doubtful {
            self.lose_all(self.newest, Lost::ResponseGap, cx);
        }
        while let Some(pending) = self.open.front_mut() {
            how(&mut pending.exchange);
            self.finish_oldest(cx);
        }
    }

    /// Ends every open exchange as incomplete.
    pub(in crate::pipeline) fn lose_all<K: Sink>(
        &mut self,
        t: Ns,
        reason: Lost,
        cx: &mut Cx<'_, K>,
    ) {
        while let Some(pending) = self.open.front_mut() {
            pending.lose(t, reason);
            self.finish_oldest(cx);
        }
    }

    /// The request direction cannot be followed up to its next message. What was being sent is
    /// incomplete; its response will still come, and those before it are whole.
    #[cold]
    pub(in crate::pipeline) fn request_failed<K: Sink>(&mut self, t: Ns, cx: &mut Cx<'_, K>) {
        let Some((lost, resync)) = self.failed.take() else { return };
        cx.counts.resync(resync);
        if let Some(p) = self.sent() {
            p.lose(t, lost);
        }
        self.sending = false;
        self.holed |= lost == Lost::RequestGap;
    }

    /// The response direction cannot be followed up to its next message, and what was missed may
    /// have been the end of any open response. `before`: perhaps it was all of responses to
    /// requests that were missed too.
    #[cold]
    pub(in crate::pipeline) fn response_failed<K: Sink>(
        &mut self,
        t: Ns,
        before: bool,
        cx: &mut Cx<'_, K>,
    ) {
        let Some((lost, resync)) = self.failed.take() else { return };
        cx.counts.resync(resync);
        let left = if before { 1..=2 } else { 2..=2 };
        if lost == Lost::ResponseGap && !self.confused && left.contains(&self.open.len()) {
            // If a head follows, it can only be that of the newest one's response.
            if self.open.len() > 1
                && let Some(pending) = self.open.front_mut()
            {
                pending.lose(t, lost);
                self.finish_oldest(cx);
            }
            self.doubtful = true;
            return;
        }
        self.confused |= self.pipelined || self.open.len() > 1;
        self.lose_all(t, lost, cx);
    }
}
