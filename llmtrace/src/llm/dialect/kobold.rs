//! KoboldCpp's own API, which TabbyAPI has too. A stream tells no counts and has no end marker.

use super::note::{Note, say};
use super::request::{Shape, ask};
use super::{Api as Dialect, Dialect as Name, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const LENGTH: Node = OWN;

const RESULTS: Node = OWN + 1;
const RESULT: Node = OWN + 2;
const REASON: Node = OWN + 3;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "max_length", LENGTH),
        (ROOT, "max_context_length", ask::PROOF),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "token", say::TEXT),
        (ROOT, "finish_reason", REASON),
        (ROOT, "results", RESULTS),
        (RESULTS, "[]", RESULT),
        (RESULT, "finish_reason", REASON),
        (RESULT, "prompt_tokens", say::PROMPT),
        (RESULT, "completion_tokens", say::OUTPUT),
        (ROOT, "error", say::ERROR),
    ];

    fn ask(node: Node, value: Value<'_>, shape: &mut Shape<'_>) {
        if node == LENGTH {
            shape.asked.max_tokens = value.number().or(shape.asked.max_tokens);
            shape.is(Name::Kobold);
        }
    }

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        // Events before the last say `null`, as a string in some versions.
        if let (REASON, Value::String(reason)) = (node, value)
            && reason != b"null"
        {
            note.choice.finish = Some(reason);
        }
    }
}
