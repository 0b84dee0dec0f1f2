//! One server and model: its signals, and what the detectors make of them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::context::MAX_REQUESTS;
use super::detect::{Detector, Sample, Verdict};
use super::interval::Gathered;
use super::latch::{Latch, Step};
use super::{Anomaly, End, Event, Offender, Severity, Signal, What};
use crate::config;
use crate::llm::{Finished, Ns, Outcome, Peer, Running};

/// Without a sample for this long there is no anomaly.
pub(super) const IDLE: Ns = 600_000_000_000;
/// Waits of requests under way that are shorter are left to their end.
const MIN_WAIT: Ns = 1_000_000_000;
/// Most requests under way whose waits are looked at.
const MAX_WAITING: usize = 64;
/// How fast what is asked for is forgotten: half-life.
const DEMAND_INTERVALS: f64 = 60.0;
/// A throughput that fell is judged while at least this much of the usual is asked for.
const DEMAND: f64 = 0.9;

const NS: f64 = 1e9;

/// What belongs to all series.
pub(super) struct Shared<'a> {
    pub(super) settings: &'a config::Anomaly,
    pub(super) events: &'a mut Vec<Event>,
    pub(super) next_id: &'a mut u64,
}

#[derive(Debug)]
pub(super) struct Series {
    server: Arc<str>,
    pub(super) model: Arc<str>,
    signals: Vec<Watched>,
    tokens: u64,
    load: Load,
    waiting: Vec<(Signal, Offender)>,
    pub(super) last_seen: Ns,
    closed: Ns,
}

/// How many requests are under way.
#[derive(Debug, Default)]
struct Load {
    now: u32,
    sum: u64,
    looks: u32,
    usual: Option<f64>,
}

/// A signal, and what watches it.
#[derive(Debug)]
struct Watched {
    signal: Signal,
    gathered: Gathered,
    methods: Vec<(Detector, Latch, Option<Anomaly>)>,
    offenders: VecDeque<Offender>,
    last_sample: Ns,
}

impl Series {
    pub(super) fn new(server: Arc<str>, model: Arc<str>, signals: &[Signal], now: Ns) -> Self {
        Self {
            server,
            model,
            signals: signals.iter().map(|signal| Watched::new(*signal, now)).collect(),
            tokens: 0,
            load: Load::default(),
            waiting: Vec::new(),
            last_seen: now,
            closed: now,
        }
    }

    pub(super) fn finished(&mut self, f: &Finished, peer: &Peer) {
        self.last_seen = f.end;
        self.tokens = self.tokens.saturating_add(if f.stream {
            f.progress.tokens
        } else {
            f.output_tokens().map_or(0, |(n, _)| n)
        });
        for watched in &mut self.signals {
            let time = match watched.signal {
                Signal::Ttft => f.time_to_first_token().map(seconds),
                Signal::Itl => per_token(f),
                // How long the others lasted says nothing of the server.
                Signal::E2e => {
                    (f.outcome == Outcome::Success).then(|| seconds(f.end.saturating_sub(f.start)))
                }
                Signal::Stall => f.max_stall.map(seconds),
                Signal::ErrorRatio => {
                    let failed = failed(f);
                    watched.gathered.share(failed, || Offender::finished(f, peer, 1.0));
                    None
                }
                Signal::Aborts => {
                    let left = matches!(f.outcome, Outcome::ClientDisconnect(_));
                    watched.gathered.share(left, || Offender::finished(f, peer, 1.0));
                    None
                }
                Signal::Throughput => {
                    // The slowest streams are those behind it.
                    if let Some(time) = per_token(f) {
                        let make = || Offender::finished(f, peer, 1.0 / time.max(1e-9));
                        watched.gathered.worst.offer(time, make);
                    }
                    None
                }
            };
            if let Some(time) = time {
                watched.gathered.time(time, || Offender::finished(f, peer, time));
            }
        }
    }

    pub(super) fn running(&mut self, now: Ns, r: &Running<'_>, peer: &Peer) {
        self.last_seen = now;
        self.load.now += 1;
        self.tokens = self.tokens.saturating_add(r.progress.tokens);
        if !r.stream || self.waiting.len() >= MAX_WAITING {
            return;
        }
        let (signal, since) = match r.last_token {
            None => (Signal::Ttft, r.start),
            Some(last) => (Signal::Stall, last),
        };
        let wait = now.saturating_sub(since);
        if wait >= MIN_WAIT {
            self.waiting.push((signal, Offender::running(r, peer, seconds(wait))));
        }
    }

    /// All that is under way has been told.
    pub(super) fn looked(&mut self) {
        let load = &mut self.load;
        load.sum += u64::from(std::mem::take(&mut load.now));
        load.looks += 1;
    }

    pub(super) fn look_again(&mut self) {
        self.waiting.clear();
    }

    /// The interval is over.
    pub(super) fn close(&mut self, now: Ns, shared: &mut Shared<'_>) {
        let s = shared.settings;
        let passed = now.saturating_sub(self.closed).max(1) as f64 / NS;
        self.closed = now;
        let rate = std::mem::take(&mut self.tokens) as f64 / passed;
        let (busy, asked_for) = self.load.close();
        for (signal, offender) in self.waiting.drain(..) {
            let watched = self.signals.iter_mut().find(|w| w.signal == signal);
            if let Some(watched) = watched {
                watched.wait(now, offender, s);
            }
        }
        let names = (&self.server, &self.model);
        for watched in &mut self.signals {
            if watched.signal == Signal::Throughput {
                if busy {
                    let from = now.saturating_sub((passed * NS) as Ns);
                    let y = Signal::Throughput.scaled(rate);
                    let sample = Sample { from, to: now, y, tail: y, noise: 0.0 };
                    watched.sample(&sample, asked_for, names, shared);
                }
                watched.gathered.restart(now);
            } else if let Some(sample) = watched.gathered.close(now, s.min_requests) {
                watched.sample(&sample, true, names, shared);
                watched.gathered.restart(now);
            }
            watched.idle(now, shared);
        }
    }

    /// Ends what is under way.
    pub(super) fn end(&mut self, end: (Ns, End), shared: &mut Shared<'_>) {
        self.signals.iter_mut().for_each(|watched| watched.end(end, shared));
    }

    /// Looks at `signals` by the settings `new` from now on; `shared` has the old ones. `anew`: as if
    /// nothing had been learned.
    pub(super) fn set(
        &mut self,
        signals: &[Signal],
        new: &config::Anomaly,
        anew: bool,
        now: Ns,
        shared: &mut Shared<'_>,
    ) {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for watched in self.signals.drain(..) {
            let keep = !anew && signals.contains(&watched.signal);
            if keep { &mut kept } else { &mut gone }.push(watched);
        }
        gone.iter_mut().for_each(|watched| watched.end((now, End::Unwatched), shared));
        for (detector, ..) in kept.iter_mut().flat_map(|watched| &mut watched.methods) {
            detector.set(now, shared.settings, new);
        }
        for &signal in signals {
            if !kept.iter().any(|watched| watched.signal == signal) {
                kept.push(Watched::new(signal, now));
            }
        }
        self.signals = kept;
        if anew {
            (self.tokens, self.load, self.closed) = (0, Load::default(), now);
        }
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Anomaly> {
        self.signals.iter().flat_map(|w| &w.methods).filter_map(|(_, _, anomaly)| anomaly.as_ref())
    }
}

impl Load {
    /// Whether there was something to do, and as much as usual.
    fn close(&mut self) -> (bool, bool) {
        let (sum, looks) = (std::mem::take(&mut self.sum), std::mem::take(&mut self.looks));
        let mean = sum as f64 / f64::from(looks.max(1));
        let usual = self.usual.get_or_insert(mean);
        let asked_for = mean >= DEMAND * *usual;
        *usual += (1.0 - (-1.0 / DEMAND_INTERVALS).exp2()) * (mean - *usual);
        (mean >= 1.0, asked_for)
    }
}

impl Watched {
    fn new(signal: Signal, now: Ns) -> Self {
        let method = |method| (Detector::new(signal, method), Latch::default(), None);
        Self {
            signal,
            gathered: Gathered::new(signal, now),
            methods: signal.methods().iter().copied().map(method).collect(),
            offenders: VecDeque::new(),
            last_sample: now,
        }
    }

    /// A request that is not over has already waited for longer than the past would have it: it
    /// counts now, as a server that hangs finishes none.
    fn wait(&mut self, now: Ns, offender: Offender, s: &config::Anomaly) {
        let bound = self.methods.iter().find_map(|(detector, ..)| detector.history_bound(now, s));
        if bound.is_some_and(|bound| self.signal.scaled(offender.value) > bound) {
            self.gathered.time(offender.value, || offender);
        }
    }

    fn sample(
        &mut self,
        sample: &Sample,
        judge: bool,
        (server, model): (&Arc<str>, &Arc<str>),
        shared: &mut Shared<'_>,
    ) {
        let s = shared.settings;
        self.last_sample = sample.to;
        let mut worst = Some(self.gathered.worst.take());
        for (detector, latch, anomaly) in &mut self.methods {
            let lasted = latch.since().map(|since| sample.to.saturating_sub(since));
            if lasted.is_some_and(|lasted| lasted > s.adapt_after.as_nanos() as Ns) {
                clear(latch, anomaly, (sample.to, End::Adapted), shared);
                detector.reset();
            }
            let verdict = if judge { detector.judge(sample, s) } else { None };
            if !latch.is_up() {
                detector.learn(sample, self.gathered.values(), verdict, s);
            }
            let Some(verdict) = verdict else { continue };
            if verdict.exceeds
                && let Some(worst) = worst.take()
            {
                let signal = self.signal;
                let behind = |o: &Offender| {
                    signal == Signal::Throughput || signal.scaled(o.value) > verdict.threshold
                };
                self.offenders.extend(worst.into_iter().filter(behind));
                let over = self.offenders.len().saturating_sub(MAX_REQUESTS);
                self.offenders.drain(..over);
            }
            let at = (sample.from, sample.to);
            match latch.step(at, verdict.exceeds, verdict.calm, s) {
                Step::Up(started) => {
                    *shared.next_id += 1;
                    let natural = |y| self.signal.natural(y);
                    let raised = Anomaly {
                        id: *shared.next_id,
                        signal: self.signal,
                        method: detector.method,
                        severity: severity(self.signal, &verdict, s),
                        server: server.clone(),
                        model: model.clone(),
                        started,
                        raised: sample.to,
                        ended: None,
                        value: natural(verdict.value),
                        expected: natural(verdict.expected),
                        threshold: natural(verdict.threshold),
                        worst: natural(verdict.value),
                        requests: self.offenders.iter().cloned().collect(),
                    };
                    shared.tell(What::Raised, sample.to, raised.clone());
                    *anomaly = Some(raised);
                }
                Step::Down => clear_told(anomaly, (sample.to, End::Calm), shared),
                Step::Same => {
                    if let Some(anomaly) = anomaly {
                        worsen(anomaly, &verdict, sample.to, shared);
                    }
                }
            }
        }
        // What no method minded is behind nothing that comes later.
        if worst.is_some() && self.methods.iter().all(|(_, latch, _)| latch.is_quiet()) {
            self.offenders.clear();
        }
    }

    fn idle(&mut self, now: Ns, shared: &mut Shared<'_>) {
        if now.saturating_sub(self.last_sample) >= IDLE {
            self.end((now, End::Idle), shared);
        }
    }

    fn end(&mut self, end: (Ns, End), shared: &mut Shared<'_>) {
        for (_, latch, anomaly) in &mut self.methods {
            clear(latch, anomaly, end, shared);
        }
    }
}

impl Shared<'_> {
    fn tell(&mut self, what: What, at: Ns, anomaly: Anomaly) {
        self.events.push(Event { what, at, anomaly });
    }
}

fn worsen(anomaly: &mut Anomaly, verdict: &Verdict, now: Ns, shared: &mut Shared<'_>) {
    let signal = anomaly.signal;
    if verdict.value > signal.scaled(anomaly.worst) {
        anomaly.worst = signal.natural(verdict.value);
    }
    let severity = severity(signal, verdict, shared.settings);
    if verdict.exceeds && severity > anomaly.severity {
        anomaly.severity = severity;
        anomaly.value = signal.natural(verdict.value);
        shared.tell(What::Worse, now, anomaly.clone());
    }
}

fn severity(signal: Signal, verdict: &Verdict, s: &config::Anomaly) -> Severity {
    if verdict.value - verdict.expected >= signal.critical(verdict.expected, s) {
        Severity::Critical
    } else {
        Severity::Warning
    }
}

fn clear(
    latch: &mut Latch,
    anomaly: &mut Option<Anomaly>,
    end: (Ns, End),
    shared: &mut Shared<'_>,
) {
    *latch = Latch::default();
    clear_told(anomaly, end, shared);
}

fn clear_told(anomaly: &mut Option<Anomaly>, end: (Ns, End), shared: &mut Shared<'_>) {
    if let Some(mut anomaly) = anomaly.take() {
        anomaly.ended = Some(end);
        shared.tell(What::Cleared, end.0, anomaly);
    }
}

/// Whether the server failed it. What a client did wrong (400, 404, ...) is none of its failures.
fn failed(f: &Finished) -> bool {
    match f.outcome {
        Outcome::HttpError => f.status.is_some_and(|s| s >= 500 || s == 429 || s == 408),
        Outcome::StreamError | Outcome::ServerDisconnect | Outcome::Timeout => true,
        Outcome::Success | Outcome::ClientDisconnect(_) | Outcome::Incomplete => false,
    }
}

/// Seconds per output token after the first event's.
fn per_token(f: &Finished) -> Option<f64> {
    f.per_output_token().map(seconds)
}

fn seconds(t: Ns) -> f64 {
    t as f64 / NS
}
