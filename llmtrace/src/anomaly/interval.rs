//! What exchanges of an interval say about one signal.

use super::context::Worst;
use super::detect::Sample;
use super::{Offender, Signal};
use crate::llm::Ns;

/// Values that are kept of an interval; of more, a sample.
const MAX_VALUES: usize = 256;
/// Intervals that a sample may be made of.
const MAX_PARTS: u32 = 6;
/// Share of an interval's values that are not its high end.
const TAIL: f64 = 0.9;

/// Variance of the logarithms of times that is believed.
const MAX_SPREAD: f64 = 4.0;

/// Values of a signal since the last sample.
#[derive(Debug)]
pub(super) struct Gathered {
    signal: Signal,
    /// On the signal's scale, of those that are times.
    values: Vec<f32>,
    /// Of all requests.
    count: u32,
    /// Of shares.
    bad: u32,
    parts: u32,
    from: Ns,
    random: u32,
    pub(super) worst: Worst,
    /// Variance of single values, as intervals showed it.
    spread: f64,
}

impl Gathered {
    pub(super) fn new(signal: Signal, now: Ns) -> Self {
        Self {
            signal,
            values: Vec::new(),
            count: 0,
            bad: 0,
            parts: 0,
            from: now,
            random: 0x9e37_79b9,
            worst: Worst::default(),
            spread: 0.0,
        }
    }

    /// A time, in seconds.
    pub(super) fn time(&mut self, seconds: f64, make: impl FnOnce() -> Offender) {
        self.count = self.count.saturating_add(1);
        let y = self.signal.scaled(seconds) as f32;
        if self.values.len() < MAX_VALUES {
            self.values.push(y);
        } else {
            // Every value of the interval has the same chance to be kept.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            let place = (self.random % self.count) as usize;
            if let Some(kept) = self.values.get_mut(place) {
                *kept = y;
            }
        }
        self.worst.offer(seconds, make);
    }

    /// One of the requests that a share is of.
    pub(super) fn share(&mut self, bad: bool, make: impl FnOnce() -> Offender) {
        self.count = self.count.saturating_add(1);
        if bad {
            self.bad = self.bad.saturating_add(1);
            self.worst.offer(1.0, make);
        }
    }

    /// The interval is over. A sample is made of it once there are enough values.
    pub(super) fn close(&mut self, now: Ns, least: u32) -> Option<Sample> {
        self.parts += 1;
        if self.count < least.max(1) {
            if self.parts >= MAX_PARTS || self.count == 0 {
                self.restart(now);
            }
            return None;
        }
        let n = f64::from(self.count);
        let (y, tail, noise) = if self.signal.is_share() {
            let y = self.signal.scaled(f64::from(self.bad) / n);
            (y, y, 0.5 / n.sqrt())
        } else {
            self.values.sort_unstable_by(f32::total_cmp);
            let kept = self.values.len() as f64;
            let mean = self.values.iter().map(|v| f64::from(*v)).sum::<f64>() / kept;
            let off = self.values.iter().map(|v| (f64::from(*v) - mean).powi(2));
            let variance = off.sum::<f64>() / (kept - 1.0).max(1.0);
            // A slow mean of it: that of a few values says little.
            let weight = if self.spread == 0.0 { 1.0 } else { 0.05 };
            self.spread += weight * (variance.min(MAX_SPREAD) - self.spread);
            let noise = (self.spread / n).sqrt();
            let tail = self.values.get((TAIL * kept) as usize).or(self.values.last());
            (mean, tail.map_or(mean, |t| f64::from(*t)), noise)
        };
        Some(Sample { from: self.from, to: now, y, tail, noise })
    }

    /// Values on the signal's scale, of those that are times.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn restart(&mut self, now: Ns) {
        self.values.clear();
        self.worst.clear();
        (self.count, self.bad, self.parts, self.from) = (0, 0, 0, now);
    }
}
