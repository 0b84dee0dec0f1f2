//! (e) The agent's memory at 0, 100 and 1,000 streams.

use std::thread;
use std::time::Duration;

use super::Effort;
use super::drive::{Load, drive};
use super::report::Table;
use crate::agent::Options;
use crate::clock::wait_for;
use crate::plan::{Ask, Plan};
use crate::stack::Server;
use crate::usage::{peak_rss, rss};

const STREAMS: [usize; 3] = [0, 100, 1000];
const INTERVAL_US: u64 = 100_000;

pub fn memory(effort: Effort) -> Table {
    let server = Server::quiet_app();
    let agent = Options::default().pid(server.id()).start();
    let tokens = (effort.run.as_micros() as u64 / INTERVAL_US).max(20);
    let mut table = Table::new("(e) Agent's memory", &["streams", "RSS", "most so far"]);
    let mut figures = Vec::new();
    for streams in STREAMS {
        let load = Load {
            connections: streams,
            ask: Ask {
                max_tokens: tokens,
                plan: Plan { interval_us: INTERVAL_US, ..Plan::default() },
                ..Ask::default()
            },
            run: Duration::ZERO,
            first_token: 2,
        };
        let address = server.address.clone();
        let clients = thread::spawn(move || drive(&address, &load));
        wait_for("all streams to run", Duration::from_secs(30), || {
            let running = agent.metrics().sum("llm_requests_in_flight", &[]);
            (running == streams as f64).then_some(())
        });
        // Half of the stream, so that what it keeps per event would show.
        thread::sleep(Duration::from_micros(tokens * INTERVAL_US / 2).min(Duration::from_secs(2)));
        let (now, peak) = (rss(agent.id()), peak_rss(agent.id()));
        clients.join().expect("the clients do not panic");
        let mb = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        table.row(&[streams.to_string(), mb(now), mb(peak)]);
        figures.push(serde_json::json!({"streams": streams, "rss": now, "peak": peak}));
    }
    let rss_at = |n: usize| figures[n]["rss"].as_f64().unwrap_or(f64::NAN);
    let per_stream = (rss_at(2) - rss_at(1)) / (STREAMS[2] - STREAMS[1]) as f64 / 1024.0;
    table.note(format!(
        "{per_stream:.1} KiB for each stream between 100 and 1,000. Kernel maps and the ring are \
         the kernel's memory and not in RSS, but for the ring's mapped pages."
    ));
    agent.stop();
    table.figures = serde_json::Value::Array(figures);
    table
}
