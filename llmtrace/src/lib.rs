//! llmtrace: an eBPF, zero-instrumentation tracer for LLM servers.
//!
//! Data flows one way: kernel hook -> ring record ([`record`]) -> connection ([`conn`]) -> HTTP
//! message ([`http`]) -> LLM exchange ([`llm`]) -> [`metrics`]. ARCHITECTURE.md is the map.

pub mod agent;
pub mod alerts;
pub mod anomaly;
pub mod cli;
pub mod client;
pub mod config;
pub mod conn;
pub mod demo;
pub mod discover;
pub mod doctor;
pub mod export;
pub mod http;
pub mod kubernetes;
pub mod live;
pub mod llm;
pub mod logger;
pub mod metrics;
pub mod otlp;
pub mod pipeline;
pub mod probe;
pub mod record;
pub mod recorder;
pub mod recording;
pub mod replay;
pub mod run;
pub mod serve;
pub mod signals;
pub mod top;
pub mod usage;
