//! What a request asks for, read from its body as it goes by.

use super::{Dialect, OWN, Route, grpc, with_api};
use crate::http::multipart;
use crate::llm::json::stream::{Node, Scanner, Value};
use crate::llm::json::{number, unescape};
use crate::llm::outcome::MAX_MODEL;

/// Longest name of a LoRA adapter that is kept, in bytes.
const MAX_LORA: usize = 128;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// At most `MAX_MODEL` bytes.
    pub model: Option<Box<str>>,
    pub stream: bool,
    /// Choices, or candidates.
    pub n: Option<u64>,
    /// Most tokens of the output, by whatever name.
    pub max_tokens: Option<u64>,
    pub include_usage: bool,
    /// At least one tool is offered.
    pub tools: bool,
    /// A LoRA adapter that is named apart from the model; the first of several.
    pub lora: Option<Box<str>>,
}

/// What a value of a request means.
pub mod ask {
    use crate::llm::json::stream::Node;
    pub const MODEL: Node = 1;
    pub const STREAM: Node = 2;
    pub const N: Node = 3;
    pub const MAX_TOKENS: Node = 4;
    pub const INCLUDE_USAGE: Node = 5;
    /// An element of the list of tools.
    pub const TOOL: Node = 6;
    pub const LORA: Node = 7;
    /// Its presence shows that this is a request of the dialect.
    pub const PROOF: Node = 8;
    /// The model, where its presence shows that.
    pub const MODEL_PROOF: Node = 10;
    /// Its presence shows that this is no call of an LLM.
    pub const DISPROOF: Node = 9;
}

/// What is found out about a request.
#[derive(Debug)]
pub struct Shape<'a> {
    pub asked: &'a mut Asked,
    pub proof: Proof,
}

/// Whether a request is what its path promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    #[default]
    None,
    Is(Dialect),
    IsNot,
}

impl Shape<'_> {
    pub fn is(&mut self, dialect: Dialect) {
        if self.proof == Proof::None {
            self.proof = Proof::Is(dialect);
        }
    }

    fn note(&mut self, dialect: Dialect, node: Node, value: Value<'_>) {
        let asked = &mut *self.asked;
        match (node, value) {
            (_, Value::End) => {}
            (ask::MODEL, Value::String(raw)) if !raw.is_empty() => {
                asked.model = Some(unescape(raw, MAX_MODEL));
            }
            (ask::MODEL_PROOF, Value::String(raw)) if !raw.is_empty() => {
                asked.model = Some(unescape(raw, MAX_MODEL));
                self.is(dialect);
            }
            (ask::STREAM, value) => asked.stream = value.is_true(),
            (ask::N, value) => asked.n = value.number().or(asked.n),
            (ask::MAX_TOKENS, value) => asked.max_tokens = value.number().or(asked.max_tokens),
            (ask::INCLUDE_USAGE, value) => asked.include_usage = value.is_true(),
            (ask::TOOL, _) => asked.tools = true,
            (ask::LORA, Value::String(raw) | Value::Scalar(raw))
                if asked.lora.is_none() && !raw.is_empty() && raw != b"null" =>
            {
                asked.lora = Some(unescape(raw, MAX_LORA));
            }
            (ask::PROOF, _) => self.is(dialect),
            (ask::DISPROOF, _) if self.proof == Proof::None => self.proof = Proof::IsNot,
            _ => {}
        }
    }
}

/// Reads a request body as it goes by.
#[derive(Debug)]
pub struct Request {
    dialect: Dialect,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Json(Scanner),
    Form(multipart::Decoder),
    Grpc(grpc::Request),
}

impl Request {
    /// None: a body that cannot be one of this dialect, or not be read.
    pub fn new(route: &Route, content_type: Option<&str>) -> Option<Self> {
        let kind = content_type.map(|v| v.split(';').next().unwrap_or("").trim());
        let is = |essence: &str| kind.is_some_and(|v| v.eq_ignore_ascii_case(essence));
        let dialect = route.dialect;
        if let Dialect::Grpc(call) = dialect {
            return Some(Self { dialect, body: Body::Grpc(grpc::Request::new(call)) });
        }
        if is("multipart/form-data") {
            let form = multipart::Decoder::new(content_type?)?;
            return Some(Self { dialect, body: Body::Form(form) });
        }
        // Many clients send JSON under the type that their library happens to set.
        let not_json = is("text/xml") || is("application/xml") || is("application/grpc");
        if not_json || !route.sure && is("application/octet-stream") {
            return None;
        }
        let paths = with_api!(dialect, A => <A as super::Api>::REQUEST);
        Some(Self { dialect, body: Body::Json(Scanner::new(paths)) })
    }

    /// Heap bytes held.
    pub fn buffered(&self) -> usize {
        match &self.body {
            Body::Json(_) => 0,
            Body::Form(form) => form.buffered(),
            Body::Grpc(request) => request.buffered(),
        }
    }

    pub fn push(&mut self, bytes: &[u8], asked: &mut Asked) -> Proof {
        let dialect = self.dialect;
        let mut shape = Shape { asked, proof: Proof::None };
        match &mut self.body {
            Body::Json(scanner) => with_api!(dialect, A => {
                scanner.push(bytes, |node, value| {
                    if node < OWN {
                        shape.note(dialect, node, value);
                    } else {
                        <A as super::Api>::ask(node, value, &mut shape);
                    }
                });
            }),
            Body::Form(form) => form.push(bytes, |field| match field.name {
                "model" => {
                    let name = String::from_utf8_lossy(field.value);
                    shape.asked.model = Some(crate::llm::json::clip(&name, MAX_MODEL).into());
                }
                "stream" => {
                    let yes = [&b"true"[..], b"1", b"on"];
                    shape.asked.stream =
                        yes.iter().any(|yes| field.value.eq_ignore_ascii_case(yes));
                }
                "max_completion_tokens" => {
                    shape.asked.max_tokens = number(field.value).or(shape.asked.max_tokens);
                }
                "stream_include_usage" => {
                    shape.asked.include_usage = field.value.eq_ignore_ascii_case(b"true");
                }
                _ => {}
            }),
            Body::Grpc(request) => request.push(bytes, shape.asked),
        }
        shape.proof
    }
}
