//! A path that TGI and SGLang both use (`/generate`, `/`): the body of the request says whose call it
//! is. Nothing is read of a response before that is known.

use super::request::{Shape, ask};
use super::{Api as Dialect, Dialect as Name, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const PARAMETERS: Node = OWN;
const SAMPLING: Node = OWN + 1;
const TGI: Node = OWN + 2;
const SGLANG: Node = OWN + 3;
const SAMPLINGS: Node = OWN + 4;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "stream", ask::STREAM),
        (ROOT, "inputs", TGI),
        (ROOT, "instances", TGI),
        (ROOT, "parameters", PARAMETERS),
        (PARAMETERS, "max_new_tokens", ask::MAX_TOKENS),
        (PARAMETERS, "adapter_id", ask::LORA),
        // Not `text` or `prompt`: what makes speech or pictures has a `/generate` with these.
        (ROOT, "input_ids", SGLANG),
        (ROOT, "sampling_params", SAMPLING),
        (SAMPLING, "max_new_tokens", ask::MAX_TOKENS),
        (SAMPLING, "n", ask::N),
        (SAMPLING, "[]", SAMPLINGS),
        (SAMPLINGS, "max_new_tokens", ask::MAX_TOKENS),
        (ROOT, "lora_path", ask::LORA),
        (ROOT, "jsonrpc", ask::DISPROOF),
    ];
    const RESPONSE: Paths = &[];

    fn ask(node: Node, value: Value<'_>, shape: &mut Shape<'_>) {
        match (node, value) {
            (_, Value::End) => {}
            (TGI, _) => shape.is(Name::Tgi),
            (SGLANG, _) | (SAMPLING, Value::Container) => shape.is(Name::Sglang),
            _ => {}
        }
    }
}
