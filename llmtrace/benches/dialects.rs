//! Speed of every dialect on one core: HTTP/1 + framing + events -> exchange, one event a push as a
//! server writes them, next to httparse + `serde_json::Value` over the same bytes.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use llmtrace::http::{Event, RequestParser, ResponseParser};
use llmtrace::llm::{Exchange, Role, Settings};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 7;
const WORDS: [&str; 8] =
    [" the", " quick", " brown", "\\n\\n", " fox", " \\\"jumps\\\"", ".", " über"];

#[derive(Clone, Copy)]
enum Framing {
    Sse,
    Named,
    Lines,
    Array,
    Frames,
}

struct Stream {
    name: &'static str,
    path: &'static str,
    body: &'static str,
    framing: Framing,
    event: fn(usize, &str) -> String,
}

const STREAMS: &[Stream] = &[
    Stream {
        name: "openai",
        path: "/v1/chat/completions",
        body: r#"{"model":"m","stream":true}"#,
        framing: Framing::Sse,
        event: |_, word| {
            format!(
                r#"{{"id":"chatcmpl-5f0c8a3de2b14c4f9a8e7d6c5b4a3928","object":"chat.completion.chunk","created":1700000000,"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}"#
            )
        },
    },
    Stream {
        name: "responses",
        path: "/v1/responses",
        body: r#"{"input":"x","stream":true}"#,
        framing: Framing::Named,
        event: |i, word| {
            format!(
                r#"{{"type":"response.output_text.delta","item_id":"msg_67c9fdcf37fc8190ba82116e33fb28c507b8b0ad4e5eb654","output_index":0,"content_index":0,"delta":"{word}","sequence_number":{i}}}"#
            )
        },
    },
    Stream {
        name: "anthropic",
        path: "/v1/messages",
        body: r#"{"messages":[],"stream":true}"#,
        framing: Framing::Named,
        event: |_, word| {
            format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{word}"}}}}"#
            )
        },
    },
    Stream {
        name: "gemini sse",
        path: "/v1beta/models/m:streamGenerateContent?alt=sse",
        body: "{}",
        framing: Framing::Sse,
        event: gemini,
    },
    Stream {
        name: "gemini array",
        path: "/v1beta/models/m:streamGenerateContent",
        body: "{}",
        framing: Framing::Array,
        event: gemini,
    },
    Stream {
        name: "ollama",
        path: "/api/chat",
        body: r#"{"model":"m"}"#,
        framing: Framing::Lines,
        event: |i, word| {
            format!(
                r#"{{"model":"gemma3","created_at":"2025-01-01T00:00:00.{i:09}Z","message":{{"role":"assistant","content":"{word}"}},"done":false}}"#
            )
        },
    },
    Stream {
        name: "llama.cpp",
        path: "/completion",
        body: r#"{"prompt":"x","stream":true}"#,
        framing: Framing::Sse,
        event: |i, word| {
            format!(
                r#"{{"index":0,"content":"{word}","tokens":[12],"stop":false,"id_slot":-1,"tokens_predicted":{},"tokens_evaluated":9}}"#,
                i + 1
            )
        },
    },
    Stream {
        name: "sglang",
        path: "/generate",
        body: r#"{"text":"x","sampling_params":{},"stream":true}"#,
        framing: Framing::Sse,
        event: |i, _| {
            // Cumulative: what was said so far, here of at most 400 bytes.
            format!(
                r#"{{"text":"{}","output_ids":[12],"meta_info":{{"id":"0123456789abcdef","finish_reason":null,"prompt_tokens":5,"weight_version":"default","completion_tokens":{},"cached_tokens":0}}}}"#,
                "word ".repeat(1 + i % 80),
                i + 1
            )
        },
    },
    Stream {
        name: "tgi",
        path: "/generate_stream",
        body: r#"{"inputs":"x"}"#,
        framing: Framing::Sse,
        event: |i, word| {
            format!(
                r#"{{"index":{},"token":{{"id":12,"text":"{word}","logprob":-0.34716797,"special":false}},"generated_text":null,"details":null}}"#,
                i + 1
            )
        },
    },
    Stream {
        name: "triton",
        path: "/v2/models/m/generate_stream",
        body: "{}",
        framing: Framing::Sse,
        event: |_, word| {
            format!(
                r#"{{"context_logits":0.0,"cum_log_probs":0.0,"generation_logits":0.0,"model_name":"ensemble","model_version":"1","output_log_probs":[0.0,0.0],"sequence_end":false,"sequence_id":0,"sequence_start":false,"text_output":"{word}"}}"#
            )
        },
    },
    Stream {
        name: "bedrock",
        path: "/model/m/converse-stream",
        body: "{}",
        framing: Framing::Frames,
        event: |_, word| {
            format!(
                r#"{{"contentBlockIndex":0,"delta":{{"text":"{word}"}},"p":"abcdefghijklmnop"}}"#
            )
        },
    },
    Stream {
        name: "cohere",
        path: "/v2/chat",
        body: r#"{"messages":[],"stream":true}"#,
        framing: Framing::Named,
        event: |_, word| {
            format!(
                r#"{{"type":"content-delta","index":0,"delta":{{"message":{{"content":{{"text":"{word}"}}}}}}}}"#
            )
        },
    },
];

fn gemini(_: usize, word: &str) -> String {
    format!(
        r#"{{"candidates":[{{"content":{{"role":"model","parts":[{{"text":"{word}"}}]}}}}],"usageMetadata":{{"trafficType":"ON_DEMAND"}},"modelVersion":"gemini-2.0-flash-001","createTime":"2025-01-01T00:00:00.000000Z","responseId":"abcdefghijklmnopqrst"}}"#
    )
}

/// A frame of an AWS event stream, with the headers that Bedrock sends.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":event-type", "contentBlockDelta"),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ] {
        headers.push(name.len() as u8);
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&(value.len() as u16).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let mut frame = ((headers.len() + payload.len() + 16) as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}

impl Stream {
    fn request(&self) -> Vec<u8> {
        let (path, body) = (self.path, self.body);
        format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    fn writes(&self) -> Vec<Vec<u8>> {
        let kind = match self.framing {
            Framing::Sse | Framing::Named => "text/event-stream",
            Framing::Lines => "application/x-ndjson",
            Framing::Array => "application/json",
            Framing::Frames => "application/vnd.amazon.eventstream",
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let mut writes = vec![head.into_bytes()];
        for i in 0..EVENTS {
            let event = (self.event)(i, WORDS[i % WORDS.len()]);
            let bytes = match self.framing {
                Framing::Sse => format!("data: {event}\n\n").into_bytes(),
                Framing::Named => {
                    let kind = event.split('"').nth(3).unwrap_or_default();
                    format!("event: {kind}\ndata: {event}\n\n").into_bytes()
                }
                Framing::Lines => format!("{event}\n").into_bytes(),
                Framing::Array => {
                    format!("{}{event}\n", if i == 0 { "[" } else { "," }).into_bytes()
                }
                Framing::Frames => frame(event.as_bytes()),
            };
            let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
            chunk.extend_from_slice(&bytes);
            chunk.extend_from_slice(b"\r\n");
            writes.push(chunk);
        }
        writes.push(b"0\r\n\r\n".to_vec());
        writes
    }
}

/// This crate.
fn ours(request: &[u8], writes: &[Vec<u8>], settings: &Settings) -> u64 {
    let mut requests = RequestParser::new();
    let mut exchange = None;
    requests.push(request, |event| match event {
        Event::Head(head) => exchange = Some(Exchange::start(settings, Role::Server, 1, head)),
        Event::Body(bytes) => exchange.as_mut().expect("head first").request_body(bytes),
        Event::End => exchange.as_mut().expect("head first").request_end(2),
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
    exchange.finish().token_events
}

/// The usual way: a tree for every event, and the framing undone as simply as one event a chunk
/// allows.
fn usual(framing: Framing, writes: &[Vec<u8>]) -> u64 {
    let mut trees = 0;
    for bytes in writes {
        if bytes.starts_with(b"HTTP") {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            black_box(response.parse(bytes).expect("a head"));
            continue;
        }
        let (start, size) = match httparse::parse_chunk_size(bytes).expect("a chunk") {
            httparse::Status::Complete((_, 0)) | httparse::Status::Partial => continue,
            httparse::Status::Complete(found) => found,
        };
        let body = &bytes[start..start + size as usize];
        let json = match framing {
            Framing::Sse | Framing::Named => {
                let text = std::str::from_utf8(body).expect("UTF-8");
                let mut data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                data.next().expect("data").as_bytes()
            }
            Framing::Lines => body,
            Framing::Array => &body[1..],
            Framing::Frames => {
                let headers = u32::from_be_bytes(body[4..8].try_into().expect("four bytes"));
                &body[12 + headers as usize..body.len() - 4]
            }
        };
        let tree: serde_json::Value = serde_json::from_slice(json).expect("JSON");
        trees += u64::from(black_box(tree).is_object());
    }
    trees
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
    println!("dialect      bytes/event  ns/event  M events/s   GB/s  serde_json ns/event  ratio");
    for stream in STREAMS {
        let (request, writes) = (stream.request(), stream.writes());
        let bytes: usize = writes.iter().map(Vec::len).sum();
        let fast = best(|| ours(&request, black_box(&writes), &settings));
        let slow = best(|| usual(stream.framing, black_box(&writes)));
        let n = EVENTS as f64;
        println!(
            "{:12} {:11.0} {:9.1} {:11.2} {:6.2} {:20.1} {:6.1}",
            stream.name,
            bytes as f64 / n,
            fast * 1e9 / n,
            n / fast / 1e6,
            bytes as f64 / fast / 1e9,
            slow * 1e9 / n,
            slow / fast
        );
    }
}
