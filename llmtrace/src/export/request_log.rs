//! One JSON line per finished exchange; nothing of prompt or answer, unless it was asked for.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

use crate::llm::{Finished, Ns, Peer, Text};
use crate::metrics::{Assessed, Judged, labels};

/// Writes each line with one call, so that lines of several writers do not mix.
#[derive(Debug)]
pub struct RequestLog<W: Write> {
    out: W,
    wall_offset: i64,
    line: Vec<u8>,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Wall time of `end_ns`.
    time: &'a str,
    start_ns: Ns,
    request_end_ns: Option<Ns>,
    first_byte_ns: Option<Ns>,
    first_token_ns: Option<Ns>,
    last_token_ns: Option<Ns>,
    end_ns: Ns,
    role: &'static str,
    server: &'a str,
    method: &'a str,
    endpoint: &'a str,
    path: &'a str,
    status: Option<u16>,
    stream: bool,
    outcome: &'static str,
    phase: Option<&'static str>,
    model: Option<&'a str>,
    finish_reason: Option<&'a str>,
    prompt_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    output_source: Option<&'static str>,
    events: u64,
    token_events: u64,
    queue_ns: Option<Ns>,
    backpressure_ns: Option<Ns>,
    user_agent: Option<&'a str>,
    client: Option<&'a str>,
    pid: u32,
    tls: bool,
    duration_s: f64,
    ttft_s: Option<f64>,
    tpot_s: Option<f64>,
    request_bytes: u64,
    response_bytes: u64,
    trace_id: Option<&'a str>,
    /// In the currency of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    /// Of models with an SLO; null where it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    slo: Option<Slo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_times_ns: Option<&'a [Ns]>,
    #[serde(flatten)]
    said: Option<Said<'a>>,
}

/// What was met.
#[derive(Serialize)]
struct Slo {
    met: Option<bool>,
    ttft: Option<bool>,
    tpot: Option<bool>,
    e2e: Option<bool>,
}

impl Slo {
    fn of(judged: Judged) -> Option<Self> {
        let Judged { all: met, ttft, tpot, e2e } = judged;
        (judged != Judged::default()).then_some(Self { met, ttft, tpot, e2e })
    }
}

/// The text of prompt and answer.
#[derive(Serialize)]
struct Said<'a> {
    prompt: Cow<'a, str>,
    prompt_truncated: bool,
    completion: Cow<'a, str>,
    completion_truncated: bool,
}

impl<W: Write> RequestLog<W> {
    /// `wall_offset`: nanoseconds since the Unix epoch, less those of `CLOCK_MONOTONIC`.
    pub fn new(out: W, wall_offset: i64) -> Self {
        Self { out, wall_offset, line: Vec::new() }
    }

    /// After the wall clock was set.
    pub fn set_wall_offset(&mut self, wall_offset: i64) {
        self.wall_offset = wall_offset;
    }

    pub fn write(&mut self, f: &Finished, peer: &Peer, assessed: &Assessed) -> io::Result<()> {
        let time = rfc3339(i128::from(f.end) + i128::from(self.wall_offset));
        let output = f.output_tokens();
        let said = f.payload.as_ref().map(|payload| Said {
            prompt: text(&payload.prompt),
            prompt_truncated: payload.prompt.truncated,
            completion: text(&payload.completion),
            completion_truncated: payload.completion.truncated,
        });
        let line = Line {
            time: &time,
            start_ns: f.start,
            request_end_ns: f.request_end,
            first_byte_ns: f.first_byte,
            first_token_ns: f.first_token,
            last_token_ns: f.last_token,
            end_ns: f.end,
            role: labels::role(f.role),
            server: &peer.server,
            method: &f.method,
            endpoint: f.endpoint,
            path: &f.path,
            status: f.status,
            stream: f.stream,
            outcome: labels::outcome(f.outcome),
            phase: labels::phase(f.outcome),
            model: f.model.as_deref(),
            finish_reason: f.finish_reason.as_deref(),
            prompt_tokens: f.usage.prompt,
            output_tokens: output.map(|(n, _)| n),
            cached_tokens: f.usage.cached,
            reasoning_tokens: f.usage.reasoning,
            output_source: output.map(|(_, source)| labels::source(source)),
            events: f.events,
            token_events: f.token_events,
            queue_ns: f.queued,
            backpressure_ns: f.blocked,
            user_agent: f.user_agent.as_deref(),
            client: Some(&*peer.client).filter(|c| !c.is_empty()),
            pid: peer.pid,
            tls: peer.tls,
            duration_s: seconds(f.end.saturating_sub(f.start)),
            ttft_s: f.first_token.map(|t| seconds(t.saturating_sub(f.start))),
            tpot_s: f.per_output_token().map(seconds),
            request_bytes: f.request_bytes,
            response_bytes: f.response_bytes,
            trace_id: f.trace_id(),
            cost: assessed.cost,
            slo: Slo::of(assessed.slo),
            repetition: f.repetition,
            token_times_ns: f.token_times.as_deref(),
            said,
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line)?;
        self.line.push(b'\n');
        let written = self.out.write_all(&self.line);
        // Token times make long lines: not to be kept.
        self.line.shrink_to(4096);
        written
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub fn into_inner(self) -> W {
        self.out
    }
}

fn seconds(ns: Ns) -> f64 {
    ns as f64 / 1e9
}

fn text(text: &Text) -> Cow<'_, str> {
    String::from_utf8_lossy(&text.bytes)
}

/// UTC with milliseconds; times that are out of range are clamped to the years 1970 to 9999.
pub fn rfc3339(ns: i128) -> String {
    const LAST: i128 = 253_402_300_799_999;
    let ms = (ns.div_euclid(1_000_000)).clamp(0, LAST) as u64;
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days in eras of 400 years that begin on 1 March, as in Hinnant's `civil_from_days`.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (s, ms) = (in_day / 1_000, in_day % 1_000);
    let (h, m, s) = (s / 3_600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{date:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::llm::{Operation, Outcome, Payload, Phase, Role, Usage};

    fn finished() -> Finished {
        Finished {
            role: Role::Server,
            method: "POST".into(),
            endpoint: "/v1/completions",
            path: "/proxy/v1/completions".into(),
            operation: Operation::Completion,
            model: Some("m\"\n".into()),
            stream: true,
            status: Some(200),
            outcome: Outcome::ClientDisconnect(Phase::MidStream),
            finish_reason: None,
            start: 1_000_000,
            request_end: Some(1_500_000),
            first_byte: Some(2_000_000),
            first_token: Some(3_000_000),
            last_token: Some(4_000_000),
            end: 5_000_000,
            events: 3,
            token_events: 2,
            first_tokens: 1,
            usage: Usage { prompt: Some(7), ..Usage::default() },
            max_stall: Some(1_000_000),
            queued: Some(12_000),
            blocked: Some(0),
            request_bytes: 27,
            response_bytes: 10,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            user_agent: Some("curl/8".into()),
            ..Finished::new(Role::Server, 0)
        }
    }

    fn peer() -> Peer {
        Peer { server: "s:1".into(), client: "127.0.0.1:9".into(), pid: 42, tls: true }
    }

    #[test]
    fn golden() {
        let mut log = RequestLog::new(Vec::new(), 1_700_000_000_000_000_000);
        log.write(&finished(), &peer(), &Assessed::default()).unwrap();
        let line = String::from_utf8(log.into_inner()).unwrap();
        assert_eq!(
            line,
            concat!(
                r#"{"time":"2023-11-14T22:13:20.005Z","start_ns":1000000,"request_end_ns":1500000,"#,
                r#""first_byte_ns":2000000,"first_token_ns":3000000,"last_token_ns":4000000,"#,
                r#""end_ns":5000000,"role":"server","server":"s:1","method":"POST","#,
                r#""endpoint":"/v1/completions","path":"/proxy/v1/completions","status":200,"#,
                r#""stream":true,"outcome":"client_disconnect","phase":"mid_stream","#,
                r#""model":"m\"\n","finish_reason":null,"prompt_tokens":7,"output_tokens":2,"#,
                r#""cached_tokens":null,"reasoning_tokens":null,"output_source":"events","#,
                r#""events":3,"token_events":2,"queue_ns":12000,"backpressure_ns":0,"#,
                r#""user_agent":"curl/8","client":"127.0.0.1:9","pid":42,"tls":true,"#,
                r#""duration_s":0.004,"ttft_s":0.002,"tpot_s":0.001,"request_bytes":27,"#,
                r#""response_bytes":10,"trace_id":"0af7651916cd43dd8448eb211c80319c"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn token_times_only_if_kept() {
        let mut log = RequestLog::new(Vec::new(), 0);
        let f = Finished {
            token_times: Some(vec![3, 4]),
            status: None,
            outcome: Outcome::Timeout,
            ..finished()
        };
        log.write(&f, &Peer { client: "".into(), ..peer() }, &Assessed::default()).unwrap();
        log.flush().unwrap();
        let v: serde_json::Value = serde_json::from_slice(&log.into_inner()).unwrap();
        assert_eq!(v["token_times_ns"], serde_json::json!([3, 4]));
        assert!(v["status"].is_null() && v["phase"].is_null() && v["client"].is_null());
    }

    #[test]
    fn what_was_asked_for() {
        let mut log = RequestLog::new(Vec::new(), 0);
        let payload = Payload {
            prompt: Text { bytes: b"{\"prompt\":\"x\xff\"}".to_vec(), truncated: false },
            completion: Text { bytes: b"Hi".to_vec(), truncated: true },
        };
        let f = Finished {
            payload: Some(Box::new(payload)),
            repetition: Some(0.25),
            traceparent: Some("00-00000000000000000000000000000000-b7ad6b7169203331-01".into()),
            ..finished()
        };
        let slo = Judged { ttft: Some(true), all: Some(false), e2e: Some(false), tpot: None };
        log.write(&f, &peer(), &Assessed { slo, cost: Some(0.5) }).unwrap();
        let v: serde_json::Value = serde_json::from_slice(&log.into_inner()).unwrap();
        let slo = serde_json::json!({"met": false, "ttft": true, "tpot": null, "e2e": false});
        assert_eq!((&v["slo"], v["cost"].as_f64()), (&slo, Some(0.5)));
        assert_eq!(v["prompt"], "{\"prompt\":\"x\u{fffd}\"}");
        assert_eq!(
            (&v["completion"], v["prompt_truncated"].as_bool()),
            (&"Hi".into(), Some(false))
        );
        assert_eq!(v["completion_truncated"], true);
        assert_eq!(v["repetition"], 0.25);
        assert!(v["trace_id"].is_null(), "a trace id of zeros is none");
    }

    /// The names of an object's fields, those of objects in it included.
    fn names(of: &serde_json::Map<String, serde_json::Value>, before: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (name, value) in of {
            names.insert(format!("{before}{name}"));
            if let Some(inner) = value.as_object() {
                names.extend(self::names(inner, &format!("{before}{name}.")));
            }
        }
        names
    }

    #[test]
    fn docs_have_every_field_and_no_other() {
        let write = |f: &Finished, assessed: &Assessed| {
            let mut log = RequestLog::new(Vec::new(), 0);
            log.write(f, &peer(), assessed).unwrap();
            let line: serde_json::Value = serde_json::from_slice(&log.into_inner()).unwrap();
            names(line.as_object().unwrap(), "")
        };
        let everything = Finished {
            payload: Some(Box::default()),
            repetition: Some(0.0),
            token_times: Some(Vec::new()),
            ..finished()
        };
        let slo = Judged { all: Some(true), ..Judged::default() };
        let written = write(&everything, &Assessed { slo, cost: Some(0.0) });
        let always = write(&finished(), &Assessed::default());

        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/request-log.md");
        let docs = std::fs::read_to_string(path).unwrap();
        let (_, table) = docs.split_once("<!-- fields: begin -->").unwrap();
        let (table, _) = table.split_once("<!-- fields: end -->").unwrap();
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `")?.split_once('`'));
        let (mut named, mut optional) = (BTreeSet::new(), BTreeSet::new());
        for (name, rest) in rows {
            assert!(named.insert(name.to_owned()), "{name} is there twice");
            if rest.starts_with(" \\*") {
                optional.insert(name.to_owned());
            }
        }
        assert_eq!(named, written, "docs/request-log.md");
        let left_out = written.difference(&always).filter(|name| !name.contains('.'));
        assert_eq!(optional, left_out.cloned().collect(), "docs/request-log.md: marked with \\*");
    }

    #[test]
    fn dates() {
        let at = |s: i128| rfc3339(s * 1_000_000_000);
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(951_868_799), "2000-02-29T23:59:59.000Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00.000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(at(-5), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i128::MAX), "9999-12-31T23:59:59.999Z");
    }
}
