//! Anthropic's Messages, as Anthropic, Vertex AI, llama.cpp, Ollama and gateways serve them.
//!
//! The counts of `message_delta` are cumulative, and the output count of `message_start` is a
//! placeholder. `input_tokens` leaves out what came from a cache.

use super::note::{Note, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT};

const TOOLS: Node = OWN;

const MESSAGE: Node = OWN + 1;
const START_USAGE: Node = OWN + 2;
const USAGE: Node = OWN + 3;
const DELTA: Node = OWN + 4;
const CONTENT: Node = OWN + 5;
const BLOCK: Node = OWN + 6;

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
        // Not `signature`: it is made of no tokens.
        (DELTA, "text", say::TEXT),
        (DELTA, "thinking", say::TEXT),
        (DELTA, "partial_json", say::TEXT),
        (DELTA, "stop_reason", say::FINISH),
        (ROOT, "usage", USAGE),
        (USAGE, "input_tokens", say::FRESH),
        (USAGE, "cache_read_input_tokens", say::CACHED),
        (USAGE, "cache_creation_input_tokens", say::WRITTEN),
        (USAGE, "output_tokens", say::OUTPUT),
        (ROOT, "message", MESSAGE),
        (MESSAGE, "model", say::MODEL),
        (MESSAGE, "usage", START_USAGE),
        (START_USAGE, "input_tokens", say::FRESH),
        (START_USAGE, "cache_read_input_tokens", say::CACHED),
        (START_USAGE, "cache_creation_input_tokens", say::WRITTEN),
        (ROOT, "error", say::ERROR),
        (ROOT, "model", say::MODEL),
        (ROOT, "stop_reason", say::FINISH),
        (ROOT, "content", CONTENT),
        (CONTENT, "[]", BLOCK),
        (BLOCK, "text", say::TEXT),
        (BLOCK, "thinking", say::TEXT),
        // Of a call.
        (BLOCK, "name", say::TEXT),
    ];
    const SHOWS_ANSWER: bool = true;

    fn event_end(name: &[u8], note: &mut Note<'_>) {
        let kind = note.kind.unwrap_or(name);
        note.done |= kind == b"message_stop";
        note.error |= kind == b"error";
    }
}
