//! From HTTP messages to LLM exchanges: what was asked, what each streamed event said, how it
//! ended.
//!
//! Architecture Invariant: knows HTTP messages, times and bytes; knows nothing of connections,
//! records, sockets or metrics.

pub mod dialect;
pub mod exchange;
pub mod json;
pub mod outcome;

pub use exchange::Exchange;
pub use outcome::{Finished, Outcome, Phase, Role, TokenSource, Usage};
