//! SGLang's own `/generate`. The text of an event is all that there is so far, unless the server is
//! told otherwise; tokens are the difference of `completion_tokens`.

use super::note::{Note, say};
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const ITEM: Node = OWN;
const META: Node = OWN + 1;
const REASON: Node = OWN + 2;
const TEXT: Node = OWN + 3;
const SUM: Node = OWN + 4;
const SUM_REASON: Node = OWN + 5;
const PROMPT: Node = OWN + 6;
const OUTPUT: Node = OWN + 7;
const CACHED: Node = OWN + 8;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[];
    const RESPONSE: Paths = &[
        (ROOT, "index", say::INDEX),
        (ROOT, "text", TEXT),
        (ROOT, "output_ids", TEXT),
        (ROOT, "meta_info", META),
        (META, "prompt_tokens", say::PROMPT),
        (META, "completion_tokens", say::OUTPUT),
        (META, "cached_tokens", say::CACHED),
        (META, "reasoning_tokens", say::REASONING),
        (META, "finish_reason", REASON),
        (REASON, "type", say::FINISH),
        (ROOT, "error", say::ERROR),
        // The answers to a batch, or to `n`, in one response: they add up.
        (ROOT, "[]", ITEM),
        (ITEM, "meta_info", SUM),
        (SUM, "prompt_tokens", PROMPT),
        (SUM, "completion_tokens", OUTPUT),
        (SUM, "cached_tokens", CACHED),
        (SUM, "finish_reason", SUM_REASON),
        (SUM_REASON, "type", say::FINISH),
    ];

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        let add = |sum: &mut Option<u64>| {
            if let Some(n) = value.number() {
                *sum = Some(sum.unwrap_or(0).saturating_add(n));
            }
        };
        match (node, value) {
            (TEXT, Value::String(text)) if !text.is_empty() => {
                (note.choice.tokens, note.cumulative) = (true, true);
                (note.choice.text, note.choice.text_so_far) = (text, true);
            }
            // Without a tokenizer in the server, ids are all that there is.
            (TEXT, Value::Container) => {
                (note.choice.tokens, note.cumulative) = (true, true);
            }
            (PROMPT, _) => add(&mut note.counts.prompt),
            (OUTPUT, _) => add(&mut note.counts.output),
            (CACHED, _) => add(&mut note.counts.cached),
            _ => {}
        }
    }
}
