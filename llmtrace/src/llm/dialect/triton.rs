//! Triton's generate extension. The model is in the path; no counts are told.

use super::note::say;
use super::request::ask;
use super::{Api as Dialect, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT};

const PARAMETERS: Node = OWN;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "stream", ask::STREAM),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "parameters", PARAMETERS),
        (PARAMETERS, "stream", ask::STREAM),
        (PARAMETERS, "max_tokens", ask::MAX_TOKENS),
    ];
    const RESPONSE: Paths = &[
        (ROOT, "model_name", say::MODEL),
        (ROOT, "text_output", say::TEXT),
        (ROOT, "error", say::ERROR),
    ];
}
