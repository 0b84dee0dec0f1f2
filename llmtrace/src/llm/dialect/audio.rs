//! OpenAI's audio transcriptions and translations. The request is a form. A stream has events of
//! OpenAI's own, or chat-like chunks, as vLLM sends them: the first event tells.

use super::note::{Note, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT};

const USAGE: Node = OWN;
const CHOICES: Node = OWN + 1;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[(ROOT, "model", ask::MODEL), (ROOT, "stream", ask::STREAM)];
    const RESPONSE: Paths = &[
        (ROOT, "type", say::KIND),
        (ROOT, "delta", say::TEXT),
        (ROOT, "model", say::MODEL),
        (ROOT, "usage", USAGE),
        (USAGE, "input_tokens", say::PROMPT),
        (USAGE, "output_tokens", say::OUTPUT),
        (USAGE, "prompt_tokens", say::PROMPT),
        (USAGE, "completion_tokens", say::OUTPUT),
        (ROOT, "choices", CHOICES),
        (CHOICES, "[]", say::CHOICE),
        (say::CHOICE, "finish_reason", say::FINISH),
        (ROOT, "error", say::ERROR),
    ];

    fn event_end(name: &[u8], note: &mut Note<'_>) {
        let kind = note.kind.unwrap_or(name);
        note.done |= kind == b"transcript.text.done";
        note.error |= kind == b"error";
    }
}
