//! An agent that is starved on purpose: what it could not see is counted to the byte, spoils no
//! histogram, and is over within one request.

use std::time::Duration;

use llmtrace_tests::agent::{Options, require_bpf, serial};
use llmtrace_tests::client::{Connection, Request};
use llmtrace_tests::clock::wait_for;
use llmtrace_tests::plan::Ask;
use llmtrace_tests::stack::Server;
use rustix::process::{Pid, Signal, kill_process};

/// So many that one answer is five times the ring of the test.
const LONG: u64 = 20_000;
const SHORT: u64 = 50;

#[test]
fn a_paused_agent_and_a_small_ring() {
    require_bpf();
    let _alone = serial();
    let server = Server::flood();
    let agent = Options::default().pid(server.id()).arg("--ring-mib", "1").start();
    let pid = Pid::from_raw(agent.id().try_into().expect("a process id")).expect("not zero");
    let mut connections = [0, 1].map(|_| Connection::new(&server.address));
    let mut sent = 0;
    let mut send = |connection: &mut Connection, name: &str, max_tokens: u64| {
        let ask = Ask { max_tokens, ..Ask::default() };
        let record = connection.send(&Request::new(name, &ask)).expect("an answer");
        assert_eq!(record.outcome, "success");
        sent += 1;
    };
    for connection in &mut connections {
        send(connection, "before", SHORT);
    }
    agent.wait_for_requests("server", 2);
    kill_process(pid, Signal::STOP).expect("the agent is ours");
    for connection in &mut connections {
        send(connection, "paused", LONG);
        send(connection, "paused", SHORT);
    }
    kill_process(pid, Signal::CONT).expect("the agent is ours");
    wait_for("the agent to drain its ring", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        (metrics.sum("llmtrace_lost_records_total", &[("reason", "ring_full")]) > 0.0).then_some(())
    });
    // The first shows where its connection is again, and may itself be taken for holed.
    for connection in &mut connections {
        send(connection, "first", SHORT);
        send(connection, "after", SHORT);
    }
    wait_for("the requests after the pause", Duration::from_secs(10), || {
        let whole = agent.log().iter().filter(|e| e.user_agent.as_deref() == Some("after")).count();
        (whole == 2).then_some(())
    });
    // Counters follow a beat later.
    std::thread::sleep(Duration::from_millis(500));
    let metrics = agent.metrics();
    let entries = agent.stop();

    let whole: Vec<_> = entries.iter().filter(|e| e.outcome == "success").collect();
    let holed = entries.iter().filter(|e| e.outcome == "incomplete").count();
    assert_eq!(whole.len() + holed, entries.len(), "{entries:#?}");
    assert!(holed >= 1 && entries.len() <= sent, "{holed} of {} of {sent}", entries.len());
    for entry in &whole {
        let long = entry.user_agent.as_deref() == Some("paused") && entry.token_events > SHORT;
        assert!(long || entry.token_events == SHORT, "{entry:#?}");
        assert_eq!(entry.output_tokens, Some(entry.token_events));
    }
    for name in ["before", "after"] {
        let of = whole.iter().filter(|e| e.user_agent.as_deref() == Some(name)).count();
        assert_eq!(of, 2, "{name}");
    }

    // What is missing is what was counted, in the kernel and again where streams are put together.
    let lost = metrics.sum("llmtrace_lost_bytes_total", &[("layer", "kernel")]);
    let gaps = metrics.sum("llmtrace_lost_bytes_total", &[("layer", "connection")]);
    assert!(lost > 1e6, "{lost} bytes lost in the kernel");
    assert_eq!(lost, gaps);
    assert_eq!(metrics.sum("llmtrace_incomplete_exchanges_total", &[]), holed as f64);
    // And no histogram has any of it.
    for histogram in ["llm_request_duration_seconds", "llm_time_to_first_token_seconds"] {
        let count = metrics.sum(&format!("{histogram}_count"), &[]);
        assert_eq!(count, whole.len() as f64, "{histogram}");
    }
}
