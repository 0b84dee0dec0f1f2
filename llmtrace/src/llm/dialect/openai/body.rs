//! Requests, and responses that are one JSON text or events that are too long to be kept.

use super::super::note::{Note, say};
use super::super::request::ask;
use super::super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const STREAM_OPTIONS: Node = OWN;
const TOOLS: Node = OWN + 1;

const OBJECT: Node = OWN;
const USAGE: Node = OWN + 1;
const PROMPT_DETAILS: Node = OWN + 2;
const OUTPUT_DETAILS: Node = OWN + 3;
const CHOICES: Node = OWN + 4;
const TIMINGS: Node = OWN + 5;
const DELTA: Node = OWN + 6;
const CALLS: Node = OWN + 7;
const CALL: Node = OWN + 8;
const FUNCTION: Node = OWN + 9;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "n", ask::N),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "max_completion_tokens", ask::MAX_TOKENS),
        (ROOT, "stream_options", STREAM_OPTIONS),
        (STREAM_OPTIONS, "include_usage", ask::INCLUDE_USAGE),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "model", say::MODEL),
        (ROOT, "object", OBJECT),
        (ROOT, "error", say::ERROR),
        (ROOT, "usage", USAGE),
        (USAGE, "prompt_tokens", say::PROMPT),
        (USAGE, "completion_tokens", say::OUTPUT),
        (USAGE, "prompt_tokens_details", PROMPT_DETAILS),
        (PROMPT_DETAILS, "cached_tokens", say::CACHED),
        (USAGE, "completion_tokens_details", OUTPUT_DETAILS),
        (OUTPUT_DETAILS, "reasoning_tokens", say::REASONING),
        (ROOT, "choices", CHOICES),
        (CHOICES, "[]", say::CHOICE),
        (say::CHOICE, "finish_reason", say::FINISH),
        // Also of events that are too long to be kept; others are read by `event`.
        (say::CHOICE, "index", say::INDEX),
        (say::CHOICE, "text", say::TEXT),
        (say::CHOICE, "message", DELTA),
        (say::CHOICE, "delta", DELTA),
        (DELTA, "content", say::TEXT),
        (DELTA, "reasoning_content", say::TEXT),
        (DELTA, "reasoning", say::TEXT),
        (DELTA, "refusal", say::TEXT),
        (DELTA, "tool_calls", CALLS),
        (CALLS, "[]", CALL),
        (CALL, "function", FUNCTION),
        (DELTA, "function_call", FUNCTION),
        (FUNCTION, "name", say::TEXT),
        (FUNCTION, "arguments", say::TEXT),
        // llama.cpp's own figures, where it was not asked for the usage.
        (ROOT, "timings", TIMINGS),
        (TIMINGS, "prompt_n", say::TIMED_FRESH),
        (TIMINGS, "cache_n", say::TIMED_CACHED),
        (TIMINGS, "predicted_n", say::TIMED_OUTPUT),
    ];
    const SHOWS_ANSWER: bool = true;

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        if node == OBJECT {
            note.error |= value == Value::String(b"error");
        }
    }
}
