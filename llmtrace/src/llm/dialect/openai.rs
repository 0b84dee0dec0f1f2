//! OpenAI chat completions and completions, as OpenAI, vLLM, SGLang, llama.cpp, LMDeploy, TGI,
//! Azure and gateways serve them.

use super::{Asked, Choice, Dialect, Facts, Route, Said};
use crate::http::RequestHead;
use crate::llm::json::slice::Cursor;
use crate::llm::json::stream::{Node, Paths, ROOT, Scanner, Value};
use crate::llm::json::unescape;
use crate::llm::outcome::{MAX_FINISH_REASON, MAX_MODEL, Usage};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Prefixes are as many as there are gateways, so the end of the path decides.
pub fn classify(head: &RequestHead<'_>) -> Option<Route> {
    if head.method != "POST" {
        return None;
    }
    let path = head.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let endpoint = if path.ends_with("/chat/completions") {
        CHAT
    } else if path.ends_with("/completions") {
        COMPLETIONS
    } else {
        return None;
    };
    Some(Route { dialect: Dialect::OpenAi, endpoint })
}

/// Most bytes that are remembered of an event before and after its choices.
const MEMO: usize = 256;

/// Bytes of an event that are known to say nothing new. The events of a stream are the same but
/// for their choices, and equal bytes read from the same place mean the same.
#[derive(Debug)]
struct Memo {
    bytes: [u8; MEMO],
    /// 0: nothing is remembered.
    len: usize,
}

impl Memo {
    const NEW: Self = Self { bytes: [0; MEMO], len: 0 };

    #[inline]
    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn set(&mut self, bytes: &[u8]) {
        self.len = if bytes.len() <= MEMO { bytes.len() } else { 0 };
        self.bytes[..self.len].copy_from_slice(&bytes[..self.len]);
    }
}

#[derive(Debug)]
pub struct Decoder {
    /// From the start of an event to the value of `choices`.
    before: Memo,
    /// From the end of that value to the end of the event.
    after: Memo,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { before: Memo::NEW, after: Memo::NEW }
    }
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    #[inline]
    pub fn event<'a>(
        &mut self,
        data: &'a [u8],
        mut on_choice: impl FnMut(Choice<'a>),
    ) -> Facts<'a> {
        let mut facts = Facts::default();
        let mut cursor = Cursor::new(data);
        if self.before.len > 0 && data.starts_with(self.before.get()) {
            cursor.seek(self.before.len);
            choices(&mut cursor, &mut on_choice);
            self.rest(&mut cursor, &mut facts, on_choice);
            return facts;
        }
        if !cursor.object() {
            facts.done = data.trim_ascii() == b"[DONE]";
            return facts;
        }
        while let Some(key) = cursor.key() {
            if key != b"choices" {
                field(key, &mut cursor, &mut facts);
                continue;
            }
            // A model is only news once.
            if (Facts { model: None, ..facts }) == Facts::default() {
                self.before.set(&data[..cursor.at()]);
            }
            choices(&mut cursor, &mut on_choice);
            self.rest(&mut cursor, &mut facts, on_choice);
            break;
        }
        facts
    }

    /// The event after its choices.
    #[inline]
    fn rest<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
        facts: &mut Facts<'a>,
        mut on_choice: impl FnMut(Choice<'a>),
    ) {
        let rest = cursor.rest();
        if self.after.len > 0 && rest == self.after.get() {
            return;
        }
        let before = *facts;
        let mut news = false;
        while let Some(key) = cursor.key() {
            if key == b"choices" {
                choices(cursor, &mut on_choice);
                news = true;
            } else {
                field(key, cursor, facts);
            }
        }
        if !news && (Facts { model: before.model, ..*facts }) == before {
            self.after.set(rest);
        }
    }
}

/// A member of an event other than its choices.
#[inline]
fn field<'a>(key: &[u8], cursor: &mut Cursor<'a>, facts: &mut Facts<'a>) {
    match key {
        b"model" => facts.model = cursor.string().filter(|m| !m.is_empty()).or(facts.model),
        b"usage" => facts.usage = usage(cursor).or(facts.usage),
        b"timings" => facts.fallback = timings(cursor).or(facts.fallback),
        b"error" => facts.error |= cursor.is_something(),
        b"object" => facts.error |= cursor.string() == Some(b"error"),
        _ => cursor.skip(),
    }
}

#[inline]
fn choices<'a>(cursor: &mut Cursor<'a>, on_choice: &mut impl FnMut(Choice<'a>)) {
    if !cursor.array() {
        return cursor.skip();
    }
    while cursor.item() {
        if !cursor.object() {
            cursor.skip();
            continue;
        }
        let mut choice = Choice::default();
        while let Some(key) = cursor.key() {
            match key {
                b"delta" => choice.tokens |= delta(cursor),
                b"text" => choice.tokens |= text(cursor),
                b"index" => {
                    let index = cursor.number().unwrap_or(0);
                    choice.index = u32::try_from(index).unwrap_or(u32::MAX);
                }
                b"finish_reason" => {
                    choice.finish = cursor.string().filter(|reason| !reason.is_empty());
                }
                b"token_ids" => choice.count = cursor.count(),
                _ => cursor.skip(),
            }
        }
        on_choice(choice);
    }
}

/// Whether a string comes next that is not empty.
#[inline]
fn text(cursor: &mut Cursor<'_>) -> bool {
    cursor.string().is_some_and(|text| !text.is_empty())
}

/// Whether a delta bears tokens.
#[inline]
fn delta(cursor: &mut Cursor<'_>) -> bool {
    if !cursor.object() {
        cursor.skip();
        return false;
    }
    let mut tokens = false;
    while let Some(key) = cursor.key() {
        match key {
            b"content" | b"reasoning_content" | b"reasoning" | b"refusal" => {
                tokens |= text(cursor);
            }
            b"tool_calls" => {
                if !cursor.array() {
                    cursor.skip();
                    continue;
                }
                while cursor.item() {
                    tokens |= tool_call(cursor);
                }
            }
            b"function_call" => tokens |= function(cursor),
            _ => cursor.skip(),
        }
    }
    tokens
}

fn tool_call(cursor: &mut Cursor<'_>) -> bool {
    let mut tokens = false;
    if !cursor.object() {
        cursor.skip();
        return false;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"function" => tokens |= function(cursor),
            _ => cursor.skip(),
        }
    }
    tokens
}

fn function(cursor: &mut Cursor<'_>) -> bool {
    let mut tokens = false;
    if !cursor.object() {
        cursor.skip();
        return false;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"name" | b"arguments" => tokens |= text(cursor),
            _ => cursor.skip(),
        }
    }
    tokens
}

fn usage(cursor: &mut Cursor<'_>) -> Option<Usage> {
    let mut usage = Usage::default();
    if !cursor.object() {
        cursor.skip();
        return None;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"prompt_tokens" => usage.prompt = cursor.number(),
            b"completion_tokens" => usage.output = cursor.number(),
            b"prompt_tokens_details" => usage.cached = member(cursor, b"cached_tokens"),
            b"completion_tokens_details" => {
                usage.reasoning = member(cursor, b"reasoning_tokens");
            }
            _ => cursor.skip(),
        }
    }
    (usage != Usage::default()).then_some(usage)
}

/// llama.cpp's own figures.
fn timings(cursor: &mut Cursor<'_>) -> Option<Usage> {
    let (mut prompt, mut cached, mut output) = (None, None, None);
    if !cursor.object() {
        cursor.skip();
        return None;
    }
    while let Some(key) = cursor.key() {
        match key {
            b"prompt_n" => prompt = cursor.number(),
            b"cache_n" => cached = cursor.number(),
            b"predicted_n" => output = cursor.number(),
            _ => cursor.skip(),
        }
    }
    let usage = from_timings(prompt, cached, output);
    (usage != Usage::default()).then_some(usage)
}

/// `prompt_n` leaves out what came from the cache.
fn from_timings(prompt: Option<u64>, cached: Option<u64>, output: Option<u64>) -> Usage {
    let prompt = prompt.map(|n| n.saturating_add(cached.unwrap_or(0)));
    Usage { prompt, output, cached, reasoning: None }
}

/// The number `name` of the object that comes next.
fn member(cursor: &mut Cursor<'_>, name: &[u8]) -> Option<u64> {
    let mut found = None;
    if !cursor.object() {
        cursor.skip();
        return None;
    }
    while let Some(key) = cursor.key() {
        if key == name {
            found = cursor.number();
        } else {
            cursor.skip();
        }
    }
    found
}

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
        self.said.fallback = from_timings(self.prompt_n, self.cache_n, self.predicted_n);
        self.said
    }
}
