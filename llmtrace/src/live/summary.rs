//! Rates, counts and quantiles over windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::names::Key;
use super::second::{Counts, E2E, ITL, Outcomes, SKETCHES, Slot, Snapshot, TPOT, TTFT};
use super::sketch::{Merged, Quantiles};
use super::streams::Look;
use super::{MAX_SECONDS, SECOND};
use crate::llm::{Ns, Role};

/// The usual windows, in seconds.
pub const WINDOWS: [u64; 4] = [1, 10, 60, 600];

/// By window, such as `10s`.
pub type Windows = BTreeMap<String, Rates>;

/// What servers and models did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Seconds since the Unix epoch.
    pub now: f64,
    pub windows: Vec<String>,
    /// All series of a role together.
    pub totals: Vec<Total>,
    /// Series in which anything happened, or is under way, by role, server and model.
    pub servers: Vec<Total>,
}

/// A series, or several together, whose key has no server and model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total {
    #[serde(flatten)]
    pub key: Arc<Key>,
    /// Requests under way at the last look.
    pub in_flight: u64,
    /// Those of them that are streams which have begun.
    pub streaming: u64,
    pub windows: Windows,
}

/// A window. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Seconds of the window of which anything is known: fewer right after the start.
    pub seconds: u64,
    pub requests: u64,
    pub rps: f64,
    pub errors: u64,
    /// Of the requests that were seen whole.
    pub error_ratio: Option<f64>,
    pub aborts: u64,
    pub outcomes: Outcomes,
    pub output_tokens: u64,
    pub tokens_per_second: f64,
    pub prompt_tokens: u64,
    pub wasted_tokens: u64,
    pub events: u64,
    /// The most at one look. Of several series, the sum of their most.
    pub in_flight_max: u64,
    pub ttft: Option<Quantiles>,
    pub itl: Option<Quantiles>,
    pub tpot: Option<Quantiles>,
    pub e2e: Option<Quantiles>,
}

/// Adds seconds up, the newest first.
#[derive(Debug, Default)]
pub(super) struct Sum {
    counts: Counts,
    in_flight_max: u64,
    merged: [Merged; SKETCHES],
}

impl Sum {
    pub(super) fn clear(&mut self) {
        self.counts = Counts::default();
        self.in_flight_max = 0;
        self.merged.iter_mut().for_each(Merged::clear);
    }

    pub(super) fn add(&mut self, slot: &Slot) {
        self.counts.add(&slot.counts);
        slot.merge(&mut self.merged);
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn quantile(&self, sketch: usize, q: f64) -> Option<f64> {
        self.merged.get(sketch)?.quantile(q)
    }

    fn times(&self) -> [Option<Quantiles>; SKETCHES] {
        std::array::from_fn(|i| self.merged[i].quantiles())
    }

    fn rates(&self, seconds: u64, times: [Option<Quantiles>; SKETCHES]) -> Rates {
        let Counts { outcomes, .. } = self.counts;
        let (requests, errors) = (outcomes.all(), outcomes.failed());
        let per_second = |n: u64| if seconds == 0 { 0.0 } else { n as f64 / seconds as f64 };
        let whole = requests - outcomes.incomplete;
        Rates {
            seconds,
            requests,
            rps: per_second(requests),
            errors,
            error_ratio: (whole > 0).then(|| errors as f64 / whole as f64),
            aborts: outcomes.client_disconnect,
            outcomes,
            output_tokens: self.counts.output_tokens,
            tokens_per_second: per_second(self.counts.output_tokens),
            prompt_tokens: self.counts.prompt_tokens,
            wasted_tokens: self.counts.wasted_tokens,
            events: self.counts.events,
            in_flight_max: self.in_flight_max,
            ttft: times[TTFT],
            itl: times[ITL],
            tpot: times[TPOT],
            e2e: times[E2E],
        }
    }
}

pub(super) fn summary(
    snapshot: &Snapshot,
    look: &Look,
    now: Ns,
    unix: f64,
    windows: &[u64],
) -> Summary {
    let mut windows: Vec<u64> = windows.iter().map(|w| (*w).clamp(1, MAX_SECONDS)).collect();
    windows.sort_unstable();
    windows.dedup();
    let ask = Ask { snapshot, end: snapshot.end(now / SECOND), windows };
    let names = ask.windows.iter().map(|w| name(*w)).collect();

    let mut series: BTreeMap<&Arc<Key>, Series<'_>> = BTreeMap::new();
    let oldest = ask.end.saturating_sub(ask.windows.last().copied().unwrap_or(0));
    for second in snapshot.seconds.iter().take_while(|second| second.at >= oldest) {
        for slot in &second.slots {
            series.entry(&slot.key).or_default().slots.push((second.at, slot));
        }
    }
    for seen in &look.seen {
        let series = series.entry(&seen.key).or_default();
        series.in_flight += 1;
        series.streaming += u64::from(seen.first_token.is_some());
    }

    let mut sum = Sum::default();
    let mut totals = Vec::new();
    for role in [Role::Server, Role::Client] {
        let mut all = Series::default();
        for (_, one) in series.iter().filter(|(key, _)| key.role == role) {
            all.slots.extend(&one.slots);
            all.in_flight += one.in_flight;
            all.streaming += one.streaming;
        }
        if all.slots.is_empty() && all.in_flight == 0 {
            continue;
        }
        all.slots.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let key = Arc::new(Key { role, server: "".into(), model: "".into() });
        totals.push(ask.total(key, &all, &mut sum));
    }
    let servers =
        series.into_iter().map(|(key, series)| ask.total(key.clone(), &series, &mut sum)).collect();
    Summary { now: unix, windows: names, totals, servers }
}

fn name(window: u64) -> String {
    format!("{window}s")
}

struct Ask<'a> {
    snapshot: &'a Snapshot,
    end: u64,
    /// Ascending.
    windows: Vec<u64>,
}

/// What there is of a series.
#[derive(Default)]
struct Series<'a> {
    /// The newest first, with their seconds.
    slots: Vec<(u64, &'a Slot)>,
    in_flight: u64,
    streaming: u64,
}

impl Ask<'_> {
    fn total(&self, key: Arc<Key>, series: &Series<'_>, sum: &mut Sum) -> Total {
        let windows = self.windows(&series.slots, sum);
        Total { key, in_flight: series.in_flight, streaming: series.streaming, windows }
    }

    /// `slots`: the newest first.
    fn windows(&self, slots: &[(u64, &Slot)], sum: &mut Sum) -> Windows {
        sum.clear();
        let mut slots = slots.iter().peekable();
        let mut all = Windows::new();
        // Worked out once for windows that have the same in them.
        let mut times = [None; SKETCHES];
        let mut most: BTreeMap<&Arc<Key>, u32> = BTreeMap::new();
        for window in &self.windows {
            let oldest = self.end.saturating_sub(*window);
            let mut new = false;
            while let Some((_, slot)) = slots.next_if(|(at, _)| *at >= oldest) {
                new = true;
                sum.add(slot);
                let most = most.entry(&slot.key).or_default();
                *most = slot.in_flight_max.max(*most);
            }
            sum.in_flight_max = most.values().map(|n| u64::from(*n)).sum();
            if new {
                times = sum.times();
            }
            let seconds = self.snapshot.covered(self.end, *window);
            all.insert(name(*window), sum.rates(seconds, times));
        }
        all
    }
}
