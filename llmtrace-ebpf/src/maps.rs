//! Every map and every global of the kernel side.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use llmtrace_common::{
    config::{Cgroup, Loss, Socket, loss},
    limits::{GATHER, MAX_CGROUPS, MAX_PORTS, MAX_SOCKETS, MAX_TARGETS, STASH_SLOTS},
    record::Header,
};

/// Records on their way to the agent, which sets its size at load.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// What was lost, by reason.
#[map]
pub static LOSSES: PerCpuArray<Loss> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// Processes to trace (`config::target` says how), by process id.
#[map]
pub static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

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

/// A system call under way, by thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stash {
    pub tid: u32,
    /// One of `sock::Call`, 0 when nothing is under way.
    pub call: u16,
    /// Another thread has used this slot at the same time: look in `STASH_OVERFLOW` as well.
    pub contended: u16,
    pub enter: u64,
    pub fd: u32,
    pub flags: u32,
    /// Buffer, iovec or msghdr in user memory.
    pub buf: u64,
    pub count: u64,
    /// Writes only: where the bytes go and at which position.
    pub sock: u64,
    pub pos: u64,
    pub generation: u32,
    pub sock_flags: u32,
}

/// Slots are found by thread id. An array needs neither hashing nor deletion, which is most of
/// what a hash map costs here; what collides goes to `STASH_OVERFLOW`.
#[map]
pub static STASH: Array<Stash> = Array::with_max_entries(STASH_SLOTS, 0);

#[map]
pub static STASH_OVERFLOW: LruHashMap<u32, Stash> = LruHashMap::with_max_entries(4096, 0);

/// Room to gather an iovec: a header, a piece, and slack, so that a masked offset plus a bounded
/// length stays inside for the verifier.
#[repr(C)]
pub struct Scratch {
    pub header: Header,
    pub bytes: [u8; 2 * GATHER],
}

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
    /// Bytes in the ring from which the agent is woken instead of being left to its tick.
    WAKE_MARK: u64,
}

// Offsets of fields in this kernel's structures, from its BTF.
globals! {
    TASK_FILES: u32, TASK_TGID: u32, TASK_PID: u32, TASK_LEADER: u32, TASK_COMM: u32,
    TASK_PARENT: u32, TASK_SIGNAL: u32, SIGNAL_LIVE: u32,
    FILES_FDT: u32, FDTABLE_MAX_FDS: u32, FDTABLE_FD: u32,
    FILE_PRIVATE: u32, FILE_COUNT: u32,
    /// What the count of a file holds when one reference is left: 1, or 0 from 6.13 on.
    FILE_COUNT_ONE: u64,
    SOCKET_TYPE: u32, SOCKET_FILE: u32, SOCKET_SK: u32, SOCKET_INO: u32,
    SOCK_FAMILY: u32, SOCK_DADDR: u32, SOCK_RCV_SADDR: u32, SOCK_DPORT: u32, SOCK_NUM: u32,
    SOCK_V6_DADDR: u32, SOCK_V6_RCV_SADDR: u32, SOCK_NET: u32, SOCK_PROTOCOL: u32,
    NET_INUM: u32,
    TCP_WRITE_SEQ: u32, TCP_COPIED_SEQ: u32, TCP_RCV_NXT: u32, TCP_SND_UNA: u32,
    TCP_BYTES_RECEIVED: u32, TCP_BYTES_ACKED: u32,
    UNIX_ADDR: u32, UNIX_ADDRESS_LEN: u32, UNIX_ADDRESS_NAME: u32,
}
