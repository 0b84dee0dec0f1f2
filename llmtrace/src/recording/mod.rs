//! Captured traffic as files: our own recordings, and any pcap or pcapng of LLM traffic.
//!
//! A recording is a pcapng file with synthesised TCP/IP framing, so that Wireshark reads it, and
//! beside each packet the record that it was made of, so that a replay is the run again, to the
//! nanosecond. Other captures have packets only: [`tcp`] makes records of them.
//!
//! Architecture Invariant: between records and bytes; knows nothing of the pipeline and above. It
//! reads from a `Read` and writes to a `Write` that it is given, and has no clock.
//! Architecture Invariant: nothing is allocated by a length that a file claims.
#![forbid(unsafe_code)]

pub mod frame;
pub mod link;
pub mod meta;
pub mod pcapng;
pub mod read;
pub mod redact;
pub mod tcp;
pub mod write;

pub use read::{Found, Reader};
pub use write::{Contents, Writer};

#[cfg(test)]
mod tests;
