//! What the kernel programs and the agent both know: the layout of a ring record, of the
//! connection map and of the configuration globals, and the limits that bound them.
//!
//! Invariant: no dependency, no allocation, no `std`.
#![no_std]

pub mod config;
pub mod limits;
pub mod record;
