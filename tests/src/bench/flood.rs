//! (a) Servers at their maximum: throughput with the agent / without.

use std::path::Path;

use super::drive::Load;
use super::pairs::{Pair, Run, pairs, pairs_by};
use super::report::{Table, median, range};
use super::{Effort, against, hooks};
use crate::plan::Ask;
use crate::stack::Server;

/// So many that readers find full buffers: two cores are busy with events, not with wake-ups.
const CONNECTIONS: usize = 8;
/// Events of one answer of the flood: long, but a loss costs one answer only.
const FLOOD_TOKENS: u64 = 20_000;
const APP_TOKENS: u64 = 1000;

fn flood_load(effort: Effort) -> Load {
    Load {
        connections: CONNECTIONS,
        ask: Ask { max_tokens: FLOOD_TOKENS, ..Ask::default() },
        run: effort.run,
        first_token: 1,
    }
}

fn uvicorn_load(effort: Effort) -> Load {
    Load {
        connections: 8,
        ask: Ask { max_tokens: APP_TOKENS, ..Ask::default() },
        run: effort.run,
        first_token: 2,
    }
}

/// A minimal threaded server, one write per event: a table for each back end that this kernel takes.
pub fn flood(effort: Effort) -> Vec<Table> {
    let server = Server::flood();
    let tables = hooks::backends().into_iter().map(|backend| {
        let pairs = pairs_by(backend, &server, &flood_load(effort), effort.pairs);
        let title = format!(
            "(a) Flood: minimal threaded SSE server, one write per event, unpaced; by {backend}"
        );
        table(&title, &pairs)
    });
    tables.collect()
}

/// The flood with this agent and with another build of it, in turn.
pub fn flood_against(effort: Effort, other: &Path) -> Table {
    let title = format!("(a) Flood: this agent against {}", other.display());
    against::table(&title, &Server::flood(), &flood_load(effort), effort.pairs, other)
}

/// uvicorn with this agent and with another build of it, in turn.
pub fn uvicorn_against(effort: Effort, other: &Path) -> Table {
    let title = format!("(u) uvicorn + uvloop: this agent against {}", other.display());
    let server = Server::uvicorn("uvloop", "httptools");
    against::table(&title, &server, &uvicorn_load(effort), effort.pairs, other)
}

/// The flood over TLS: one `SSL_write` per event.
pub fn flood_tls(effort: Effort) -> Table {
    let load =
        Load { ask: Ask { max_tokens: FLOOD_TOKENS / 4, ..Ask::default() }, ..flood_load(effort) };
    let pairs = pairs(&Server::flood_tls(), &load, effort.pairs);
    table("(f) Flood over TLS (OpenSSL), one SSL_write per event, unpaced", &pairs)
}

/// uvicorn with uvloop, as vLLM has it, unpaced.
pub fn uvicorn(effort: Effort) -> Table {
    let server = Server::uvicorn("uvloop", "httptools");
    let pairs = pairs(&server, &uvicorn_load(effort), effort.pairs);
    table("(u) uvicorn + uvloop at its maximum", &pairs)
}

/// How fast the servers are by themselves.
pub fn bare(effort: Effort) -> Table {
    let flood = Server::flood();
    let uvicorn = Server::uvicorn("uvloop", "httptools");
    let mut table = Table::new("Servers without the agent", &["server", "events/s", "us/event"]);
    for (name, server, load) in [
        ("flood", &flood, flood_load(effort)),
        ("uvicorn + uvloop", &uvicorn, uvicorn_load(effort)),
    ] {
        for run in super::pairs::bare(server, &load, effort.pairs) {
            table.row(&[
                name.into(),
                format!("{:.0}", run.events_per_second),
                format!("{:.3}", run.us_per_event()),
            ]);
        }
    }
    table
}

/// A table of pairs with their medians.
pub fn table(title: &str, pairs: &[Pair]) -> Table {
    let header = [
        "pair",
        "events/s without",
        "events/s with",
        "ratio",
        "us/event without",
        "us/event with",
        "agent us/event",
        "found",
        "lost records",
        "incomplete",
    ];
    let mut table = Table::new(title, &header);
    for (n, pair) in pairs.iter().enumerate() {
        table.row(&cells(&(n + 1).to_string(), &pair.without, &pair.with, pair.throughput_ratio()));
    }
    let of = |value: fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
    let ratios = of(Pair::throughput_ratio);
    let without = of(|pair| pair.without.events_per_second);
    let with = of(|pair| pair.with.events_per_second);
    let cost_without = of(|pair| pair.without.us_per_event());
    let cost_with = of(|pair| pair.with.us_per_event());
    let agent = of(|pair| pair.with.agent_us_per_event);
    let share = of(|pair| pair.with.found.as_ref().map_or(0.0, |found| found.share));
    table.row(&[
        "median".into(),
        format!("{:.0}", median(&without)),
        format!("{:.0}", median(&with)),
        format!("{:.3}", median(&ratios)),
        format!("{:.3}", median(&cost_without)),
        format!("{:.3}", median(&cost_with)),
        format!("{:.3}", median(&agent)),
        format!("{:.4}", median(&share)),
        String::new(),
        String::new(),
    ]);
    let (low, high) = range(&ratios);
    let added = median(&of(Pair::added_us_per_event));
    table.note(format!(
        "Median ratio {:.3} ({low:.3} to {high:.3}) of {} interleaved pairs; the agent adds \
         {added:.3} us of CPU per event, kernel and user space together (server, client and agent).",
        median(&ratios),
        pairs.len(),
    ));
    table.figures = serde_json::json!({
        "ratio": median(&ratios),
        "events_per_second_without": median(&without),
        "events_per_second_with": median(&with),
        "added_us_per_event": added,
        "found": median(&share),
        "pairs": pairs,
    });
    table
}

fn cells(name: &str, without: &Run, with: &Run, ratio: f64) -> [String; 10] {
    let found = with.found.clone().unwrap_or_default();
    [
        name.into(),
        format!("{:.0}", without.events_per_second),
        format!("{:.0}", with.events_per_second),
        format!("{ratio:.3}"),
        format!("{:.3}", without.us_per_event()),
        format!("{:.3}", with.us_per_event()),
        format!("{:.3}", with.agent_us_per_event),
        format!("{:.4}", found.share),
        format!("{:.0}", found.lost_records),
        format!("{:.0}", found.incomplete),
    ]
}
