//! OpenAI's Responses API, as OpenAI, Azure, vLLM, llama.cpp and Ollama serve it. The events tell
//! their type; the first of any kind of `delta` is the first token.

use super::note::{Note, is_something, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const TOOLS: Node = OWN;

const RESPONSE: Node = OWN + 1;
const USAGE: Node = OWN + 2;
const INPUT_DETAILS: Node = OWN + 3;
const OUTPUT_DETAILS: Node = OWN + 4;
const STATUS: Node = OWN + 5;
const INCOMPLETE: Node = OWN + 6;
const ERROR: Node = OWN + 7;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "max_output_tokens", ask::MAX_TOKENS),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
        (ROOT, "input", ask::PROOF),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "type", say::KIND),
        (ROOT, "delta", say::TEXT),
        (ROOT, "error", say::ERROR),
        (ROOT, "model", say::MODEL),
        (ROOT, "status", STATUS),
        (ROOT, "incomplete_details", INCOMPLETE),
        (ROOT, "usage", USAGE),
        (ROOT, "response", RESPONSE),
        (RESPONSE, "model", say::MODEL),
        (RESPONSE, "status", STATUS),
        (RESPONSE, "error", ERROR),
        (RESPONSE, "incomplete_details", INCOMPLETE),
        (RESPONSE, "usage", USAGE),
        (INCOMPLETE, "reason", say::FINISH),
        (USAGE, "input_tokens", say::PROMPT),
        (USAGE, "output_tokens", say::OUTPUT),
        (USAGE, "input_tokens_details", INPUT_DETAILS),
        (INPUT_DETAILS, "cached_tokens", say::CACHED),
        (USAGE, "output_tokens_details", OUTPUT_DETAILS),
        (OUTPUT_DETAILS, "reasoning_tokens", say::REASONING),
    ];

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        match (node, value) {
            // `incomplete` says less than its reason does, whichever comes first.
            (STATUS, Value::String(b"failed")) => note.error = true,
            (STATUS, Value::String(status @ (b"completed" | b"cancelled"))) => {
                note.choice.finish = Some(status);
            }
            (ERROR, value) => note.error |= is_something(value),
            _ => {}
        }
    }

    fn event_end(name: &[u8], note: &mut Note<'_>) {
        let kind = note.kind.unwrap_or(name);
        note.choice.tokens &= kind.starts_with(b"response.") && kind.ends_with(b".delta");
        match kind {
            b"response.completed" | b"response.incomplete" | b"response.cancelled" => {
                note.done = true;
            }
            b"response.failed" | b"error" => (note.error, note.done) = (true, true),
            // What is under way has no usage yet, and its status is no reason to end.
            _ => note.choice.finish = None,
        }
    }
}
