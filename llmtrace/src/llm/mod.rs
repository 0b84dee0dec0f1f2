//! From HTTP messages to LLM exchanges: what was asked, what each streamed event said, how it
//! ended.
//!
//! Architecture Invariant: knows HTTP messages, times and bytes; knows nothing of connections,
//! records, sockets or metrics.

#![forbid(unsafe_code)]

mod body;
pub mod dialect;
pub mod exchange;
pub mod json;
pub mod outcome;
mod payload;
mod progress;
mod reader;
mod repetition;
mod track;
mod watch;

pub use dialect::{Asked, Operation};
pub use exchange::Exchange;
pub use outcome::{
    Drops, Finished, ItlHistogram, Ns, Outcome, Phase, Role, Settings, TokenSource, Usage,
};
pub use payload::{MAX_PAYLOAD, Payload, Text};
pub use progress::{Progress, RECENT_GAPS, Running};
pub use watch::{MAX_LABEL, Peer, Watch};
