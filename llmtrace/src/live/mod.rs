//! What happened in the last ten minutes, second by second: windows, running requests, and those
//! that went wrong.
//!
//! The agent's thread keeps the second at hand for itself and publishes it when it is over, and the
//! running requests with each look. Whoever reads takes what is published, a list of pointers, and
//! works on it outside the lock.
//!
//! Architecture Invariant: is told times; reads no clock and knows nothing of connections.
//! Architecture Invariant: what it keeps is bounded by series, seconds and bytes.

#![forbid(unsafe_code)]

mod ended;
mod history;
mod names;
mod second;
mod sketch;
mod streams;
mod summary;
#[cfg(test)]
mod tests;
mod watcher;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::llm::{Ns, Watch};

pub use ended::{Ended, MAX_ENDED, Why};
pub use history::{History, MAX_HISTORY_SERIES, Points};
pub use names::{Key, MAX_MODELS, MAX_SERIES, OTHER};
pub use second::{Counts, MAX_BYTES, MAX_SECONDS, Outcomes};
pub use sketch::Quantiles;
pub use streams::{MAX_STREAMS, Stream, Streams};
pub use summary::{Rates, Summary, Total, WINDOWS, Windows};

use second::Ring;

const SECOND: Ns = 1_000_000_000;
/// What the wall clock differs by is a clock that was set; less is how long it takes to read two.
const CLOCK_SET: u64 = 10_000_000;

/// The last ten minutes; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Live {
    shared: Arc<Mutex<Shared>>,
    wall_offset: Arc<AtomicI64>,
}

/// What is published.
#[derive(Debug, Default)]
struct Shared {
    ring: Ring,
    streams: Arc<streams::Look>,
    ended: std::collections::VecDeque<Arc<Ended>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Whole values are put in: whatever a panic left is what was published before.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// `wall_offset`: nanoseconds since the Unix epoch, less those of the clock of [`Ns`].
    pub fn new(wall_offset: i64) -> Self {
        Self { shared: Arc::default(), wall_offset: Arc::new(wall_offset.into()) }
    }

    /// The wall clock may have been set.
    pub fn set_wall_offset(&self, wall_offset: i64) {
        if wall_offset.abs_diff(self.offset()) >= CLOCK_SET {
            self.wall_offset.store(wall_offset, Ordering::Relaxed);
        }
    }

    fn offset(&self) -> i64 {
        self.wall_offset.load(Ordering::Relaxed)
    }

    /// For the agent, once.
    pub fn watch(&self) -> Box<dyn Watch + Send> {
        Box::new(watcher::Watcher::new(self.shared.clone()))
    }

    /// Rates, counts and quantiles over windows of whole seconds, each at least 1 and at most
    /// [`MAX_SECONDS`]; [`WINDOWS`] are the usual ones.
    pub fn summary(&self, now: Ns, windows: &[u64]) -> Summary {
        let (seconds, streams) = {
            let shared = lock(&self.shared);
            (shared.ring.snapshot(), shared.streams.clone())
        };
        summary::summary(&seconds, &streams, now, self.unix(now), windows)
    }

    /// Every second of the last `seconds`, in total and of the busiest series.
    pub fn history(&self, now: Ns, seconds: u64) -> History {
        let snapshot = lock(&self.shared).ring.snapshot();
        history::history(&snapshot, now, self.offset(), seconds)
    }

    /// The requests that run, as of the last look: half a second ago, unless the agent is late.
    pub fn streams(&self, now: Ns) -> Streams {
        let look = lock(&self.shared).streams.clone();
        streams::streams(&look, now)
    }

    /// The last requests that went wrong or were slow, the newest first.
    pub fn ended(&self) -> Vec<Arc<Ended>> {
        lock(&self.shared).ended.iter().rev().cloned().collect()
    }

    /// Seconds since the Unix epoch.
    pub fn unix(&self, t: Ns) -> f64 {
        unix(t, self.offset())
    }
}

/// Seconds since the Unix epoch.
fn unix(t: Ns, wall_offset: i64) -> f64 {
    t.saturating_add_signed(wall_offset) as f64 / SECOND as f64
}

/// As the API has it.
fn seconds(t: Ns) -> f64 {
    (t / 1_000) as f64 / 1e6
}
