//! What becomes of anomalies: metrics, a log with the requests behind each, the API's list, and
//! alerts that are sent to an Alertmanager.

mod alert;
mod board;
mod sender;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;

use crate::anomaly::{Anomaly, Engine, Event, Method, Severity, Signal, What};
use crate::config;
use crate::export::anomalies;
use crate::llm::{Finished, Ns, Peer, Running, Watch};
use crate::metrics::{AnomalyGauge, Metrics};

pub use board::Board;
pub use sender::{Receiver, Sender};

/// For how long an anomaly that is over has a gauge of 0.
const AFTER: Ns = 600_000_000_000;
/// Most gauges.
const MAX_GAUGES: usize = 2_000;

/// Nanoseconds since the Unix epoch, less those of `CLOCK_MONOTONIC`.
pub type WallOffset = fn() -> i64;

/// Runs the detectors on the agent's thread, and hands on what they find. Nothing here waits.
pub struct Alerts {
    engine: Engine,
    metrics: Metrics,
    log: Option<Box<dyn Write>>,
    log_failed: bool,
    sender: Option<Sender>,
    board: Board,
    wall_offset: WallOffset,
    gauges: Vec<Gauge>,
    /// The count that the metrics have; None if they have none yet.
    unwatched: Option<u64>,
}

/// A series of the anomaly gauge. Several anomalies follow each other under it, never at once.
#[derive(Debug, PartialEq)]
struct Gauge {
    signal: Signal,
    method: Method,
    severity: Severity,
    server: Arc<str>,
    model: Arc<str>,
    ended: Option<Ns>,
}

impl Gauge {
    fn is_of(&self, a: &Anomaly, severity: Severity) -> bool {
        self.signal == a.signal
            && self.method == a.method
            && self.severity == severity
            && self.server == a.server
            && self.model == a.model
    }
}

impl Alerts {
    pub fn new(
        settings: config::Anomaly,
        metrics: Metrics,
        board: Board,
        wall_offset: WallOffset,
    ) -> Self {
        Self {
            engine: Engine::new(settings),
            metrics,
            log: None,
            log_failed: false,
            sender: None,
            board,
            wall_offset,
            gauges: Vec::new(),
            unwatched: None,
        }
    }

    /// Writes a line for each event to `log`.
    pub fn log_to(&mut self, log: Box<dyn Write>) {
        self.log = Some(log);
    }

    /// Has alerts sent by that, or no longer. It is told of what is under way.
    pub fn send_by(&mut self, sender: Option<Sender>) {
        self.sender = sender;
        let wall_offset = (self.wall_offset)();
        if let Some(sender) = &self.sender {
            self.engine.active().for_each(|active| sender.send(alert::active(active, wall_offset)));
        }
    }

    /// What [`Alerts::log_to`] was told; it gets no more lines.
    pub fn take_log(&mut self) -> Option<Box<dyn Write>> {
        self.log.take()
    }

    pub fn settings(&self) -> &config::Anomaly {
        self.engine.settings()
    }

    pub fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    /// Watches by other settings from `now` on; what was learned is kept where it still means
    /// something ([`Engine::set`]).
    pub fn set(&mut self, settings: config::Anomaly, now: Ns) {
        self.engine.set(settings, now);
        if self.news() {
            self.show();
        }
    }

    /// Nobody watches any more: what is under way is over.
    pub fn end(&mut self, now: Ns) {
        self.engine.end(now);
        self.news();
        self.gauges.clear();
        self.show();
        self.unwatched = None;
        self.metrics.set_unwatched(None);
    }

    /// Whether anything happened.
    fn news(&mut self) -> bool {
        let events = self.engine.take_events();
        events.iter().for_each(|event| self.event(event));
        !events.is_empty()
    }

    fn event(&mut self, event: &Event) {
        let wall_offset = (self.wall_offset)();
        let a = &event.anomaly;
        match event.what {
            What::Raised => {
                self.metrics.anomaly(a.signal.name(), a.method.name(), a.severity.name());
                self.gauge(a, a.severity, None);
            }
            What::Worse => {
                self.metrics.anomaly(a.signal.name(), a.method.name(), a.severity.name());
                self.gauge(a, Severity::Warning, Some(event.at));
                self.gauge(a, a.severity, None);
            }
            What::Cleared => self.gauge(a, a.severity, Some(event.at)),
        }
        let mut line = anomalies::line(event, wall_offset);
        self.board.event(a.id, a.ended.is_some(), &line);
        line.push('\n');
        if let Some(log) = &mut self.log
            && let Err(e) = log.write_all(line.as_bytes()).and_then(|()| log.flush())
            && !self.log_failed
        {
            self.log_failed = true;
            log::error!("anomaly log: {e}; further failures are not reported");
        }
        if let Some(sender) = &self.sender {
            for alert in alert::of(event, wall_offset) {
                sender.send(alert);
            }
        }
    }

    fn gauge(&mut self, a: &Anomaly, severity: Severity, ended: Option<Ns>) {
        if let Some(gauge) = self.gauges.iter_mut().find(|g| g.is_of(a, severity)) {
            gauge.ended = ended;
        } else if self.gauges.len() < MAX_GAUGES {
            self.gauges.push(Gauge {
                signal: a.signal,
                method: a.method,
                severity,
                server: a.server.clone(),
                model: a.model.clone(),
                ended,
            });
        }
    }

    fn show(&self) {
        let gauges = self.gauges.iter().map(|g| AnomalyGauge {
            signal: g.signal.name(),
            method: g.method.name(),
            severity: g.severity.name(),
            server: g.server.clone(),
            model: g.model.clone(),
            active: g.ended.is_none(),
        });
        self.metrics.set_anomalies(gauges.collect());
    }
}

impl Watch for Alerts {
    fn running(&mut self, now: Ns, running: &Running<'_>, peer: &Peer) {
        self.engine.running(now, running, peer);
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        self.engine.finished(f, peer);
    }

    fn tick(&mut self, now: Ns) {
        self.engine.tick(now);
        let before = self.gauges.len();
        self.gauges.retain(|g| g.ended.is_none_or(|ended| now.saturating_sub(ended) < AFTER));
        let fewer = self.gauges.len() != before;
        if self.news() || fewer {
            self.show();
        }
        let unwatched = Some(self.engine.unattributed());
        if self.unwatched != unwatched {
            self.unwatched = unwatched;
            self.metrics.set_unwatched(unwatched);
        }
    }
}
