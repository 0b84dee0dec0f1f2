//! llama.cpp's own `/completion` and `/infill`.
//!
//! `tokens_predicted` counts up from event to event. `tokens` is no count: the events of
//! `return_progress` have a token 0 that nobody generated.

use super::note::{Note, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const LORAS: Node = OWN;
const LORA: Node = OWN + 1;

const TIMINGS: Node = OWN + 2;
const STOP_TYPE: Node = OWN + 3;
const CHOICES: Node = OWN + 4;
const USAGE: Node = OWN + 5;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "n_predict", ask::MAX_TOKENS),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "n_cmpl", ask::N),
        (ROOT, "n", ask::N),
        (ROOT, "lora", LORAS),
        (LORAS, "[]", LORA),
        (LORA, "id", ask::LORA),
        (ROOT, "prompt", ask::PROOF),
        (ROOT, "input_prefix", ask::PROOF),
        (ROOT, "input_suffix", ask::PROOF),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "index", say::INDEX),
        (ROOT, "content", say::TEXT),
        (ROOT, "stop", say::DONE),
        (ROOT, "model", say::MODEL),
        (ROOT, "tokens_predicted", say::OUTPUT),
        (ROOT, "tokens_evaluated", say::PROMPT),
        (ROOT, "stop_type", STOP_TYPE),
        (ROOT, "timings", TIMINGS),
        (TIMINGS, "cache_n", say::TIMED_CACHED),
        (ROOT, "error", say::ERROR),
        // A whole response at `/completions` may be OpenAI's.
        (ROOT, "choices", CHOICES),
        (CHOICES, "[]", say::CHOICE),
        (say::CHOICE, "finish_reason", say::FINISH),
        (say::CHOICE, "text", say::TEXT),
        (ROOT, "usage", USAGE),
        (USAGE, "prompt_tokens", say::PROMPT),
        (USAGE, "completion_tokens", say::OUTPUT),
    ];
    const SHOWS_ANSWER: bool = true;

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        if let (STOP_TYPE, Value::String(kind)) = (node, value)
            && kind != b"none"
        {
            note.choice.finish = Some(kind);
        }
    }
}
