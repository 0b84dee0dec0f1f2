//! What is counted, per server, endpoint and model.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::hist::{FIRST, GAP, Hist, PER_TOKEN, TOKENS, WHOLE};
use super::labels::{self, Capped, MAX_MODELS, MAX_SERVERS};
use super::sent::Outgoing;
use super::{Own, Peer};
use crate::llm::{Finished, Ns, Outcome, Phase, Role, TokenSource};

/// Most combinations of server, endpoint and model; later ones are counted under `other`.
pub const MAX_SERIES: usize = 2_000;
/// Most combinations of method, status and outcome of one of them, before the status is `other`.
const MAX_REQUESTS: usize = 128;

/// The base labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Base {
    pub(super) role: Role,
    pub(super) server: Arc<str>,
    pub(super) endpoint: &'static str,
    pub(super) model: Arc<str>,
}

/// Further labels of `llm_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) stream: bool,
    pub(super) status: Status,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    None,
    Code(u16),
    Other,
}

/// One value per [`TokenSource`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BySource<T> {
    pub(super) usage: T,
    pub(super) events: T,
}

impl<T> BySource<T> {
    fn of(&mut self, source: TokenSource) -> &mut T {
        match source {
            TokenSource::Usage => &mut self.usage,
            TokenSource::Events => &mut self.events,
        }
    }
}

/// Tokens by type; none if nothing was ever said of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tokens {
    pub(super) prompt: Option<u64>,
    pub(super) output: BySource<Option<u64>>,
    pub(super) cached: Option<u64>,
    pub(super) reasoning: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) requests: BTreeMap<Request, u64>,
    pub(super) whole: Hist,
    pub(super) whole_stream: Hist,
    pub(super) first_byte: Hist,
    pub(super) first_token: Hist,
    pub(super) per_token: Hist,
    pub(super) gaps: BySource<Hist>,
    pub(super) stall: Hist,
    pub(super) receive: Hist,
    pub(super) queue: Hist,
    pub(super) backpressure: Hist,
    pub(super) tokens: Tokens,
    pub(super) wasted: Option<u64>,
    pub(super) prompt: Hist,
    pub(super) output: Hist,
    pub(super) finish: BTreeMap<&'static str, u64>,
    pub(super) events: Option<u64>,
}

/// How the configuration came about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reloads {
    pub(super) ok: u64,
    pub(super) failed: u64,
    /// When the one in use was read.
    pub(super) last: SystemTime,
}

impl Reloads {
    fn new() -> Self {
        Self { ok: 0, failed: 0, last: SystemTime::now() }
    }

    pub(super) fn count(&mut self, ok: bool) {
        if ok {
            self.ok += 1;
            self.last = SystemTime::now();
        } else {
            self.failed += 1;
        }
    }
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    /// Shared with a scrape while that is being written, so that the lock is held briefly.
    pub(super) series: HashMap<Base, Arc<Series>>,
    /// The model is none: it is not known before the end.
    pub(super) in_flight: HashMap<Base, u64>,
    pub(super) own: Arc<Own>,
    pub(super) backend: Option<&'static str>,
    pub(super) reloads: Reloads,
    pub(super) outgoing: Outgoing,
    models: Capped,
    servers: Capped,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            series: HashMap::new(),
            in_flight: HashMap::new(),
            own: Arc::default(),
            backend: None,
            reloads: Reloads::new(),
            outgoing: Outgoing::default(),
            models: Capped::new(MAX_MODELS),
            servers: Capped::new(MAX_SERVERS),
        }
    }

    pub(super) fn in_flight(
        &mut self,
        role: Role,
        server: &str,
        endpoint: &'static str,
    ) -> &mut u64 {
        let (server, model) = (self.servers.learn(server), self.models.none());
        self.in_flight.entry(Base { role, server, endpoint, model }).or_default()
    }

    pub(super) fn finished(&mut self, f: &Finished, peer: &Peer, gap_bounds: &[Ns]) {
        let in_flight = self.in_flight(f.role, &peer.server, f.endpoint);
        *in_flight = in_flight.saturating_sub(1);

        let named = f.model.as_deref().unwrap_or_default();
        // Anybody can ask for any model; only a server that has it answers.
        let accepted = f.outcome == Outcome::Success && f.status.is_some_and(|s| s / 100 == 2);
        let model = if accepted { self.models.learn(named) } else { self.models.look_up(named) };
        let server = self.servers.learn(&peer.server);
        let mut base = Base { role: f.role, server, endpoint: f.endpoint, model };
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&base) {
            base.server = self.servers.other();
            base.model = self.models.other();
        }
        let series = Arc::make_mut(self.series.entry(base).or_default());
        series.count(f);
        if f.outcome != Outcome::Incomplete {
            series.times(f, gap_bounds);
            series.tokens(f);
        }
    }
}

impl Series {
    fn count(&mut self, f: &Finished) {
        let status = match f.status {
            None => Status::None,
            Some(code @ 100..=599) => Status::Code(code),
            Some(_) => Status::Other,
        };
        let mut request = Request {
            method: labels::method(&f.method),
            stream: f.stream,
            status,
            outcome: labels::outcome(f.outcome),
        };
        if self.requests.len() >= MAX_REQUESTS && !self.requests.contains_key(&request) {
            request.status = Status::Other;
        }
        *self.requests.entry(request).or_default() += 1;
    }

    fn times(&mut self, f: &Finished, gap_bounds: &[Ns]) {
        let since = |t: Ns| t.saturating_sub(f.start);
        let whole = if f.stream { &mut self.whole_stream } else { &mut self.whole };
        whole.observe(WHOLE, since(f.end));
        if let Some(t) = f.request_end {
            self.receive.observe(FIRST, since(t));
        }
        if let Some(t) = f.queued {
            self.queue.observe(FIRST, t);
        }
        if let Some(t) = f.blocked.filter(|_| f.stream) {
            self.backpressure.observe(FIRST, t);
        }
        if let Some(t) = f.first_byte {
            self.first_byte.observe(FIRST, since(t));
        }
        // A first token that the client did not stay for is no first token.
        let gone = f.outcome == Outcome::ClientDisconnect(Phase::BeforeFirstToken);
        if let Some(t) = f.first_token.filter(|_| !gone) {
            self.first_token.observe(FIRST, since(t));
        }
        if let Some(t) = per_token(f) {
            self.per_token.observe(PER_TOKEN, t);
        }
        if let Some(t) = f.max_stall {
            self.stall.observe(GAP, t);
        }
        if let Some(itl) = &f.itl {
            let gaps = self.gaps.of(f.itl_source);
            gaps.merge(gap_bounds, &itl.bounds, &itl.counts, itl.sum);
        }
    }

    fn tokens(&mut self, f: &Finished) {
        let add =
            |total: &mut Option<u64>, n: u64| *total = Some(total.unwrap_or(0).saturating_add(n));
        if let Some(n) = f.usage.prompt {
            add(&mut self.tokens.prompt, n);
            self.prompt.observe(TOKENS, n);
        }
        if let Some(n) = f.usage.cached {
            add(&mut self.tokens.cached, n);
        }
        if let Some(n) = f.usage.reasoning {
            add(&mut self.tokens.reasoning, n);
        }
        if let Some((n, source)) = f.output_tokens() {
            add(self.tokens.output.of(source), n);
            self.output.observe(TOKENS, n);
            // From the first on, so that a rate can be taken of it.
            let left = matches!(f.outcome, Outcome::ClientDisconnect(_));
            add(&mut self.wasted, if left { n } else { 0 });
        }
        if let Some(reason) = &f.finish_reason {
            *self.finish.entry(labels::finish_reason(reason)).or_default() += 1;
        }
        if f.stream {
            add(&mut self.events, f.events);
        }
    }
}

/// Time per output token after the first event's.
fn per_token(f: &Finished) -> Option<Ns> {
    let (first, last) = f.first_token.zip(f.last_token)?;
    let (n, _) = f.output_tokens()?;
    let n = n.checked_sub(f.first_tokens.into()).filter(|n| *n > 0)?;
    Some(last.saturating_sub(first) / n)
}
