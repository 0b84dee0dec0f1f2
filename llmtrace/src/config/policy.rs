//! The tables as what the metrics judge by.

use std::time::Duration;

use wildmatch::WildMatch;

use super::Sections;
use crate::{
    llm::Ns,
    metrics::{Policy, policy},
};

const PER_MILLION: f64 = 1e-6;
const PER_HOUR: f64 = 1.0 / 3_600.0;

impl Sections {
    /// Series that nothing happens to are kept for `series_ttl`.
    pub fn policy(&self, series_ttl: Duration) -> Policy {
        let ns = |time: Duration| Ns::try_from(time.as_nanos()).unwrap_or(Ns::MAX);
        let slos = self.slo.iter().map(|slo| policy::Slo {
            model: WildMatch::new(&slo.model),
            ttft: slo.ttft.map(ns),
            tpot: slo.tpot.map(ns),
            e2e: slo.e2e.map(ns),
        });
        let cost = self.cost.as_ref().map(|cost| policy::Cost {
            currency: cost.currency.clone(),
            prices: (cost.model.iter())
                .map(|price| policy::Price {
                    model: WildMatch::new(&price.model),
                    prompt: price.prompt * PER_MILLION,
                    output: price.output * PER_MILLION,
                    cached: price.cached.map(|cached| cached * PER_MILLION),
                })
                .collect(),
            gpus: cost.gpu_hour.map(|hour| hour * cost.gpus * PER_HOUR),
        });
        let bounds = |seconds: &[f64]| seconds.iter().map(|s| (s * 1e9).round() as Ns).collect();
        let buckets = policy::Buckets {
            ttft: bounds(&self.buckets.ttft),
            e2e: bounds(&self.buckets.e2e),
            itl: bounds(&self.buckets.itl),
            tpot: bounds(&self.buckets.tpot),
        };
        Policy::new(slos.collect(), cost, &buckets, series_ttl)
    }
}
