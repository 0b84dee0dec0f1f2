//! The bytes of an OpenAI-style answer.

use serde_json::json;

/// Head of a streamed answer.
pub const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
/// End of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// `data: ...` and a blank line.
pub fn event(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// A payload as one chunk.
pub fn chunk(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn delta(model: &str, delta: &str, finish: &str) -> Vec<u8> {
    event(&format!(
        r#"{{"id":"chatcmpl-8f14e45fceea167a5a36dedd","object":"chat.completion.chunk","created":1760000000,"model":"{model}","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    ))
}

pub fn role(model: &str) -> Vec<u8> {
    delta(model, r#"{"role":"assistant","content":""}"#, "null")
}

pub fn token(model: &str, n: u64) -> Vec<u8> {
    delta(model, &format!(r#"{{"content":" word{n}"}}"#), "null")
}

pub fn finish(model: &str) -> Vec<u8> {
    delta(model, "{}", "\"stop\"")
}

pub fn usage(model: &str, prompt: u64, output: u64) -> Vec<u8> {
    event(
        &json!({
            "id": "chatcmpl-8f14e45fceea167a5a36dedd",
            "object": "chat.completion.chunk",
            "model": model,
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
            },
        })
        .to_string(),
    )
}

pub fn error(status: u16) -> String {
    json!({"error": {"message": "as asked", "type": "server_error", "code": status}}).to_string()
}

pub fn done() -> Vec<u8> {
    event("[DONE]")
}

/// A whole answer that is not streamed.
pub fn completion(model: &str, prompt: u64, output: u64) -> String {
    let text = " word".repeat(usize::try_from(output).unwrap_or(0));
    json!({
        "id": "chatcmpl-8f14e45fceea167a5a36dedd",
        "object": "chat.completion",
        "model": model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        },
    })
    .to_string()
}

/// A JSON answer with its head.
pub fn json_answer(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
