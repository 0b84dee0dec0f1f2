//! Requests, and responses that are one JSON text.

use super::super::{Asked, Said};
use super::from_timings;
use crate::llm::json::stream::{Node, Paths, ROOT, Scanner, Value};
use crate::llm::json::unescape;
use crate::llm::outcome::{MAX_FINISH_REASON, MAX_MODEL};

#[derive(Debug)]
pub struct Request {
    scanner: Scanner,
}

mod ask {
    pub const MODEL: u8 = 1;
    pub const STREAM: u8 = 2;
    pub const N: u8 = 3;
    pub const MAX_TOKENS: u8 = 4;
    pub const STREAM_OPTIONS: u8 = 5;
    pub const INCLUDE_USAGE: u8 = 6;
}

const REQUEST: Paths = &[
    (ROOT, "model", ask::MODEL),
    (ROOT, "stream", ask::STREAM),
    (ROOT, "n", ask::N),
    (ROOT, "max_tokens", ask::MAX_TOKENS),
    (ROOT, "max_completion_tokens", ask::MAX_TOKENS),
    (ROOT, "stream_options", ask::STREAM_OPTIONS),
    (ask::STREAM_OPTIONS, "include_usage", ask::INCLUDE_USAGE),
];

impl Default for Request {
    fn default() -> Self {
        Self { scanner: Scanner::new(REQUEST) }
    }
}

impl Request {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, bytes: &[u8], asked: &mut Asked) {
        self.scanner.push(bytes, |node, value| match (node, value) {
            (ask::MODEL, Value::String(raw)) => asked.model = Some(unescape(raw, MAX_MODEL)),
            (ask::STREAM, value) => asked.stream = value.is_true(),
            (ask::N, value) => asked.n = value.number(),
            (ask::MAX_TOKENS, value) => asked.max_tokens = value.number().or(asked.max_tokens),
            (ask::INCLUDE_USAGE, value) => asked.include_usage = value.is_true(),
            _ => {}
        });
    }
}

mod say {
    pub const MODEL: u8 = 1;
    pub const OBJECT: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const USAGE: u8 = 4;
    pub const PROMPT: u8 = 5;
    pub const OUTPUT: u8 = 6;
    pub const PROMPT_DETAILS: u8 = 7;
    pub const CACHED: u8 = 8;
    pub const OUTPUT_DETAILS: u8 = 9;
    pub const REASONING: u8 = 10;
    pub const CHOICES: u8 = 11;
    pub const CHOICE: u8 = 12;
    pub const FINISH: u8 = 13;
    pub const TIMINGS: u8 = 14;
    pub const PROMPT_N: u8 = 15;
    pub const CACHE_N: u8 = 16;
    pub const PREDICTED_N: u8 = 17;
}

const RESPONSE: Paths = &[
    (ROOT, "model", say::MODEL),
    (ROOT, "object", say::OBJECT),
    (ROOT, "error", say::ERROR),
    (ROOT, "usage", say::USAGE),
    (say::USAGE, "prompt_tokens", say::PROMPT),
    (say::USAGE, "completion_tokens", say::OUTPUT),
    (say::USAGE, "prompt_tokens_details", say::PROMPT_DETAILS),
    (say::PROMPT_DETAILS, "cached_tokens", say::CACHED),
    (say::USAGE, "completion_tokens_details", say::OUTPUT_DETAILS),
    (say::OUTPUT_DETAILS, "reasoning_tokens", say::REASONING),
    (ROOT, "choices", say::CHOICES),
    (say::CHOICES, "[]", say::CHOICE),
    (say::CHOICE, "finish_reason", say::FINISH),
    (ROOT, "timings", say::TIMINGS),
    (say::TIMINGS, "prompt_n", say::PROMPT_N),
    (say::TIMINGS, "cache_n", say::CACHE_N),
    (say::TIMINGS, "predicted_n", say::PREDICTED_N),
];

#[derive(Debug)]
pub struct Whole {
    scanner: Scanner,
    said: Said,
    prompt_n: Option<u64>,
    cache_n: Option<u64>,
    predicted_n: Option<u64>,
}

impl Default for Whole {
    fn default() -> Self {
        let scanner = Scanner::new(RESPONSE);
        Self { scanner, said: Said::default(), prompt_n: None, cache_n: None, predicted_n: None }
    }
}

impl Whole {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let Self { scanner, said, prompt_n, cache_n, predicted_n } = self;
        scanner.push(bytes, |node: Node, value| match (node, value) {
            (say::MODEL, Value::String(raw)) if !raw.is_empty() => {
                said.model = Some(unescape(raw, MAX_MODEL));
            }
            (say::OBJECT, value) => said.error |= value == Value::String(b"error"),
            (say::ERROR, value) => {
                let nothing = [Value::Scalar(b"null"), Value::Scalar(b"false"), Value::String(b"")];
                said.error |= !nothing.contains(&value);
            }
            (say::PROMPT, value) => said.usage.prompt = value.number(),
            (say::OUTPUT, value) => said.usage.output = value.number(),
            (say::CACHED, value) => said.usage.cached = value.number(),
            (say::REASONING, value) => said.usage.reasoning = value.number(),
            (say::FINISH, Value::String(raw)) if said.finish.is_none() => {
                said.finish = Some(unescape(raw, MAX_FINISH_REASON));
            }
            (say::PROMPT_N, value) => *prompt_n = value.number(),
            (say::CACHE_N, value) => *cache_n = value.number(),
            (say::PREDICTED_N, value) => *predicted_n = value.number(),
            _ => {}
        });
    }

    pub fn said(mut self) -> Said {
        self.said.complete = self.scanner.is_over();
        let timings = from_timings(self.prompt_n, self.cache_n, self.predicted_n);
        self.said.usage = self.said.usage.or(timings);
        self.said
    }
}
