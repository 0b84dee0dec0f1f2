//! What is shown: the answer of `/api/v1/summary`, from this process or another (docs/api.md).

use std::collections::BTreeMap;

use serde::Deserialize;

/// One answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Seconds since the Unix epoch.
    pub now: f64,
    /// By role.
    pub totals: Vec<Row>,
    pub servers: Vec<Row>,
    pub history: History,
    /// Requests under way, the longest stall first; `running` may be more.
    pub running: u64,
    pub streams: Vec<Stream>,
    pub ended: Vec<Ended>,
    pub agent: Agent,
}

/// A series, or the sum of all of a role.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Row {
    pub role: String,
    pub server: String,
    pub model: String,
    pub in_flight: u64,
    pub windows: BTreeMap<String, Rates>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rates {
    pub requests: u64,
    pub rps: f64,
    pub error_ratio: Option<f64>,
    pub errors: u64,
    pub aborts: u64,
    pub tokens_per_second: f64,
    pub ttft: Option<Quantiles>,
    pub itl: Option<Quantiles>,
    pub tpot: Option<Quantiles>,
    pub e2e: Option<Quantiles>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    pub totals: Vec<Points>,
    pub series: Vec<Points>,
}

/// A number for each second, the latest last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Points {
    pub role: String,
    pub server: String,
    pub model: String,
    pub requests: Vec<u64>,
    pub errors: Vec<u64>,
    pub output_tokens: Vec<u64>,
    pub in_flight: Vec<u64>,
    pub ttft_p99: Vec<Option<f64>>,
    pub itl_p99: Vec<Option<f64>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Stream {
    pub role: String,
    pub server: String,
    pub model: String,
    pub endpoint: String,
    pub client: String,
    pub age: f64,
    pub ttft: Option<f64>,
    pub tokens: u64,
    pub tokens_per_second: Option<f64>,
    pub stall: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// Seconds since the Unix epoch.
    pub at: f64,
    pub role: String,
    pub server: String,
    pub model: String,
    pub why: String,
    pub outcome: String,
    pub status: Option<u16>,
    pub endpoint: String,
    pub client: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub ttft_ns: Option<u64>,
    pub output_tokens: Option<u64>,
}

/// How well the agent is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Agent {
    pub lost_records: u64,
    pub lost_bytes: u64,
    pub incomplete: u64,
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<f64>,
}

impl Data {
    /// The history of a series.
    pub fn points(&self, row: &Row) -> Option<&Points> {
        let same =
            |p: &&Points| (&p.role, &p.server, &p.model) == (&row.role, &row.server, &row.model);
        if row.server.is_empty() && row.model.is_empty() {
            return self.history.totals.iter().find(|p| p.role == row.role);
        }
        self.history.series.iter().find(same)
    }
}
