//! What the agent finds out and sends away.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Ok,
    /// Not taken; it may be tried again.
    Failed,
    Dropped,
}

/// A series of `llmtrace_anomaly`. Who makes them bounds how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomalyGauge {
    pub signal: &'static str,
    pub method: &'static str,
    pub severity: &'static str,
    pub server: Arc<str>,
    pub model: Arc<str>,
    pub active: bool,
}

/// Counts by [`Sent`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BySent {
    ok: u64,
    failed: u64,
    dropped: u64,
}

impl BySent {
    pub(super) fn add(&mut self, sent: Sent, n: u64) {
        match sent {
            Sent::Ok => self.ok += n,
            Sent::Failed => self.failed += n,
            Sent::Dropped => self.dropped += n,
        }
    }

    pub(super) fn all(self) -> [(&'static str, u64); 3] {
        [("ok", self.ok), ("failed", self.failed), ("dropped", self.dropped)]
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing {
    pub(super) gauges: Vec<AnomalyGauge>,
    /// By signal, method and severity.
    pub(super) anomalies: BTreeMap<[&'static str; 3], u64>,
    /// Requests that were not looked at for anomalies; None if none are looked for.
    pub(super) unwatched: Option<u64>,
    /// None if nobody is told.
    pub(super) notifications: Option<BySent>,
    /// Of the request log; None if there is none.
    pub(super) log_errors: Option<u64>,
    /// By signal of OTLP.
    pub(super) otlp: BTreeMap<&'static str, BySent>,
}
