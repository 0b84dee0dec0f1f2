//! What has no output tokens: embeddings, reranking, scores, pooling, as OpenAI, vLLM, Cohere, Jina,
//! Ollama, llama.cpp and Gemini serve them. Output counts, which some of them send as 0, are not
//! read: there is nothing that they could be counts of.

use super::note::say;
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT};

const USAGE: Node = OWN;
const DETAILS: Node = OWN + 1;
const META: Node = OWN + 2;
const TOKENS: Node = OWN + 3;
const METADATA: Node = OWN + 4;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "input", ask::PROOF),
        (ROOT, "prompt", ask::PROOF),
        (ROOT, "content", ask::PROOF),
        (ROOT, "texts", ask::PROOF),
        (ROOT, "images", ask::PROOF),
        (ROOT, "inputs", ask::PROOF),
        (ROOT, "query", ask::PROOF),
        (ROOT, "queries", ask::PROOF),
        (ROOT, "text_1", ask::PROOF),
        (ROOT, "data_1", ask::PROOF),
        (ROOT, "messages", ask::PROOF),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "model", say::MODEL),
        (ROOT, "error", say::ERROR),
        (ROOT, "usage", USAGE),
        (USAGE, "prompt_tokens", say::PROMPT),
        // Jina's only count.
        (USAGE, "total_tokens", say::TIMED_FRESH),
        (USAGE, "prompt_tokens_details", DETAILS),
        (DETAILS, "cached_tokens", say::CACHED),
        // Ollama.
        (ROOT, "prompt_eval_count", say::PROMPT),
        // Cohere.
        (ROOT, "meta", META),
        (META, "billed_units", TOKENS),
        (META, "tokens", TOKENS),
        (TOKENS, "input_tokens", say::PROMPT),
        // Gemini.
        (ROOT, "usageMetadata", METADATA),
        (METADATA, "promptTokenCount", say::PROMPT),
    ];
}
