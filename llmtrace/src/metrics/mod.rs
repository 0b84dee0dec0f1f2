//! Prometheus metrics of the exchanges that are over, and of the agent itself.
//!
//! An exchange is counted once, at its end, with plain integers under one lock; a scrape holds
//! that lock only to take a snapshot. docs/metrics.md says what each metric means.
//!
//! Architecture Invariant: knows finished exchanges and who was at their ends; knows nothing of
//! connections, records or sockets.
//! Architecture Invariant: no label value comes from the wire without a limit on how many there
//! are.

#![forbid(unsafe_code)]

mod collect;
mod defs;
mod hist;
pub mod labels;
mod process;
mod sent;
mod series;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{Registry, TextEncoder};

use crate::llm::{Finished, Ns, Peer, Role};

pub use sent::{AnomalyGauge, Sent};
pub use series::MAX_SERIES;
use series::State;

/// Content type of [`Metrics::encode_text`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The agent's own counts, all of them since its start.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// By layer and reason.
    pub records: Vec<(&'static str, &'static str, u64)>,
    /// By layer and reason.
    pub lost_records: Vec<(&'static str, &'static str, u64)>,
    /// By layer and reason.
    pub lost_bytes: Vec<(&'static str, &'static str, u64)>,
    /// By reason.
    pub resyncs: Vec<(&'static str, u64)>,
    /// By reason.
    pub incomplete: Vec<(&'static str, u64)>,
    /// Connections that are followed now.
    pub connections: u64,
    /// Processes or cgroups that are traced now.
    pub targets: u64,
    /// Files with a TLS library that targets have mapped, by library and state.
    pub tls_libraries: Vec<(&'static str, &'static str, u64)>,
    /// Targets with an io_uring, where the hooks do not see it.
    pub io_uring_targets: Option<u64>,
}

/// One aggregate for all threads; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
    registry: Registry,
}

#[derive(Debug)]
struct Shared {
    itl_bounds: Arc<[Ns]>,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters only: whatever a panic left of them is still a count.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// The bounds of inter-token latencies, ascending, in nanoseconds: the exchanges' own.
    pub fn new(itl_bounds: Arc<[Ns]>) -> Self {
        let shared = Arc::new(Shared { itl_bounds, state: Mutex::new(State::new()) });
        let registry = Registry::new();
        let collector = collect::Collect::new(shared.clone());
        let registered = registry.register(Box::new(collector));
        debug_assert!(registered.is_ok(), "{registered:?}");
        Self { shared, registry }
    }

    /// Bounds for [`Metrics::new`] and the exchanges unless there is a reason for others: SGLang's.
    pub fn itl_bounds() -> Arc<[Ns]> {
        hist::GAP.into()
    }

    /// A request began.
    pub fn started(&self, role: Role, server: &Arc<str>, endpoint: &'static str) {
        *self.shared.lock().in_flight(role, server, endpoint) += 1;
    }

    /// A request that began is over.
    pub fn finished(&self, f: &Finished, peer: &Peer) {
        self.shared.lock().finished(f, peer, &self.shared.itl_bounds);
    }

    /// Replaces the agent's own counts.
    pub fn set_own(&self, own: Own) {
        let own = Arc::new(own);
        self.shared.lock().own = own;
    }

    /// The configuration was read again, or could not be.
    pub fn reloaded(&self, ok: bool) {
        self.shared.lock().reloads.count(ok);
    }

    /// Replaces the anomalies that there are, and those that are just over.
    pub fn set_anomalies(&self, gauges: Vec<AnomalyGauge>) {
        self.shared.lock().outgoing.gauges = gauges;
    }

    /// One more anomaly.
    pub fn anomaly(&self, signal: &'static str, method: &'static str, severity: &'static str) {
        let key = [signal, method, severity];
        *self.shared.lock().outgoing.anomalies.entry(key).or_default() += 1;
    }

    /// So many alerts were sent, with this result.
    pub fn notified(&self, result: Sent, n: u64) {
        self.shared.lock().outgoing.notifications.get_or_insert_default().add(result, n);
    }

    /// So many spans or points of metrics were exported, with this result.
    pub fn exported(&self, signal: &'static str, result: Sent, n: u64) {
        self.shared.lock().outgoing.otlp.entry(signal).or_default().add(result, n);
    }

    /// What captures.
    pub fn set_backend(&self, backend: &'static str) {
        self.shared.lock().backend = Some(backend);
    }

    /// Everything, in the Prometheus text format 0.0.4.
    pub fn encode_text(&self) -> String {
        let mut text = String::new();
        let encoded = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Self::itl_bounds())
    }
}
