//! Runs with and without the agent, in turn, on one server.

use std::time::Duration;

use serde::Serialize;

use super::drive::{Driven, Load, drive};
use crate::agent::{Agent, Options};
use crate::clock;
use crate::compare::quantile;
use crate::metrics::Metrics;
use crate::stack::Server;
use crate::usage::cpu_ns;

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    pub requests: u64,
    pub events: u64,
    pub events_per_second: f64,
    pub seconds: f64,
    pub ttft_p50_us: f64,
    pub ttft_p99_us: f64,
    pub server_us_per_event: f64,
    pub client_us_per_event: f64,
    /// 0 without the agent.
    pub agent_us_per_event: f64,
    /// Share of a core.
    pub agent_cpu: f64,
    pub found: Option<Found>,
}

impl Run {
    pub fn us_per_event(&self) -> f64 {
        self.server_us_per_event + self.client_us_per_event + self.agent_us_per_event
    }
}

/// What the agent made of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// Events traced / events that the clients counted.
    pub share: f64,
    pub requests: f64,
    pub lost_records: f64,
    pub lost_bytes: f64,
    pub incomplete: f64,
}

/// A run without the agent and one with it.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    pub without: Run,
    pub with: Run,
}

impl Pair {
    pub fn throughput_ratio(&self) -> f64 {
        self.with.events_per_second / self.without.events_per_second
    }

    pub fn added_us_per_event(&self) -> f64 {
        self.with.us_per_event() - self.without.us_per_event()
    }
}

/// `count` runs, all without the agent.
pub fn bare(server: &Server, load: &Load, count: usize) -> Vec<Run> {
    (0..count).map(|_| untraced(server, load)).collect()
}

/// `count` pairs; which of the two comes first changes from pair to pair.
pub fn pairs(server: &Server, load: &Load, count: usize) -> Vec<Pair> {
    pairs_by("auto", server, load, count)
}

/// The same by one back end.
pub fn pairs_by(backend: &str, server: &Server, load: &Load, count: usize) -> Vec<Pair> {
    let traced = |server, load| traced(Options::default().arg("--backend", backend), server, load);
    warm_up(server, load);
    (0..count)
        .map(|n| {
            if n % 2 == 0 {
                let without = untraced(server, load);
                let with = traced(server, load);
                Pair { without, with }
            } else {
                let with = traced(server, load);
                let without = untraced(server, load);
                Pair { without, with }
            }
        })
        .collect()
}

pub fn warm_up(server: &Server, load: &Load) {
    let warm = Load { run: Duration::from_millis(300), ..load.clone() };
    drive(&server.address, &warm);
}

/// A run with an agent of these options.
pub fn traced(options: Options, server: &Server, load: &Load) -> Run {
    let agent = options.pid(server.id()).start();
    let run = run(server, load, Some(&agent));
    agent.stop();
    run
}

/// A run without an agent.
pub fn untraced(server: &Server, load: &Load) -> Run {
    run(server, load, None)
}

fn run(server: &Server, load: &Load, agent: Option<&Agent>) -> Run {
    let me = std::process::id();
    let cpu = || [Some(server.id()), Some(me), agent.map(Agent::id)].map(|pid| pid.map(cpu_ns));
    let (before, begin) = (cpu(), clock::now());
    let driven = drive(&server.address, load);
    let seconds = (clock::now() - begin) as f64 / 1e9;
    // What the agent still works off belongs to the run.
    let found = agent.map(|agent| found(agent, &driven));
    let after = cpu();
    let ns: Vec<f64> = before
        .iter()
        .zip(after)
        .map(|(before, after)| (after.unwrap_or(0) - before.unwrap_or(0)) as f64)
        .collect();
    let per_event = |ns: f64| ns / 1000.0 / driven.events as f64;
    Run {
        requests: driven.requests,
        events: driven.events,
        events_per_second: driven.events_per_second,
        seconds,
        ttft_p50_us: quantile(&driven.ttft_ns, 0.5) as f64 / 1000.0,
        ttft_p99_us: quantile(&driven.ttft_ns, 0.99) as f64 / 1000.0,
        server_us_per_event: per_event(ns[0]),
        client_us_per_event: per_event(ns[1]),
        agent_us_per_event: per_event(ns[2]),
        agent_cpu: ns[2] / 1e9 / seconds,
        found,
    }
}

/// Waits until every request is accounted for, or until nothing changes any more.
fn found(agent: &Agent, driven: &Driven) -> Found {
    let requests = |metrics: &Metrics| metrics.sum("llm_requests_total", &[]);
    let end = clock::now() + Duration::from_secs(10).as_nanos() as u64;
    let mut metrics = agent.metrics();
    while requests(&metrics) < driven.requests as f64 && clock::now() < end {
        let before = requests(&metrics);
        std::thread::sleep(Duration::from_millis(500));
        metrics = agent.metrics();
        if requests(&metrics) == before {
            break;
        }
    }
    Found {
        share: metrics.sum("llm_stream_events_total", &[]) / driven.events as f64,
        requests: requests(&metrics),
        lost_records: metrics.sum("llmtrace_lost_records_total", &[]),
        lost_bytes: metrics.sum("llmtrace_lost_bytes_total", &[]),
        incomplete: metrics.sum("llmtrace_incomplete_exchanges_total", &[]),
    }
}
