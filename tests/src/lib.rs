//! What the tests and the benchmark share: processes under test, servers, exact clients.

pub mod agent;
pub mod bench;
pub mod bpf;
pub mod calls;
pub mod client;
pub mod clock;
pub mod compare;
pub mod fork;
pub mod http;
pub mod metrics;
pub mod mix;
pub mod net;
pub mod pass;
pub mod paths;
pub mod plan;
pub mod post;
pub mod process;
pub mod servers;
pub mod sse;
pub mod stack;
pub mod tls;
pub mod tls_stack;
pub mod uring;
pub mod usage;
pub mod vm;
