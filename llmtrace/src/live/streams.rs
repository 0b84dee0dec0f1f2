//! The requests that run.

use std::sync::Arc;

use serde::Serialize;

use super::names::Key;
use super::{SECOND, seconds};
use crate::llm::Ns;

/// Most running requests that are listed; more are only counted.
pub const MAX_STREAMS: usize = 4_096;

/// Longest time without a token that is nothing special.
const STALL: Ns = SECOND;

/// A running request as it was at the last look.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) key: Arc<Key>,
    pub(super) endpoint: &'static str,
    pub(super) client: Arc<str>,
    pub(super) pid: u32,
    pub(super) tls: bool,
    pub(super) stream: bool,
    pub(super) status: Option<u16>,
    pub(super) start: Ns,
    pub(super) first_token: Option<Ns>,
    pub(super) last_token: Option<Ns>,
    pub(super) tokens: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) at: Ns,
    pub(super) seen: Vec<Seen>,
    pub(super) all: u64,
}

/// Running requests, at the last look: twice a second.
#[derive(Clone, Debug, Serialize)]
pub struct Streams {
    /// How many run; at most [`MAX_STREAMS`] are listed.
    pub running: u64,
    /// Those without a token for a second or more first, the longest such time first; then the oldest.
    pub streams: Vec<Stream>,
}

/// A running request. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stream {
    #[serde(flatten)]
    pub key: Arc<Key>,
    pub endpoint: &'static str,
    /// Address and port; empty if unknown.
    pub client: Arc<str>,
    /// The traced process.
    pub pid: u32,
    pub tls: bool,
    /// Whether the response is a stream, or one was asked for.
    pub stream: bool,
    /// None before the response.
    pub status: Option<u16>,
    /// First byte of the request.
    #[serde(rename = "start_ns")]
    pub start: Ns,
    /// Since then.
    pub age: f64,
    pub ttft: Option<f64>,
    /// Output tokens so far.
    pub tokens: u64,
    /// Those after the first, since that one; None before there is a second.
    pub tokens_per_second: Option<f64>,
    /// Since the last token.
    pub stall: Option<f64>,
}

impl Seen {
    /// Since its last token or, before the first, its begin.
    fn silent(&self, at: Ns) -> Ns {
        at.saturating_sub(self.last_token.unwrap_or(self.start))
    }
}

/// As of the look: what came since is not known yet. Of an agent that does not look any more, as of
/// `now`.
pub(super) fn streams(look: &Look, now: Ns) -> Streams {
    let at = if now.saturating_sub(look.at) > 2 * SECOND { now } else { look.at };
    let since = |t: Ns| seconds(at.saturating_sub(t));
    let mut order: Vec<&Seen> = look.seen.iter().collect();
    order.sort_by_cached_key(|s| {
        let silent = s.silent(at);
        (std::cmp::Reverse(if silent >= STALL { silent } else { 0 }), s.start)
    });
    let stream = |s: &Seen| Stream {
        key: s.key.clone(),
        endpoint: s.endpoint,
        client: s.client.clone(),
        pid: s.pid,
        tls: s.tls,
        stream: s.stream,
        status: s.status,
        start: s.start,
        age: since(s.start),
        ttft: s.first_token.map(|t| seconds(t.saturating_sub(s.start))),
        tokens: s.tokens,
        tokens_per_second: s
            .first_token
            .map(since)
            .filter(|time| *time > 0.0 && s.tokens > 1)
            .map(|time| (s.tokens - 1) as f64 / time),
        stall: s.last_token.map(since),
    };
    Streams { running: look.all, streams: order.into_iter().map(stream).collect() }
}
