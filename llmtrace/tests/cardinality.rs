//! Whoever sends requests chooses much of what metrics are labelled with. However much they invent,
//! series stay bounded.

use std::collections::HashSet;

use llmtrace::http::head::Framing;
use llmtrace::http::{RequestHead, ResponseHead};
use llmtrace::llm::{Exchange, Peer, Role, Settings};
use llmtrace::metrics::labels::{MAX_MODELS, MAX_SERVERS};
use llmtrace::metrics::{MAX_SERIES, Metrics};

const INVENTED: usize = 10_000;

/// Paths that lead to a call of an LLM, with something invented in each.
fn target(n: usize) -> String {
    match n % 8 {
        0 => format!("/tenant-{n}/v1/chat/completions"),
        1 => format!("/v1beta/models/model-{n}:generateContent?key={n}"),
        2 => format!("/openai/deployments/deployment-{n}/chat/completions?api-version={n}"),
        3 => format!("/v2/models/model-{n}/generate"),
        4 => format!("/model/model-{n}/invoke"),
        5 => format!("/p{n}/v1/messages"),
        6 => format!("/v1/completions#{n}"),
        _ => "/v1/chat/completions".to_owned(),
    }
}

fn exchange(n: usize, metrics: &Metrics) -> bool {
    let settings = Settings::default();
    let (method, target) =
        (if n.is_multiple_of(3) { format!("M{n}") } else { "POST".into() }, target(n));
    let head = RequestHead {
        method: &method,
        target: &target,
        minor: 1,
        host: None,
        user_agent: None,
        content_type: Some("application/json"),
        content_encoding: None,
        traceparent: None,
        tracestate: None,
        expect_continue: false,
        upgrade: false,
        keep_alive: true,
        framing: Framing::Length(1),
    };
    let mut exchange = Exchange::start(&settings, Role::Server, 1, &head);
    exchange
        .request_body(format!(r#"{{"model":"asked-{n}","messages":[],"prompt":""}}"#).as_bytes());
    exchange.request_end(2);
    if !exchange.is_llm() {
        return false;
    }
    let peer =
        Peer { server: format!("server-{n}:80").into(), client: "".into(), pid: 1, tls: false };
    metrics.started(1, Role::Server, &peer.server, exchange.endpoint());
    let status = if n.is_multiple_of(2) { 200 } else { (n % 1_000) as u16 };
    exchange.response_head(
        3,
        &ResponseHead {
            status,
            minor: 1,
            grpc_status: None,
            content_type: Some("application/json"),
            content_encoding: None,
            upgrade: None,
            websocket_extensions: None,
            keep_alive: true,
            framing: Framing::Length(1),
        },
    );
    exchange.response_body(
        4,
        format!(r#"{{"model":"answered-{n}","choices":[{{"finish_reason":"why-{n}"}}]}}"#)
            .as_bytes(),
    );
    exchange.response_end(5);
    metrics.finished(&exchange.finish(), &peer);
    true
}

#[test]
fn invented_labels() {
    let metrics = Metrics::default();
    let counted = (0..INVENTED).filter(|n| exchange(*n, &metrics)).count();
    // A method that nobody knows makes no call of an LLM.
    assert_eq!(counted, (0..INVENTED).filter(|n| !n.is_multiple_of(3)).count());
    let text = metrics.encode_text();
    let values = |label: &str| -> HashSet<&str> {
        let label = format!("{label}=\"");
        let llm = text.lines().filter(|l| l.starts_with("llm_"));
        llm.filter_map(|l| l.split(&*label).nth(1)?.split('"').next()).collect()
    };
    for (label, most) in [
        // Those that have a name, `other`, and none.
        ("model", MAX_MODELS + 2),
        ("server", MAX_SERVERS + 1),
        ("method", 8),
        ("reason", 64),
        ("endpoint", 64),
        ("status", 502),
    ] {
        let found = values(label);
        assert!(found.len() <= most, "{} values of {label}", found.len());
        if ["model", "server", "reason"].contains(&label) {
            assert!(found.contains("other"), "{label}: {found:?}");
        }
    }
    let samples = |name: &str| -> Vec<f64> {
        let name = format!("{name}{{");
        let lines = text.lines().filter(|l| l.starts_with(&name));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse().ok()).collect()
    };
    let requests = samples("llm_requests_total");
    assert_eq!(requests.iter().sum::<f64>(), counted as f64, "nothing goes uncounted");
    let bases: HashSet<_> = text
        .lines()
        .filter(|l| l.starts_with("llm_requests_total{"))
        .filter_map(|l| l.split(",method=").next())
        .collect();
    // What is over the limit is still told apart by endpoint.
    assert!(bases.len() <= MAX_SERIES + 64, "{} combinations", bases.len());
    assert!(samples("llm_requests_in_flight").iter().all(|n| *n == 0.0));
    assert!(samples("llm_requests_in_flight").len() <= MAX_SERIES + 64);
}
