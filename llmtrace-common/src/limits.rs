//! Bounds of the kernel side. Each one is a compile-time constant because the verifier needs it.

/// Payload bytes of one data record. A longer read or write becomes several records.
pub const PIECE: usize = 16 * 1024;
/// Payload bytes of one record that is gathered from an iovec. Twice this and a header must fit
/// into a per-CPU map value, which the kernel bounds at 32 KiB.
pub const GATHER: usize = 8 * 1024;
/// Data records that one single-buffer system call may produce: 1 MiB of payload at most.
/// What lies beyond is reported as true length without bytes, which the agent sees as a gap.
pub const MAX_PIECES: u32 = 64;
/// Records that one iovec may produce: 1 MiB of payload as well.
pub const MAX_GATHERS: u32 = 128;
/// Segments of one iovec that are looked at (the kernel's own UIO_MAXIOV).
pub const MAX_SEGMENTS: u32 = 1024;
/// Connections whose state the kernel side holds; the least recently used one is forgotten.
pub const MAX_SOCKETS: u32 = 65_536;
/// Processes that can be targets at once.
pub const MAX_TARGETS: u32 = 16_384;
/// cgroups that can be targets at once; each costs one helper call per system call.
pub const MAX_CGROUPS: usize = 16;
/// Ports that can be targets at once.
pub const MAX_PORTS: u32 = 256;
/// Slots that remember system calls under way, by thread. A power of two.
pub const STASH_SLOTS: u32 = 16_384;
/// TLS connections whose state the kernel side holds, and threads or goroutines that make them.
pub const MAX_TLS: u32 = 16_384;
/// Bytes of a process name, NUL included (the kernel's TASK_COMM_LEN).
pub const COMM: usize = 16;
/// Bytes of a unix socket's path (sun_path).
pub const UNIX_PATH: usize = 108;
/// Sockets that hold bytes which arrived before anybody read from them.
pub const MAX_ARRIVALS: u32 = 16_384;
/// Descriptors that one close_range may close and that are looked at.
pub const MAX_CLOSE_RANGE: u32 = 128;
