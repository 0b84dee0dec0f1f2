//! The APIs that LLM servers speak. One module each; the contract that they share is [`Api`]: two
//! tables that say where in a request and in a response the facts are, and a few lines for what a
//! table cannot say. docs/adding-a-dialect.md shows how one is added.
//!
//! A request head is classified by its path ([`classify`]). Where the path alone proves nothing, the
//! call counts only once its body shows the keys of a dialect. How a response is framed (SSE, lines,
//! one text, ...) is the exchange's business, not the dialect's.
//!
//! Two are no tables, because their messages are not the JSON texts of an HTTP body: [`grpc`] and
//! [`realtime`].

mod anthropic;
mod audio;
mod bedrock;
mod cohere;
mod gemini;
mod generate;
pub mod grpc;
mod invocations;
mod kobold;
mod llamacpp;
mod long;
mod note;
mod ollama;
pub mod openai;
mod read;
pub mod realtime;
mod request;
mod responses;
mod route;
mod sglang;
mod tgi;
mod triton;
mod vectors;

pub use long::Long;
pub use note::{Choice, Facts};
pub use read::{Decoder, Said, Whole};
pub use request::{Asked, Proof, Request};
pub use route::{Call, Operation, Route};

use super::json::stream::{Node, Paths, Value};
use crate::http::RequestHead;
use note::Note;
use request::Shape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat completions and completions.
    OpenAi,
    /// OpenAI's Responses.
    Responses,
    /// Transcriptions and translations.
    Audio,
    /// Embeddings, reranking, scores and pooling, of all vendors.
    Vectors,
    /// Messages.
    Anthropic,
    /// Gemini and Vertex AI.
    Gemini,
    Ollama,
    /// llama.cpp's own.
    LlamaCpp,
    /// A path that several servers use; the request's body says which of them.
    Generate,
    /// The same of SageMaker's path.
    Invocations,
    /// SGLang's own.
    Sglang,
    Tgi,
    Triton,
    /// Invoke and Converse.
    Bedrock,
    Cohere,
    /// KoboldCpp's own.
    Kobold,
    /// Its answers are counted by message; see [`grpc::Messages`].
    Grpc(grpc::Call),
    /// Its messages are read by [`realtime::Session`].
    Realtime,
}

/// None: not a call of an LLM.
pub fn classify<'a>(head: &'a RequestHead<'_>) -> Option<Call<'a>> {
    route::classify(head).or_else(|| grpc::classify(head))
}

/// What a dialect's module says. `REQUEST` and `RESPONSE` lead to the nodes of [`request::ask`] and
/// [`note::say`], which mean the same in every dialect, or to nodes of its own from `OWN` on.
trait Api {
    const REQUEST: Paths;
    const RESPONSE: Paths;

    /// Whether `RESPONSE` finds every text and call of a response that is one text.
    const SHOWS_ANSWER: bool = false;

    /// A value of a request at a node of the dialect's own.
    fn ask(_: Node, _: Value<'_>, _: &mut Shape<'_>) {}

    /// A value of an event, or of a whole response, at a node of the dialect's own.
    fn say<'a>(_: Node, _: Value<'a>, _: &mut Note<'a>) {}

    /// An event is over; `name` is what its framing calls it. Not called for a whole response.
    fn event_end(_name: &[u8], _: &mut Note<'_>) {}
}

/// First node that means what its dialect says.
const OWN: Node = 64;

/// In the place of a dialect's `Api` where it has none: nothing is found in any text.
struct NoTable;

impl Api for NoTable {
    const REQUEST: Paths = &[];
    const RESPONSE: Paths = &[];
}

/// Evaluates an expression with the type `$api` of a dialect: dispatch without a table of functions.
macro_rules! with_api {
    ($dialect:expr, $api:ident => $body:expr) => {
        with_api!(@ $dialect, $api, $body,
            OpenAi openai, Responses responses, Audio audio, Vectors vectors, Anthropic anthropic,
            Gemini gemini, Ollama ollama, LlamaCpp llamacpp, Generate generate, Invocations invocations, Sglang sglang,
            Tgi tgi, Triton triton, Bedrock bedrock, Cohere cohere, Kobold kobold)
    };
    (@ $dialect:expr, $api:ident, $body:expr, $($variant:ident $module:ident),+) => {
        match $dialect {
            $(super::Dialect::$variant => {
                type $api = super::$module::Api;
                $body
            })+
            super::Dialect::Grpc(_) | super::Dialect::Realtime => {
                type $api = super::NoTable;
                $body
            }
        }
    };
}
use with_api;
