//! What a request cost: by its tokens, or by its share of the GPUs' time.

use super::policy::{Cost, Price};
use crate::llm::{Finished, Ns};

/// Of one request or of many, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Costs {
    pub(super) prompt: Option<f64>,
    pub(super) output: Option<f64>,
    pub(super) cached: Option<f64>,
    pub(super) gpu: Option<f64>,
}

/// Values of the `type` label.
pub(super) const TYPES: [&str; 4] = ["prompt", "output", "cached", "gpu"];

impl Costs {
    /// In the order of [`TYPES`].
    pub(super) fn each(&self) -> [Option<f64>; TYPES.len()] {
        [self.prompt, self.output, self.cached, self.gpu]
    }

    pub(super) fn total(&self) -> Option<f64> {
        self.each().into_iter().flatten().reduce(|sum, cost| sum + cost)
    }

    pub(super) fn add(&mut self, other: &Self) {
        let add = |sum: &mut Option<f64>, more: Option<f64>| {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or(0.0) + more);
            }
        };
        add(&mut self.prompt, other.prompt);
        add(&mut self.output, other.output);
        add(&mut self.cached, other.cached);
        add(&mut self.gpu, other.gpu);
    }

    /// Of the tokens that a request is known to have. Cached ones are part of the prompt.
    pub(super) fn of_tokens(f: &Finished, price: &Price) -> Self {
        let cached = price.cached.zip(f.usage.cached);
        let fresh = |n: u64| n.saturating_sub(cached.map_or(0, |(_, n)| n));
        Self {
            prompt: f.usage.prompt.map(|n| fresh(n) as f64 * price.prompt),
            output: f.output_tokens().map(|(n, _)| n as f64 * price.output),
            cached: cached.map(|(price, n)| n as f64 * price),
            gpu: None,
        }
    }
}

/// Shares what the GPUs cost among the requests, such that the shares, what nobody used and what is
/// not shared yet add up to the time that passed.
///
/// What each moment costs goes into a pot. A request that ends takes out of it the share that its
/// age has in the ages of all requests in flight. That needs two sums, however many there are.
#[derive(Debug, Default)]
pub(super) struct Meter {
    now: Option<Ns>,
    in_flight: u64,
    /// Sum of the starts of those.
    starts: u128,
    pot: f64,
    /// Of moments in which nothing was in flight.
    idle: f64,
}

impl Meter {
    /// Time passes; `rate` is per second.
    pub(super) fn advance(&mut self, t: Ns, rate: f64) {
        let passed = t.saturating_sub(*self.now.get_or_insert(t));
        self.now = self.now.max(Some(t));
        let cost = passed as f64 / 1e9 * rate;
        if self.in_flight > 0 {
            self.pot += cost;
        } else {
            self.idle += cost;
        }
    }

    pub(super) fn started(&mut self, t: Ns) {
        self.in_flight += 1;
        self.starts += u128::from(t);
    }

    /// The share of a request that began at `start`; one that is not charged leaves its share to
    /// the others.
    pub(super) fn finished(&mut self, start: Ns, charged: bool) -> f64 {
        if self.in_flight == 0 {
            return 0.0;
        }
        let now = self.now.unwrap_or(start);
        let age = now.saturating_sub(start) as f64;
        let ages = (u128::from(now) * u128::from(self.in_flight)).saturating_sub(self.starts);
        let share = match (self.in_flight, ages) {
            (1, _) => 1.0,
            (n, 0) => 1.0 / n as f64,
            (_, ages) => (age / ages as f64).min(1.0),
        };
        self.in_flight -= 1;
        self.starts = self.starts.saturating_sub(start.into());
        let cost = if charged { self.pot * share } else { 0.0 };
        self.pot -= cost;
        if self.in_flight == 0 {
            self.idle += std::mem::take(&mut self.pot);
            self.starts = 0;
        }
        cost
    }

    pub(super) fn idle(&self) -> f64 {
        self.idle
    }
}

impl Cost {
    /// Of all GPUs, a second.
    pub(super) fn rate(&self) -> f64 {
        self.gpus.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use wildmatch::WildMatch;

    use super::*;
    use crate::llm::{Role, Usage};

    const S: Ns = 1_000_000_000;

    #[test]
    fn tokens() {
        let price = |cached| Price { model: WildMatch::new("*"), prompt: 2.0, output: 3.0, cached };
        let usage =
            Usage { prompt: Some(10), output: Some(5), cached: Some(4), ..Usage::default() };
        let f = Finished { usage, ..Finished::new(Role::Server, 0) };
        let some = |p, o, c| Costs { prompt: Some(p), output: Some(o), cached: c, gpu: None };
        assert_eq!(Costs::of_tokens(&f, &price(None)), some(20.0, 15.0, None));
        assert_eq!(Costs::of_tokens(&f, &price(Some(0.5))), some(12.0, 15.0, Some(2.0)));
        assert_eq!(Costs::of_tokens(&f, &price(Some(0.5))).total(), Some(29.0));
        // A server that claims more cached tokens than there are in the prompt.
        let usage = Usage { cached: Some(99), ..usage };
        let cost = Costs::of_tokens(&Finished { usage, ..f }, &price(Some(0.0)));
        assert_eq!(cost.prompt, Some(0.0));
        assert_eq!(Costs::default().total(), None);
    }

    #[test]
    fn shares_add_up() {
        let mut meter = Meter::default();
        let mut sum = 0.0;
        // Starts and ends of requests that overlap in every way, in a pseudo-random order.
        let mut open: Vec<Ns> = Vec::new();
        let (mut t, mut seed) = (5 * S, 7u64);
        meter.advance(t, 2.0);
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            t += seed >> 40;
            meter.advance(t, 2.0);
            if open.len() < (seed >> 33) as usize % 50 {
                open.push(t);
                meter.started(t);
            } else if !open.is_empty() {
                let start = open.swap_remove((seed >> 20) as usize % open.len());
                sum += meter.finished(start, !seed.is_multiple_of(5));
            }
        }
        for start in open {
            sum += meter.finished(start, true);
        }
        let cost = (t - 5 * S) as f64 / 1e9 * 2.0;
        let total = sum + meter.idle();
        assert!((total - cost).abs() < cost * 1e-9, "{total} of {cost}");
        assert!(sum > 0.0 && meter.idle() > 0.0 && meter.pot == 0.0);
    }

    #[test]
    fn who_is_longer_pays_more() {
        let mut meter = Meter::default();
        meter.advance(S, 1.0);
        meter.started(S);
        meter.advance(10 * S, 1.0);
        meter.started(10 * S);
        meter.advance(11 * S, 1.0);
        // Ten seconds of the first, one of the second.
        assert!((meter.finished(10 * S, true) - 10.0 / 11.0).abs() < 1e-12);
        assert!((meter.finished(S, true) - 100.0 / 11.0).abs() < 1e-12);
        // Who was never started costs nothing.
        assert_eq!(meter.finished(S, true), 0.0);
    }
}
