//! Paths that several servers use (`/generate`, `/`, `/invocations`): the body of the request says
//! whose call it is. Nothing is read of a response before that is known.

use super::request::{Shape, ask};
use super::{Api as Dialect, Dialect as Name, OWN, sglang, tgi};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const PARAMETERS: Node = OWN;
const SAMPLING: Node = OWN + 1;
const TOOLS: Node = OWN + 2;
const TGI: Node = OWN + 3;
const SGLANG: Node = OWN + 4;
const OPENAI: Node = OWN + 5;
const SAMPLINGS: Node = OWN + 6;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "inputs", TGI),
        (ROOT, "instances", TGI),
        (ROOT, "parameters", PARAMETERS),
        (PARAMETERS, "max_new_tokens", ask::MAX_TOKENS),
        (PARAMETERS, "adapter_id", ask::LORA),
        (ROOT, "text", SGLANG),
        (ROOT, "input_ids", SGLANG),
        (ROOT, "sampling_params", SAMPLING),
        (SAMPLING, "max_new_tokens", ask::MAX_TOKENS),
        (SAMPLING, "n", ask::N),
        (SAMPLING, "[]", SAMPLINGS),
        (SAMPLINGS, "max_new_tokens", ask::MAX_TOKENS),
        (ROOT, "lora_path", ask::LORA),
        // SageMaker's one path for everything.
        (ROOT, "messages", OPENAI),
        (ROOT, "prompt", OPENAI),
        (ROOT, "n", ask::N),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
        (ROOT, "jsonrpc", ask::DISPROOF),
    ];
    const RESPONSE: Paths = &[];

    fn ask(node: Node, value: Value<'_>, shape: &mut Shape<'_>) {
        match (node, value) {
            (_, Value::End) => {}
            (TGI, _) => shape.is(Name::Tgi),
            (SGLANG, _) => shape.is(Name::Sglang),
            (SAMPLING, Value::Container) => shape.is(Name::Sglang),
            (OPENAI, _) => shape.is(Name::OpenAi),
            _ => {}
        }
    }
}

// Both are only reached through this path; their requests are read here.
const _: () = assert!(tgi::Api::REQUEST.is_empty() && sglang::Api::REQUEST.is_empty());
