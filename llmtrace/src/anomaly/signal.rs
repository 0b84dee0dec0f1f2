//! What is looked at, and on which scale.
//!
//! Detectors only know numbers that rise when things get worse and whose noise is about the same
//! at any level: times are compared by their logarithm, rates by its negative, and shares by
//! asin(sqrt(p)), whose standard error is 1/(2 sqrt(n)) whatever p is.

use super::Method;
use crate::config;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Time to first token.
    Ttft,
    /// Mean time between two tokens of a stream.
    Itl,
    /// The whole request.
    E2e,
    /// Longest gap of a stream.
    Stall,
    /// Share of requests that the server failed.
    ErrorRatio,
    /// Share of requests whose client left.
    Aborts,
    /// Output tokens a second, while as much is asked for as before.
    Throughput,
}

/// Shares below this are as good as 0.
const SMALL: f64 = 1e-9;

impl Signal {
    pub const ALL: [Self; 7] = [
        Self::Ttft,
        Self::Itl,
        Self::E2e,
        Self::Stall,
        Self::ErrorRatio,
        Self::Aborts,
        Self::Throughput,
    ];

    /// As the `signal` label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Itl => "itl",
            Self::E2e => "e2e",
            Self::Stall => "stall",
            Self::ErrorRatio => "error_ratio",
            Self::Aborts => "aborts",
            Self::Throughput => "throughput",
        }
    }

    /// Of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Ttft | Self::Itl | Self::E2e | Self::Stall => "seconds",
            Self::ErrorRatio | Self::Aborts => "ratio",
            Self::Throughput => "tokens_per_second",
        }
    }

    /// What it is judged by. How many tokens are asked for drifts by itself every day.
    pub(super) fn methods(self) -> &'static [Method] {
        match self {
            Self::Throughput => &[Method::Window, Method::Ewma, Method::Quantile],
            _ => &Method::ALL,
        }
    }

    pub(super) fn is_share(self) -> bool {
        matches!(self, Self::ErrorRatio | Self::Aborts)
    }

    /// On the scale of detectors.
    pub(super) fn scaled(self, value: f64) -> f64 {
        match self {
            Self::Ttft | Self::Itl | Self::E2e | Self::Stall => value.max(1e-6).ln(),
            Self::ErrorRatio | Self::Aborts => value.clamp(0.0, 1.0).sqrt().asin(),
            Self::Throughput => -value.max(0.0).ln_1p(),
        }
    }

    /// The other way.
    pub(super) fn natural(self, y: f64) -> f64 {
        match self {
            Self::Ttft | Self::Itl | Self::E2e | Self::Stall => y.exp(),
            Self::ErrorRatio | Self::Aborts => {
                y.clamp(0.0, std::f64::consts::FRAC_PI_2).sin().powi(2)
            }
            Self::Throughput => (-y).exp_m1().max(0.0),
        }
    }

    /// Where histories lie on that scale.
    pub(super) fn range(self) -> (f64, f64) {
        match self {
            Self::Ttft | Self::Itl | Self::E2e | Self::Stall => (1e-5_f64.ln(), 1e4_f64.ln()),
            Self::ErrorRatio | Self::Aborts => (0.0, std::f64::consts::FRAC_PI_2),
            Self::Throughput => (-1e7_f64.ln(), 0.0),
        }
    }

    /// From `y` on upwards, how much is `by` as a factor or, of a share, `share` more?
    fn step(self, y: f64, by: f64, share: f64) -> f64 {
        if self.is_share() { self.scaled((self.natural(y) + share).min(1.0)) - y } else { by.ln() }
    }

    /// The smallest change from `y` that is reported.
    pub(super) fn least(self, y: f64, s: &config::Anomaly) -> f64 {
        self.step(y, s.min_change, s.min_share)
    }

    /// The change from `y` that is critical.
    pub(super) fn critical(self, y: f64, s: &config::Anomaly) -> f64 {
        self.step(y, s.critical_change, s.critical_share)
    }

    /// The drift from `y` that is allowed.
    pub(super) fn allowance(self, y: f64, s: &config::Anomaly) -> f64 {
        self.step(y, s.drift, s.min_share / 2.0)
    }

    /// `y` with the quantile method's factor.
    pub(super) fn times(self, y: f64, factor: f64) -> f64 {
        if self.is_share() {
            self.scaled((self.natural(y).max(SMALL) * factor).min(1.0))
        } else {
            y + factor.ln()
        }
    }
}
