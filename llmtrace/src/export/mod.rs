//! Where finished exchanges go besides the metrics.
//!
//! Architecture Invariant: knows finished exchanges and who was at their ends; knows nothing of
//! connections, records or sockets.

#![forbid(unsafe_code)]

pub mod anomalies;
pub mod request_log;

pub use request_log::RequestLog;
