//! HTTP messages (1.x and 2) and WebSocket messages from ordered bytes; content codings of their
//! bodies, and what these are made of: server-sent events, lines, the elements of an array, binary
//! frames, the fields of a form.
//!
//! Parsing never fails outright: what cannot be understood is reported once, and the parser then
//! ignores its direction until it is told where a message begins again.
//!
//! Architecture Invariant: knows bytes only; knows nothing of sockets, connections, time or LLMs.
//! Architecture Invariant: no buffer here grows past a named constant, whatever the wire claims.

#![forbid(unsafe_code)]

mod buf;
pub mod chunked;
pub mod encoding;
pub mod eventstream;
pub mod h1;
pub mod h2;
pub mod head;
pub mod json_array;
pub mod multipart;
pub mod ndjson;
pub mod sniff;
pub mod sse;
pub mod ws;

pub use h1::{Asked, Event, RequestEvent, RequestParser, ResponseEvent, ResponseParser};
pub use head::{Framing, RequestHead, ResponseHead};
pub use sniff::{Sniff, looks_like_request, looks_like_response};

/// Longest message head that is accepted, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most header fields in a head.
pub const MAX_HEADERS: usize = 128;
/// Longest chunk-size line, and longest trailer section, in bytes.
pub const MAX_CHUNK_LINE: usize = 16 * 1024;
/// Most requests of one connection that may wait for their response.
pub const MAX_PIPELINE: usize = 64;
/// Longest event, line, element or frame of a body that is kept whole, in bytes. So little under a
/// fuzzer that its inputs are longer.
pub const MAX_EVENT: usize = if cfg!(fuzzing) { 1024 } else { 256 * 1024 };

/// Which part of an event, line or element is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The beginning of one that is longer than [`MAX_EVENT`]; then it is handed out as it comes.
    Begin,
    More,
    /// Its end, without data.
    End,
}
/// Longest event name that is kept, in bytes.
pub const MAX_EVENT_NAME: usize = 64;

/// Why a direction could not be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum H1Error {
    #[error("not an HTTP/1 message head")]
    BadHead,
    #[error("message head too long")]
    HeadTooLong,
    #[error("contradictory or unusable body length")]
    BadLength,
    #[error("malformed chunk")]
    BadChunk,
    #[error("chunk line or trailers too long")]
    ChunkLineTooLong,
}
