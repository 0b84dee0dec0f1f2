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
mod track;

pub use dialect::{Asked, Operation};
pub use exchange::Exchange;
pub use outcome::{Drops, Finished, Ns, Outcome, Phase, Role, Settings, TokenSource, Usage};
