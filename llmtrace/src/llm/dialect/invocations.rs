//! SageMaker's one path for everything, `/invocations`: TGI's API, or OpenAI's as vLLM has it there.

use super::request::{Shape, ask};
use super::{Api as Dialect, Dialect as Name, OWN};
use crate::llm::json::stream::{Node, Paths, ROOT, Value};

const PARAMETERS: Node = OWN;
const TOOLS: Node = OWN + 1;
const TGI: Node = OWN + 2;
const OPENAI: Node = OWN + 3;

pub struct Api;

impl Dialect for Api {
    const REQUEST: Paths = &[
        (ROOT, "model", ask::MODEL),
        (ROOT, "stream", ask::STREAM),
        (ROOT, "inputs", TGI),
        (ROOT, "parameters", PARAMETERS),
        (PARAMETERS, "max_new_tokens", ask::MAX_TOKENS),
        (ROOT, "messages", OPENAI),
        (ROOT, "prompt", OPENAI),
        (ROOT, "n", ask::N),
        (ROOT, "max_tokens", ask::MAX_TOKENS),
        (ROOT, "tools", TOOLS),
        (TOOLS, "[]", ask::TOOL),
    ];
    const RESPONSE: Paths = &[];

    fn ask(node: Node, value: Value<'_>, shape: &mut Shape<'_>) {
        match (node, value) {
            (_, Value::End) => {}
            (TGI, _) => shape.is(Name::Tgi),
            (OPENAI, _) => shape.is(Name::OpenAi),
            _ => {}
        }
    }
}
