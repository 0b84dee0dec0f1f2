//! Of no capture, over no protocol, does a redacted recording hold a word of people: one is planted in
//! all of them, in prompts, answers and secrets, and looked for in every coding that it may hide in. And
//! what is measured of the recording is what was measured of the traffic.

mod captures;

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use captures::{Capture, Leaves};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use httlib_hpack::Encoder;
use llmtrace::http::h2::PREFACE;
use llmtrace::http::h2::hpack::huffman;
use llmtrace::http::{Event, RequestParser, ResponseParser};
use llmtrace::llm::{Finished, Peer, Role, Settings};
use llmtrace::pipeline::{Pipeline, Sink};
use llmtrace::record::{Data, Direction, EndReason, Position, Record, SockId};
use llmtrace::recording::redact::{Item, Redactor};

const ID: SockId = SockId { addr: 0xff00, generation: 1 };
const MS: u64 = 1_000_000;
/// Every two characters of a text become these, which are in no capture.
const CANARY: &[u8] = b"zq";
/// Keys whose strings are texts of people or models.
const TEXTS: &[&str] = &[
    "arguments",
    "completion",
    "content",
    "delta",
    "generated_text",
    "generation",
    "input",
    "inputs",
    "instructions",
    "message",
    "outputText",
    "output_text",
    "partial_json",
    "prompt",
    "query",
    "reasoning",
    "reasoning_content",
    "response",
    "system",
    "text",
    "text_input",
    "text_output",
    "thinking",
    "user",
];

/// Puts the canary into the texts of some JSON, of whatever framing; it keeps its length.
fn plant(bytes: &mut [u8]) {
    for key in TEXTS {
        for begin in [format!("\"{key}\":\""), format!("\"{key}\": \"")] {
            let found: Vec<usize> = memchr::memmem::find_iter(bytes, begin.as_bytes()).collect();
            for at in found {
                let mut at = at + begin.len();
                while at + 1 < bytes.len() {
                    let two = &mut bytes[at..at + 2];
                    let plain = |b: &u8| b.is_ascii_alphanumeric() || b" .,!?'".contains(b);
                    if !two.iter().all(plain) {
                        // To the end of the string, but for what is escaped.
                        if two[0] == b'"' || two[0] == b'\\' {
                            break;
                        }
                        at += 1;
                        continue;
                    }
                    two.copy_from_slice(CANARY);
                    at += 2;
                }
            }
        }
    }
}

/// What a client and a server send, and when, and who leaves.
struct Traffic {
    calls: Vec<(u64, Direction, Vec<u8>)>,
    leaves: Leaves,
}

/// With a canary in it, of which there is at least that of the head.
fn planted(capture: &Capture) -> Capture {
    let mut capture = capture.clone();
    let head = memchr::memmem::find(&capture.request, b"\r\n").expect("a head") + 2;
    let secret = b"Authorization: Bearer zqzqzqzqzq\r\nX-Api-Key: zqzqzqzqzq\r\n";
    capture.request.splice(head..head, secret.iter().copied());
    plant(&mut capture.request);
    for (_, bytes) in &mut capture.writes {
        // A frame of an AWS event stream has a checksum.
        if memchr::memmem::find(bytes, b":message-type").is_none() {
            plant(bytes);
        }
    }
    capture
}

fn http1(capture: &Capture) -> Traffic {
    let mut t = 1_000 * MS;
    let mut calls = vec![(t, Direction::Read, capture.request.clone())];
    for (after, bytes) in &capture.writes {
        t += after * MS;
        calls.push((t, Direction::Write, bytes.clone()));
    }
    Traffic { calls, leaves: capture.leaves }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
    bytes
}

/// The same as one stream of HTTP/2.
fn http2(capture: &Capture) -> Traffic {
    let flags = Encoder::HUFFMAN_VALUE | Encoder::WITH_INDEXING | Encoder::BEST_FORMAT;
    let block = |fields: &[(&str, &str)]| {
        let (mut encoder, mut block) = (Encoder::default(), Vec::new());
        for (name, value) in fields {
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), flags);
            encoder.encode(field, &mut block).expect("a field");
        }
        block
    };
    let mut asked = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    RequestParser::new().push(&capture.request, |event| match event {
        Event::Head(head) => {
            let secret = ("authorization", "Bearer zqzqzqzqzq");
            let kind = head.content_type.unwrap_or("application/json");
            let fields =
                [(":method", head.method), (":path", head.target), ("content-type", kind), secret];
            asked.extend(frame(1, 4, &block(&fields)));
        }
        Event::Body(bytes) => asked.extend(frame(0, 0, bytes)),
        Event::End => asked.extend(frame(0, 1, b"")),
        _ => {}
    });
    let mut t = 1_000 * MS;
    let mut calls = vec![(t, Direction::Read, asked)];
    let mut parser = ResponseParser::new();
    let mut first = true;
    for (after, bytes) in &capture.writes {
        t += after * MS;
        let mut said = Vec::new();
        if std::mem::take(&mut first) {
            said.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        }
        parser.push(bytes, |event| match event {
            Event::Head(head) => {
                let status = head.status.to_string();
                let kind = head.content_type.unwrap_or("application/json");
                let fields =
                    [(":status", &*status), ("content-type", kind), ("set-cookie", "zqzqzqzqzq")];
                said.extend(frame(1, 4, &block(&fields)));
            }
            Event::Body(bytes) => said.extend(frame(0, 0, bytes)),
            Event::End => said.extend(frame(0, 1, b"")),
            _ => {}
        });
        calls.push((t, Direction::Write, said));
    }
    Traffic { calls, leaves: capture.leaves }
}

/// Over HTTP/1, with a response that is compressed event by event.
fn compressed(capture: &Capture) -> Traffic {
    let mut parser = ResponseParser::new();
    let mut t = 1_000 * MS;
    let mut calls = vec![(t, Direction::Read, capture.request.clone())];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    for (after, bytes) in &capture.writes {
        t += after * MS;
        let mut said = Vec::new();
        parser.push(bytes, |event| match event {
            Event::Head(head) => {
                let kind = head.content_type.unwrap_or("application/json");
                said.extend_from_slice(format!("HTTP/1.1 {} OK\r\nContent-Type: {kind}\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n", head.status).as_bytes());
            }
            Event::Body(bytes) => gzip.write_all(bytes).expect("memory"),
            _ => {}
        });
        gzip.flush().expect("memory");
        said.append(gzip.get_mut());
        calls.push((t, Direction::Write, said));
    }
    Traffic { calls, leaves: Leaves::Server }
}

#[derive(Default)]
struct Log(Vec<Finished>);

impl Sink for Log {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}

    fn finished(&mut self, f: &Finished, _: &Peer) {
        self.0.push(f.clone());
    }
}

/// The bytes that come out of a redaction, and what is measured before and after it.
fn redact(traffic: &Traffic, size: usize) -> (Vec<u8>, Vec<Finished>, Vec<Finished>) {
    let settings = Settings { token_times: true, ..Settings::default() };
    let (mut before, mut after) = (Pipeline::new(settings.clone()), Pipeline::new(settings));
    let (mut log_before, mut log_after) = (Log::default(), Log::default());
    let (mut redactor, mut out) = (Redactor::default(), Vec::new());
    let mut take = |item: &Item<'_>| match item {
        Item::Record(record) => {
            if let Record::Data(data) = record {
                out.extend_from_slice(data.bytes);
            }
            after.push(record, &mut log_after);
        }
        Item::Tick { now, .. } => after.tick(*now, &mut log_after),
        Item::Name(..) => {}
    };
    let (mut at, mut fresh, mut t) = ([100_u32, 200], true, 0);
    for (when, direction, bytes) in &traffic.calls {
        t = *when;
        for piece in bytes.chunks(size) {
            let at = &mut at[*direction as usize];
            let record = Record::Data(Data {
                id: ID,
                pid: 7,
                tid: 7,
                direction: *direction,
                enter: t,
                exit: t,
                position: Position::Seq32(*at),
                len: piece.len() as u32,
                bytes: piece,
                fresh: std::mem::take(&mut fresh),
                reset: false,
                more: false,
            });
            *at = at.wrapping_add(piece.len() as u32);
            before.push(&record, &mut log_before);
            redactor.push(Item::Record(record), &mut take);
        }
    }
    let reason = match traffic.leaves {
        Leaves::Nobody => None,
        Leaves::Client => Some(EndReason::PeerReset),
        Leaves::Server => Some(EndReason::LocalFin),
    };
    if let Some(reason) = reason {
        let end = Record::End { id: ID, pid: 7, at: t + 3 * MS, reason, reached: None };
        before.push(&end, &mut log_before);
        redactor.push(Item::Record(end), &mut take);
    }
    for n in 1..4 {
        let now = t + n * 10_000 * MS;
        before.tick(now, &mut log_before);
        redactor.push(Item::Tick { now, lost: 0, last: false }, &mut take);
    }
    redactor.finish(&mut take);
    (out, log_before.0, log_after.0)
}

fn bits(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:08b}")).collect()
}

/// Whether the canary is in some bytes: as it is, by Huffman's code, or compressed.
fn has_canary(bytes: &[u8]) -> bool {
    let four = CANARY.repeat(4);
    let coded = bits(&huffman::hide(&four, &[false; 8]));
    let coded = coded.trim_end_matches('1');
    let plain = |bytes: &[u8]| memchr::memmem::find(bytes, CANARY).is_some();
    let unzipped = memchr::memmem::find_iter(bytes, b"\x1f\x8b\x08").any(|at| {
        let mut out = Vec::new();
        // As far as it goes.
        let mut gzip = MultiGzDecoder::new(&bytes[at..]);
        let mut piece = [0; 512];
        while let Ok(n @ 1..) = gzip.read(&mut piece) {
            out.extend_from_slice(&piece[..n]);
        }
        plain(&out)
    });
    plain(bytes) || bits(bytes).contains(coded) || unzipped
}

/// Whether bodies are filled whole, as they are no JSON.
fn is_filled(capture: &Capture) -> bool {
    let holds =
        |bytes: &[u8], what: &str| String::from_utf8_lossy(bytes).to_lowercase().contains(what);
    holds(&capture.request, "multipart/form-data")
        || capture.writes.iter().any(|(_, bytes)| holds(bytes, "application/vnd.amazon"))
}

#[test]
fn no_word_stays_in_any_capture_over_any_protocol() {
    let mut texts = 0;
    for capture in captures::all() {
        assert!(!has_canary(&capture.request), "{}", capture.name);
        let capture = planted(&capture);
        let said: Vec<u8> = capture.writes.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        texts += usize::from(has_canary(&said));
        let kinds = [
            ("http1", http1(&capture)),
            ("http2", http2(&capture)),
            ("gzip", compressed(&capture)),
        ];
        for (kind, traffic) in kinds {
            let all: Vec<u8> = traffic.calls.iter().flat_map(|(.., bytes)| bytes.clone()).collect();
            assert!(has_canary(&all), "{} over {kind}: nothing to find", capture.name);
            for size in [usize::MAX, 11] {
                let (out, before, after) = redact(&traffic, size);
                assert_eq!(out.len(), all.len());
                assert!(
                    !has_canary(&out),
                    "{} over {kind}: {}",
                    capture.name,
                    String::from_utf8_lossy(&out)
                );
                if kind == "gzip" || is_filled(&capture) {
                    continue;
                }
                assert_eq!(
                    format!("{before:?}"),
                    format!("{after:?}"),
                    "{} over {kind}",
                    capture.name
                );
            }
        }
    }
    assert!(texts >= 50, "the canary is in {texts} responses only");
}

/// What is lost with a body that is compressed, as docs/recordings.md has it: what it says, and nothing
/// else.
#[test]
fn of_a_compressed_body_the_head_and_the_sizes_stay() {
    let mut all = captures::all();
    all.retain(|capture| capture.name.starts_with("openai/"));
    let mut compared = 0;
    for capture in all {
        let (_, before, after) = redact(&compressed(&capture), usize::MAX);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.status, &before.method), (after.status, &after.method));
            assert_eq!((before.first_byte, before.end), (after.first_byte, after.end));
            assert_eq!((after.token_events, after.first_token), (0, None));
            compared += usize::from(before.token_events > 0);
        }
    }
    assert!(compared > 5, "{compared}");
}
