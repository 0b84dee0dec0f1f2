//! Speed of the parsing layers on one core: HTTP/1 + SSE + OpenAI events -> exchange, one event a
//! push as a server writes them, next to httparse + `serde_json::Value` for every event.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use llmtrace::http::{Event, RequestParser, ResponseParser};
use llmtrace::llm::{Exchange, Role, Settings};

const EVENTS: usize = 20_000;
const ROUNDS: usize = 9;

const REQUEST: &[u8] =
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 30\r\n\r\n\
    {\"model\":\"m\",    \"stream\":true}";
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
    transfer-encoding: chunked\r\n\r\n";
const WORDS: [&str; 8] =
    [" the", " quick", " brown", "\\n\\n", " fox", " \\\"jumps\\\"", ".", " über"];

fn chunk(event: &str) -> Vec<u8> {
    format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8).into_bytes()
}

/// The events of a stream as `shape` writes them.
fn writes(shape: &str) -> Vec<Vec<u8>> {
    let mut writes = vec![HEAD.to_vec()];
    for i in 0..EVENTS {
        let word = WORDS[i % WORDS.len()];
        let event = match shape {
            "vllm" => format!(
                r#"{{"id":"chatcmpl-5f0c8a3de2b14c4f9a8e7d6c5b4a3928","object":"chat.completion.chunk","created":{},"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}"#,
                1_700_000_000 + i / 500
            ),
            "llama.cpp" => format!(
                r#"{{"choices":[{{"finish_reason":null,"index":0,"delta":{{"content":"{word}"}}}}],"created":{},"id":"chatcmpl-JGhXzK3R1vXr5ZLqPnY0d9Tq1c7w2e4u","model":"qwen2.5-7b-instruct-q4_k_m.gguf","system_fingerprint":"b6123-abcdef01","object":"chat.completion.chunk"}}"#,
                1_700_000_000 + i / 500
            ),
            // Nothing is the same from one event to the next.
            _ => format!(
                r#"{{"id":"gen-{i:08}-{:016x}","object":"chat.completion.chunk","created":{},"model":"m/some-model","choices":[{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null}}],"obfuscation":"{:08x}"}}"#,
                i.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                1_700_000_000 + i,
                i.wrapping_mul(0x9E37_79B9)
            ),
        };
        writes.push(chunk(&event));
    }
    writes.push(chunk(
        r#"{"id":"x","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":20000}}"#,
    ));
    writes.push(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n".to_vec());
    writes
}

/// This crate.
fn ours(writes: &[Vec<u8>], settings: &Settings) -> u64 {
    let mut requests = RequestParser::new();
    let mut exchange = None;
    requests.push(REQUEST, |event| match event {
        Event::Head(head) => exchange = Some(Exchange::start(settings, Role::Server, 1, head)),
        Event::Body(bytes) => exchange.as_mut().expect("head first").request_body(bytes),
        _ => {}
    });
    let mut exchange = exchange.expect("a request");
    let mut responses = ResponseParser::new();
    let mut t = 1_000;
    for bytes in writes {
        t += 700;
        responses.push(bytes, |event| match event {
            Event::Head(head) => exchange.response_head(t, head),
            Event::Body(bytes) => exchange.response_body(t, bytes),
            Event::End => exchange.response_end(t),
            _ => {}
        });
    }
    let finished = exchange.finish();
    assert_eq!(finished.usage.output, Some(20_000));
    finished.token_events
}

/// The usual way: a tree for every event.
fn usual(writes: &[Vec<u8>]) -> u64 {
    let mut tokens = 0;
    let mut usage = 0;
    for bytes in writes {
        if bytes.starts_with(b"HTTP") {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            black_box(response.parse(bytes).expect("a head"));
            continue;
        }
        let (_, size) = match httparse::parse_chunk_size(bytes).expect("a chunk") {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => continue,
        };
        let start = bytes.iter().position(|&b| b == b'\n').expect("a line") + 1;
        let body = std::str::from_utf8(&bytes[start..start + size as usize]).expect("UTF-8");
        for line in body.lines() {
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                continue;
            }
            let event: serde_json::Value = serde_json::from_str(data).expect("JSON");
            let content = event["choices"][0]["delta"]["content"].as_str();
            tokens += u64::from(content.is_some_and(|text| !text.is_empty()));
            usage = event["usage"]["completion_tokens"].as_u64().unwrap_or(usage);
        }
    }
    assert_eq!(usage, 20_000);
    tokens
}

/// The best of some rounds, in seconds.
fn best(mut run: impl FnMut() -> u64) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        assert_eq!(black_box(run()), EVENTS as u64);
        start.elapsed().as_secs_f64()
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn main() {
    let bounds: Arc<[u64]> = (0..24).map(|i| 100_000 << i).collect();
    let settings = Settings { itl_bounds: bounds, token_times: false, ..Settings::default() };
    // For a profiler.
    let alone = std::env::args().any(|arg| arg == "--alone");
    println!("stream     bytes/event  ns/event  M events/s   GB/s  serde_json ns/event  ratio");
    for shape in ["vllm", "llama.cpp", "changing"] {
        let writes = writes(shape);
        let bytes: usize = writes.iter().map(Vec::len).sum();
        let fast = best(|| ours(black_box(&writes), &settings));
        let slow = if alone { fast } else { best(|| usual(black_box(&writes))) };
        let n = EVENTS as f64;
        println!(
            "{shape:10} {:11.0} {:9.1} {:11.2} {:6.2} {:20.1} {:6.1}",
            bytes as f64 / n,
            fast * 1e9 / n,
            n / fast / 1e6,
            bytes as f64 / fast / 1e9,
            slow * 1e9 / n,
            slow / fast
        );
    }
}
