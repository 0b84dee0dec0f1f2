//! Drives the decoders of body formats, and every dialect, with any bytes: whole and in pieces, which
//! must say the same; shared by the fuzzer and by tests.
//!
//! The first byte of an input chooses the pieces; of a dialect's, the second chooses the dialect.

use std::fmt::Write as _;
use std::sync::Arc;

use llmtrace::http::{MAX_EVENT, eventstream, head, json_array, multipart, ndjson};
use llmtrace::llm::{Exchange, Role, Settings};

/// Most memory that a decoder may hold.
const MOST: usize = MAX_EVENT + 16 * 1024;

/// Gives `input` to `run` whole and in pieces, and compares what it says.
fn both(input: &[u8], run: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> String) {
    let Some((&size, bytes)) = input.split_first() else { return };
    let whole = run(&mut std::iter::once(bytes));
    let pieces = run(&mut bytes.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces);
}

pub fn ndjson(input: &[u8]) {
    both(input, |pieces| {
        let (mut decoder, mut out) = (ndjson::Decoder::new(), String::new());
        for piece in pieces {
            decoder.push(piece, |line| writeln!(out, "{line:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        }
        decoder.finish(|line| writeln!(out, "{line:?}").expect("a string"));
        out
    });
}

pub fn json_array(input: &[u8]) {
    both(input, |pieces| {
        let (mut decoder, mut out) = (json_array::Decoder::new(), String::new());
        for piece in pieces {
            decoder.push(piece, |element| writeln!(out, "{element:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        }
        decoder.finish(|element| writeln!(out, "{element:?}").expect("a string"));
        writeln!(out, "{}", decoder.is_over()).expect("a string");
        out
    });
}

pub fn eventstream(input: &[u8]) {
    both(input, |pieces| {
        let (mut decoder, mut out) = (eventstream::Decoder::new(), String::new());
        for piece in pieces {
            decoder.push(piece, |frame| writeln!(out, "{frame:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        }
        writeln!(out, "{} {}", decoder.bad(), decoder.long()).expect("a string");
        out
    });
}

pub fn multipart(input: &[u8]) {
    both(input, |pieces| {
        let decoder = multipart::Decoder::new("multipart/form-data; boundary=xYz");
        let (mut decoder, mut out) = (decoder.expect("a boundary"), String::new());
        for piece in pieces {
            decoder.push(piece, |field| writeln!(out, "{field:?}").expect("a string"));
            assert!(decoder.buffered() <= MOST);
        }
        out
    });
}

/// A path of each dialect, a body that proves it, and the type of its stream.
pub const DIALECTS: &[(&str, &str, &str)] = &[
    ("/v1/chat/completions", "{}", "text/event-stream"),
    ("/v1/responses", "{}", "text/event-stream"),
    ("/v1/audio/transcriptions", "{}", "text/event-stream"),
    ("/v1/embeddings", "{}", "application/json"),
    ("/v1/messages", r#"{"messages":[]}"#, "text/event-stream"),
    ("/v1beta/models/m:streamGenerateContent", "{}", "application/json"),
    ("/v1beta/models/m:streamGenerateContent?alt=sse", "{}", "text/event-stream"),
    ("/api/chat", r#"{"model":"m"}"#, "application/x-ndjson"),
    ("/completion", r#"{"prompt":""}"#, "text/event-stream"),
    ("/completions", "{}", "text/event-stream"),
    ("/generate", r#"{"sampling_params":{}}"#, "text/event-stream"),
    ("/generate_stream", r#"{"inputs":""}"#, "text/event-stream"),
    ("/v2/models/m/generate_stream", "{}", "text/event-stream"),
    ("/model/m/converse-stream", "{}", "application/vnd.amazon.eventstream"),
    ("/v2/chat", r#"{"messages":[]}"#, "text/event-stream"),
    ("/v2/chat", r#"{"messages":[]}"#, "application/json"),
    ("/v1/responses", "{}", "application/json"),
    ("/v1/messages", r#"{"messages":[]}"#, "application/json"),
    ("/generate", r#"{"inputs":""}"#, "application/json"),
    ("/model/m/converse", "{}", "application/json"),
    ("/api/extra/generate/stream", r#"{"max_length":1}"#, "text/event-stream"),
];

pub fn dialect(input: &[u8]) {
    let [size, which, bytes @ ..] = input else { return };
    let (path, body, kind) = DIALECTS[usize::from(*which) % DIALECTS.len()];
    let settings = Settings { itl_bounds: Arc::new([1, 10, 100]), token_times: false };
    let request = format!("POST {path} HTTP/1.1\r\n\r\n");
    let response =
        format!("HTTP/1.1 200 X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    let input = [&[*size], bytes].concat();
    both(&input, |pieces| {
        let (head, _) = head::request(request.as_bytes()).expect("a head").expect("a whole head");
        let mut exchange = Exchange::start(&settings, Role::Server, 1, &head);
        exchange.request_body(body.as_bytes());
        exchange.request_end(2);
        assert!(exchange.is_llm(), "{path}");
        let (head, _) = head::response(response.as_bytes()).expect("a head").expect("a whole head");
        exchange.response_head(3, &head);
        for piece in pieces {
            exchange.response_body(4, piece);
            // The event at hand, and what a chunk wraps.
            assert!(exchange.size() <= 2 * MOST);
        }
        exchange.response_end(5);
        format!("{:?}", exchange.finish())
    });
}
