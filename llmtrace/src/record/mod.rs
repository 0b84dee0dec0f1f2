//! What the agent knows of a ring record. The same types come from the ring, from a recording,
//! from a test and from the fuzzer.
//!
//! Architecture Invariant: nothing here knows aya, and only [`decode`] reads kernel bytes.

pub mod decode;

use llmtrace_common::config::KERNEL_ADDRESS;
pub use llmtrace_common::config::loss;

/// `CLOCK_MONOTONIC` nanoseconds, as the kernel took them.
pub type Ns = u64;

/// A socket's identity while it lives, and after it: the address is reused, the pair is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SockId {
    pub addr: u64,
    pub generation: u32,
}

impl SockId {
    /// Whether it is that of a socket, and not of a TLS library's object.
    pub fn is_socket(self) -> bool {
        self.addr & KERNEL_ADDRESS != 0
    }
}

/// Which way bytes went, as the traced process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Read,
    Write,
}

/// Where a piece stands in its direction's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Modulo 2^32, from an unknown start (TCP sequence number).
    Seq32(u32),
    /// Bytes since the kernel side first saw the socket.
    Count(u64),
}

/// How far both streams of a connection had come: what [`Position`] counts, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub read: u32,
    pub written: u32,
}

impl Reached {
    /// From one number, as records have it (`llmtrace_common::record::flag::REACHED`).
    pub fn from_bits(bits: u64) -> Self {
        Self { read: (bits >> 32) as u32, written: bits as u32 }
    }

    pub fn to_bits(self) -> u64 {
        u64::from(self.read) << 32 | u64::from(self.written)
    }
}

/// Bytes that one system call moved, or a piece of them.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    pub id: SockId,
    pub pid: u32,
    pub tid: u32,
    pub direction: Direction,
    pub enter: Ns,
    pub exit: Ns,
    pub position: Position,
    /// True length; `bytes` may hold less (then the rest is a gap).
    pub len: u32,
    pub bytes: &'a [u8],
    /// No byte had gone in either direction of the connection before this one.
    pub fresh: bool,
    /// Positions of this connection start anew: forget what was expected.
    pub reset: bool,
    /// More pieces of the same call follow.
    pub more: bool,
}

/// An end point of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Ip(std::net::SocketAddr),
    /// Path, `@name` for an abstract one, empty for an unnamed one.
    Unix(Box<str>),
    /// A TLS connection whose socket was not seen.
    Unknown,
}

/// A connection that the kernel side saw for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub id: SockId,
    pub pid: u32,
    pub ppid: u32,
    pub at: Ns,
    pub local: Address,
    pub remote: Address,
    /// Name of the process (of the thread group's leader).
    pub comm: Box<str>,
    pub cgroup: u64,
    pub netns: u32,
    pub fresh: bool,
    /// What is seen is the plaintext of TLS.
    pub tls: bool,
    /// Where its streams begin, if this is known before their first bytes.
    pub reached: Option<Reached>,
}

/// Why a connection, or one direction of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The peer sent FIN.
    PeerFin,
    /// This side sent FIN.
    LocalFin,
    /// The peer sent RST.
    PeerReset,
    /// This side sent RST.
    LocalReset,
    /// The socket is gone.
    Closed,
    /// A read returned 0.
    ReadEof,
    /// A write failed: the peer no longer listens.
    WriteBroken,
    /// A read failed: the peer reset the connection.
    ReadReset,
}

/// What the kernel's sniff took a silenced connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sniffed {
    Tls,
    Other,
}

/// Something that happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Fork { parent: u32, child: u32 },
    Exec { pid: u32 },
    Exit { pid: u32 },
    Listen { pid: u32, port: u16 },
}

/// One ring record.
#[derive(Clone, Debug)]
pub enum Record<'a> {
    Open(Open),
    Data(Data<'a>),
    End {
        id: SockId,
        pid: u32,
        at: Ns,
        reason: EndReason,
        /// Where its streams end: what was not seen of them is missing.
        reached: Option<Reached>,
    },
    Silenced {
        id: SockId,
        pid: u32,
        at: Ns,
        sniffed: Sniffed,
    },
    /// What the next read takes had waited in the socket since `arrived`.
    Arrived {
        id: SockId,
        arrived: Ns,
        at: Ns,
    },
    /// From `at` on the socket takes no more: its peer reads too slowly. `taken` is what the
    /// write still moved.
    Refused {
        id: SockId,
        at: Ns,
        taken: u32,
    },
    Process {
        at: Ns,
        event: Process,
    },
}
