//! Gemini's `generateContent`, by Google's APIs and Vertex AI. The model and whether it streams are
//! in the path. Candidates' counts leave out reasoning ("thoughts").

use super::note::{Note, say};
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const CONFIG: Node = OWN;
const TOOLS: Node = OWN + 1;

const CANDIDATES: Node = OWN + 2;
const CONTENT: Node = OWN + 3;
const PARTS: Node = OWN + 4;
const PART: Node = OWN + 5;
const USAGE: Node = OWN + 6;
const FEEDBACK: Node = OWN + 7;
const BLOCKED: Node = OWN + 8;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "generationConfig", CONFIG),
        (CONFIG, "maxOutputTokens", ask::MAX_TOKENS),
        (CONFIG, "candidateCount", ask::N),
        (ROOT, "generation_config", CONFIG),
        (CONFIG, "max_output_tokens", ask::MAX_TOKENS),
        (CONFIG, "candidate_count", ask::N),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "candidates", CANDIDATES),
        (CANDIDATES, "[]", say::CHOICE),
        (say::CHOICE, "index", say::INDEX),
        (say::CHOICE, "finishReason", say::FINISH),
        (say::CHOICE, "content", CONTENT),
        (CONTENT, "parts", PARTS),
        (PARTS, "[]", PART),
        // A last part may have a signature and an empty text.
        (PART, "text", say::TEXT),
        (PART, "functionCall", say::TOKENS),
        (PART, "executableCode", say::TOKENS),
        (PART, "inlineData", say::TOKENS),
        (ROOT, "usageMetadata", USAGE),
        (USAGE, "promptTokenCount", say::PROMPT),
        (USAGE, "cachedContentTokenCount", say::CACHED),
        (USAGE, "candidatesTokenCount", say::ANSWER),
        (USAGE, "thoughtsTokenCount", say::REASONING),
        (ROOT, "modelVersion", say::MODEL),
        (ROOT, "error", say::ERROR),
        (ROOT, "promptFeedback", FEEDBACK),
        (FEEDBACK, "blockReason", BLOCKED),
    ];
    const SHOWS_ANSWER: bool = true;

    fn say<'a>(node: Node, value: Value<'a>, note: &mut Note<'a>) {
        match (node, value) {
            // The prompt was refused, under a 200 and without an answer.
            (BLOCKED, Value::String(reason)) if !reason.is_empty() => {
                note.error = true;
                note.choice.finish = Some(reason);
            }
            (USAGE, Value::Container) => note.of_all = true,
            _ => {}
        }
    }
}
