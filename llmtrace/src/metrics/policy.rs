//! What the metrics are told to judge by: objectives, prices, buckets, and how long a series that
//! nothing happens to is kept.

use std::sync::Arc;
use std::time::Duration;

use wildmatch::WildMatch;

use super::hist::{FIRST, GAP, PER_TOKEN, WHOLE};
use crate::llm::Ns;

/// How long a series is kept after the last request that counted in it, unless told otherwise.
pub const SERIES_TTL: Duration = Duration::from_secs(3600);

/// What is promised to users of the models that the glob matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    pub model: WildMatch,
    pub ttft: Option<Ns>,
    pub tpot: Option<Ns>,
    pub e2e: Option<Ns>,
}

/// Prices of one token, of the models that the glob matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    pub model: WildMatch,
    pub prompt: f64,
    pub output: f64,
    /// Of a prompt token from a cache; without it, that of any other.
    pub cached: Option<f64>,
}

/// What tokens, or the time of the GPUs, cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub currency: String,
    /// The first that matches counts.
    pub prices: Vec<Price>,
    /// Of all GPUs together, for a second; charged to models without a price.
    pub gpus: Option<f64>,
}

/// Upper bounds of histograms, ascending; empty ones are the default.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    pub ttft: Vec<Ns>,
    pub e2e: Vec<Ns>,
    pub itl: Vec<Ns>,
    pub tpot: Vec<Ns>,
}

/// The bounds in use.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) first: Arc<[Ns]>,
    pub(super) whole: Arc<[Ns]>,
    pub(super) per_token: Arc<[Ns]>,
    pub(super) gap: Arc<[Ns]>,
}

#[derive(Clone, Debug)]
pub struct Policy {
    /// The first that matches counts.
    pub(super) slos: Vec<Slo>,
    pub(super) cost: Option<Cost>,
    pub(super) bounds: Bounds,
    pub(super) series_ttl: Ns,
}

impl Policy {
    /// Objectives are always among the bounds of their histogram, so that the share of requests
    /// within one can be read off it.
    pub fn new(
        slos: Vec<Slo>,
        cost: Option<Cost>,
        buckets: &Buckets,
        series_ttl: Duration,
    ) -> Self {
        let bounds = |chosen: &[Ns], usual: &[Ns], slo: fn(&Slo) -> Option<Ns>| {
            let mut bounds = if chosen.is_empty() { usual } else { chosen }.to_vec();
            bounds.extend(slos.iter().filter_map(slo).filter(|ns| *ns > 0));
            bounds.sort_unstable();
            bounds.dedup();
            bounds.into()
        };
        let bounds = Bounds {
            first: bounds(&buckets.ttft, FIRST, |slo| slo.ttft),
            whole: bounds(&buckets.e2e, WHOLE, |slo| slo.e2e),
            per_token: bounds(&buckets.tpot, PER_TOKEN, |slo| slo.tpot),
            // The objective per token is of the mean of a request, but whoever looks at single
            // gaps has the same figure in mind.
            gap: bounds(&buckets.itl, GAP, |slo| slo.tpot),
        };
        let series_ttl = Ns::try_from(series_ttl.as_nanos()).unwrap_or(Ns::MAX);
        Self { slos, cost, bounds, series_ttl }
    }

    pub(super) fn slo(&self, model: &str) -> Option<&Slo> {
        self.slos.iter().find(|slo| slo.model.matches(model))
    }

    pub(super) fn price(&self, model: &str) -> Option<&Price> {
        self.cost.as_ref()?.prices.iter().find(|price| price.model.matches(model))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(Vec::new(), None, &Buckets::default(), SERIES_TTL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_among_the_bounds() {
        let slo = |model: &str, ttft, tpot| Slo {
            model: WildMatch::new(model),
            ttft: Some(ttft),
            tpot: Some(tpot),
            e2e: None,
        };
        let buckets = Buckets { ttft: vec![10, 30], ..Buckets::default() };
        let slos = vec![slo("a", 20, 33_000_000), slo("*", 30, 10_000_000)];
        let policy = Policy::new(slos, None, &buckets, SERIES_TTL);
        assert_eq!(*policy.bounds.first, [10, 20, 30]);
        assert_eq!(*policy.bounds.whole, *WHOLE);
        assert_eq!(policy.bounds.per_token.len(), PER_TOKEN.len() + 1);
        assert_eq!(policy.bounds.gap.len(), GAP.len() + 1);
        for bounds in [&policy.bounds.per_token, &policy.bounds.gap] {
            assert!(bounds.contains(&33_000_000) && bounds.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(policy.slo("a").and_then(|slo| slo.ttft), Some(20));
        assert_eq!(policy.slo("b").and_then(|slo| slo.ttft), Some(30));
    }
}
