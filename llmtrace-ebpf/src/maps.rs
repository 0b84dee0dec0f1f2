//! Every map and every global of the kernel side.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use llmtrace_common::{
    config::{Cgroup, Loss, Socket, loss},
    limits::{GATHER, MAX_ARRIVALS, MAX_CGROUPS, MAX_PORTS, MAX_SOCKETS, MAX_TARGETS, STASH_SLOTS},
    record::Header,
};

use crate::{memory::Memory, stash::Stash};

/// The agent writes single bytes through a mapping of its own.
const BPF_F_MMAPABLE: u32 = 1024;

/// Records on their way to the agent, which sets its size at load.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// What was lost, by reason.
#[map]
pub static LOSSES: PerCpuArray<Loss> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// Processes to trace (`config::target` says how), by process id.
#[map]
pub static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// The same by one byte for each process id there can be (the agent sets how many): what every
/// socket call of the machine is asked costs a load and no hash.
#[map]
pub static FILTER: Array<[u8; 8]> = Array::with_max_entries(4096, BPF_F_MMAPABLE);

/// cgroups to trace; the first `CGROUP_COUNT` slots are in use.
#[map]
pub static CGROUPS: Array<Cgroup> = Array::with_max_entries(MAX_CGROUPS as u32, 0);

/// Local ports to which `target::PORTS` processes are limited.
#[map]
pub static PORTS: HashMap<u32, u8> = HashMap::with_max_entries(MAX_PORTS, 0);

/// What is known of a socket, by its address. This is the verdict map as well: the agent sets
/// `state` to silence a connection.
#[map]
pub static SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(MAX_SOCKETS, 0);

/// Slots are found by thread id. An array needs neither hashing nor deletion, which is most of
/// what a hash map costs here; what collides goes to `STASH_OVERFLOW`.
#[map]
pub static STASH: Array<Stash> = Array::with_max_entries(STASH_SLOTS, 0);

#[map]
pub static STASH_OVERFLOW: LruHashMap<u32, Stash> = LruHashMap::with_max_entries(4096, 0);

/// Ports that targets listen on: only sockets of these are asked when their bytes arrived.
#[map]
pub static LISTENING: Array<u32> = Array::with_max_entries(65_536, 0);

/// When bytes came for a socket of a listening port that nobody has read from yet.
#[map]
pub static ARRIVALS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_ARRIVALS, 0);

/// When a thread last put bytes into a unix socket, and whose (the receiver's).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handover {
    pub receiver: u64,
    pub at: u64,
    pub tid: u64,
}

/// By thread, as `STASH`; who loses a slot to another thread loses nothing but accuracy.
#[map]
pub static HANDOVERS: Array<Handover> = Array::with_max_entries(STASH_SLOTS, 0);

/// Room to gather an iovec: a header, a piece, and slack, so that a masked offset plus a bounded
/// length stays inside for the verifier.
#[repr(C)]
pub struct Scratch {
    pub header: Header,
    pub bytes: [u8; 2 * GATHER],
}

/// The first call that is seen of a socket, and what is found.
#[repr(C)]
pub struct First {
    pub sock: u64,
    pub inode: u64,
    pub now: u64,
    pub memory: Memory,
    pub pid: u32,
    pub how: u32,
    pub done: u32,
    pub write: u32,
    /// The thread; 0 if the slot is free.
    pub owner: u32,
    /// Found: flags of its records.
    pub flags: u16,
    /// The bytes are plaintext that the kernel encrypts or has decrypted.
    pub ktls: u16,
    /// Found: position of its first byte.
    pub pos: u64,
    /// Found: when that byte came.
    pub arrived: u64,
}

#[map]
pub static FIRST: PerCpuArray<First> = PerCpuArray::with_max_entries(1, 0);

/// A call whose bytes take several rounds to copy.
#[repr(C)]
pub struct Work {
    pub header: Header,
    /// The buffer, or the iovec.
    pub base: u64,
    /// Bytes not yet copied.
    pub left: u32,
    /// Buffer: bytes that are copied before what is too much is left out, up to the last piece.
    pub head: u32,
    /// Iovec: one of `memory::place`.
    pub place: u32,
    pub segments: u32,
    pub index: u32,
    /// Bytes of the current segment that are done.
    pub inside: u32,
    /// Bytes gathered in the scratch buffer.
    pub filled: u32,
    /// A segment could not be read.
    pub fault: u32,
    /// The thread that is at it; 0 if none is.
    pub owner: u32,
    pub pad: u32,
}

#[map]
pub static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident: $ty:ty),* $(,)?) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<$ty> = Global::new(0);)*
    };
}

// What the user asked for.
globals! {
    /// Trace every process that is not excluded.
    TRACE_ALL: u32,
    /// Trace every process from when it listens.
    TRACE_LISTENERS: u32,
    /// Slots of `CGROUPS` in use.
    CGROUP_COUNT: u32,
    /// Report every exec and listen, not only those of targets.
    WATCH_PROCESSES: u32,
    /// Bytes in the ring, a power of two, at whose multiples the agent is woken instead of being left
    /// to its tick.
    WAKE_MARK: u64,
    /// Most bytes of one call that are copied.
    MAX_COPY: u32,
}

// What this kernel is like.
globals! {
    /// `tcp_recvmsg` has its `nonblock` argument (before 5.19).
    RECVMSG_NONBLOCK: u32,
    /// `iov_iter` has a `type` of four bytes with the direction in bit 0 (before 5.14).
    ITER_TYPE_WIDE: u32,
    /// What `iov_iter` calls an iovec, and a single user buffer (`u32::MAX` before 6.0).
    ITER_IOVEC: u32, ITER_UBUF_KIND: u32,
}

// Offsets of fields in this kernel's structures, from its BTF.
globals! {
    TASK_FILES: u32, TASK_TGID: u32, TASK_PID: u32, TASK_LEADER: u32, TASK_COMM: u32,
    TASK_PARENT: u32, TASK_SIGNAL: u32, SIGNAL_LIVE: u32,
    FILES_FDT: u32, FDTABLE_MAX_FDS: u32, FDTABLE_FD: u32,
    FILE_PRIVATE: u32, FILE_COUNT: u32, FILE_INODE: u32, INODE_INO: u32,
    /// What the count of a file holds when one reference is left: 1, or 0 from 6.13 on.
    FILE_COUNT_ONE: u64,
    SOCKET_FILE: u32, SOCKET_SK: u32, SOCKET_INO: u32,
    SOCK_TYPE: u32, SOCK_SOCKET: u32, SOCK_SHUTDOWN: u32, SOCK_STATE: u32, SOCK_FLAGS: u32,
    SOCK_FAMILY: u32, SOCK_DADDR: u32, SOCK_RCV_SADDR: u32, SOCK_DPORT: u32, SOCK_NUM: u32,
    SOCK_V6_DADDR: u32, SOCK_V6_RCV_SADDR: u32, SOCK_NET: u32, SOCK_PROTOCOL: u32,
    NET_INUM: u32,
    TCP_WRITE_SEQ: u32, TCP_COPIED_SEQ: u32, TCP_RCV_NXT: u32, TCP_SND_UNA: u32,
    TCP_BYTES_RECEIVED: u32, TCP_BYTES_ACKED: u32,
    ICSK_ULP_OPS: u32, ULP_NAME: u32, MSG_CONTROL: u32, MSG_CONTROLLEN: u32,
    UNIX_ADDR: u32, UNIX_ADDRESS_LEN: u32, UNIX_ADDRESS_NAME: u32, UNIX_PEER: u32,
    ITER_TYPE: u32, ITER_OFFSET: u32, ITER_COUNT: u32, ITER_IOV: u32, ITER_UBUF: u32,
    ITER_NR_SEGS: u32,
}
