//! Joins what the clients know with what the agent traced.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::agent::Entry;
use crate::client::Record;
use crate::metrics::Metrics;

/// The entries of one hop, by user agent.
pub fn by_user_agent<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
) -> HashMap<&'a str, Vec<&'a Entry>> {
    let mut map: HashMap<&str, Vec<&Entry>> = HashMap::new();
    for entry in entries {
        map.entry(entry.user_agent.as_deref().unwrap_or("")).or_default().push(entry);
    }
    map
}

/// The entries of one hop: traced at that end, served on that port.
pub fn hop(entries: &[Entry], role: &str, port: Option<u16>) -> Vec<Entry> {
    entries
        .iter()
        .filter(|entry| entry.role == role && port.is_none_or(|port| entry.serves(port)))
        .cloned()
        .collect()
}

/// Asserts that every request of `records` is in `entries` once and as the client saw it, and
/// that nothing else is there. `entries` are those of one hop.
#[track_caller]
pub fn assert_same(records: &[Record], entries: &[Entry]) {
    let found = by_user_agent(entries);
    let mut wrong = String::new();
    for record in records {
        match found.get(record.user_agent.as_str()).map(Vec::as_slice) {
            None => {
                let _ = writeln!(wrong, "{}: not traced: {record:?}", record.user_agent);
            }
            Some([entry]) => differences(record, entry, &mut wrong),
            Some(many) => {
                let _ = writeln!(wrong, "{}: traced {} times", record.user_agent, many.len());
            }
        }
    }
    for user_agent in found.keys() {
        if !records.iter().any(|r| r.user_agent == *user_agent) {
            let _ = writeln!(wrong, "{user_agent:?}: traced, but no client sent it");
        }
    }
    assert!(wrong.is_empty(), "traced otherwise than sent:\n{wrong}");
}

fn differences(record: &Record, entry: &Entry, wrong: &mut String) {
    let mut check = |what: &str, client: &dyn std::fmt::Debug, traced: &dyn std::fmt::Debug| {
        let (client, traced) = (format!("{client:?}"), format!("{traced:?}"));
        if client != traced {
            let _ =
                writeln!(wrong, "{}: {what}: client {client}, traced {traced}", record.user_agent);
        }
    };
    check("path", &record.path, &entry.path);
    check("outcome", &record.outcome, &entry.outcome.as_str());
    let left = record.outcome == "client_disconnect";
    if left {
        check("phase", &record.phase, &entry.phase.as_deref());
        // The server may have written more than a client that left has read.
        let at_least = entry.token_events >= record.answer.token_events;
        check("token events at least", &true, &at_least);
    } else {
        check("status", &record.status, &entry.status);
        let answer = &record.answer;
        check("prompt tokens", &answer.prompt_tokens, &entry.prompt_tokens);
        check("output tokens", &record.output_tokens(), &entry.output_tokens);
        check("finish reason", &answer.finish_reason, &entry.finish_reason);
        check("events", &answer.events, &entry.events);
        check("token events", &answer.token_events, &entry.token_events);
        if record.outcome == "success" {
            check("model", &answer.model, &entry.model);
            check("stream", &record.stream, &entry.stream);
        }
    }
}

/// Asserts for every request whose both ends are ours that the traced times lie inside the
/// client's, and that the client's address is right. For the server's end of a direct connection:
/// there a request is read after it was sent and an answer written before it is read.
#[track_caller]
pub fn assert_direct(records: &[Record], entries: &[Entry]) {
    let found = by_user_agent(entries);
    for record in records {
        let Some([entry]) = found.get(record.user_agent.as_str()).map(Vec::as_slice) else {
            panic!("{}: not traced once", record.user_agent);
        };
        let who = &record.user_agent;
        let start = entry.start_ns.expect("every exchange has a start");
        let end = entry.end_ns.expect("every exchange has an end");
        assert!(record.send_ns <= start, "{who}: read before it was sent");
        assert!(start <= end, "{who}: ends before it starts");
        if let Some(local) = record.local {
            assert_eq!(entry.client, Some(local.to_string()), "{who}: client");
        }
        if let (Some(client), Some(traced)) = (record.first_byte_ns, entry.first_byte_ns) {
            assert!(traced <= client, "{who}: first byte {} ns late", traced - client);
        }
        if let (Some(client), Some(traced)) = (record.ttft(), entry.ttft()) {
            assert!(traced <= client, "{who}: TTFT {client} at the client, {traced} traced");
        }
    }
}

/// `client TTFT - traced TTFT` of every streamed request, nanoseconds, ascending.
pub fn ttft_overheads(records: &[Record], entries: &[Entry]) -> Vec<i64> {
    let found = by_user_agent(entries);
    let mut overheads: Vec<_> = records
        .iter()
        .filter_map(|record| {
            let entry = found.get(record.user_agent.as_str())?.first()?;
            Some(record.ttft()?.cast_signed() - entry.ttft()?.cast_signed())
        })
        .collect();
    overheads.sort_unstable();
    overheads
}

/// The value below which a share `q` of the sorted `values` lies.
pub fn quantile<T: Copy + Default>(values: &[T], q: f64) -> T {
    let last = values.len().saturating_sub(1);
    let at = (q * last as f64).round() as usize;
    values.get(at).copied().unwrap_or_default()
}

/// Asserts that the counters of one role say what the clients know; nobody of them left.
#[track_caller]
pub fn assert_metrics(metrics: &Metrics, role: &str, records: &[Record]) {
    let count = |outcome| {
        let of = records.iter().filter(|record| record.outcome == outcome);
        of.count() as f64
    };
    for outcome in ["success", "http_error", "stream_error"] {
        let labels = [("role", role), ("outcome", outcome)];
        let seen = metrics.sum("llm_requests_total", &labels);
        assert_eq!(seen, count(outcome), "llm_requests_total of {role}, {outcome}");
    }
    let sum = |of: fn(&Record) -> Option<u64>| records.iter().filter_map(of).sum::<u64>() as f64;
    for (kind, wanted) in [
        ("prompt", sum(|record| record.answer.prompt_tokens)),
        ("output", sum(Record::output_tokens)),
    ] {
        let seen = metrics.sum("llm_tokens_total", &[("role", role), ("type", kind)]);
        assert_eq!(seen, wanted, "llm_tokens_total of {role}, {kind}");
    }
    let labels = [("role", role)];
    let seen = metrics.sum("llm_stream_events_total", &labels);
    assert_eq!(seen, sum(|record| Some(record.answer.events)), "llm_stream_events_total");
    assert_eq!(metrics.sum("llm_requests_in_flight", &labels), 0.0, "llm_requests_in_flight");
    assert_eq!(metrics.sum("llmtrace_lost_records_total", &[]), 0.0, "lost records");
}
