//! Second by second.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::names::Key;
use super::second::{E2E, ITL, MAX_SECONDS, Slot, Snapshot, TPOT, TTFT};
use super::summary::Sum;
use super::{SECOND, unix};
use crate::llm::{Ns, Role};

/// Most series whose seconds are told; the busiest ones.
pub const MAX_HISTORY_SERIES: usize = 50;

/// The last seconds, the oldest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct History {
    /// Begin of the first second, since the Unix epoch.
    pub start: f64,
    pub seconds: u64,
    /// All series of a role together.
    pub totals: Vec<Points>,
    /// The busiest series.
    pub series: Vec<Points>,
    /// Further series.
    pub left_out: usize,
}

/// One value a second. Times are in seconds, and null where there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Points {
    #[serde(flatten)]
    pub key: Arc<Key>,
    pub requests: Vec<u64>,
    pub errors: Vec<u64>,
    pub aborts: Vec<u64>,
    pub output_tokens: Vec<u64>,
    pub prompt_tokens: Vec<u64>,
    pub in_flight: Vec<u64>,
    pub ttft_p50: Vec<Option<f64>>,
    pub ttft_p99: Vec<Option<f64>>,
    pub itl_p50: Vec<Option<f64>>,
    pub itl_p99: Vec<Option<f64>>,
    pub tpot_p50: Vec<Option<f64>>,
    pub tpot_p99: Vec<Option<f64>>,
    pub e2e_p50: Vec<Option<f64>>,
    pub e2e_p99: Vec<Option<f64>>,
}

impl Points {
    fn new(key: Arc<Key>, seconds: usize) -> Self {
        let (none, zero) = (vec![None; seconds], vec![0; seconds]);
        Self {
            key,
            requests: zero.clone(),
            errors: zero.clone(),
            aborts: zero.clone(),
            output_tokens: zero.clone(),
            prompt_tokens: zero.clone(),
            in_flight: zero,
            ttft_p50: none.clone(),
            ttft_p99: none.clone(),
            itl_p50: none.clone(),
            itl_p99: none.clone(),
            tpot_p50: none.clone(),
            tpot_p99: none.clone(),
            e2e_p50: none.clone(),
            e2e_p99: none,
        }
    }

    fn set(&mut self, at: usize, sum: &Sum, in_flight: u64) {
        fn put<T>(to: &mut [T], at: usize, value: T) {
            if let Some(to) = to.get_mut(at) {
                *to = value;
            }
        }
        let counts = sum.counts();
        put(&mut self.requests, at, counts.outcomes.all());
        put(&mut self.errors, at, counts.outcomes.failed());
        put(&mut self.aborts, at, counts.outcomes.client_disconnect);
        put(&mut self.output_tokens, at, counts.output_tokens);
        put(&mut self.prompt_tokens, at, counts.prompt_tokens);
        put(&mut self.in_flight, at, in_flight);
        put(&mut self.ttft_p50, at, sum.quantile(TTFT, 0.5));
        put(&mut self.ttft_p99, at, sum.quantile(TTFT, 0.99));
        put(&mut self.itl_p50, at, sum.quantile(ITL, 0.5));
        put(&mut self.itl_p99, at, sum.quantile(ITL, 0.99));
        put(&mut self.tpot_p50, at, sum.quantile(TPOT, 0.5));
        put(&mut self.tpot_p99, at, sum.quantile(TPOT, 0.99));
        put(&mut self.e2e_p50, at, sum.quantile(E2E, 0.5));
        put(&mut self.e2e_p99, at, sum.quantile(E2E, 0.99));
    }
}

pub(super) fn history(snapshot: &Snapshot, now: Ns, wall_offset: i64, seconds: u64) -> History {
    let end = snapshot.end(now / SECOND);
    let seconds = snapshot.covered(end, seconds.clamp(1, MAX_SECONDS));
    let first = end - seconds;
    let n = seconds as usize;
    let mut weights: HashMap<&Arc<Key>, u64> = HashMap::new();
    let told = || snapshot.seconds.iter().take_while(|second| second.at >= first);
    for slot in told().flat_map(|second| &second.slots) {
        let weight = weights.entry(&slot.key).or_default();
        let more = slot.counts.output_tokens.saturating_add(slot.counts.outcomes.all());
        *weight = weight.saturating_add(more);
    }
    let mut busiest: Vec<_> = weights.into_iter().collect();
    busiest.sort_unstable_by_key(|(key, weight)| (std::cmp::Reverse(*weight), *key));
    let left_out = busiest.len().saturating_sub(MAX_HISTORY_SERIES);
    busiest.truncate(MAX_HISTORY_SERIES);
    let mut series: BTreeMap<&Arc<Key>, Points> =
        busiest.iter().map(|(key, _)| (*key, Points::new((*key).clone(), n))).collect();

    let mut totals: Vec<(Role, Option<Points>)> =
        [Role::Server, Role::Client].map(|role| (role, None)).into();
    let mut sum = Sum::default();
    for second in told() {
        let at = (second.at - first) as usize;
        for slot in &second.slots {
            if let Some(points) = series.get_mut(&slot.key) {
                sum.clear();
                sum.add(slot);
                points.set(at, &sum, slot.in_flight.into());
            }
        }
        for (role, points) in &mut totals {
            let slots: Vec<&Slot> = second.slots.iter().filter(|s| s.key.role == *role).collect();
            if slots.is_empty() {
                continue;
            }
            sum.clear();
            slots.iter().for_each(|slot| sum.add(slot));
            let in_flight = slots.iter().map(|slot| u64::from(slot.in_flight)).sum();
            let points = points.get_or_insert_with(|| {
                let key = Key { role: *role, server: "".into(), model: "".into() };
                Points::new(Arc::new(key), n)
            });
            points.set(at, &sum, in_flight);
        }
    }
    let start = unix(first.saturating_mul(SECOND), wall_offset);
    let totals = totals.into_iter().filter_map(|(_, points)| points).collect();
    History { start, seconds, totals, series: series.into_values().collect(), left_out }
}
