//! What a collector gets, from the bytes that were posted. The collector here only keeps them;
//! tests/tests/otlp.rs has one that reads them with Python's protobuf.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, metric::Data};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::*;
use crate::client::receiver::receiver;
use crate::config::{self, Compression, Sample};
use crate::llm::{Asked, Outcome, Phase, Role, Usage};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const MS: u64 = 1_000_000;

fn finished(traceparent: Option<&str>) -> Finished {
    Finished {
        method: "POST".into(),
        endpoint: "/v1/chat/completions",
        asked: Asked { model: Some("alias".into()), max_tokens: Some(64), ..Asked::default() },
        model: Some("llama".into()),
        stream: true,
        status: Some(200),
        outcome: Outcome::Success,
        finish_reason: Some("stop".into()),
        first_byte: Some(120 * MS),
        first_token: Some(150 * MS),
        last_token: Some(1_150 * MS),
        end: 1_200 * MS,
        token_events: 11,
        first_tokens: 1,
        usage: Usage { prompt: Some(7), output: Some(11), ..Usage::default() },
        user_agent: Some("curl/8".into()),
        traceparent: traceparent.map(Into::into),
        ..Finished::new(Role::Server, 100 * MS)
    }
}

fn peer() -> Peer {
    Peer { server: "vllm:8000".into(), client: "[::1]:4321".into(), pid: 7, tls: false }
}

fn start(url: &str, config: &config::Otlp, metrics: &Metrics) -> Otlp {
    let settings = Settings::new(config, Some(url)).unwrap().unwrap();
    Otlp::start(settings, metrics, || 1_700_000_000_000_000_000).unwrap()
}

fn spans(body: &[u8]) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    request
        .resource_spans
        .into_iter()
        .flat_map(|r| {
            let name = &r.resource.unwrap().attributes[0];
            assert_eq!((&*name.key, value(name)), ("service.name", "vllm".to_owned()));
            r.scope_spans
        })
        .flat_map(|s| s.spans)
        .collect()
}

fn value(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(n) => n.to_string(),
        Value::DoubleValue(n) => n.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        Value::ArrayValue(list) => format!("{} values", list.values.len()),
        other => panic!("{other:?}"),
    }
}

fn get(attributes: &[KeyValue], key: &str) -> Option<String> {
    attributes.iter().find(|a| a.key == key).map(value)
}

fn count(metrics: &Metrics, signal: &str, result: &str) -> u64 {
    let text = metrics.encode_text();
    let line = format!("llmtrace_otlp_items_total{{result=\"{result}\",signal=\"{signal}\"}} ");
    let other = format!("llmtrace_otlp_items_total{{signal=\"{signal}\",result=\"{result}\"}} ");
    let found = text.lines().find_map(|l| l.strip_prefix(&line).or(l.strip_prefix(&other)));
    found.map_or(0, |n| n.parse().unwrap())
}

#[test]
fn a_span_and_its_metrics() {
    // The first try finds a collector that is not ready.
    let (url, got) = receiver(&[503]);
    let metrics = Metrics::default();
    let mut otlp = start(&url, &config::Otlp::default(), &metrics);
    otlp.finished(&finished(Some(PARENT)), &peer());
    // Not sampled by its parent: no span, but it counts.
    otlp.finished(&finished(Some(&PARENT.replace("-01", "-00"))), &peer());
    let left = Outcome::ClientDisconnect(Phase::BeforeFirstToken);
    otlp.finished(&Finished { outcome: left, ..finished(None) }, &peer());
    // Of one that was not seen whole there is a span.
    otlp.finished(&Finished { outcome: Outcome::Incomplete, ..finished(None) }, &peer());

    let first = got.recv_timeout(Duration::from_secs(20)).unwrap();
    let again = got.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(first.path, "/v1/traces");
    assert_eq!(first.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(first.header("content-encoding"), None);
    assert_eq!(again, first, "tried again as it was");
    let spans = spans(&again.body);
    assert_eq!(spans.len(), 3);
    let span = &spans[0];
    assert_eq!(span.trace_id[..2], [0x0a, 0xf7]);
    assert_eq!(span.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert!(span.span_id.len() == 8 && span.span_id != span.parent_span_id);
    assert_eq!((&*span.name, span.kind, span.flags), ("chat alias", 2, 0x301));
    let wall = 1_700_000_000_000_000_000;
    assert_eq!(span.start_time_unix_nano, wall + 100 * MS);
    assert_eq!(span.end_time_unix_nano, wall + 1_200 * MS);
    assert_eq!(
        (&*span.events[0].name, span.events[0].time_unix_nano),
        ("gen_ai.first_token", wall + 150 * MS)
    );
    for (key, wanted) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "alias"),
        ("gen_ai.response.model", "llama"),
        ("gen_ai.request.max_tokens", "64"),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "11"),
        ("gen_ai.response.finish_reasons", "1 values"),
        ("gen_ai.server.time_to_first_token", "0.05"),
        ("server.address", "vllm"),
        ("server.port", "8000"),
        ("client.address", "::1"),
        ("client.port", "4321"),
        ("http.response.status_code", "200"),
        ("user_agent.original", "curl/8"),
    ] {
        assert_eq!(get(&span.attributes, key).as_deref(), Some(wanted), "{key}");
    }
    assert_eq!(get(&span.attributes, "error.type"), None);
    let left = &spans[1];
    assert!(left.parent_span_id.is_empty() && left.trace_id != [0; 16] && left.events.is_empty());
    assert_eq!(get(&left.attributes, "error.type").as_deref(), Some("client_disconnect"));
    assert_eq!(left.status.as_ref().unwrap().code, 0);

    // The end of the agent sends what there is.
    drop(otlp);
    let post = got.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(post.path, "/v1/metrics");
    let request = ExportMetricsServiceRequest::decode(&*post.body).unwrap();
    let all = &request.resource_metrics[0].scope_metrics[0].metrics;
    let names: Vec<&str> = all.iter().map(|m| &*m.name).collect();
    assert_eq!(
        names,
        [
            "gen_ai.server.request.duration",
            "gen_ai.server.time_to_first_token",
            "gen_ai.server.time_per_output_token",
            "gen_ai.client.token.usage",
        ]
    );
    let points = |n: usize| match &all[n].data {
        Some(Data::ExponentialHistogram(h)) => h.data_points.clone(),
        other => panic!("{other:?}"),
    };
    // The one that was left is apart by its error, the incomplete one nowhere.
    let counts: u64 = points(0).iter().map(|p| p.count).sum();
    assert_eq!((points(0).len(), counts), (2, 3));
    let ttft = &points(1)[0];
    assert_eq!((ttft.count, ttft.sum), (2, Some(0.1)));
    // Of the two only one has a span to point at.
    assert_eq!(ttft.exemplars.len(), 1);
    assert_eq!(ttft.exemplars[0].trace_id, span.trace_id);
    assert_eq!(ttft.exemplars[0].span_id, span.span_id);
    let per_token = &points(2)[0];
    assert!((per_token.sum.unwrap() / per_token.count as f64 - 0.1).abs() < 1e-9);
    let tokens = |kind: &str| {
        let of = |p: &&ExponentialHistogramDataPoint| {
            get(&p.attributes, "gen_ai.token.type").as_deref() == Some(kind)
        };
        points(3).iter().filter(of).filter_map(|p| p.sum).sum::<f64>()
    };
    assert_eq!((tokens("input"), tokens("output")), (21.0, 33.0));

    assert_eq!(count(&metrics, "spans", "failed"), 3);
    assert_eq!(count(&metrics, "spans", "ok"), 3);
    let all_points: usize = (0..all.len()).map(|n| points(n).len()).sum();
    assert_eq!(count(&metrics, "metrics", "ok"), all_points as u64);
}

#[test]
fn packed_and_with_the_state_of_the_trace() {
    let (url, got) = receiver(&[]);
    let metrics = Metrics::default();
    let compression = Some(Compression::Gzip);
    let config = config::Otlp { compression, metrics: false, ..config::Otlp::default() };
    let mut otlp = start(&url, &config, &metrics);
    let state = |traceparent: Option<&str>, state: &str| Finished {
        tracestate: Some(state.into()),
        ..finished(traceparent)
    };
    otlp.finished(&state(Some(PARENT), "a=1, b=2"), &peer());
    // Without a parent, or if it is no good, there is none.
    otlp.finished(&state(None, "a=1"), &peer());
    otlp.finished(&state(Some(PARENT), "what?"), &peer());
    let post = got.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(post.header("content-encoding"), Some("gzip"));
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&*post.body).read_to_end(&mut body).unwrap();
    let states: Vec<String> = spans(&body).into_iter().map(|span| span.trace_state).collect();
    assert_eq!(states, ["a=1,b=2", "", ""]);
}

#[test]
fn a_collector_that_is_gone_costs_bounded_memory_and_no_time() {
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let metrics = Metrics::default();
    let config = config::Otlp { metrics: false, ..config::Otlp::default() };
    let mut otlp = start(&format!("http://{closed}"), &config, &metrics);
    let total = 20_000;
    let began = std::time::Instant::now();
    for _ in 0..total {
        otlp.finished(&finished(None), &peer());
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?} for {total}");
    drop(otlp);
    let dropped = count(&metrics, "spans", "dropped");
    // What was kept until then is not tried again, so in the end everything is counted.
    assert_eq!(dropped, total);
    assert!(count(&metrics, "spans", "failed") > 0);
    assert_eq!(count(&metrics, "spans", "ok"), 0);
}

#[test]
fn settings_come_from_the_flag_the_file_or_the_standard_variables() {
    let none = config::Otlp::default();
    let no_env = |_: &str| None;
    assert!(Settings::by(&none, None, no_env).unwrap().is_none());
    let s = Settings::by(&none, Some("http://c:4318/"), no_env).unwrap().unwrap();
    assert_eq!(s.traces.as_deref(), Some("http://c:4318/v1/traces"));
    assert_eq!(s.metrics.as_deref(), Some("http://c:4318/v1/metrics"));
    let env = |name: &str| {
        let value = match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => "https://std:4318",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" => "https://traces/in",
            "OTEL_EXPORTER_OTLP_HEADERS" => "api-key=a%20b, x=y",
            "OTEL_RESOURCE_ATTRIBUTES" => "service.name=s,deployment.environment.name=prod",
            "OTEL_METRIC_EXPORT_INTERVAL" => "5000",
            "OTEL_EXPORTER_OTLP_COMPRESSION" => "gzip",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let s = Settings::by(&none, None, env).unwrap().unwrap();
    assert_eq!(s.traces.as_deref(), Some("https://traces/in"));
    assert_eq!(s.metrics.as_deref(), Some("https://std:4318/v1/metrics"));
    assert_eq!(s.headers, [("api-key".into(), "a b".into()), ("x".into(), "y".into())]);
    assert_eq!((s.service.as_deref(), s.interval.as_secs(), s.gzip), (Some("s"), 5, true));
    assert_eq!(s.resource, [("deployment.environment.name".into(), "prod".into())]);
    // What was said to the program itself comes first.
    let file = config::Otlp {
        endpoint: Some("http://file".into()),
        sample: Sample::Always,
        spans: false,
        compression: Some(Compression::None),
        ..config::Otlp::default()
    };
    let s = Settings::by(&file, None, env).unwrap().unwrap();
    assert_eq!((s.traces, s.metrics.as_deref()), (None, Some("http://file/v1/metrics")));
    assert!(!s.gzip);
    let odd = |name: &str| (name == "OTEL_EXPORTER_OTLP_COMPRESSION").then(|| "br".to_owned());
    assert!(Settings::by(&none, Some("http://c"), odd).is_err());
    assert!(Settings::by(&none, Some("ftp://x"), no_env).is_err());
}
