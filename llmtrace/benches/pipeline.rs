//! Speed of the whole path on one core: ring records of 64 connections with a stream of 500 events
//! each, one event a record as servers write them, to finished exchanges.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use llmtrace::llm::{Finished, Peer, Role, Settings};
use llmtrace::pipeline::{Pipeline, Sink};
use llmtrace::record::{Data, Direction, Position, Record, SockId};

const CONNECTIONS: u64 = 64;
const EVENTS: usize = 500;
const ROUNDS: usize = 15;

#[derive(Default)]
struct Count(u64, u64);

impl Sink for Count {
    fn started(&mut self, _: Role, _: &Arc<str>, _: &'static str) {}

    fn finished(&mut self, f: &Finished, _: &Peer) {
        self.0 += 1;
        self.1 += f.token_events;
    }
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8).into_bytes()
}

/// The calls of one connection.
fn calls(opaque: bool) -> Vec<(Direction, Vec<u8>)> {
    let body = r#"{"model":"m","stream":true}"#;
    let n = body.len();
    // An exchange that is no call of an LLM shows what everything below the parsing of events costs.
    let path = if opaque { "/other" } else { "/v1/chat/completions" };
    let request = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {n}\r\n\r\n{body}");
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut calls = vec![(Direction::Read, request.into_bytes()), (Direction::Write, head.into())];
    for _ in 0..EVENTS {
        let event = r#"{"id":"chatcmpl-5f0c8a3de2b14c4f9a8e7d6c5b4a3928","object":"chat.completion.chunk","created":1700000000,"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
        calls.push((Direction::Write, chunk(event)));
    }
    calls.push((Direction::Write, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n".to_vec()));
    calls
}

fn round(calls: &[(Direction, Vec<u8>)], settings: &Settings) -> (f64, u64, u64, Count) {
    let mut at = [0u32; 2];
    let mut records = Vec::new();
    let mut bytes = 0;
    for (i, (direction, call)) in calls.iter().enumerate() {
        for c in 0..CONNECTIONS {
            let t = 1_000_000 * (1 + i as u64) + c;
            records.push(Record::Data(Data {
                id: SockId { addr: 0xffff_8880_0000_0000 + c * 0x940, generation: 1 },
                pid: 1,
                tid: 1,
                direction: *direction,
                enter: t,
                exit: t + 1,
                position: Position::Seq32(at[*direction as usize].wrapping_sub(9000)),
                len: call.len() as u32,
                bytes: call,
                fresh: i == 0,
                reset: false,
                more: false,
            }));
            bytes += call.len() as u64;
        }
        at[*direction as usize] += call.len() as u32;
    }
    let (mut pipeline, mut sink) = (Pipeline::new(settings.clone()), Count::default());
    let start = Instant::now();
    for record in &records {
        pipeline.push(black_box(record), &mut sink);
    }
    (start.elapsed().as_secs_f64(), records.len() as u64, bytes, sink)
}

fn main() {
    let settings = Settings {
        itl_bounds: [1_000_000, 10_000_000, 100_000_000].into(),
        token_times: false,
        ..Settings::default()
    };
    let quality = Settings { quality: true, ..settings.clone() };
    let cases =
        [("llm", false, &settings), ("not-llm", true, &settings), ("llm-quality", false, &quality)];
    for (name, opaque, settings) in cases {
        let calls = calls(opaque);
        let mut best = f64::MAX;
        let (mut n, mut bytes) = (0, 0);
        for _ in 0..ROUNDS {
            let (seconds, records, sum, sink) = round(&calls, settings);
            let expected = if opaque { 0 } else { CONNECTIONS };
            assert_eq!((sink.0, sink.1), (expected, expected * EVENTS as u64));
            best = best.min(seconds);
            (n, bytes) = (records, sum);
        }
        let (n, bytes) = (n as f64, bytes as f64);
        println!(
            "{name}: {:.2} M events/s, {:.0} MB/s, {:.0} ns/event",
            n / best / 1e6,
            bytes / best / 1e6,
            best / n * 1e9
        );
    }
}
