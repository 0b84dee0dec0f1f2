//! The thread that exports.
//!
//! Spans wait until there are enough of them or for a few seconds; metrics are cumulative and sent
//! at intervals. A collector that does not take them is tried again; meanwhile spans are kept as
//! far as there is room, and metrics just go on.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use ring::rand::{SecureRandom, SystemRandom};
use ureq::Agent;

use super::done::Done;
use super::points::Points;
use super::settings::Settings;
use super::span::{self, Ids, host_port};
use super::traceparent;
use crate::client::{self, Backoff, Posted};
use crate::config::Sample;
use crate::llm::Role;
use crate::metrics::{Metrics, Sent};
use crate::probe::clock::monotonic_ns;

/// Spans of one request.
const BATCH: usize = 512;
/// Most spans that wait, of some 2 KiB each.
const MAX_SPANS: usize = 4_096;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(2);
/// Most services that have metrics of their own.
const MAX_SERVICES: usize = 100;
/// Signals, as the metrics have them.
pub(super) const SPANS: &str = "spans";
pub(super) const METRICS: &str = "metrics";
/// What clients and servers beyond those are.
const OWN_SERVICE: &str = "llmtrace";

pub(super) struct Sender {
    settings: Settings,
    metrics: Metrics,
    wall_offset: fn() -> i64,
    agent: Agent,
    headers: Vec<(String, String)>,
    random: SystemRandom,
    spans: Vec<(Arc<str>, Span)>,
    points: BTreeMap<Arc<str>, Points>,
    spans_due: Option<Instant>,
    metrics_due: Instant,
    /// By signal: one that is refused must not hold up the other.
    state: BTreeMap<&'static str, State>,
}

/// How it goes with a signal.
#[derive(Debug, Default)]
struct State {
    backoff: Backoff,
    failing: bool,
}

impl Sender {
    pub(super) fn new(settings: Settings, metrics: Metrics, wall_offset: fn() -> i64) -> Self {
        let mut headers = vec![("Content-Type".to_owned(), "application/x-protobuf".to_owned())];
        headers.extend(settings.headers.clone());
        if settings.gzip {
            headers.push(("Content-Encoding".into(), "gzip".into()));
        }
        Self {
            agent: client::agent(settings.timeout),
            metrics_due: Instant::now() + settings.interval,
            settings,
            metrics,
            wall_offset,
            headers,
            random: SystemRandom::new(),
            spans: Vec::new(),
            points: BTreeMap::new(),
            spans_due: None,
            state: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self, exchanges: &Receiver<Done>) {
        loop {
            let now = Instant::now();
            let due = self.spans_due.map_or(self.metrics_due, |due| due.min(self.metrics_due));
            let mut more = true;
            match exchanges.recv_timeout(due.saturating_duration_since(now)) {
                Ok(done) => {
                    self.take(&done);
                    // All that is there, before anything is sent.
                    exchanges.try_iter().take(BATCH).for_each(|done| self.take(&done));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => more = false,
            }
            let now = Instant::now();
            if !more || self.spans_due.is_some_and(|due| due <= now) {
                self.send_spans();
            }
            if !more || self.metrics_due <= now {
                self.send_metrics();
            }
            if !more {
                // Nobody tries these again.
                self.metrics.exported(SPANS, Sent::Dropped, self.spans.len() as u64);
                return;
            }
        }
    }

    fn take(&mut self, done: &Done) {
        let wall_offset = (self.wall_offset)();
        let ids = if self.settings.traces.is_some() { self.ids(done) } else { None };
        let mut service = self.service(done);
        if self.settings.metrics.is_some() {
            if self.points.len() >= MAX_SERVICES && !self.points.contains_key(&service) {
                service = OWN_SERVICE.into();
            }
            let started = done.start.saturating_add_signed(wall_offset);
            let points = self.points.entry(service.clone());
            points.or_insert_with(|| Points::new(started)).add(done, ids.as_ref(), wall_offset);
        }
        let Some(ids) = ids else { return };
        if self.spans.len() >= MAX_SPANS {
            self.metrics.exported(SPANS, Sent::Dropped, 1);
            return;
        }
        self.spans.push((service, span::span(done, &ids, wall_offset)));
        let now = Instant::now();
        let due = *self.spans_due.get_or_insert(now + DELAY);
        let failing = self.state.get(SPANS).is_some_and(|state| state.failing);
        if self.spans.len() >= BATCH && !failing {
            self.spans_due = Some(due.min(now));
        }
    }

    /// None if there is to be no span.
    fn ids(&self, done: &Done) -> Option<Ids> {
        let parent = done.traceparent.as_deref().and_then(traceparent::parse);
        let wanted = self.settings.sample == Sample::Always || parent.is_none_or(|p| p.sampled);
        let mut ids = Ids { trace: [0; 16], span: [0; 8], parent };
        match parent.filter(|_| wanted) {
            Some(parent) => ids.trace = parent.trace,
            None if wanted => self.random.fill(&mut ids.trace).ok()?,
            None => return None,
        }
        self.random.fill(&mut ids.span).ok()?;
        Some(ids)
    }

    /// Whose span it is: that of the server, whichever of its ports it is.
    fn service(&self, done: &Done) -> Arc<str> {
        match (&self.settings.service, done.role) {
            (Some(service), _) => service.as_str().into(),
            (None, Role::Server) => host_port(&done.server).0.into(),
            (None, Role::Client) => OWN_SERVICE.into(),
        }
    }

    fn resource(&self, service: &str) -> Option<Resource> {
        let own = [("service.name", service), ("telemetry.distro.name", "llmtrace")];
        let said = self.settings.resource.iter().map(|(key, value)| (&**key, &**value));
        let attributes = own.into_iter().chain(said).map(|(key, value)| span::text(key, value));
        Some(Resource { attributes: attributes.collect(), ..Resource::default() })
    }

    fn send_spans(&mut self) {
        self.spans_due = None;
        let Some(url) = self.settings.traces.clone() else { return };
        while !self.spans.is_empty() {
            let count = self.spans.len().min(BATCH);
            let mut by_service: BTreeMap<Arc<str>, Vec<Span>> = BTreeMap::new();
            for (service, span) in self.spans.iter().take(count) {
                by_service.entry(service.clone()).or_default().push(span.clone());
            }
            let resource_spans = by_service
                .into_iter()
                .map(|(service, spans)| ResourceSpans {
                    resource: self.resource(&service),
                    scope_spans: vec![ScopeSpans {
                        scope: scope(),
                        spans,
                        ..ScopeSpans::default()
                    }],
                    ..ResourceSpans::default()
                })
                .collect();
            let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
            let rejected = |answer: &[u8]| {
                let answer = ExportTraceServiceResponse::decode(answer).ok()?;
                answer.partial_success.map(|p| p.rejected_spans)
            };
            match self.post(&url, &body, SPANS, count as u64, rejected) {
                None => drop(self.spans.drain(..count)),
                Some(wait) => {
                    self.spans_due = Some(Instant::now() + wait);
                    return;
                }
            }
        }
    }

    fn send_metrics(&mut self) {
        self.metrics_due = Instant::now() + self.settings.interval;
        let Some(url) = self.settings.metrics.clone() else { return };
        let count: usize = self.points.values().map(Points::len).sum();
        if count == 0 {
            return;
        }
        let now = monotonic_ns().saturating_add_signed((self.wall_offset)());
        let mut points = std::mem::take(&mut self.points);
        let resource_metrics = points
            .iter_mut()
            .map(|(service, points)| ResourceMetrics {
                resource: self.resource(service),
                scope_metrics: vec![ScopeMetrics {
                    scope: scope(),
                    metrics: points.metrics(now),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            })
            .collect();
        self.points = points;
        let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
        let rejected = |answer: &[u8]| {
            let answer = ExportMetricsServiceResponse::decode(answer).ok()?;
            answer.partial_success.map(|p| p.rejected_data_points)
        };
        if let Some(wait) = self.post(&url, &body, METRICS, count as u64, rejected) {
            self.metrics_due = self.metrics_due.min(Instant::now() + wait);
        }
    }

    /// None if there is nothing to try again; else after how long.
    fn post(
        &mut self,
        url: &str,
        body: &[u8],
        signal: &'static str,
        count: u64,
        rejected: impl Fn(&[u8]) -> Option<i64>,
    ) -> Option<Duration> {
        let packed = if self.settings.gzip { &pack(body) } else { body };
        match client::post(&self.agent, url, &self.headers, packed) {
            Posted::Taken(answer) => {
                let rejected = rejected(&answer).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
                let rejected = rejected.min(count);
                self.metrics.exported(signal, Sent::Ok, count - rejected);
                self.metrics.exported(signal, Sent::Dropped, rejected);
                let state = self.state.entry(signal).or_default();
                if std::mem::take(&mut state.failing) {
                    log::info!("OTLP: {url} takes {signal} again");
                }
                state.backoff.reset();
                None
            }
            Posted::Refused(why) => {
                self.metrics.exported(signal, Sent::Dropped, count);
                self.say_failing(url, signal, &why);
                None
            }
            Posted::Later(after, why) => {
                self.metrics.exported(signal, Sent::Failed, count);
                self.say_failing(url, signal, &why);
                Some(self.state.entry(signal).or_default().backoff.next(after))
            }
        }
    }

    fn say_failing(&mut self, url: &str, signal: &'static str, why: &str) {
        if !std::mem::replace(&mut self.state.entry(signal).or_default().failing, true) {
            log::warn!("OTLP: {url} does not take {signal}: {why}");
        }
    }
}

/// With gzip.
fn pack(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let written = encoder.write_all(body);
    debug_assert!(written.is_ok(), "{written:?}");
    encoder.finish().unwrap_or_default()
}

fn scope() -> Option<InstrumentationScope> {
    let version = env!("CARGO_PKG_VERSION").into();
    Some(InstrumentationScope {
        name: "llmtrace".into(),
        version,
        ..InstrumentationScope::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::receiver::receiver;
    use crate::config;
    use crate::llm::{Finished, Outcome, Peer};

    #[test]
    fn metrics_that_are_refused_do_not_hold_up_spans() {
        let (url, _got) = receiver(&[404]);
        let settings = Settings::by(&config::Otlp::default(), Some(&url), |_| None);
        let mut sender = Sender::new(settings.unwrap().unwrap(), Metrics::default(), || 0);
        let peer = Peer { server: "s:1".into(), client: "".into(), pid: 1, tls: false };
        let f = Finished { outcome: Outcome::Success, ..Finished::new(Role::Server, 0) };
        let done = Done::new(&f, &peer);
        sender.take(&done);
        sender.send_metrics();
        assert!(sender.state.get(METRICS).is_some_and(|state| state.failing));
        (1..BATCH).for_each(|_| sender.take(&done));
        // Enough for a request: nothing is waited for.
        assert!(sender.spans_due.is_some_and(|due| due <= Instant::now()));
        sender.send_spans();
        assert!(sender.spans.is_empty());
    }
}
