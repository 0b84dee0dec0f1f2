//! Traced times against those that a server takes right before each of its own writes.

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::bench::accuracy::{Errors, errors, request};
use llmtrace_tests::client::load;
use llmtrace_tests::compare::quantile;
use llmtrace_tests::servers::app::Model;
use llmtrace_tests::stack::Server;

const COUNT: usize = 64;
const TOKENS: u64 = 40;
/// Twenty times the goal: other work runs on the same two cores.
const LIMIT_NS: u64 = 1_000_000;

/// p50, p99 and the most, in a line.
fn print(what: &str, errors: &[u64]) {
    println!(
        "{what} error over {} values: p50 {:.1} us, p99 {:.1} us, max {:.1} us",
        errors.len(),
        quantile(errors, 0.5) as f64 / 1000.0,
        quantile(errors, 0.99) as f64 / 1000.0,
        quantile(errors, 1.0) as f64 / 1000.0,
    );
}

#[test]
fn times_are_the_server_s_own() {
    require_bpf();
    let _alone = serial();
    let server = Server::app(Model::Thread);
    let agent = Options::default().pid(server.id()).token_times().start();
    let requests = (0..COUNT).map(|n| request(format!("truth/{n}"), TOKENS, 3000)).collect();
    let records = load(&server.address, requests, 8);
    assert!(records.iter().all(|record| record.outcome == "success"));
    let own = server.wait_for_log(COUNT);
    agent.wait_for_requests("server", COUNT);
    let entries = agent.stop();
    let Errors { ttft, inter_token: gaps } = errors(&own, &entries);
    assert_eq!(ttft.len(), COUNT);
    assert_eq!(gaps.len(), COUNT * (TOKENS as usize - 1));
    print("TTFT", &ttft);
    print("inter-token", &gaps);
    assert!(quantile(&ttft, 0.99) <= LIMIT_NS, "TTFT");
    assert!(quantile(&gaps, 0.99) <= LIMIT_NS, "inter-token");
}
