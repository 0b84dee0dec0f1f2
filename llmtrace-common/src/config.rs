//! Maps and globals that the agent fills and the kernel side reads.

/// Why the kernel side lost something. Index into the `LOSSES` per-CPU array.
pub mod loss {
    /// The ring was full.
    pub const RING_FULL: u32 = 0;
    /// Payload could not be read from user memory.
    pub const FAULT: u32 = 1;
    /// Two threads shared a stash slot: the entry time was lost, no byte.
    pub const STASH: u32 = 2;
    /// More bytes or segments in one call than the limits allow.
    pub const LIMIT: u32 = 3;
    /// Payload that is not in user memory (sendfile, splice, registered buffers of io_uring).
    pub const OPAQUE: u32 = 4;
    /// The end of a call was not seen (a kretprobe that the kernel skipped).
    pub const MISSED: u32 = 5;
    /// A thread that lost its CPU in the middle of copying had the buffer for it.
    pub const BUSY: u32 = 6;
    /// How many there are.
    pub const COUNT: u32 = 7;
    /// Names, as the `reason` label has them.
    pub const NAMES: [&str; COUNT as usize] =
        ["ring_full", "fault", "stash", "limit", "opaque", "missed_return", "busy"];
}

/// Kernel functions that programs call by numbers that no helper has: the agent puts the functions'
/// ids there.
pub mod kfunc {
    pub const FIRST: usize = 0x6c6c_6d00;
    pub const PREEMPT_DISABLE: usize = FIRST;
    pub const IRQ_SAVE: usize = FIRST + 1;
    pub const PREEMPT_ENABLE: usize = FIRST + 2;
    pub const IRQ_RESTORE: usize = FIRST + 3;
    /// Their names, by number.
    pub const NAMES: [&str; 4] = [
        "bpf_preempt_disable",
        "bpf_local_irq_save",
        "bpf_preempt_enable",
        "bpf_local_irq_restore",
    ];
}

/// One slot of `LOSSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub records: u64,
    pub bytes: u64,
}

/// Value of the `TARGETS` map, by process id.
pub mod target {
    /// Trace every connection of the process.
    pub const ALL: u32 = 1;
    /// Trace only connections whose local port is in the `PORTS` map.
    pub const PORTS: u32 = 2;
    /// Never trace it (the agent itself).
    pub const NEVER: u32 = 4;
}

/// Bits of [`Socket::state`].
pub mod state {
    /// Pass nothing on.
    pub const SILENT: u32 = 1;
    /// The kernel numbers the socket's bytes itself (TCP).
    pub const SEQUENCED: u32 = 2;
    /// A write was refused or cut short because the send buffer was full, and none was taken since.
    pub const BLOCKED: u32 = 32;
    /// Silent because it carries TLS: which connection it carries may still be of interest.
    pub const TLS: u32 = 4;
    /// An OPEN record was sent (of a [`TlsConn`](super::TlsConn) only).
    pub const OPENED: u32 = 8;
    /// The handshake was seen from its beginning (of TLS only).
    pub const FRESH: u32 = 16;
    /// The kernel does the TLS: what the process reads and writes is plaintext, whose bytes are
    /// counted here, since the kernel numbers those of the ciphertext.
    pub const KTLS: u32 = 64;
}

/// Value of the `SOCKETS` map, by socket address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// Inode number: with the address, the socket's identity.
    pub inode: u64,
    /// Bytes read so far, for sockets without sequence numbers.
    pub read: u64,
    /// Bytes written so far, likewise.
    pub written: u64,
    /// When the first byte that has not been read yet arrived; 0 if none waits, or none was seen.
    pub arrived: u64,
    /// Bits of [`state`].
    pub state: u32,
    pub pad: u32,
}

/// Value of the `TLS_CONNS` map: a TLS connection, by the identity that its records carry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsConn {
    /// Tells two connections whose library objects lay at the same address apart.
    pub generation: u32,
    /// Bits of [`state`].
    pub state: u32,
    /// Bytes of plaintext read and written so far.
    pub read: u64,
    pub written: u64,
    /// The socket below, with its inode number; 0 if it is not known.
    pub sock: u64,
    pub inode: u64,
    /// When that socket was gone; 0 while it is not.
    pub ended: u64,
}

/// The bit that kernel addresses have and identities of TLS connections have not.
pub const KERNEL_ADDRESS: u64 = 1 << 63;

/// A target cgroup, as in the `CGROUPS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    pub id: u64,
    /// Depth below the root of the v2 hierarchy.
    pub level: u32,
    pub pad: u32,
}
