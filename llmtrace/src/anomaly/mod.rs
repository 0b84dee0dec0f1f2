//! Dynamic thresholds: every server and model is compared with its own past.
//!
//! ```text
//!  finished, running -> interval (series) -> sample per signal -> four detectors -> latch -> event
//! ```
//!
//! Exchanges are put together for an interval per server and model; each signal makes a sample of
//! it, which each method ([`detect`]) judges against what it has learned. A latch decides when that
//! is an anomaly and when it is over. docs/anomalies.md has the definitions and what was measured.
//!
//! Architecture Invariant: reads no clock and does no I/O; what it finds is taken by the caller.

#![forbid(unsafe_code)]

mod context;
mod detect;
mod engine;
mod interval;
mod latch;
mod series;
mod signal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use context::{MAX_REQUESTS, Offender};
pub use engine::{Engine, MAX_SERIES};
pub use signal::Signal;

use crate::llm::Ns;

/// How a threshold is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Mean and deviation of the last minutes.
    Window,
    /// Exponentially weighted mean and variance.
    Ewma,
    /// A high quantile of the series' history.
    Quantile,
    /// Sum of small deviations from a slow mean (CUSUM).
    Drift,
}

impl Method {
    pub const ALL: [Self; 4] = [Self::Window, Self::Ewma, Self::Quantile, Self::Drift];

    /// As the `method` label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Ewma => "ewma",
            Self::Quantile => "quantile",
            Self::Drift => "drift",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Critical,
}

impl Severity {
    /// As the `severity` label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Why an anomaly is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The signal is back.
    Calm,
    /// There was no traffic to judge for a while.
    Idle,
    /// It lasted so long that it is the new normal.
    Adapted,
    /// The series made room for another one.
    Evicted,
    /// Nobody looks at it any more: the configuration changed.
    Unwatched,
}

impl End {
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Idle => "idle",
            Self::Adapted => "adapted",
            Self::Evicted => "evicted",
            Self::Unwatched => "unwatched",
        }
    }
}

/// A signal of a series is out of bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    /// Counts up from 1.
    pub id: u64,
    pub signal: Signal,
    pub method: Method,
    pub severity: Severity,
    pub server: Arc<str>,
    /// Empty if unknown.
    pub model: Arc<str>,
    /// Begin of the first interval that was out of bounds.
    pub started: Ns,
    /// When it was found.
    pub raised: Ns,
    pub ended: Option<(Ns, End)>,
    /// What was seen when it was raised, in the signal's unit.
    pub value: f64,
    /// What was expected then.
    pub expected: f64,
    /// From where on it is out of bounds.
    pub threshold: f64,
    /// The value that was furthest off so far.
    pub worst: f64,
    /// Requests behind it, as of when it was raised.
    pub requests: Vec<Offender>,
}

/// What happened to an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Raised,
    /// It was a warning and is critical now.
    Worse,
    Cleared,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Worse => "worse",
            Self::Cleared => "cleared",
        }
    }
}

/// Something happened to an anomaly.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub what: What,
    pub at: Ns,
    pub anomaly: Anomaly,
}
