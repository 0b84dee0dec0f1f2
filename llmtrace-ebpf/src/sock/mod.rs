//! Sockets: thin entry points for each kind of hook, and the body that they share.

pub mod announce;
pub mod args;
pub mod arrival;
pub mod call;
pub mod common;
pub mod fentry;
pub mod function;
pub mod kprobe;
pub mod ktls;
pub mod syscall;
pub mod tracepoint;
