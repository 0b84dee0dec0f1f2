//! Hugging Face TGI's own `/generate`, `/generate_stream` and `/`. One token an event. Errors come
//! under a 200.

use super::note::{Note, say};
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const TOKEN: Node = OWN;
const GENERATED: Node = OWN + 1;
const DETAILS: Node = OWN + 2;
const ITEM: Node = OWN + 3;
const TEXT: Node = OWN + 4;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[];
    const RESPONSE: Paths = &[
        (ROOT, "token", TOKEN),
        (TOKEN, "text", TEXT),
        (ROOT, "generated_text", GENERATED),
        (ROOT, "details", DETAILS),
        (DETAILS, "finish_reason", say::FINISH),
        (DETAILS, "generated_tokens", say::OUTPUT),
        (DETAILS, "input_length", say::PROMPT),
        (ROOT, "error", say::ERROR),
        // `/` answers with a list of one.
        (ROOT, "[]", ITEM),
        (ITEM, "details", DETAILS),
    ];

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        match (node, value) {
            (TOKEN, Value::Container) => {
                note.choice.tokens = true;
                note.choice.count = Some(1);
            }
            (TEXT, Value::String(text)) => note.choice.text = text,
            (GENERATED, Value::String(_)) => note.done = true,
            _ => {}
        }
    }
}
