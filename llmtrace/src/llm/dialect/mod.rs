//! The APIs that LLM servers speak. One module each; what they have in common is here: a request
//! head is classified once, then every event (or the whole body) is turned into facts.
//!
//! A new dialect is a module with a `classify`, and a variant of [`Decoder`] and of [`Whole`].
//! Which framing a response has (SSE, one JSON text, ...) is the exchange's business, not the
//! dialect's.

use super::outcome::Usage;
use crate::http::RequestHead;

pub mod grpc;
pub mod openai;
pub mod realtime;

/// What a request head says: which dialect, and under which name the endpoint is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub dialect: Dialect,
    /// Normalised, such as `/v1/chat/completions`.
    pub endpoint: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    /// Its answers are counted by message; see [`grpc::Messages`].
    Grpc(grpc::Call),
    /// Its messages are read by [`realtime::Session`].
    Realtime,
}

/// None: not a call of an LLM.
#[inline]
pub fn classify(head: &RequestHead<'_>) -> Option<Route> {
    openai::classify(head).or_else(|| grpc::classify(head))
}

/// What one event says of one choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    pub index: u32,
    /// The event bears tokens of this choice.
    pub tokens: bool,
    /// How many, if the event says so itself.
    pub count: Option<u32>,
    /// Why the choice ended, escapes and all.
    pub finish: Option<&'a [u8]>,
}

/// What one event says besides its choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Escapes and all.
    pub model: Option<&'a [u8]>,
    /// Counts so far, of the one choice that the event has, or of all if it has none.
    pub usage: Option<Usage>,
    /// Counts of a kind that is only used if there are no others.
    pub fallback: Option<Usage>,
    pub error: bool,
    /// The end marker.
    pub done: bool,
}

/// Reads the events of one response.
#[derive(Debug)]
pub enum Decoder {
    OpenAi(openai::Decoder),
}

impl Decoder {
    /// None: the dialect has no server-sent events.
    pub fn new(dialect: Dialect) -> Option<Self> {
        match dialect {
            Dialect::OpenAi => Some(Self::OpenAi(openai::Decoder::new())),
            Dialect::Grpc(_) | Dialect::Realtime => None,
        }
    }

    #[inline]
    pub fn event<'a>(
        &mut self,
        _name: &[u8],
        data: &'a [u8],
        on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        match self {
            Self::OpenAi(decoder) => decoder.event(data, on_choice),
        }
    }
}

/// Reads a request body as it goes by.
#[derive(Debug)]
pub enum Request {
    OpenAi(openai::Request),
    Grpc(grpc::Request),
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// At most `MAX_MODEL` bytes.
    pub model: Option<Box<str>>,
    pub stream: bool,
    pub n: Option<u64>,
    pub max_tokens: Option<u64>,
    pub include_usage: bool,
}

impl Request {
    /// None: nothing is read of such a body.
    pub fn new(dialect: Dialect) -> Option<Self> {
        match dialect {
            Dialect::OpenAi => Some(Self::OpenAi(openai::Request::new())),
            Dialect::Grpc(call) => Some(Self::Grpc(grpc::Request::new(call))),
            Dialect::Realtime => None,
        }
    }

    pub fn push(&mut self, bytes: &[u8], asked: &mut Asked) {
        match self {
            Self::OpenAi(request) => request.push(bytes, asked),
            Self::Grpc(request) => request.push(bytes, asked),
        }
    }
}

/// Reads a response body that is one text as it goes by.
#[derive(Debug)]
pub enum Whole {
    OpenAi(openai::Whole),
}

/// What such a body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub model: Option<Box<str>>,
    pub usage: Usage,
    pub error: bool,
    pub finish: Option<Box<str>>,
    /// The text came to its end.
    pub complete: bool,
}

impl Whole {
    /// None: nothing is read of such a body.
    pub fn new(dialect: Dialect) -> Option<Self> {
        match dialect {
            Dialect::OpenAi => Some(Self::OpenAi(openai::Whole::new())),
            Dialect::Grpc(_) | Dialect::Realtime => None,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::OpenAi(whole) => whole.push(bytes),
        }
    }

    pub fn said(self) -> Said {
        match self {
            Self::OpenAi(whole) => whole.said(),
        }
    }
}
