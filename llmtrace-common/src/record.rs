//! The ring record: one [`Header`], then what its [`kind`] says.
//!
//! All times are `CLOCK_MONOTONIC` nanoseconds. All numbers are in host byte order, but ports,
//! which are converted to host order by the kernel side.

use crate::limits::{COMM, UNIX_PATH};

/// What a record is ([`Header::kind`]).
pub mod kind {
    /// A connection seen for the first time: [`Open`](super::Open) follows the header.
    pub const OPEN: u16 = 1;
    /// Bytes read from a socket by a traced process; `cap_len` bytes follow the header.
    pub const READ: u16 = 2;
    /// Bytes written to a socket by a traced process; `cap_len` bytes follow the header.
    pub const WRITE: u16 = 3;
    /// Something ended: `len` is one of [`end`](super::end).
    pub const END: u16 = 4;
    /// The sniff silenced the connection; `len` is one of [`sniff`](super::sniff).
    pub const SILENCED: u16 = 5;
    /// A target forked: `pid` is the child, `len` the parent.
    pub const FORK: u16 = 6;
    /// A process executed a new program: `pid`.
    pub const EXEC: u16 = 7;
    /// The last thread of a target left: `pid`.
    pub const EXIT: u16 = 8;
    /// A process started to listen on a TCP port: `pid`, port in `len`.
    pub const LISTEN: u16 = 9;
    /// The bytes of the READ that follows had waited in the socket since `enter_ns`.
    pub const ARRIVED: u16 = 10;
    /// From `exit_ns` on the socket takes no more: its peer reads too slowly. `len` is what the
    /// call still took.
    pub const REFUSED: u16 = 11;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// `pos` is modulo 2^32 (a TCP sequence number), not a count from the connection's start.
    pub const SEQ32: u16 = 1;
    /// No byte had gone in either direction before this record.
    pub const FRESH: u16 = 2;
    /// The entry time was not seen; `enter_ns` equals `exit_ns`.
    pub const NO_ENTRY: u16 = 4;
    /// Payload could not be read (the page was not present): `cap_len` is less than wanted.
    pub const FAULT: u16 = 8;
    /// The kernel side's own byte counters were reset: positions start anew.
    pub const RESET: u16 = 16;
    /// More records of the same system call follow.
    pub const MORE: u16 = 32;
    /// Plaintext of a TLS connection: `sock` is no socket but the identity of that connection, and
    /// `enter_ns` and `exit_ns` are of the call into the TLS library. Of an OPEN whose `sock` is a
    /// socket: the kernel does the TLS.
    pub const TLS: u16 = 64;
    /// Of an OPEN or END: `pos` holds the positions of both streams modulo 2^32, that of the next
    /// byte to be written in its low half and that of the next to be read in its high half.
    pub const REACHED: u16 = 128;
}

/// Why a connection, or one direction of it, ended ([`kind::END`]).
pub mod end {
    /// The peer sent FIN.
    pub const PEER_FIN: u32 = 1;
    /// This side sent FIN (close or shutdown).
    pub const LOCAL_FIN: u32 = 2;
    /// The peer sent RST.
    pub const PEER_RESET: u32 = 3;
    /// This side sent RST.
    pub const LOCAL_RESET: u32 = 4;
    /// The socket is gone; nothing more will come from it.
    pub const CLOSED: u32 = 5;
    /// A read returned 0: end of what the peer sent.
    pub const READ_EOF: u32 = 6;
    /// A write failed with EPIPE or ECONNRESET: the peer no longer listens.
    pub const WRITE_BROKEN: u32 = 7;
    /// A read failed with ECONNRESET.
    pub const READ_RESET: u32 = 8;
}

/// What the sniff took a silenced connection for ([`kind::SILENCED`]).
pub mod sniff {
    /// A TLS handshake.
    pub const TLS: u32 = 1;
    /// Neither HTTP nor TLS.
    pub const OTHER: u32 = 2;
}

/// What every record begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Payload bytes that follow.
    pub cap_len: u32,
    /// The socket's identity while it lives. Never shown to a user: it is a kernel address.
    pub sock: u64,
    /// Tells two sockets at the same address apart (the socket's inode number).
    pub generation: u32,
    /// True bytes of this piece, `cap_len` of which were captured.
    pub len: u32,
    /// When the system call was entered.
    pub enter_ns: u64,
    /// When it left.
    pub exit_ns: u64,
    /// Thread group, which user space calls the process id.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Position of the first byte in its direction's stream.
    pub pos: u64,
}

/// Address family as in [`Open::family`].
pub mod family {
    /// Nobody knows: a TLS connection whose socket was not seen.
    pub const UNKNOWN: u16 = 0;
    pub const UNIX: u16 = 1;
    pub const INET: u16 = 2;
    pub const INET6: u16 = 10;
}

/// Follows the header of a [`kind::OPEN`] record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// One of [`family`].
    pub family: u16,
    pub local_port: u16,
    pub remote_port: u16,
    /// Bytes of `unix_path` in use. An abstract path begins with NUL.
    pub unix_len: u16,
    /// IPv4 in the first four bytes, or IPv6.
    pub local_addr: [u8; 16],
    pub remote_addr: [u8; 16],
    /// cgroup v2 id of the process that used it first.
    pub cgroup: u64,
    /// Network namespace, as its inode number.
    pub netns: u32,
    /// Parent process of the thread group.
    pub ppid: u32,
    /// Name of the thread group's leader.
    pub comm: [u8; COMM],
    pub unix_path: [u8; UNIX_PATH],
    pub pad: [u8; 4],
}

const _: () = {
    assert!(size_of::<Header>() == 56);
    assert!(size_of::<Open>() == 8 + 32 + 16 + COMM + UNIX_PATH + 4);
    assert!(size_of::<Open>().is_multiple_of(8));
};
