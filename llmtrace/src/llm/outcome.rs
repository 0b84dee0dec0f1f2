//! What is known of an exchange when it is over.
//!
//! The definitions are the project's own (docs/metrics.md): TTFT is the time from the first byte
//! of the request head delivered to the server process to the write that carries the last byte of
//! the first token-bearing event.

use super::dialect::{Asked, Operation};
use super::payload::Payload;
use super::progress::Progress;

/// `CLOCK_MONOTONIC` nanoseconds.
pub type Ns = u64;

/// Longest model name that is kept, in bytes.
pub const MAX_MODEL: usize = 128;
/// Longest finish reason that is kept, in bytes.
pub const MAX_FINISH_REASON: usize = 32;
/// Longest user agent that is kept, in bytes.
pub const MAX_USER_AGENT: usize = 64;
/// Longest path that is kept, in bytes.
pub const MAX_PATH: usize = 256;
/// Longest `traceparent` that is kept, in bytes: version 00 has 55.
pub const MAX_TRACEPARENT: usize = 64;
/// Longest `tracestate` that is kept, in bytes: what has to be passed on.
pub const MAX_TRACESTATE: usize = 512;
/// Most choices of one request whose inter-token gaps are told apart, the first not counted.
pub const MAX_CHOICES: usize = 127;
/// Most token times that are kept of a stream, if they are asked for.
pub const MAX_TOKEN_TIMES: usize = 1 << 20;

/// Which end of the connection the traced process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Server,
    Client,
}

/// How far a response had come when its client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    BeforeFirstToken,
    MidStream,
}

/// How a request ended; exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    /// Status >= 400.
    HttpError,
    /// An error inside a 200.
    StreamError,
    /// FIN, RST or EPIPE from the client before the end.
    ClientDisconnect(Phase),
    /// The server closed before the end marker.
    ServerDisconnect,
    /// Idle past the limit.
    Timeout,
    /// Bytes were lost: counted, and kept out of every histogram.
    Incomplete,
}

impl Outcome {
    /// As the `outcome` label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::HttpError => "http_error",
            Self::StreamError => "stream_error",
            Self::ClientDisconnect(_) => "client_disconnect",
            Self::ServerDisconnect => "server_disconnect",
            Self::Timeout => "timeout",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Where a token count comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenSource {
    /// The server said so (`usage`, or `token_ids` per event).
    Usage,
    /// Token-bearing events were counted; a server may put several tokens into one.
    Events,
}

/// Token counts of a request, as far as the wire tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: Option<u64>,
    pub output: Option<u64>,
    /// Part of `prompt` that came from a cache.
    pub cached: Option<u64>,
    /// Part of `output` that was reasoning.
    pub reasoning: Option<u64>,
}

impl Usage {
    /// What is unknown here, as `other` says.
    pub fn or(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.or(other.prompt),
            output: self.output.or(other.output),
            cached: self.cached.or(other.cached),
            reasoning: self.reasoning.or(other.reasoning),
        }
    }
}

/// Inter-token latencies of one exchange, already in buckets, so that a long stream costs no more
/// memory than a short one and an incomplete one can be dropped whole.
#[derive(Clone, Debug)]
pub struct ItlHistogram {
    /// Upper bounds in nanoseconds, ascending; shared with the metric.
    pub bounds: std::sync::Arc<[Ns]>,
    /// One more than `bounds`: the last is +Inf.
    pub counts: Box<[u32]>,
    pub sum: Ns,
}

/// What was not read of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Events longer than `http::MAX_EVENT`, of which not everything was read.
    pub long_events: u32,
    /// Frames whose checksum or length was wrong.
    pub bad_frames: u32,
}

/// What the caller decides about every exchange.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds of the inter-token latency histogram, nanoseconds.
    pub itl_bounds: std::sync::Arc<[Ns]>,
    /// Keep the time of every token-bearing event (tests and accuracy benchmarks).
    pub token_times: bool,
    /// Find out how much answers repeat themselves.
    pub quality: bool,
    /// Keep the text of prompts and answers.
    pub payload: bool,
}

impl Default for Settings {
    /// Nothing that costs anything, and no gaps told apart.
    fn default() -> Self {
        Self {
            itl_bounds: std::sync::Arc::default(),
            token_times: false,
            quality: false,
            payload: false,
        }
    }
}

/// An exchange that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    pub role: Role,
    /// Upper case, at most 16 bytes.
    pub method: Box<str>,
    /// Normalised route, such as `/v1/chat/completions`.
    pub endpoint: &'static str,
    /// The request's own path, without its query. At most 256 bytes.
    pub path: Box<str>,
    pub operation: Operation,
    /// What the request asked for; its model is `model` if the response named none.
    pub asked: Asked,
    /// The model as the response named it, else as the request did. At most 128 bytes.
    pub model: Option<Box<str>>,
    /// Whether the response was a stream.
    pub stream: bool,
    /// None if no response head came.
    pub status: Option<u16>,
    pub outcome: Outcome,
    /// `stop`, `length`, ... as the server said it. At most 32 bytes. The first choice's.
    pub finish_reason: Option<Box<str>>,
    /// First byte of the request head.
    pub start: Ns,
    /// Last byte of the request.
    pub request_end: Option<Ns>,
    /// First byte of the final (not 1xx) response head.
    pub first_byte: Option<Ns>,
    /// Streams only: last byte of the first token-bearing event.
    pub first_token: Option<Ns>,
    /// Streams only: last byte of the last token-bearing event.
    pub last_token: Option<Ns>,
    /// Last byte of the response, or the time at which it was given up.
    pub end: Ns,
    /// Events of the stream of any kind: SSE events with data (comments do not count), lines, elements
    /// or frames.
    pub events: u64,
    /// Token-bearing events among them.
    pub token_events: u64,
    /// Tokens in the first token-bearing event.
    pub first_tokens: u32,
    /// The server's own counts.
    pub usage: Usage,
    /// Largest gap between two token-bearing events of a stream.
    pub max_stall: Option<Ns>,
    /// Inter-token latencies: a gap of `g` nanoseconds before an event of `k` tokens is `k`
    /// observations of `g / k`. Gaps are per choice. Boxed: most exchanges have none.
    pub itl: Option<Box<ItlHistogram>>,
    /// Where `k` came from: per-event usage or `token_ids`, else `k = 1` and `Events`.
    pub itl_source: TokenSource,
    /// Time of each token-bearing event, if asked for.
    pub token_times: Option<Vec<Ns>>,
    /// Of a server: time from the arrival of the request's first byte in the socket to its read. Known
    /// only if the request began at the first byte of a read, and the kernel tells of arrivals.
    pub queued: Option<Ns>,
    /// Of a server: time for which the writes of the response were held back by a client that reads
    /// slowly. None if nobody looked.
    pub blocked: Option<Ns>,
    /// Bytes of the request body, in the same way as `response_bytes`.
    pub request_bytes: u64,
    /// Bytes of the response body after transfer decoding, and after content decoding if it can be undone.
    pub response_bytes: u64,
    /// `User-Agent`, at most 64 bytes.
    pub user_agent: Option<Box<str>>,
    /// The request's W3C `traceparent`, as it came, at most 64 bytes.
    pub traceparent: Option<Box<str>>,
    /// The request's W3C `tracestate`, as it came; of more than 512 bytes, the first members.
    pub tracestate: Option<Box<str>>,
    /// Share of a stream's sequences of words that came before in it, if asked for and if there are
    /// enough to say.
    pub repetition: Option<f32>,
    /// Whether the answer has any text or call; none where the API does not show it.
    pub answered: Option<bool>,
    /// What was said, if asked for.
    pub payload: Option<Box<Payload>>,
    /// What the stream brought since it was last looked at.
    pub progress: Progress,
    pub drops: Drops,
}

impl Finished {
    /// Of an exchange of which no more is known.
    pub fn new(role: Role, start: Ns) -> Self {
        Self {
            role,
            method: "".into(),
            endpoint: "",
            path: "".into(),
            operation: Operation::Chat,
            asked: Asked::default(),
            model: None,
            stream: false,
            status: None,
            outcome: Outcome::Incomplete,
            finish_reason: None,
            start,
            request_end: None,
            first_byte: None,
            first_token: None,
            last_token: None,
            end: start,
            events: 0,
            token_events: 0,
            first_tokens: 0,
            usage: Usage::default(),
            max_stall: None,
            itl: None,
            itl_source: TokenSource::Events,
            token_times: None,
            queued: None,
            blocked: None,
            request_bytes: 0,
            response_bytes: 0,
            user_agent: None,
            traceparent: None,
            tracestate: None,
            repetition: None,
            answered: None,
            payload: None,
            progress: Progress::default(),
            drops: Drops::default(),
        }
    }

    /// The trace that the request belongs to, if its `traceparent` is one.
    pub fn trace_id(&self) -> Option<&str> {
        let mut parts = self.traceparent.as_deref()?.split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        let hex = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let fine = version.len() == 2
            && version != "ff"
            && trace.len() == 32
            && hex(version)
            && hex(trace)
            && trace.bytes().any(|b| b != b'0');
        fine.then_some(trace)
    }

    /// Output tokens and where the count comes from: the server's word if it gave one.
    pub fn output_tokens(&self) -> Option<(u64, TokenSource)> {
        match self.usage.output {
            Some(n) => Some((n, TokenSource::Usage)),
            None if self.stream && self.token_events > 0 => {
                Some((self.token_events, TokenSource::Events))
            }
            None => None,
        }
    }

    /// Time per output token after the first event's; of a stream.
    pub fn per_output_token(&self) -> Option<Ns> {
        let (first, last) = self.first_token.zip(self.last_token)?;
        let (n, _) = self.output_tokens()?;
        let n = n.checked_sub(self.first_tokens.into()).filter(|n| *n > 0)?;
        Some(last.saturating_sub(first) / n)
    }

    /// Time to the first token, if the client stayed for it.
    pub fn time_to_first_token(&self) -> Option<Ns> {
        let gone = self.outcome == Outcome::ClientDisconnect(Phase::BeforeFirstToken);
        self.first_token.filter(|_| !gone).map(|t| t.saturating_sub(self.start))
    }
}
