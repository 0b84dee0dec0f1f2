//! The connection table: from records in ring order to two ordered byte streams per connection,
//! with every missing byte an explicit gap.
//!
//! Architecture Invariant: knows records and nothing above them; no HTTP, no wall clock, no I/O.
//! Time is what the records and the caller say. Memory is bounded by the constants below.
#![forbid(unsafe_code)]

pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;

pub use stream::{Piece, Stream};
pub use table::{Entry, Slot, Table};

use crate::record::Ns;

/// Connections that are followed at once; past it the least recently used are let go.
pub const MAX_CONNECTIONS: usize = 65_536;
/// Bytes of one direction that wait for what is missing before them.
pub const HOLD_BYTES: usize = 64 * 1024;
/// Records of one direction that wait.
pub const HOLD_PIECES: usize = 512;
/// Bytes that wait in all connections together.
pub const HOLD_TOTAL: usize = 16 * 1024 * 1024;
/// How long they wait: records of several CPUs come a few microseconds out of order, a thread
/// that lost its CPU between the copy and the record a few milliseconds.
pub const HOLD_NS: Ns = 50_000_000;
/// A position further off than this is not a hole but another count.
pub const MAX_JUMP: i64 = 1 << 30;

/// What the table counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Holes in a stream, and the bytes they miss.
    pub gaps: u64,
    pub gap_bytes: u64,
    /// Records (or parts of one) that had been seen before.
    pub duplicates: u64,
    pub duplicate_bytes: u64,
    /// Records that had to wait for one before them.
    pub held: u64,
    /// Streams whose positions started anew.
    pub restarts: u64,
    /// Holes declared early because the bytes that waited were too many.
    pub hold_overflows: u64,
    /// Connections let go for want of room.
    pub evicted: u64,
}

/// What all streams of a table share: the counters and the room for bytes that wait.
#[derive(Debug)]
pub struct Shared {
    pub counts: Counts,
    pub(crate) hold_left: usize,
}

impl Default for Shared {
    fn default() -> Self {
        Self { counts: Counts::default(), hold_left: HOLD_TOTAL }
    }
}
