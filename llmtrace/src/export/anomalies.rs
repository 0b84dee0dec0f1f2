//! A JSON line per event of an anomaly, with the requests behind it; nothing of prompt or answer.

use serde::Serialize;

use super::request_log::rfc3339;
use crate::anomaly::{Event, Offender};
use crate::llm::Ns;
use crate::metrics::labels;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    id: u64,
    signal: &'static str,
    method: &'static str,
    severity: &'static str,
    server: &'a str,
    model: Option<&'a str>,
    unit: &'static str,
    value: f64,
    expected: f64,
    threshold: f64,
    worst: f64,
    started: String,
    raised: String,
    ended: Option<String>,
    end: Option<&'static str>,
    requests: Vec<Request<'a>>,
}

#[derive(Serialize)]
struct Request<'a> {
    start: String,
    /// None if it is not over.
    end: Option<String>,
    start_ns: Ns,
    duration_s: Option<f64>,
    ttft_s: Option<f64>,
    outcome: Option<&'static str>,
    status: Option<u16>,
    endpoint: &'static str,
    model: Option<&'a str>,
    client: Option<&'a str>,
    output_tokens: Option<u64>,
    value: f64,
}

/// Wall time of `at`.
pub fn wall(at: Ns, wall_offset: i64) -> String {
    rfc3339(i128::from(at) + i128::from(wall_offset))
}

/// The line, without its end. `wall_offset`: nanoseconds since the Unix epoch, less those of
/// `CLOCK_MONOTONIC`.
pub fn line(event: &Event, wall_offset: i64) -> String {
    let a = &event.anomaly;
    let time = |at| wall(at, wall_offset);
    let line = Line {
        time: time(event.at),
        event: event.what.name(),
        id: a.id,
        signal: a.signal.name(),
        method: a.method.name(),
        severity: a.severity.name(),
        server: &a.server,
        model: Some(&*a.model).filter(|m| !m.is_empty()),
        unit: a.signal.unit(),
        value: a.value,
        expected: a.expected,
        threshold: a.threshold,
        worst: a.worst,
        started: time(a.started),
        raised: time(a.raised),
        ended: a.ended.map(|(at, _)| time(at)),
        end: a.ended.map(|(_, end)| end.name()),
        requests: a.requests.iter().map(|r| request(r, wall_offset)).collect(),
    };
    // Strings, numbers and lists: there is nothing that JSON cannot say.
    serde_json::to_string(&line).unwrap_or_default()
}

fn request(r: &Offender, wall_offset: i64) -> Request<'_> {
    let seconds = |until: Ns| until.saturating_sub(r.start) as f64 / 1e9;
    Request {
        start: wall(r.start, wall_offset),
        end: r.end.map(|end| wall(end, wall_offset)),
        start_ns: r.start,
        duration_s: r.end.map(seconds),
        ttft_s: r.first_token.map(seconds),
        outcome: r.outcome.map(labels::outcome),
        status: r.status,
        endpoint: r.endpoint,
        model: r.model.as_deref(),
        client: Some(&*r.client).filter(|c| !c.is_empty()),
        output_tokens: r.output_tokens,
        value: r.value,
    }
}
