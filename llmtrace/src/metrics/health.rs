//! How the agent itself is, for those who do not scrape.

use serde::Serialize;

use super::process::Process;
use super::{Metrics, Own};

/// The agent's own counts since its start, added up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    pub version: &'static str,
    /// What captures; none before it does.
    pub backend: Option<&'static str>,
    /// Seconds since the Unix epoch.
    pub start_time: Option<f64>,
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub targets: u64,
    pub connections: u64,
    pub records: u64,
    pub lost_records: u64,
    pub lost_bytes: u64,
    /// Exchanges that were not seen whole.
    pub incomplete: u64,
}

impl Metrics {
    /// How the agent is.
    pub fn health(&self) -> Health {
        let (own, backend) = {
            let state = self.shared.lock();
            (state.own.clone(), state.backend)
        };
        let Process { start_time, cpu_seconds, resident, .. } = Process::read();
        let Own { records, lost_records, lost_bytes, incomplete, .. } = &*own;
        let sum = |counts: &[(&str, &str, u64)]| counts.iter().map(|(.., n)| n).sum();
        Health {
            version: env!("CARGO_PKG_VERSION"),
            backend,
            start_time,
            cpu_seconds,
            resident_bytes: resident,
            targets: own.targets,
            connections: own.connections,
            records: records.iter().filter(|(layer, ..)| *layer == "ring").map(|(.., n)| n).sum(),
            lost_records: sum(lost_records),
            lost_bytes: sum(lost_bytes),
            incomplete: incomplete.iter().map(|(_, n)| n).sum(),
        }
    }
}
