//! Distributions of times: open while their second lasts, then a few bytes each.
//!
//! Buckets and quantiles are HdrHistogram's, of two significant digits. A histogram of its own for
//! each series and second would be kilobytes of zeros, so what is kept are the buckets that have
//! anything: their values and counts as varints.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::llm::Ns;

/// What is told apart: a quantile is within 1 % of a value that was observed.
const DIGITS: u8 = 2;
/// Longest time, in microseconds: 71 minutes; longer ones count as this.
const MAX_VALUE: u64 = u32::MAX as u64;

/// Quantiles in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// Counts saturate: they are of ten minutes at the most.
fn histogram() -> Histogram<u32> {
    // The bounds are constants that the crate accepts: the test `bounds` has them.
    Histogram::new_with_bounds(1, MAX_VALUE, DIGITS).expect("constant bounds")
}

/// Knows the buckets.
#[derive(Debug)]
pub(super) struct Scale(Histogram<u32>);

impl Default for Scale {
    fn default() -> Self {
        Self(histogram())
    }
}

/// A distribution that grows.
#[derive(Debug, Default)]
pub(super) struct Sketch {
    /// Lower ends of buckets in microseconds, ascending, with counts.
    cells: Vec<(u32, u64)>,
    /// Microseconds.
    sum: u64,
}

impl Sketch {
    pub(super) fn observe(&mut self, scale: &Scale, time: Ns) {
        self.observe_us(scale, u32::try_from(time / 1_000).unwrap_or(u32::MAX));
    }

    pub(super) fn observe_us(&mut self, scale: &Scale, us: u32) {
        self.sum = self.sum.saturating_add(us.into());
        let cell = scale.0.lowest_equivalent(us.into()) as u32;
        match self.cells.binary_search_by_key(&cell, |(value, _)| *value) {
            Ok(at) => self.cells[at].1 += 1,
            Err(at) => self.cells.insert(at, (cell, 1)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Appends it to `to`, for [`Closed`], and empties it.
    pub(super) fn close(&mut self, to: &mut Vec<u8>) {
        put(to, self.cells.len() as u64);
        if self.is_empty() {
            return;
        }
        put(to, self.sum);
        let mut last = 0;
        for (value, count) in self.cells.drain(..) {
            put(to, u64::from(value - last));
            put(to, count);
            last = value;
        }
        self.sum = 0;
    }
}

fn put(to: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        to.push(n as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// What [`Sketch::close`] wrote, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed<'a>(pub(super) &'a [u8]);

impl Closed<'_> {
    fn take(&mut self) -> u64 {
        let mut n = 0;
        let mut shift = 0;
        while let Some((&byte, rest)) = self.0.split_first() {
            self.0 = rest;
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 63 {
                break;
            }
        }
        n
    }

    /// Takes the next one into `merged`.
    pub(super) fn merge(&mut self, merged: &mut Merged) {
        let cells = self.take();
        if cells == 0 {
            return;
        }
        merged.sum = merged.sum.saturating_add(self.take());
        let mut value = 0;
        for _ in 0..cells {
            value += self.take();
            let count = self.take();
            merged.count = merged.count.saturating_add(count);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            merged.histogram.saturating_record_n(value, count);
        }
    }
}

/// Several of them together.
#[derive(Debug)]
pub(super) struct Merged {
    histogram: Histogram<u32>,
    count: u64,
    sum: u64,
}

impl Default for Merged {
    fn default() -> Self {
        Self { histogram: histogram(), count: 0, sum: 0 }
    }
}

impl Merged {
    pub(super) fn clear(&mut self) {
        if self.count > 0 {
            self.histogram.reset();
            (self.count, self.sum) = (0, 0);
        }
    }

    /// None without an observation.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        (self.count > 0).then(|| self.histogram.value_at_quantile(q) as f64 / 1e6)
    }

    /// None without an observation.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        let (p50, p95) = self.quantile(0.5).zip(self.quantile(0.95))?;
        let mean = self.sum as f64 / self.count as f64 / 1e6;
        Some(Quantiles { count: self.count, mean, p50, p95, p99: self.quantile(0.99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let mut merged = Merged::default();
        let (mut sketch, scale) = (Sketch::default(), Scale::default());
        for us in [0, 1, 127, 128, 255, 256, 257, 100_000, u32::MAX] {
            sketch.observe_us(&scale, us);
        }
        sketch.observe(&scale, u64::MAX);
        let mut bytes = Vec::new();
        sketch.close(&mut bytes);
        assert!(sketch.is_empty());
        sketch.close(&mut bytes);
        let mut closed = Closed(&bytes);
        closed.merge(&mut merged);
        assert_eq!(merged.quantiles().unwrap().count, 10);
        assert!(merged.quantile(1.0).unwrap() >= 4294.0);
        closed.merge(&mut merged);
        assert_eq!((closed.0, merged.count), (&[][..], 10));
        merged.clear();
        assert_eq!(merged.quantiles(), None);
    }

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let (mut sketch, scale) = (Sketch::default(), Scale::default());
        // A long tail, out of order.
        let value = |n: u32| 40 + (n as f64).powf(1.7) as u32;
        let n = 10_000;
        let mut exact: Vec<u32> = (0..n).map(|i| value((i * 7_919) % n)).collect();
        exact.iter().for_each(|us| sketch.observe_us(&scale, *us));
        exact.sort_unstable();
        let (mut bytes, mut merged) = (Vec::new(), Merged::default());
        sketch.close(&mut bytes);
        Closed(&bytes).merge(&mut merged);
        let q = merged.quantiles().unwrap();
        for (found, at) in [(q.p50, 0.5), (q.p95, 0.95), (q.p99, 0.99)] {
            let exact = f64::from(exact[(f64::from(n) * at) as usize - 1]) / 1e6;
            assert!((found / exact - 1.0).abs() < 0.01, "{at}: {found} for {exact}");
        }
        let mean = exact.iter().map(|us| f64::from(*us)).sum::<f64>() / f64::from(n) / 1e6;
        assert!((q.mean - mean).abs() < 1e-9);
    }

    #[test]
    fn cut_bytes_end() {
        let mut merged = Merged::default();
        Closed(&[3, 0xff]).merge(&mut merged);
        Closed(&[0xff; 30]).take();
        Closed(&[]).merge(&mut merged);
        assert_eq!(merged.sum, 0x7f);
    }
}
