//! Counts and quantiles by server and model.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use hdrhistogram::Histogram;

use super::feed::Feed;
use crate::{
    llm::{Finished, Ns, Outcome, Peer, Role},
    metrics::labels,
};

/// Groups that are told apart; what comes later is one group.
const MAX_GROUPS: usize = 128;
/// An hour: a longer time counts as one.
const MAX_NS: u64 = 3_600_000_000_000;

#[derive(Debug, Default)]
pub struct Summary {
    groups: BTreeMap<(String, String), Group>,
}

#[derive(Debug)]
struct Group {
    outcomes: BTreeMap<&'static str, u64>,
    prompt: u64,
    output: u64,
    ttft: Histogram<u32>,
    tpot: Histogram<u32>,
    total: Histogram<u32>,
}

impl Default for Group {
    fn default() -> Self {
        let histogram = || Histogram::new_with_max(MAX_NS, 2).expect("bounds that are constant");
        Self {
            outcomes: BTreeMap::new(),
            prompt: 0,
            output: 0,
            ttft: histogram(),
            tpot: histogram(),
            total: histogram(),
        }
    }
}

impl Summary {
    pub fn add(&mut self, f: &Finished, peer: &Peer) {
        let role = if f.role == Role::Client { " (client)" } else { "" };
        let key = (
            format!("{}{role}", peer.server),
            f.model.as_deref().unwrap_or("-").replace(char::is_control, "_"),
        );
        let key = match self.groups.len() < MAX_GROUPS || self.groups.contains_key(&key) {
            true => key,
            false => ("other".into(), "other".into()),
        };
        let group = self.groups.entry(key).or_default();
        *group.outcomes.entry(labels::outcome(f.outcome)).or_default() += 1;
        if f.outcome == Outcome::Incomplete {
            return;
        }
        // As servers tell them: whatever number that is.
        group.prompt = group.prompt.saturating_add(f.usage.prompt.unwrap_or(0));
        let output = f.output_tokens().map_or(0, |(n, _)| n);
        group.output = group.output.saturating_add(output);
        let mut take = |histogram: fn(&mut Group) -> &mut Histogram<u32>, ns: Option<Ns>| {
            if let Some(ns) = ns {
                histogram(group).saturating_record(ns);
            }
        };
        take(|g| &mut g.ttft, f.time_to_first_token());
        take(|g| &mut g.tpot, f.per_output_token());
        take(|g| &mut g.total, Some(f.end.saturating_sub(f.start)));
    }

    pub fn print(&self, out: &mut impl Write, feed: &Feed) -> io::Result<()> {
        for ((server, model), group) in &self.groups {
            writeln!(out, "{server}  {model}")?;
            let all: u64 = group.outcomes.values().sum();
            write!(out, "  requests {all}:")?;
            for (outcome, n) in &group.outcomes {
                write!(out, " {outcome} {n}")?;
            }
            writeln!(out, "\n  tokens: prompt {} output {}", group.prompt, group.output)?;
            for (name, h) in [("TTFT", &group.ttft), ("TPOT", &group.tpot), ("total", &group.total)]
            {
                if h.is_empty() {
                    continue;
                }
                let q = |q| h.value_at_quantile(q) as f64 / 1e6;
                writeln!(
                    out,
                    "  {name:<5} ms: p50 {:.3} p95 {:.3} p99 {:.3} max {:.3} (of {})",
                    q(0.5),
                    q(0.95),
                    q(0.99),
                    q(1.0),
                    h.len()
                )?;
            }
        }
        let lost =
            feed.counts().into_iter().filter(|(group, _, n)| *group == "incomplete" && *n > 0);
        for (_, reason, n) in lost {
            writeln!(out, "incomplete for {reason}: {n}")?;
        }
        writeln!(out, "records {}, still open at the end {}", feed.records(), feed.still_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::Usage;

    #[test]
    fn any_number_of_tokens() {
        let mut summary = Summary::default();
        let peer = Peer { server: "s:1".into(), client: "".into(), pid: 1, tls: false };
        let usage = Usage { prompt: Some(u64::MAX), output: Some(u64::MAX), ..Usage::default() };
        let f = Finished { usage, outcome: Outcome::Success, ..Finished::new(Role::Server, 0) };
        (0..2).for_each(|_| summary.add(&f, &peer));
        let group = summary.groups.values().next().unwrap();
        assert_eq!((group.prompt, group.output), (u64::MAX, u64::MAX));
    }
}
