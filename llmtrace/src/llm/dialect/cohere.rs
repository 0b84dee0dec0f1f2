//! Cohere's chat, version 2.

use super::note::{Note, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const TOOLS: Node = OWN;

const DELTA: Node = OWN + 1;
const MESSAGE: Node = OWN + 2;
const CONTENT: Node = OWN + 3;
const CALLS: Node = OWN + 4;
const FUNCTION: Node = OWN + 5;
const USAGE: Node = OWN + 6;
const TOKENS: Node = OWN + 7;
const REASON: Node = OWN + 8;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
        (ROOT, "messages", ask::PROOF),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "type", say::KIND),
        (ROOT, "delta", DELTA),
        (DELTA, "message", MESSAGE),
        (MESSAGE, "content", CONTENT),
        (CONTENT, "text", say::TEXT),
        (CONTENT, "thinking", say::TEXT),
        (MESSAGE, "tool_plan", say::TEXT),
        (MESSAGE, "tool_calls", CALLS),
        (CALLS, "function", FUNCTION),
        (FUNCTION, "name", say::TEXT),
        (FUNCTION, "arguments", say::TEXT),
        (DELTA, "finish_reason", REASON),
        (DELTA, "error", say::ERROR),
        (DELTA, "usage", USAGE),
        (ROOT, "usage", USAGE),
        (USAGE, "tokens", TOKENS),
        (USAGE, "cached_tokens", say::CACHED),
        (TOKENS, "input_tokens", say::PROMPT),
        (TOKENS, "output_tokens", say::OUTPUT),
        (ROOT, "finish_reason", REASON),
        (ROOT, "error", say::ERROR),
    ];

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        if let (REASON, Value::String(reason)) = (node, value) {
            note.choice.finish = Some(reason);
            note.error |= reason == b"ERROR";
        }
    }

    fn event_end(name: &[u8], note: &mut Note<'_>) {
        note.done |= note.kind.unwrap_or(name) == b"message-end";
    }
}
