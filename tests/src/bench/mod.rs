//! The benchmark: what the agent costs the servers it traces, and how right it is. One module per
//! section of the report.

pub mod accuracy;
pub mod against;
pub mod drive;
pub mod empty;
pub mod flood;
pub mod hooks;
pub mod memory;
pub mod paced;
pub mod pairs;
pub mod report;

use std::time::Duration;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs with and without the agent, interleaved.
    pub pairs: usize,
    /// Of one run.
    pub run: Duration,
    /// System calls of one measurement of what they cost.
    pub calls: usize,
}

impl Effort {
    pub const FULL: Self = Self { pairs: 5, run: Duration::from_secs(4), calls: 100_000 };
    pub const QUICK: Self = Self { pairs: 2, run: Duration::from_millis(1500), calls: 20_000 };
}
