//! Events that are too long to be kept.

use super::*;
use crate::http::MAX_EVENT;
use crate::llm::Usage;

const LONG: usize = 2 << 20;

/// A stream of bytes, written in pieces of a size; and the most memory that the exchange held.
fn stream(path: &str, body: &str, kind: &str, text: &str, size: usize) -> (Finished, usize) {
    let exchange = start(path, body);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n");
    let mut server = Server::of(exchange, &head);
    let (mut rest, mut most) = (text, 0);
    while !rest.is_empty() {
        let (piece, next) = rest.split_at(size.min(rest.len()));
        server.write(300, piece);
        most = most.max(server.exchange.size());
        rest = next;
    }
    server.close(400);
    (server.finish(), most)
}

/// The same for any pieces, in bounded memory, with nothing dropped.
fn every_way(path: &str, body: &str, kind: &str, text: &str) -> Finished {
    let mut all = [16 * 1024, 1000, text.len()].map(|size| {
        let (finished, most) = stream(path, body, kind, text, size);
        assert!(most < MAX_EVENT + 64 * 1024, "{most} bytes");
        assert_eq!(finished.drops, Drops::default());
        finished
    });
    assert_eq!(format!("{:?}", all[0]), format!("{:?}", all[1]));
    assert_eq!(format!("{:?}", all[0]), format!("{:?}", all[2]));
    std::mem::replace(&mut all[0], Finished::new(Role::Server, 0))
}

#[test]
fn a_long_response_completed() {
    let answer = "so \\\"much\\\" {text} ".repeat(LONG / 19);
    let text = format!(
        "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"so\"}}\n\n\
        event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"r\",\
        \"status\":\"completed\",\"model\":\"gpt-5\",\"output\":[{{\"type\":\"message\",\"content\":[{{\"type\":\"output_text\",\
        \"text\":\"{answer}\"}}]}}],\"usage\":{{\"input_tokens\":12,\"input_tokens_details\":{{\"cached_tokens\":3}},\
        \"output_tokens\":400000,\"output_tokens_details\":{{\"reasoning_tokens\":7}}}}}}}}\n\n"
    );
    let body = r#"{"input":"x","stream":true}"#;
    let f = every_way("/v1/responses", body, "text/event-stream", &text);
    assert_eq!(f.outcome, Outcome::Success);
    let usage =
        Usage { prompt: Some(12), output: Some(400_000), cached: Some(3), reasoning: Some(7) };
    assert_eq!((f.usage, f.model.as_deref()), (usage, Some("gpt-5")));
    assert_eq!(f.finish_reason.as_deref(), Some("completed"));
    assert_eq!((f.events, f.token_events), (2, 1));
    // One that fails tells it behind the text as well.
    let failed = text
        .replace("response.completed", "response.failed")
        .replace("\"status\":\"completed\",", "")
        .replace("\"usage\":", "\"status\":\"failed\",\"usage\":");
    let f = every_way("/v1/responses", body, "text/event-stream", &failed);
    assert_eq!((f.outcome, f.usage.output), (Outcome::StreamError, Some(400_000)));
}

#[test]
fn a_long_event_of_chat_completions() {
    let arguments = "\\\"a\\\":1,".repeat(LONG / 9);
    let text = format!(
        "data: {ROLE}\n\ndata: {{\"model\":\"said\",\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"function\":\
        {{\"name\":\"f\",\"arguments\":\"{arguments}\"}}}}]}},\"finish_reason\":\"tool_calls\"}}],\
        \"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":9}}}}\n\ndata: {A}\n\ndata: [DONE]\n\n"
    );
    let f = every_way("/v1/chat/completions", ASK, "text/event-stream", &text);
    assert_eq!(f.outcome, Outcome::Success);
    assert_eq!(f.finish_reason.as_deref(), Some("tool_calls"));
    assert_eq!((f.usage.prompt, f.usage.output), (Some(5), Some(9)));
    assert_eq!((f.events, f.token_events), (4, 2));
}

#[test]
fn a_long_last_line_of_ollama() {
    let context = "1234,".repeat(LONG / 5);
    let text = format!(
        "{{\"model\":\"gemma\",\"response\":\"a\",\"done\":false}}\n{{\"model\":\"gemma\",\"response\":\"\",\"done\":true,\
        \"done_reason\":\"stop\",\"context\":[{context}0],\"prompt_eval_count\":26,\"eval_count\":282}}\n"
    );
    let f = every_way("/api/generate", r#"{"model":"m"}"#, "application/x-ndjson", &text);
    assert_eq!(f.outcome, Outcome::Success);
    assert_eq!((f.usage.prompt, f.usage.output), (Some(26), Some(282)));
    assert_eq!(f.finish_reason.as_deref(), Some("stop"));
}

#[test]
fn a_long_image_of_gemini() {
    let image = "QUJD".repeat(LONG / 4);
    let element = format!(
        "{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"a\"}},{{\"inlineData\":{{\"data\":\"{image}\"}}}}]}},\
        \"finishReason\":\"STOP\"}}],\"usageMetadata\":{{\"promptTokenCount\":4,\"candidatesTokenCount\":1290}},\
        \"modelVersion\":\"gemini-2.5-flash-image\"}}"
    );
    for (query, kind, text) in [
        ("", "application/json", format!("[{element}\n]")),
        ("?alt=sse", "text/event-stream", format!("data: {element}\r\n\r\n")),
    ] {
        let path = format!("/v1beta/models/m:streamGenerateContent{query}");
        let f = every_way(&path, "{}", kind, &text);
        assert_eq!(f.outcome, Outcome::Success);
        assert_eq!((f.usage.prompt, f.usage.output), (Some(4), Some(1290)));
        assert_eq!(f.model.as_deref(), Some("gemini-2.5-flash-image"));
        assert_eq!((f.events, f.token_events), (1, 1));
    }
}

/// More values than are noted: what came first is known, and that something is not.
#[test]
fn too_many_values() {
    let choices = "{\"index\":1,\"finish_reason\":\"stop\"},".repeat(LONG / 35);
    let text = format!("data: {{\"model\":\"m\",\"choices\":[{choices}{{}}]}}\n\ndata: [DONE]\n\n");
    let (f, most) = stream("/v1/chat/completions", ASK, "text/event-stream", &text, 1000);
    assert!(most < MAX_EVENT + 64 * 1024, "{most} bytes");
    assert_eq!((f.drops.long_events, f.outcome), (1, Outcome::Success));
    assert_eq!(f.finish_reason.as_deref(), Some("stop"));
}
