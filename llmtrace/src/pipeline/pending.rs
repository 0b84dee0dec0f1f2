//! An exchange under way, and what its bodies are coded with.

use super::Sink;
use super::counts::{Lost, Resync};
use super::cx::Cx;
use super::link::Shared;
use crate::http::encoding::{CodingError, Decoder};
use crate::http::{Asked, RequestHead, ResponseHead};
use crate::llm::{Exchange, Peer, Role, Running};
use crate::record::Ns;

#[derive(Debug)]
pub(super) struct Pending {
    pub exchange: Exchange,
    pub asked: Asked,
    /// As they were called at the start, so that what was counted up is counted down. None if
    /// this is no call of an LLM.
    pub peer: Option<Peer>,
    pub lost: Option<Lost>,
    /// `Cx::held` when the response could begin, and when it was given up before its end.
    pub held_before: Ns,
    pub held_until: Option<Ns>,
    request: Option<Box<Decoder>>,
    response: Option<Box<Decoder>>,
}

impl Pending {
    /// A request's head has come.
    pub fn begin<K: Sink>(
        head: &RequestHead<'_>,
        start: Ns,
        shared: &mut Shared,
        cx: &mut Cx<'_, K>,
    ) -> Box<Self> {
        let Shared { role, peer, peer_left, .. } = shared;
        let role = *role;
        let asked = Asked::of(head.method);
        let mut request = None;
        let mut exchange = match head.content_encoding.map(Decoder::new) {
            Some(Ok(decoder)) => {
                request = decoder.map(Box::new);
                let plain = RequestHead { content_encoding: None, ..head.clone() };
                Exchange::start(cx.settings, role, start, &plain)
            }
            // Such a body is left alone.
            None | Some(Err(_)) => Exchange::start(cx.settings, role, start, head),
        };
        let peer = exchange.is_llm().then(|| cx.started(role, peer, &exchange));
        if let (Role::Server, Some(left)) = (role, *peer_left) {
            exchange.client_left(left.max(start));
        }
        Box::new(Self {
            exchange,
            asked,
            peer,
            lost: None,
            held_before: cx.held,
            held_until: None,
            request,
            response: None,
        })
    }

    /// A call of an LLM is told to `on`, with what it brought since the last time.
    pub fn running(&mut self, on: &mut impl FnMut(Running<'_>, &Peer)) {
        if let (Some(peer), Some(running)) = (&self.peer, self.exchange.running()) {
            on(running, peer);
        }
    }

    #[inline]
    pub fn request_body<K: Sink>(&mut self, bytes: &[u8], shared: &mut Shared, cx: &mut Cx<'_, K>) {
        let Self { exchange, request, peer, .. } = self;
        match request {
            None => exchange.request_body(bytes),
            Some(decoder) => {
                if decoder.push(bytes, |bytes| exchange.request_body(bytes)).is_err() {
                    // How the exchange ends is not in here; what it asked for is as far as known.
                    *request = None;
                    cx.counts.resync(Resync::BadCoding);
                    exchange.request_unread();
                }
            }
        }
        // Some are only known by their body.
        if peer.is_none() && exchange.is_llm() {
            *peer = Some(cx.started(shared.role, &mut shared.peer, exchange));
        }
    }

    /// `t` is when its first byte came.
    pub fn response_head(&mut self, t: Ns, head: &ResponseHead<'_>) {
        // HEAD has none, and nothing is read of what is no call of an LLM.
        if self.exchange.may_be_llm()
            && let Some(Ok(decoder)) = head.content_encoding.map(Decoder::new)
        {
            self.response = decoder.map(Box::new);
            let plain = ResponseHead { content_encoding: None, ..head.clone() };
            self.exchange.response_head(t, &plain);
        } else {
            self.exchange.response_head(t, head);
        }
    }

    #[inline]
    pub fn response_body(&mut self, t: Ns, bytes: &[u8]) {
        if self.response.is_none() {
            return self.exchange.response_body(t, bytes);
        }
        self.coded_body(t, bytes);
    }

    fn coded_body(&mut self, t: Ns, bytes: &[u8]) {
        let Self { exchange, response, .. } = self;
        let Some(decoder) = response else { return };
        match decoder.push(bytes, |bytes| exchange.response_body(t, bytes)) {
            Ok(()) => {}
            Err(CodingError::Bomb) => self.lose(t, Lost::CodingBomb),
            Err(_) => self.lose(t, Lost::Coding),
        }
    }

    /// Bytes of this exchange are missing or could not be read.
    pub fn lose(&mut self, t: Ns, reason: Lost) {
        if self.lost.is_none() {
            self.lost = Some(reason);
            self.exchange.lost(t);
            (self.request, self.response) = (None, None);
        }
    }
}
