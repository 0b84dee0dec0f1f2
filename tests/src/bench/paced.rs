//! (b) What a busy node looks like: a hundred streams of fifty events a second.

use super::Effort;
use super::drive::Load;
use super::pairs::{Pair, pairs};
use super::report::{Table, median};
use crate::plan::{Ask, Plan};
use crate::stack::Server;

pub const STREAMS: usize = 100;
const INTERVAL_US: u64 = 20_000;

pub fn paced(effort: Effort) -> Table {
    let tokens = effort.run.as_micros() as u64 / INTERVAL_US;
    let load = Load {
        connections: STREAMS,
        ask: Ask {
            max_tokens: tokens.max(25),
            plan: Plan { interval_us: INTERVAL_US, first_delay_ms: 20, ..Plan::default() },
            ..Ask::default()
        },
        run: effort.run / 2,
        first_token: 2,
    };
    let pairs = pairs(&Server::quiet_app(), &load, effort.pairs);
    let header = [
        "pair",
        "events/s without",
        "events/s with",
        "ratio",
        "us/event without",
        "us/event with",
        "agent CPU",
        "TTFT p50 without",
        "TTFT p50 with",
        "found",
    ];
    let mut table = Table::new("(b) 100 streams x 50 events/s", &header);
    for (n, pair) in pairs.iter().enumerate() {
        table.row(&cells(&(n + 1).to_string(), std::slice::from_ref(pair)));
    }
    table.row(&cells("median", &pairs));
    let of = |value: fn(&Pair) -> f64| median(&pairs.iter().map(value).collect::<Vec<_>>());
    let moved = of(|pair| pair.with.ttft_p50_us - pair.without.ttft_p50_us);
    table.note(format!(
        "Agent CPU as a share of one core. The clients' median TTFT moved by {moved:.0} us \
         (median of {} interleaved pairs).",
        pairs.len()
    ));
    table.figures = serde_json::json!({
        "ratio": of(Pair::throughput_ratio),
        "agent_cpu": of(|pair| pair.with.agent_cpu),
        "added_us_per_event": of(Pair::added_us_per_event),
        "ttft_moved_us": moved,
        "pairs": pairs,
    });
    table
}

fn cells(name: &str, pairs: &[Pair]) -> [String; 10] {
    let of = |value: fn(&Pair) -> f64| median(&pairs.iter().map(value).collect::<Vec<_>>());
    [
        name.into(),
        format!("{:.0}", of(|pair| pair.without.events_per_second)),
        format!("{:.0}", of(|pair| pair.with.events_per_second)),
        format!("{:.4}", of(Pair::throughput_ratio)),
        format!("{:.2}", of(|pair| pair.without.us_per_event())),
        format!("{:.2}", of(|pair| pair.with.us_per_event())),
        format!("{:.2} %", of(|pair| pair.with.agent_cpu) * 100.0),
        format!("{:.0} us", of(|pair| pair.without.ttft_p50_us)),
        format!("{:.0} us", of(|pair| pair.with.ttft_p50_us)),
        format!("{:.4}", of(|pair| pair.with.found.as_ref().map_or(0.0, |found| found.share))),
    ]
}
