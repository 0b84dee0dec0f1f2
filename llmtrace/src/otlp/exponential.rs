//! Base-2 exponential histograms, as OpenTelemetry defines them: the bounds are powers of
//! 2^(2^-scale), and the scale sinks until all values fit.

use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, exemplar, exponential_histogram_data_point::Buckets,
};

/// Buckets, as the SDKs have it by default.
const MAX_BUCKETS: usize = 160;
const MAX_SCALE: i32 = 20;
const MIN_SCALE: i32 = -10;
/// Most exemplars of a point.
const MAX_EXEMPLARS: usize = 4;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exponential {
    scale: i32,
    /// Index of the first bucket.
    offset: i32,
    counts: Vec<u64>,
    zero: u64,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// Of the values since the last point.
    exemplars: Vec<Exemplar>,
}

impl Default for Exponential {
    fn default() -> Self {
        Self {
            scale: MAX_SCALE,
            offset: 0,
            counts: Vec::new(),
            zero: 0,
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            exemplars: Vec::new(),
        }
    }
}

impl Exponential {
    /// Values below 0 or without end are none.
    pub(super) fn observe(&mut self, value: f64, exemplar: Option<Exemplar>) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        self.count += 1;
        self.sum += value;
        (self.min, self.max) = (self.min.min(value), self.max.max(value));
        if let Some(mut exemplar) = exemplar {
            exemplar.value = Some(exemplar::Value::AsDouble(value));
            // The latest: a collector asks once a minute, and they all say where to look.
            if self.exemplars.len() == MAX_EXEMPLARS {
                self.exemplars.remove(0);
            }
            self.exemplars.push(exemplar);
        }
        if value < f64::MIN_POSITIVE {
            self.zero += 1;
            return;
        }
        let mut index = index(value, self.scale);
        loop {
            let (low, high) = match self.counts.len() as i32 {
                0 => (index, index),
                n => (self.offset.min(index), (self.offset + n - 1).max(index)),
            };
            if high - low < MAX_BUCKETS as i32 {
                self.grow(low, high);
                break;
            }
            if self.scale == MIN_SCALE {
                return;
            }
            self.coarsen();
            index >>= 1;
        }
        if let Some(count) = self.counts.get_mut((index - self.offset) as usize) {
            *count += 1;
        }
    }

    fn grow(&mut self, low: i32, high: i32) {
        if self.counts.is_empty() {
            self.offset = low;
        }
        let before = (self.offset - low) as usize;
        self.counts.splice(..0, std::iter::repeat_n(0, before));
        self.offset = low;
        self.counts.resize((high - low + 1) as usize, 0);
    }

    /// Two buckets become one.
    fn coarsen(&mut self) {
        let offset = self.offset >> 1;
        let mut counts = Vec::with_capacity(self.counts.len() / 2 + 1);
        for (i, count) in (self.offset..).zip(&self.counts) {
            let to = ((i >> 1) - offset) as usize;
            counts.resize(to + 1, 0);
            if let Some(sum) = counts.get_mut(to) {
                *sum += count;
            }
        }
        (self.offset, self.counts) = (offset, counts);
        self.scale -= 1;
    }

    /// The point of now; its exemplars are those since the last one.
    pub(super) fn point(&mut self) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            count: self.count,
            sum: Some(self.sum),
            scale: self.scale,
            zero_count: self.zero,
            positive: Some(Buckets { offset: self.offset, bucket_counts: self.counts.clone() }),
            exemplars: std::mem::take(&mut self.exemplars),
            min: (self.count > 0).then_some(self.min),
            max: (self.count > 0).then_some(self.max),
            ..ExponentialHistogramDataPoint::default()
        }
    }
}

/// The bucket of `value`: its lower bound is exclusive, its upper one inclusive.
fn index(value: f64, scale: i32) -> i32 {
    // Exact for powers of two, where the logarithm may miss by one.
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let power = value.to_bits() & ((1 << 52) - 1) == 0;
    if power && scale >= 0 {
        return (exponent << scale) - 1;
    }
    if scale <= 0 {
        return if power { (exponent - 1) >> -scale } else { exponent >> -scale };
    }
    (value.log2() * f64::from(1 << scale)).ceil() as i32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds of bucket `i`.
    fn bounds(i: i32, scale: i32) -> (f64, f64) {
        let bound = |i: i32| (f64::from(i) * f64::from(-scale).exp2()).exp2();
        (bound(i), bound(i + 1))
    }

    #[test]
    fn values_are_in_their_buckets() {
        for scale in -10..=12 {
            for value in [1e-6, 0.001, 0.25, 0.3, 1.0, 1.5, 2.0, 3.0, 1024.0, 1e6] {
                let i = index(value, scale);
                let (low, high) = bounds(i, scale);
                let slack = 1.0 + 1e-9;
                assert!(low < value * slack && value <= high * slack, "{value} {scale} {i}");
            }
        }
        // Powers of two are upper bounds.
        assert_eq!((index(1.0, 0), index(2.0, 0), index(1.0, 3), index(2.0, 3)), (-1, 0, -1, 7));
        assert_eq!((index(1.0, -1), index(4.0, -1), index(4.1, -1)), (-1, 0, 1));
    }

    #[test]
    fn nothing_is_lost_when_the_scale_sinks() {
        let mut h = Exponential::default();
        let values: Vec<f64> = (0..500).map(|n| 0.001 * 1.04_f64.powi(n)).collect();
        values.iter().for_each(|v| h.observe(*v, None));
        h.observe(0.0, None);
        h.observe(-1.0, None);
        h.observe(f64::NAN, None);
        let point = h.point();
        let positive = point.positive.unwrap();
        assert_eq!((point.count, point.zero_count), (501, 1));
        assert!(positive.bucket_counts.len() <= MAX_BUCKETS);
        assert_eq!(positive.bucket_counts.iter().sum::<u64>(), 500);
        assert_eq!((point.min, point.max), (Some(0.0), values.last().copied()));
        // Each bucket has as many values as lie in it.
        for (i, count) in (positive.offset..).zip(&positive.bucket_counts) {
            let (low, high) = bounds(i, point.scale);
            let inside = values.iter().filter(|v| **v > low && **v <= high).count() as u64;
            assert_eq!(inside, *count, "{low} to {high}");
        }
        // A factor of 1.04^499 in 160 buckets: no coarser than it has to be.
        assert_eq!(point.scale, 2);
    }

    #[test]
    fn one_value_has_the_finest_scale_and_exemplars_are_the_last() {
        let mut h = Exponential::default();
        for n in 0..6 {
            let exemplar = Exemplar { time_unix_nano: n, ..Exemplar::default() };
            h.observe(0.5, Some(exemplar));
        }
        let point = h.point();
        assert_eq!((point.scale, point.positive.unwrap().bucket_counts), (MAX_SCALE, vec![6]));
        let times: Vec<u64> = point.exemplars.iter().map(|e| e.time_unix_nano).collect();
        assert_eq!(times, [2, 3, 4, 5]);
        assert_eq!(point.exemplars[0].value, Some(exemplar::Value::AsDouble(0.5)));
        assert!(h.point().exemplars.is_empty());
    }
}
