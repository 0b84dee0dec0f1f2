//! Every capture through the whole pipeline: what the exchange says, and what a scrape shows. And
//! however its bytes are cut, it says the same.
//!
//! The results are in tests/captures beside the captures; `INSTA_UPDATE=always cargo test -p llmtrace
//! --test dialects` writes them anew.

mod captures;

use std::fmt::Write as _;
use std::sync::Arc;

use captures::{Capture, Leaves};
use llmtrace::llm::{Finished, Ns, Peer, Role, Settings};
use llmtrace::metrics::Metrics;
use llmtrace::pipeline::{Pipeline, Sink};
use llmtrace::record::{Data, Direction, EndReason, Position, Record, SockId};
use llmtrace::recording::redact::{Item, Redactor};
use proptest::prelude::*;

const MS: Ns = 1_000_000;

struct Log {
    metrics: Metrics,
    finished: Vec<Finished>,
    started: usize,
}

impl Sink for Log {
    fn started(&mut self, role: Role, server: &Arc<str>, endpoint: &'static str) {
        self.metrics.started(0, role, server, endpoint);
        self.started += 1;
    }

    fn finished(&mut self, f: &Finished, peer: &Peer) {
        self.metrics.finished(f, peer);
        self.finished.push(f.clone());
    }
}

/// One connection, its bytes cut into pieces by `cut`, which is given what is left.
struct Wire {
    pipeline: Pipeline,
    log: Log,
    /// What the pipeline sees has gone through it.
    redactor: Option<Redactor>,
    t: Ns,
    at: [u32; 2],
    fresh: bool,
}

impl Wire {
    fn new() -> Self {
        let metrics = Metrics::default();
        let settings = Settings {
            itl_bounds: Metrics::itl_bounds(),
            token_times: false,
            ..Settings::default()
        };
        Self {
            pipeline: Pipeline::new(settings),
            log: Log { metrics, finished: Vec::new(), started: 0 },
            redactor: None,
            t: 1_000 * MS,
            at: [100, 200],
            fresh: true,
        }
    }

    fn send(
        &mut self,
        direction: Direction,
        mut bytes: &[u8],
        cut: &mut dyn FnMut(usize) -> usize,
    ) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(cut(bytes.len()).clamp(1, bytes.len()));
            bytes = rest;
            let at = &mut self.at[direction as usize];
            let data = Data {
                id: SockId { addr: 0xff00, generation: 1 },
                pid: 7,
                tid: 7,
                direction,
                enter: self.t,
                exit: self.t,
                position: Position::Seq32(*at),
                len: piece.len() as u32,
                bytes: piece,
                fresh: std::mem::take(&mut self.fresh),
                reset: false,
                more: false,
            };
            *at = at.wrapping_add(piece.len() as u32);
            self.push(Record::Data(data));
        }
    }

    fn push(&mut self, record: Record<'_>) {
        let Self { pipeline, log, redactor, .. } = self;
        match redactor {
            None => pipeline.push(&record, log),
            Some(redactor) => redactor.push(Item::Record(record), |item| {
                if let Item::Record(record) = item {
                    pipeline.push(record, log);
                }
            }),
        }
    }

    fn run(capture: &Capture, cut: &mut dyn FnMut(usize) -> usize) -> Self {
        Self::new().drive(capture, cut)
    }

    fn redacted(capture: &Capture) -> Self {
        let redactor = Some(Redactor::default());
        Self { redactor, ..Self::new() }.drive(capture, &mut |left| left)
    }

    fn drive(mut self, capture: &Capture, cut: &mut dyn FnMut(usize) -> usize) -> Self {
        let wire = &mut self;
        wire.send(Direction::Read, &capture.request, cut);
        for (after, bytes) in &capture.writes {
            wire.t += after * MS;
            wire.send(Direction::Write, bytes, cut);
        }
        let reason = match capture.leaves {
            Leaves::Nobody => None,
            Leaves::Client => Some(EndReason::PeerReset),
            Leaves::Server => Some(EndReason::LocalFin),
        };
        if let Some(reason) = reason {
            wire.t += 3 * MS;
            let id = SockId { addr: 0xff00, generation: 1 };
            let end = Record::End { id, pid: 7, at: wire.t, reason, reached: None };
            wire.push(end);
            for _ in 0..3 {
                wire.t += 10_000 * MS;
                wire.pipeline.tick(wire.t, &mut wire.log);
            }
        }
        self
    }

    /// What is to be compared.
    fn result(&self) -> String {
        let mut out = String::new();
        assert_eq!(self.log.started, self.log.finished.len(), "what begins ends");
        for f in &self.log.finished {
            describe(f, &mut out);
        }
        if self.log.finished.is_empty() {
            out.push_str("not a call of an LLM\n");
        }
        for (group, reason, n) in self.pipeline.counts() {
            if n > 0 && ["resyncs", "incomplete"].contains(&group) && reason != "joined" {
                let _ = writeln!(out, "{group} {reason} {n}");
            }
        }
        let text = self.log.metrics.encode_text();
        // An answer that is not empty is what there mostly is.
        let matters = |line: &&str| {
            let empty = line.starts_with("llm_empty_answers_total{");
            line.starts_with("llm_")
                && !line.contains("_bucket{")
                && !(empty && line.ends_with(" 0"))
        };
        let mut lines: Vec<&str> = text.lines().filter(matters).collect();
        lines.sort_by_key(|line| {
            let (name, rest) = line.split_once('{').unwrap_or((line, ""));
            let family = name.strip_suffix("_sum").or(name.strip_suffix("_count"));
            (family.unwrap_or(name), rest.rsplit_once(' ').map_or(rest, |(labels, _)| labels))
        });
        for line in lines {
            // These are the same everywhere.
            let line = line.replace(r#"role="server","#, "").replace(r#"server="unknown","#, "");
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

fn describe(f: &Finished, out: &mut String) {
    let since = |t: Option<Ns>| t.map(|t| (t - f.start) / MS);
    let _ = write!(
        out,
        "\
{} {} ({}), model {:?}, stream {}
asked {:?}
{:?}, status {:?}, finish {:?}
ms: first byte {:?}, first token {:?}, last token {:?}, end {:?}, stall {:?}
events {}, with tokens {}, in the first {}, source {:?}
usage {:?}, output {:?}
gaps {:?}
",
        f.method,
        f.endpoint,
        f.operation.name(),
        f.model,
        f.stream,
        f.asked,
        f.outcome,
        f.status,
        f.finish_reason,
        since(f.first_byte),
        since(f.first_token),
        since(f.last_token),
        (f.end - f.start) / MS,
        f.max_stall.map(|t| t / MS),
        f.events,
        f.token_events,
        f.first_tokens,
        f.itl_source,
        f.usage,
        f.output_tokens(),
        f.itl.as_ref().map(|itl| {
            let bounds = itl.bounds.iter().map(|b| b / MS).map(Some).chain([None]);
            bounds.zip(&itl.counts).filter(|(_, n)| **n > 0).collect::<Vec<_>>()
        }),
    );
}

#[test]
fn snapshots() {
    for capture in captures::all() {
        let result = Wire::run(&capture, &mut |left| left).result();
        let mut settings = insta::Settings::clone_current();
        let (dialect, name) = capture.name.split_once('/').expect("a folder");
        settings.set_snapshot_path(captures::folder().join(dialect));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, result));
    }
}

/// Of recordings without prompts and answers a replay says the same, but where bodies are filled whole
/// because they are no JSON: binary frames and forms.
#[test]
fn redacted() {
    let mut differ = String::new();
    for capture in captures::all() {
        let text = String::from_utf8_lossy(&capture.request).to_lowercase();
        let said = capture.writes.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
        let said = String::from_utf8_lossy(&said).to_lowercase();
        let filled =
            text.contains("multipart/form-data") || said.contains("application/vnd.amazon");
        let (whole, redacted) =
            (Wire::run(&capture, &mut |left| left).result(), Wire::redacted(&capture).result());
        if filled {
            assert_ne!(redacted, whole, "{}", capture.name);
        } else {
            for (redacted, whole) in redacted.lines().zip(whole.lines()) {
                if redacted != whole {
                    let _ = writeln!(differ, "{}\n  {redacted}\n  {whole}", capture.name);
                }
            }
            assert_eq!(redacted.lines().count(), whole.lines().count(), "{}", capture.name);
        }
    }
    assert!(differ.is_empty(), "{differ}");
}

#[test]
fn one_byte_at_a_time() {
    for capture in captures::all() {
        let whole = Wire::run(&capture, &mut |left| left).result();
        assert_eq!(Wire::run(&capture, &mut |_| 1).result(), whole, "{}", capture.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_cut(
        which in any::<prop::sample::Index>(),
        sizes in prop::collection::vec(1usize..200, 1..20),
    ) {
        let mut captures = captures::all();
        let capture = captures.swap_remove(which.index(captures.len()));
        let whole = Wire::run(&capture, &mut |left| left).result();
        let mut next = sizes.iter().cycle();
        let cut = Wire::run(&capture, &mut |_| *next.next().expect("a cycle")).result();
        prop_assert_eq!(cut, whole, "{}", capture.name);
    }

    /// What was written is lost, comes twice or is cut short: the exchange still ends, once.
    #[test]
    fn any_harm(
        which in any::<prop::sample::Index>(),
        harm in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4), 1..4),
    ) {
        let mut captures = captures::all();
        let mut capture = captures.swap_remove(which.index(captures.len()));
        for (at, what) in harm {
            let at = at.index(capture.writes.len());
            let (after, bytes) = capture.writes[at].clone();
            match what {
                0 => drop(capture.writes.remove(at)),
                1 => capture.writes.insert(at, (after, bytes)),
                2 => capture.writes[at].1.truncate(bytes.len() / 2),
                _ => capture.request.truncate(capture.request.len() - at),
            }
            if capture.writes.is_empty() {
                break;
            }
        }
        capture.leaves = Leaves::Server;
        Wire::run(&capture, &mut |left| left).result();
    }
}
