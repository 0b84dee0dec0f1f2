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
mod cost;
mod defs;
mod families;
mod health;
mod hist;
pub mod labels;
pub mod policy;
pub(crate) mod process;
mod sent;
mod series;
mod slo;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::llm::{Finished, Ns, Peer, Role};

pub use families::Form;
pub use health::Health;
pub use policy::Policy;
pub use sent::{AnomalyGauge, Sent};
pub use series::MAX_SERIES;
use series::State;
pub use slo::Judged;

/// Content type of [`Form::Text`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type of [`Form::Protobuf`].
pub const PROTOBUF_FORMAT: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// What is thought of a request that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Assessed {
    pub slo: Judged,
    /// In the currency of the policy; none if it has no price for the model.
    pub cost: Option<f64>,
}

/// What a target process uses; none where it is not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetUse {
    pub pid: u32,
    pub process: Arc<str>,
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub open_sockets: Option<u64>,
    pub gpus: Vec<GpuUse>,
}

/// What a process uses of one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuUse {
    /// Its index on this machine.
    pub gpu: u32,
    pub memory_bytes: Option<u64>,
    /// Share of the time in which the process had it compute, since the last look: 0 to 1.
    pub utilization: Option<f64>,
}

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
    /// Targets that are in pods.
    pub target_info: Arc<[TargetInfo]>,
}

/// What a target is called in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    pub pid: u32,
    pub process: String,
    pub container: String,
    pub pod: String,
    pub namespace: String,
    pub image: String,
}

/// One aggregate for all threads; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters only: whatever a panic left of them is still a count.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    pub fn new(policy: Policy) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::new(policy)) }) }
    }

    /// Judges by another policy from here on.
    pub fn set_policy(&self, policy: Policy) {
        self.shared.lock().set_policy(policy);
    }

    /// Bounds of inter-token latencies for the exchanges, ascending, in nanoseconds.
    pub fn gap_bounds(&self) -> Arc<[Ns]> {
        self.shared.lock().policy.bounds.gap.clone()
    }

    /// Those of the default policy: SGLang's.
    pub fn itl_bounds() -> Arc<[Ns]> {
        hist::GAP.into()
    }

    /// Time passes; to be called now and then, as long as anybody looks at the metrics.
    pub fn tick(&self, now: Ns) {
        self.shared.lock().pass(now);
    }

    /// A request began at `t`.
    pub fn started(&self, t: Ns, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.shared.lock().started(t, role, server, endpoint);
    }

    /// A request that began is over.
    pub fn finished(&self, f: &Finished, peer: &Peer) -> Assessed {
        self.shared.lock().finished(f, peer)
    }

    /// Replaces what target processes use.
    pub fn set_targets(&self, targets: Vec<TargetUse>) {
        self.shared.lock().targets = targets.into();
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

    /// So many requests were not looked at for anomalies; None: nobody looks.
    pub fn set_unwatched(&self, n: Option<u64>) {
        self.shared.lock().outgoing.unwatched = n;
    }

    /// So many alerts were sent, with this result.
    pub fn notified(&self, result: Sent, n: u64) {
        self.shared.lock().outgoing.notifications.get_or_insert_default().add(result, n);
    }

    /// So many more writes of the request log have failed; 0 says that there is a log.
    pub fn log_failed(&self, n: u64) {
        *self.shared.lock().outgoing.log_errors.get_or_insert_default() += n;
    }

    /// So many spans or points of metrics were exported, with this result.
    pub fn exported(&self, signal: &'static str, result: Sent, n: u64) {
        self.shared.lock().outgoing.otlp.entry(signal).or_default().add(result, n);
    }

    /// What captures.
    pub fn set_backend(&self, backend: &'static str) {
        self.shared.lock().backend = Some(backend);
    }

    /// Everything, in that form; packed with gzip if asked.
    pub fn encode(&self, form: Form, gzip: bool) -> Vec<u8> {
        self.shared.encode(form, gzip)
    }

    /// Everything, in the Prometheus text format 0.0.4.
    pub fn encode_text(&self) -> String {
        String::from_utf8(self.encode(Form::Text, false)).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}
