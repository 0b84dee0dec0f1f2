//! Everything that touches the kernel: what it can do, where its fields are, which programs to
//! attach, which processes to target, and the ring.
//!
//! Architecture Invariant: the only place that names aya.
#![expect(unsafe_code, reason = "memory-mapped ring and plain-old-data map values")]

pub mod capture;
pub mod clock;
pub mod error;
pub mod features;
pub mod object;
pub mod offsets;
pub mod ring;
pub mod target;
pub mod tls;

pub use capture::{Capture, Config};
pub use error::ProbeError;
