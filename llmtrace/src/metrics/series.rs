//! What is counted, per server, endpoint and model.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::cost::{Costs, Meter};
use super::hist::{COST, FIRST, Hist, NANO, RATIO, RATIO_UNIT, TOKENS};
use super::labels::{self, Capped, MAX_MODELS, MAX_SERVERS};
use super::policy::{Bounds, Cost, Policy};
use super::sent::Outgoing;
use super::slo::{self, Judged, SLOS};
use super::{Assessed, Own, Peer, TargetUse};
use crate::llm::{Finished, Ns, Outcome, Role, TokenSource};

/// Most combinations of server, endpoint and model; later ones are counted under `other`.
pub const MAX_SERIES: usize = 2_000;
/// How often series are looked at for those that nothing happens to.
const EXPIRE_NS: Ns = 1_000_000_000;
/// Most combinations of method, status and outcome of one of them, before the status is `other`.
const MAX_REQUESTS: usize = 128;

/// The base labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Not met and met, in the order of [`SLOS`].
    pub(super) slo: [Option<[u64; 2]>; SLOS.len()],
    pub(super) cost: Costs,
    pub(super) request_cost: Hist,
    pub(super) repetition: Hist,
    pub(super) empty: Option<u64>,
    /// When a request was last counted.
    touched: Ns,
}

/// Requests under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Running {
    pub(super) n: u64,
    touched: Ns,
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
    pub(super) policy: Arc<Policy>,
    /// Shared with a scrape while that is being written, so that the lock is held briefly.
    pub(super) series: HashMap<Base, Arc<Series>>,
    /// The model is none: it is not known before the end.
    pub(super) in_flight: HashMap<Base, Running>,
    pub(super) meter: Meter,
    pub(super) own: Arc<Own>,
    pub(super) targets: Arc<[TargetUse]>,
    pub(super) backend: Option<&'static str>,
    pub(super) reloads: Reloads,
    pub(super) outgoing: Outgoing,
    models: Capped,
    servers: Capped,
    /// The latest time heard of.
    now: Ns,
    next_expiry: Ns,
}

impl State {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            series: HashMap::new(),
            in_flight: HashMap::new(),
            meter: Meter::default(),
            own: Arc::default(),
            targets: Arc::default(),
            backend: None,
            reloads: Reloads::new(),
            outgoing: Outgoing::default(),
            models: Capped::new(MAX_MODELS),
            servers: Capped::new(MAX_SERVERS),
            now: 0,
            next_expiry: 0,
        }
    }

    /// Judges by another policy from here on. Buckets cannot change under a histogram: one that gets
    /// others starts anew.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.pass(self.now);
        if policy.bounds != self.policy.bounds {
            for series in self.series.values_mut() {
                Arc::make_mut(series).forget(&self.policy.bounds, &policy.bounds);
            }
        }
        self.policy = Arc::new(policy);
    }

    /// Time passes.
    pub(super) fn pass(&mut self, t: Ns) {
        self.now = self.now.max(t);
        // Without prices as well: time for which there were none is not to be paid later.
        self.meter.advance(self.now, self.policy.cost.as_ref().map_or(0.0, Cost::rate));
        if self.now >= self.next_expiry {
            self.next_expiry = self.now.saturating_add(EXPIRE_NS);
            self.expire();
        }
    }

    /// Lets go of series that nothing happened to for long, and of the names that only they had.
    fn expire(&mut self) {
        let Some(before) = self.now.checked_sub(self.policy.series_ttl) else { return };
        let Self { series, in_flight, models, servers, .. } = self;
        let all = series.len() + in_flight.len();
        in_flight.retain(|_, running| running.n > 0 || running.touched >= before);
        series.retain(|_, series| series.touched >= before);
        if series.len() + in_flight.len() < all {
            let used = |base: &Base| (base.model.clone(), base.server.clone());
            let (used_models, used_servers): (HashSet<_>, HashSet<_>) =
                series.keys().chain(in_flight.keys()).map(used).unzip();
            models.retain(&used_models);
            servers.retain(&used_servers);
        }
    }

    fn running(&self, role: Role, server: Arc<str>, endpoint: &'static str) -> Base {
        Base { role, server, endpoint, model: self.models.none() }
    }

    pub(super) fn started(&mut self, t: Ns, role: Role, server: &str, endpoint: &'static str) {
        self.pass(t);
        // Of two traced ends of one connection, the one that serves is who costs.
        if role == Role::Server {
            self.meter.started(t);
        }
        let server = self.servers.learn(server);
        let mut base = self.running(role, server, endpoint);
        if self.in_flight.len() >= MAX_SERIES && !self.in_flight.contains_key(&base) {
            base.server = self.servers.other();
        }
        let running = self.in_flight.entry(base).or_default();
        *running = Running { n: running.n + 1, touched: self.now };
    }

    pub(super) fn finished(&mut self, f: &Finished, peer: &Peer) -> Assessed {
        self.pass(f.end);
        let server = self.servers.learn(&peer.server);
        let own = self.running(f.role, server.clone(), f.endpoint);
        // What began while there was no room for its name is counted down where it was counted up.
        let other = Base { server: self.servers.other(), ..own.clone() };
        let now = self.now;
        for base in [own, other] {
            if let Some(running) = self.in_flight.get_mut(&base).filter(|running| running.n > 0) {
                *running = Running { n: running.n - 1, touched: now };
                break;
            }
        }

        let named = f.model.as_deref().unwrap_or_default();
        // Anybody can ask for any model; only a server that has it answers.
        let accepted = f.outcome == Outcome::Success && f.status.is_some_and(|s| s / 100 == 2);
        let model = if accepted { self.models.learn(named) } else { self.models.look_up(named) };
        let mut base = Base { role: f.role, server, endpoint: f.endpoint, model };
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&base) {
            base.server = self.servers.other();
            base.model = self.models.other();
        }
        let costs = self.costs(f, named);
        let policy = self.policy.clone();
        let judged = policy.slo(named).map(|slo| slo::judge(f, slo)).unwrap_or_default();
        let series = Arc::make_mut(self.series.entry(base).or_default());
        series.touched = self.now;
        series.count(f);
        series.judged(&judged);
        series.cost(&costs);
        if f.outcome != Outcome::Incomplete {
            series.times(f, &policy.bounds);
            series.tokens(f);
        }
        Assessed { slo: judged, cost: costs.total() }
    }

    fn costs(&mut self, f: &Finished, named: &str) -> Costs {
        let policy = self.policy.clone();
        let price = policy.price(named);
        let mut costs = match price {
            // A count of tokens that is not whole is no count.
            Some(price) if f.outcome != Outcome::Incomplete => Costs::of_tokens(f, price),
            _ => Costs::default(),
        };
        if f.role == Role::Server {
            let shared = self.meter.finished(f.start, price.is_none());
            let gpus = policy.cost.as_ref().and_then(|cost| cost.gpus);
            costs.gpu = gpus.filter(|_| price.is_none()).map(|_| shared);
        }
        costs
    }
}

impl Series {
    /// Empties the histograms whose bounds change.
    fn forget(&mut self, old: &Bounds, new: &Bounds) {
        let Bounds { first, whole, per_token, gap } = new;
        let forget =
            |all: &mut [&mut Hist]| all.iter_mut().for_each(|hist| **hist = Hist::default());
        if *first != old.first {
            forget(&mut [&mut self.first_byte, &mut self.first_token]);
        }
        if *whole != old.whole {
            forget(&mut [&mut self.whole, &mut self.whole_stream]);
        }
        if *per_token != old.per_token {
            forget(&mut [&mut self.per_token]);
        }
        if *gap != old.gap {
            forget(&mut [&mut self.gaps.usage, &mut self.gaps.events, &mut self.stall]);
        }
    }

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

    fn judged(&mut self, judged: &Judged) {
        for (counts, met) in self.slo.iter_mut().zip(judged.each()) {
            if let Some(met) = met {
                // Both from the first on, so that a rate can be taken of them.
                counts.get_or_insert_default()[usize::from(met)] += 1;
            }
        }
    }

    fn cost(&mut self, costs: &Costs) {
        self.cost.add(costs);
        if let Some(total) = costs.total() {
            self.request_cost.observe(COST, (total * NANO) as u64);
        }
    }

    fn times(&mut self, f: &Finished, bounds: &Bounds) {
        let since = |t: Ns| t.saturating_sub(f.start);
        let whole = if f.stream { &mut self.whole_stream } else { &mut self.whole };
        whole.observe(&bounds.whole, since(f.end));
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
            self.first_byte.observe(&bounds.first, since(t));
        }
        if let Some(t) = f.time_to_first_token() {
            self.first_token.observe(&bounds.first, t);
        }
        if let Some(t) = f.per_output_token() {
            self.per_token.observe(&bounds.per_token, t);
        }
        if let Some(t) = f.max_stall {
            self.stall.observe(&bounds.gap, t);
        }
        if let Some(itl) = &f.itl {
            let gaps = self.gaps.of(f.itl_source);
            gaps.merge(&bounds.gap, &itl.bounds, &itl.counts, itl.sum);
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
        if let Some(ratio) = f.repetition {
            self.repetition.observe(RATIO, (f64::from(ratio) * RATIO_UNIT) as u64);
        }
        if f.outcome == Outcome::Success
            && let Some(answered) = f.answered
        {
            add(&mut self.empty, u64::from(!answered));
        }
    }
}
