//! The response of every dialect. An input is a byte for the cuts, one that chooses the dialect, and
//! the body of the response.

use std::sync::Arc;

use llmtrace::http::head;
use llmtrace::llm::{Exchange, Role, Settings};

use super::{MOST, both};

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

pub fn check(input: &[u8]) {
    let [cuts, which, bytes @ ..] = input else { return };
    let (path, body, kind) = DIALECTS[usize::from(*which) % DIALECTS.len()];
    let settings =
        Settings { itl_bounds: Arc::new([1, 10, 100]), token_times: false, ..Settings::default() };
    let request = format!("POST {path} HTTP/1.1\r\n\r\n");
    let response =
        format!("HTTP/1.1 200 X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    let input = [&[*cuts], bytes].concat();
    both(&input, |bytes, mut cuts| {
        let (head, _) = head::request(request.as_bytes()).expect("a head").expect("a whole head");
        let mut exchange = Exchange::start(&settings, Role::Server, 1, &head);
        exchange.request_body(body.as_bytes());
        exchange.request_end(2);
        assert!(exchange.is_llm(), "{path}");
        let (head, _) = head::response(response.as_bytes()).expect("a head").expect("a whole head");
        exchange.response_head(3, &head);
        cuts.each(bytes, |piece| {
            exchange.response_body(4, piece);
            // The event at hand, and what a chunk wraps.
            assert!(exchange.size() <= 2 * MOST);
        });
        exchange.response_end(5);
        format!("{:?}", exchange.finish())
    });
}
