//! An exchange as a span.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status, span, status::StatusCode};

use super::done::Done;
use super::traceparent::{self, Parent};
use crate::llm::{Ns, Outcome, Role};
use crate::metrics::labels;

/// Name of an event: the first token was written.
const FIRST_TOKEN: &str = "gen_ai.first_token";

/// Which span it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) parent: Option<Parent>,
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(super) fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Name and port of a server, or an address and its port.
pub(super) fn host_port(peer: &str) -> (&str, Option<u16>) {
    match peer.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host.trim_start_matches('[').trim_end_matches(']'), Some(port)),
            Err(_) => (peer, None),
        },
        None => (peer, None),
    }
}

/// Where it was: common to spans and metrics.
pub(super) fn server(d: &Done) -> impl Iterator<Item = KeyValue> {
    let (host, port) = host_port(&d.server);
    let port = port.map(|port| number("server.port", port.into()));
    [text("server.address", host)].into_iter().chain(port)
}

/// `wall_offset`: nanoseconds since the Unix epoch, less those of `CLOCK_MONOTONIC`.
pub(super) fn span(d: &Done, ids: &Ids, wall_offset: i64) -> Span {
    let wall = |at: Ns| at.saturating_add_signed(wall_offset);
    let name = match d.asked_model.as_deref().or(d.model.as_deref()) {
        Some(model) => format!("{} {model}", d.operation.name()),
        None => d.operation.name().to_owned(),
    };
    let kind = match d.role {
        Role::Server => span::SpanKind::Server,
        Role::Client => span::SpanKind::Client,
    };
    let event = |at: Ns, name: &str| span::Event {
        time_unix_nano: wall(at),
        name: name.into(),
        ..span::Event::default()
    };
    // It belongs to the trace that the parent names.
    let trace_state = ids.parent.and(d.tracestate.as_deref()).and_then(traceparent::state);
    let remote = SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    let flags = 1 | ids.parent.map_or(SpanFlags::ContextHasIsRemoteMask as u32, |_| remote);
    Span {
        trace_id: ids.trace.into(),
        span_id: ids.span.into(),
        trace_state: trace_state.unwrap_or_default(),
        parent_span_id: ids.parent.map(|p| p.span.into()).unwrap_or_default(),
        flags,
        name,
        kind: kind.into(),
        start_time_unix_nano: wall(d.start),
        end_time_unix_nano: wall(d.end),
        attributes: attributes(d),
        events: d.first_token.map(|at| event(at, FIRST_TOKEN)).into_iter().collect(),
        status: Some(status(d)),
        ..Span::default()
    }
}

fn attributes(d: &Done) -> Vec<KeyValue> {
    let mut all = vec![
        text("gen_ai.operation.name", d.operation.name()),
        text("gen_ai.provider.name", d.provider()),
        text("http.request.method", &d.method),
        text("http.route", d.endpoint),
        text("llmtrace.outcome", labels::outcome(d.outcome)),
        attribute("gen_ai.request.stream", Value::BoolValue(d.stream)),
        number("process.pid", d.pid.into()),
    ];
    all.extend(server(d));
    if !d.client.is_empty() {
        let (host, port) = host_port(&d.client);
        all.push(text("client.address", host));
        all.extend(port.map(|port| number("client.port", port.into())));
    }
    let texts = [
        ("gen_ai.request.model", d.asked_model.as_deref()),
        ("gen_ai.response.model", d.model.as_deref().filter(|_| d.accepted())),
        ("user_agent.original", d.user_agent.as_deref()),
        ("llmtrace.phase", labels::phase(d.outcome)),
    ];
    all.extend(texts.into_iter().filter_map(|(key, value)| Some(text(key, value?))));
    all.extend(d.error().map(|error| text("error.type", &error)));
    let numbers = [
        ("gen_ai.usage.input_tokens", d.usage.prompt),
        ("gen_ai.usage.output_tokens", d.output_tokens),
        ("gen_ai.usage.cache_read.input_tokens", d.usage.cached),
        ("gen_ai.usage.reasoning.output_tokens", d.usage.reasoning),
        ("gen_ai.request.max_tokens", d.max_tokens),
        ("gen_ai.request.choice.count", d.choices.filter(|n| *n != 1)),
        ("http.response.status_code", d.status.map(u64::from)),
    ];
    all.extend(numbers.into_iter().filter_map(|(key, value)| Some(number(key, value?))));
    if let Some(reason) = &d.finish_reason {
        let reason = AnyValue { value: Some(Value::StringValue(reason.to_string())) };
        let list = ArrayValue { values: vec![reason] };
        all.push(attribute("gen_ai.response.finish_reasons", Value::ArrayValue(list)));
    }
    let ttft = d.ttft().filter(|_| d.outcome != Outcome::Incomplete);
    all.extend(ttft.map(|s| attribute("gen_ai.server.time_to_first_token", Value::DoubleValue(s))));
    all
}

/// An error that is the client's own is none of a server's span.
fn status(d: &Done) -> Status {
    let failed = match (d.outcome, d.role) {
        (Outcome::HttpError, Role::Server) => d.status.is_some_and(|s| s >= 500),
        (Outcome::HttpError, Role::Client)
        | (Outcome::StreamError | Outcome::ServerDisconnect | Outcome::Timeout, _) => true,
        (Outcome::Success | Outcome::ClientDisconnect(_) | Outcome::Incomplete, _) => false,
    };
    if !failed {
        return Status::default();
    }
    let message = labels::outcome(d.outcome).to_owned();
    Status { message, code: StatusCode::Error.into() }
}
