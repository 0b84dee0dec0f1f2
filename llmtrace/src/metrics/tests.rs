//! What a scrape shows of scripted exchanges, and that hostile labels stay bounded.

mod exposition;
mod policy;

use super::*;
use crate::llm::{Outcome, Phase, Usage};

fn finished(model: &str, outcome: Outcome) -> Finished {
    Finished {
        role: Role::Server,
        method: "POST".into(),
        endpoint: "/v1/chat/completions",
        model: Some(model.into()),
        stream: true,
        status: Some(200),
        outcome,
        finish_reason: Some("stop".into()),
        start: 0,
        request_end: Some(1_000_000),
        first_byte: Some(5_000_000),
        first_token: Some(30_000_000),
        last_token: Some(130_000_000),
        end: 140_000_000,
        events: 13,
        token_events: 11,
        first_tokens: 1,
        usage: Usage { prompt: Some(7), output: Some(11), ..Usage::default() },
        max_stall: Some(20_000_000),
        queued: Some(3_000_000),
        blocked: Some(0),
        response_bytes: 10,
        ..Finished::new(Role::Server, 0)
    }
}

fn peer(server: &str) -> Peer {
    Peer { server: server.into(), client: "127.0.0.1:9".into(), pid: 42, tls: false }
}

fn tell(metrics: &Metrics, f: &Finished, peer: &Peer) {
    metrics.started(f.start, f.role, &peer.server, f.endpoint);
    metrics.finished(f, peer);
}

/// Sum of the samples of a metric whose line holds every one of `parts`.
fn sum(text: &str, name: &str, parts: &[&str]) -> f64 {
    text.lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' '])))
        .filter(|l| parts.iter().all(|part| l.contains(part)))
        .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[test]
fn a_stream_that_went_well() {
    let metrics = Metrics::default();
    tell(&metrics, &finished("m", Outcome::Success), &peer("s:1"));
    let text = metrics.encode_text();
    let labels = ["role=\"server\"", "server=\"s:1\"", "model=\"m\""];
    assert_eq!(sum(&text, "llm_requests_total", &[&labels[..], &["status=\"200\""]].concat()), 1.0);
    assert_eq!(sum(&text, "llm_time_to_first_token_seconds_sum", &labels), 0.03);
    assert_eq!(sum(&text, "llm_time_to_first_byte_seconds_sum", &labels), 0.005);
    assert_eq!(sum(&text, "llm_request_duration_seconds_sum", &labels), 0.14);
    // 100 ms for the ten tokens after the first.
    assert_eq!(sum(&text, "llm_time_per_output_token_seconds_sum", &labels), 0.01);
    assert_eq!(sum(&text, "llm_tokens_total", &["type=\"output\"", "source=\"usage\""]), 11.0);
    assert_eq!(sum(&text, "llm_tokens_total", &["type=\"prompt\""]), 7.0);
    assert_eq!(sum(&text, "llm_finish_total", &["reason=\"stop\""]), 1.0);
    assert_eq!(sum(&text, "llm_stream_events_total", &[]), 13.0);
    assert_eq!(sum(&text, "llm_wasted_tokens_total", &[]), 0.0);
    assert_eq!(sum(&text, "llm_requests_in_flight", &[]), 0.0);
}

#[test]
fn tokens_of_a_client_that_left_are_wasted() {
    let metrics = Metrics::default();
    let f = finished("m", Outcome::ClientDisconnect(Phase::MidStream));
    tell(&metrics, &f, &peer("s:1"));
    assert_eq!(sum(&metrics.encode_text(), "llm_wasted_tokens_total", &[]), 11.0);
}

#[test]
fn an_incomplete_exchange_is_counted_and_enters_no_histogram() {
    let metrics = Metrics::default();
    tell(&metrics, &finished("m", Outcome::Incomplete), &peer("s:1"));
    let text = metrics.encode_text();
    assert_eq!(sum(&text, "llm_requests_total", &["outcome=\"incomplete\""]), 1.0);
    for line in text.lines().filter(|l| l.starts_with("llm_") && l.contains("_count{")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
    assert_eq!(sum(&text, "llm_tokens_total", &[]), 0.0);
}

#[test]
fn invented_models_and_servers_stay_bounded() {
    let metrics = Metrics::default();
    for n in 0..10_000 {
        let model = format!("invented-{n}\n\"{{}}");
        tell(&metrics, &finished(&model, Outcome::Success), &peer(&format!("s{n}:1")));
        // Never accepted: not a success.
        tell(&metrics, &finished(&format!("no-{n}"), Outcome::HttpError), &peer("s:1"));
    }
    let text = metrics.encode_text();
    assert!(!text.contains("no-1"), "a model that no success named became a label");
    assert!(text.contains("other"), "what is over the cap is called other");
    let series = text.lines().filter(|l| l.starts_with("llm_requests_total{")).count();
    assert!(series <= MAX_SERIES, "{series} series");
    assert_eq!(sum(&text, "llm_requests_total", &[]), 20_000.0);
}

/// The table of docs/metrics.md, made of the definitions.
fn table() -> String {
    let mut table =
        "| Name | Type | Labels beside the base | Definition |\n|---|---|---|---|\n".to_owned();
    for def in defs::ALL {
        assert!(!def.help.contains(['\\', '\n']), "{}: the text has it as it is", def.name);
        let labels: Vec<_> = def.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = match (labels.is_empty(), def.base) {
            (true, true) => "-".to_owned(),
            (true, false) => "- (no base labels)".to_owned(),
            (false, true) => labels.join(", "),
            (false, false) => format!("{} (no base labels)", labels.join(", ")),
        };
        let kind = format!("{:?}", def.kind).to_lowercase();
        table += &format!("| `{}` | {kind} | {labels} | {} |\n", def.name, def.help);
    }
    table
}

#[test]
fn docs_have_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- metrics: begin -->\n", "<!-- metrics: end -->");
    let (before, rest) = docs.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("LLMTRACE_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}{}{end}{after}", table())).unwrap();
        return;
    }
    assert_eq!(
        found,
        table(),
        "docs/metrics.md: write the table with LLMTRACE_WRITE_DOCS=1 cargo test -p llmtrace docs_have"
    );
}
