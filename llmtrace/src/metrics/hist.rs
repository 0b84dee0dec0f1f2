//! Histograms of plain integers.

use crate::llm::Ns;

const MS: Ns = 1_000_000;

/// Time to first byte, time to first token and upload: vLLM's bounds of TTFT.
pub(super) const FIRST: &[Ns] = &[
    MS,
    5 * MS,
    10 * MS,
    20 * MS,
    40 * MS,
    60 * MS,
    80 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    750 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    7_500 * MS,
    10_000 * MS,
    20_000 * MS,
    40_000 * MS,
    80_000 * MS,
    160_000 * MS,
    640_000 * MS,
    2_560_000 * MS,
];

/// Whole requests: vLLM's bounds, with three below for what is no generation.
pub(super) const WHOLE: &[Ns] = &[
    10 * MS,
    50 * MS,
    100 * MS,
    300 * MS,
    500 * MS,
    800 * MS,
    1_000 * MS,
    1_500 * MS,
    2_000 * MS,
    2_500 * MS,
    5_000 * MS,
    10_000 * MS,
    15_000 * MS,
    20_000 * MS,
    30_000 * MS,
    40_000 * MS,
    50_000 * MS,
    60_000 * MS,
    120_000 * MS,
    240_000 * MS,
    480_000 * MS,
    960_000 * MS,
    1_920_000 * MS,
    7_680_000 * MS,
];

/// Time per output token: vLLM's bounds.
pub(super) const PER_TOKEN: &[Ns] = &[
    10 * MS,
    25 * MS,
    50 * MS,
    75 * MS,
    100 * MS,
    150 * MS,
    200 * MS,
    300 * MS,
    400 * MS,
    500 * MS,
    750 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    7_500 * MS,
    10_000 * MS,
    20_000 * MS,
    40_000 * MS,
    80_000 * MS,
];

/// Inter-token latency and stalls: SGLang's bounds.
pub(super) const GAP: &[Ns] = &[
    2 * MS,
    4 * MS,
    6 * MS,
    8 * MS,
    10 * MS,
    15 * MS,
    20 * MS,
    25 * MS,
    30 * MS,
    35 * MS,
    40 * MS,
    60 * MS,
    80 * MS,
    100 * MS,
    200 * MS,
    400 * MS,
    600 * MS,
    800 * MS,
    1_000 * MS,
    2_000 * MS,
    4_000 * MS,
    6_000 * MS,
    8_000 * MS,
];

/// Token counts of a request: powers of four.
pub(super) const TOKENS: &[u64] =
    &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];

/// Cost of a request: thirds of powers of ten, in billionths of the currency.
pub(super) const COST: &[u64] = &[
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];
pub(super) const NANO: f64 = 1e9;

/// Shares, in ten thousandths.
pub(super) const RATIO: &[u64] =
    &[0, 100, 200, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000, 10_000];
pub(super) const RATIO_UNIT: f64 = 1e4;

/// Takes no memory of its own until something is observed.
#[derive(Clone, Debug, Default)]
pub(super) struct Hist {
    /// One more than there are bounds: the last is +Inf.
    counts: Vec<u64>,
    /// Nanoseconds of ten thousand streams fill 64 bits in three weeks.
    sum: u128,
}

impl Hist {
    /// `bounds` has to be the same at each call.
    pub(super) fn observe(&mut self, bounds: &[u64], value: u64) {
        self.add(bounds, value, 1);
        self.sum += u128::from(value);
    }

    /// Counts in buckets of their own, whose last is +Inf.
    pub(super) fn merge(&mut self, bounds: &[u64], from: &[u64], counts: &[u32], sum: u64) {
        for (i, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            self.add(bounds, from.get(i).copied().unwrap_or(u64::MAX), n.into());
            // The sum belongs to the observations: none, no sum.
        }
        if !self.counts.is_empty() {
            self.sum += u128::from(sum);
        }
    }

    fn add(&mut self, bounds: &[u64], value: u64, n: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; bounds.len() + 1];
        }
        let i = bounds.partition_point(|b| *b < value);
        if let Some(count) = self.counts.get_mut(i) {
            *count += n;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many were at most each bound, and how many there are.
    pub(super) fn cumulative(&self, bounds: usize) -> impl Iterator<Item = u64> {
        self.counts.iter().take(bounds + 1).scan(0, |total, n| {
            *total += n;
            Some(*total)
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum(&self) -> u128 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend() {
        for bounds in [FIRST, WHOLE, PER_TOKEN, GAP, TOKENS, COST, RATIO] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(TOKENS.last(), Some(&4u64.pow(10)));
    }

    #[test]
    fn bound_is_inclusive() {
        let mut h = Hist::default();
        for v in [0, 1, 2, 4, 5, 17] {
            h.observe(&[1, 4, 16], v);
        }
        assert_eq!(h.counts, [2, 2, 1, 1]);
        assert_eq!(h.sum, 29);
    }

    #[test]
    fn merge_with_other_bounds() {
        let mut h = Hist::default();
        h.merge(&[4, 16], &[1, 4, 20], &[1, 2, 3, 4], 99);
        assert_eq!(h.counts, [3, 0, 7]);
        assert_eq!(h.sum, 99);
        let mut none = Hist::default();
        none.merge(&[4], &[4], &[0, 0], 0);
        assert!(none.is_empty());
    }
}
