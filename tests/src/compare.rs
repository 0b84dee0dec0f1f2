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
    let wrong = wrong(records, entries);
    assert!(wrong.is_empty(), "traced otherwise than sent:\n{wrong}");
}

/// In what `entries` are otherwise than [`assert_same`] wants them, a line each.
pub fn wrong(records: &[Record], entries: &[Entry]) -> String {
    let mut wrong = String::new();
    same(records, entries, &mut wrong);
    wrong
}

fn same(records: &[Record], entries: &[Entry], wrong: &mut String) {
    let found = by_user_agent(entries);
    for record in records {
        match found.get(record.user_agent.as_str()).map(Vec::as_slice) {
            None => {
                let _ = writeln!(wrong, "{}: not traced: {record:?}", record.user_agent);
            }
            Some([entry]) => differences(record, entry, wrong),
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
    // A sum of nothing is 0 too.
    assert!(metrics.has("llm_requests_in_flight") && metrics.has("llmtrace_lost_records_total"));
    assert_eq!(metrics.sum("llm_requests_in_flight", &labels), 0.0, "llm_requests_in_flight");
    assert_eq!(metrics.sum("llmtrace_lost_records_total", &[]), 0.0, "lost records");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(user_agent: &str) -> Record {
        let mut record = Record {
            user_agent: user_agent.into(),
            path: "/v1/completions".into(),
            stream: true,
            status: Some(200),
            outcome: "success",
            ..Record::default()
        };
        record.answer.push_stream(b"data: {\"model\":\"m\",\"choices\":[{\"text\":\"a\"}]}\n\n");
        record.answer.push_stream(b"data: [DONE]\n\n");
        record
    }

    fn entry(user_agent: &str) -> Entry {
        Entry {
            user_agent: Some(user_agent.into()),
            role: "server".into(),
            server: "s:80".into(),
            path: "/v1/completions".into(),
            stream: true,
            status: Some(200),
            outcome: "success".into(),
            model: Some("m".into()),
            output_tokens: Some(1),
            events: 2,
            token_events: 1,
            ..Entry::default()
        }
    }

    /// Whether `assert_same` lets these pass.
    fn passes(records: &[Record], entries: &[Entry]) -> bool {
        let mut wrong = String::new();
        same(records, entries, &mut wrong);
        wrong.is_empty()
    }

    #[test]
    fn only_the_same_passes() {
        assert!(passes(&[record("a"), record("b")], &[entry("b"), entry("a")]));
        assert!(!passes(&[record("a")], &[]), "not traced");
        assert!(!passes(&[record("a")], &[entry("a"), entry("a")]), "twice");
        assert!(!passes(&[record("a")], &[entry("a"), entry("b")]), "not sent");
        let changes: [fn(&mut Entry); 8] = [
            |entry| entry.outcome = "incomplete".into(),
            |entry| entry.status = Some(500),
            |entry| entry.events = 3,
            |entry| entry.token_events = 2,
            |entry| entry.output_tokens = None,
            |entry| entry.prompt_tokens = Some(0),
            |entry| entry.finish_reason = Some("stop".into()),
            |entry| entry.model = None,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut entry = entry("a");
            change(&mut entry);
            assert!(!passes(&[record("a")], &[entry]), "change {n}");
        }
    }

    #[test]
    fn hops_are_told_apart() {
        let mut client = entry("a");
        client.role = "client".into();
        let entries = [entry("a"), client];
        assert_eq!(hop(&entries, "server", Some(80)).len(), 1);
        assert_eq!(hop(&entries, "client", None).len(), 1);
        assert_eq!(hop(&entries, "server", Some(8)).len(), 0);
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(&[1, 2, 3, 4, 5], 0.5), 3);
        assert_eq!(quantile(&[1, 2, 3, 4, 5], 0.99), 5);
        assert_eq!(quantile::<u64>(&[], 0.5), 0);
    }
}
