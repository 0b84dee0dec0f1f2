//! Socket reads and writes. Entry points are thin, one file per back end; the body is shared.

pub mod common;
pub mod tracepoint;
