//! Realtime sessions over WebSockets: each response as its client saw it.

use std::process::Command;

use llmtrace_tests::agent::{Entry, Options, require_bpf, serial};
use llmtrace_tests::paths;
use llmtrace_tests::stack::Server;
use serde::Deserialize;

/// What the client prints of a response.
#[derive(Debug, Deserialize)]
struct Seen {
    deltas: u64,
    status: String,
    send_ns: u64,
    first_ns: Option<u64>,
    output: Option<u64>,
    plan: Plan,
}

#[derive(Debug, Deserialize)]
struct Plan {
    #[serde(default)]
    vad: bool,
}

#[track_caller]
fn session(server: &Server, compression: &str) -> Vec<Seen> {
    let output = Command::new(paths::python())
        .arg(paths::app("realtime_client.py"))
        .arg(server.port().to_string())
        .args([compression, compression])
        .output()
        .expect("the client starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let seen: Vec<Seen> =
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(seen.len(), 10, "{text}\n{errors}");
    seen
}

#[track_caller]
fn compare(who: &str, seen: &Seen, entry: &Entry) {
    let (outcome, phase, finish) = match seen.status.as_str() {
        "completed" => ("success", None, Some("completed")),
        "incomplete" => ("success", None, Some("max_output_tokens")),
        "failed" => ("stream_error", None, Some("failed")),
        "rejected" => ("stream_error", None, None),
        "cancelled" => ("client_disconnect", Some("mid_stream"), Some("client_cancelled")),
        "left" => ("client_disconnect", Some("mid_stream"), None),
        other => panic!("{who}: {other}"),
    };
    assert_eq!(
        (&*entry.outcome, entry.phase.as_deref(), entry.finish_reason.as_deref()),
        (outcome, phase, finish),
        "{who}: {seen:?}"
    );
    if seen.status == "left" || seen.status == "cancelled" {
        assert!(entry.token_events >= seen.deltas, "{who}: {seen:?} {entry:?}");
    } else {
        assert_eq!(entry.token_events, seen.deltas, "{who}: {seen:?}");
        assert_eq!(entry.output_tokens, seen.output, "{who}: {seen:?}");
    }
    if seen.output.is_some() {
        assert_eq!(entry.prompt_tokens, Some(9), "{who}");
    }
    assert_eq!(entry.model.as_deref(), Some("gpt-realtime-test"), "{who}");
    assert_eq!((entry.status, entry.stream), (Some(101), true), "{who}");
    let start = entry.start_ns.expect("a start");
    assert!(seen.send_ns <= start, "{who}: asked for after it was read");
    assert_eq!(entry.first_token_ns.is_some(), seen.first_ns.is_some(), "{who}: {seen:?}");
    if let (Some(client), Some(traced)) = (seen.first_ns, entry.first_token_ns) {
        assert!(start < traced && traced <= client, "{who}: first token");
        // The rest of the way is this client's own loop.
        assert!(client - traced < 50_000_000 || seen.plan.vad, "{who}: first token");
    }
}

#[track_caller]
fn check(compression: &str) {
    require_bpf();
    let _alone = serial();
    let server = Server::realtime();
    let agent = Options::default().pid(server.id()).start();
    let seen = session(&server, compression);
    let metrics = agent.wait_for_requests("server", seen.len());
    let mut entries = agent.stop();
    assert_eq!(entries.len(), seen.len(), "each response once: {entries:#?}");
    entries.sort_by_key(|entry| entry.start_ns);
    for (seen, entry) in seen.iter().zip(&entries) {
        assert_eq!(entry.user_agent.as_deref(), Some(compression));
        assert_eq!(entry.endpoint, "/v1/realtime");
        compare(compression, seen, entry);
    }
    assert_eq!(metrics.sum("llm_requests_in_flight", &[("role", "server")]), 0.0);
    assert_eq!(metrics.sum("llmtrace_lost_records_total", &[]), 0.0);
}

#[test]
fn plain() {
    check("none");
}

#[test]
fn deflated_with_context_takeover() {
    check("takeover");
}

#[test]
fn deflated_message_by_message() {
    check("reset");
}
