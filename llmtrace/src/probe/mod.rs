//! Everything that touches the kernel: what it can do, where its fields are, which programs to
//! attach, which processes to target, and the ring.
//!
//! Architecture Invariant: the only place that names aya.
#![expect(unsafe_code, reason = "memory-mapped ring and plain-old-data map values")]

mod attach;
pub mod capture;
pub mod clock;
pub mod container;
pub mod error;
pub mod features;
mod filter;
mod heap;
mod ktls;
mod log;
pub mod object;
pub mod offsets;
mod perf;
pub mod plan;
pub mod preemption;
pub mod privileges;
pub mod process;
pub mod ring;
pub mod signals;
pub mod target;
pub mod tls;
pub mod types;

pub use capture::{Capture, Chosen, Config};
pub use error::ProbeError;
pub use plan::{Choice, Hooks};
