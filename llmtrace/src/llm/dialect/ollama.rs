//! Ollama's own API: a JSON text a line. A stream unless `stream` is false.

use super::note::say;
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT};

const OPTIONS: Node = OWN;
const TOOLS: Node = OWN + 1;

const MESSAGE: Node = OWN + 2;
const CALLS: Node = OWN + 3;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        // Web applications have an `/api/chat` of their own, without a model.
        (ROOT, "model", ask::MODEL_PROOF),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "options", OPTIONS),
        (OPTIONS, "num_predict", ask::MAX_TOKENS),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "model", say::MODEL),
        (ROOT, "response", say::TEXT),
        (ROOT, "thinking", say::TEXT),
        (ROOT, "message", MESSAGE),
        (MESSAGE, "content", say::TEXT),
        (MESSAGE, "thinking", say::TEXT),
        (MESSAGE, "tool_calls", CALLS),
        (CALLS, "[]", say::TOKENS),
        (ROOT, "done", say::DONE),
        (ROOT, "done_reason", say::FINISH),
        (ROOT, "prompt_eval_count", say::PROMPT),
        (ROOT, "eval_count", say::OUTPUT),
        (ROOT, "error", say::ERROR),
    ];
    const SHOWS_ANSWER: bool = true;
}
