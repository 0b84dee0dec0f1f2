//! (d) Traced times against those that a server takes right before each of its own writes.

use super::Effort;
use super::report::Table;
use crate::agent::{Entry, Options};
use crate::client::{Request, load};
use crate::compare::{by_user_agent, quantile};
use crate::plan::{Ask, Plan};
use crate::servers::app::Model;
use crate::servers::log::ServerRecord;
use crate::stack::Server;

const TOKENS: u64 = 100;
const CLIENTS: usize = 8;

/// Errors of traced times, nanoseconds, ascending.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    pub ttft: Vec<u64>,
    pub inter_token: Vec<u64>,
}

/// Holds every line of a server's log against the trace.
///
/// # Panics
/// If a request was not traced once, with all of its tokens.
#[track_caller]
pub fn errors(own: &[ServerRecord], entries: &[Entry]) -> Errors {
    let traced = by_user_agent(entries);
    let mut errors = Errors::default();
    for truth in own {
        let who = truth.user_agent.as_str();
        let Some([entry]) = traced.get(who).map(Vec::as_slice) else {
            panic!("{who}: not traced once");
        };
        let times = entry.token_times_ns.as_deref().unwrap_or_default();
        assert_eq!(times.len(), truth.token_times_ns.len(), "{who}: tokens traced");
        let (own, trace) = (truth.ttft(), entry.ttft());
        let (own, trace) = own.zip(trace).expect("a stream with tokens has a TTFT");
        errors.ttft.push(own.abs_diff(trace));
        for (own, traced) in truth.token_times_ns.windows(2).zip(times.windows(2)) {
            let (own, traced) = (own[1] - own[0], traced[1] - traced[0]);
            errors.inter_token.push(own.abs_diff(traced));
        }
    }
    errors.ttft.sort_unstable();
    errors.inter_token.sort_unstable();
    errors
}

/// A stream of `tokens` events, `interval_us` apart, as `who`.
pub fn request(who: String, tokens: u64, interval_us: u64) -> Request {
    let ask = Ask {
        max_tokens: tokens,
        plan: Plan { first_delay_ms: 5, interval_us, ..Plan::default() },
        ..Ask::default()
    };
    Request::new(who, &ask)
}

pub fn accuracy(effort: Effort) -> Table {
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).token_times().start();
    let interval_us = 5000;
    let rounds = (effort.run.as_micros() as u64 * 4 / (TOKENS * interval_us)).max(2);
    let count = usize::try_from(rounds).unwrap_or(2) * CLIENTS;
    let requests =
        (0..count).map(|n| request(format!("accuracy/{n}"), TOKENS, interval_us)).collect();
    load(&server.address, requests, CLIENTS);
    let own = server.wait_for_log(count);
    agent.wait_for_requests("server", count);
    let errors = errors(&own, &agent.stop());

    let mut table = Table::new(
        "(d) Error of traced times against the server's own",
        &["what", "values", "p50", "p99", "max"],
    );
    let us = |values: &[u64], q| quantile(values, q) as f64 / 1000.0;
    for (name, values) in [("TTFT", &errors.ttft), ("inter-token", &errors.inter_token)] {
        table.row(&[
            name.into(),
            values.len().to_string(),
            format!("{:.1} us", us(values, 0.5)),
            format!("{:.1} us", us(values, 0.99)),
            format!("{:.1} us", us(values, 1.0)),
        ]);
    }
    table.note(format!(
        "{CLIENTS} streams at once, an event every {interval_us} us; the server takes the time \
         right before each write."
    ));
    let figures = |values: &[u64]| {
        serde_json::json!({
            "p50_us": us(values, 0.5),
            "p99_us": us(values, 0.99),
            "max_us": us(values, 1.0),
        })
    };
    table.figures = serde_json::json!({
        "ttft": figures(&errors.ttft),
        "inter_token": figures(&errors.inter_token),
    });
    table
}
