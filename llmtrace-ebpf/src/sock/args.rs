//! What a system call's registers say about the bytes that it moves.

use aya_ebpf::helpers::bpf_probe_read_user;

use super::call::{MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC};
use crate::{kernel, memory::Memory, stash::call};

/// System call numbers and register offsets of this architecture.
#[cfg(bpf_target_arch = "x86_64")]
pub mod arch {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const DUP2: u64 = 33;
    pub const SENDFILE: u64 = 40;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SHUTDOWN: u64 = 48;
    pub const SPLICE: u64 = 275;
    pub const DUP3: u64 = 292;
    pub const PREADV: u64 = 295;
    pub const PWRITEV: u64 = 296;
    pub const RECVMMSG: u64 = 299;
    pub const SENDMMSG: u64 = 307;
    pub const PREADV2: u64 = 327;
    pub const PWRITEV2: u64 = 328;
    pub const CLOSE_RANGE: u64 = 436;

    /// `pt_regs::orig_ax`, the call's number.
    pub const REGS_NR: u64 = 120;
    /// `pt_regs` from r10 on: r10 r9 r8 ax cx dx si di.
    pub const REGS: u64 = 56;
    pub type Regs = [u64; 8];
    pub const fn arg(regs: &Regs, n: usize) -> u64 {
        regs[[7, 6, 5, 0, 2, 1][n]]
    }
}

/// A call that moves bytes of a socket.
#[derive(Clone, Copy)]
pub struct Io {
    /// Bits of [`call`].
    pub call: u16,
    pub fd: u32,
    pub memory: Memory,
    /// Bytes that it asks for; 0 if only its iovec says.
    pub want: u64,
    /// `MSG_*` flags.
    pub flags: u32,
}

/// The registers of a call, from its `pt_regs`.
#[inline(always)]
pub fn registers(regs: u64) -> Option<arch::Regs> {
    kernel::at(regs.wrapping_add(arch::REGS))
}

/// What a call moves; None if it moves nothing, or nothing that belongs to a stream.
#[inline(always)]
pub fn io(nr: u64, regs: &arch::Regs) -> Option<Io> {
    let fd = arch::arg(regs, 0) as u32;
    let (buf, count) = (arch::arg(regs, 1), arch::arg(regs, 2));
    let buffer = Memory::buffer(buf);
    let iovec = Memory::user_iovec(buf, count as u32);
    let io = |call, memory, want| Io { call, fd, memory, want, flags: 0 };
    let flagged = |io: Io, flags| Io { flags, ..io };
    let io = match nr {
        arch::READ => io(call::READ, buffer, count),
        arch::WRITE => io(call::WRITE, buffer, count),
        arch::READV | arch::PREADV | arch::PREADV2 => io(call::READ, iovec, 0),
        arch::WRITEV | arch::PWRITEV | arch::PWRITEV2 => io(call::WRITE, iovec, 0),
        arch::RECVFROM => flagged(io(call::READ, buffer, count), arch::arg(regs, 3) as u32),
        arch::SENDTO => flagged(io(call::WRITE, buffer, count), arch::arg(regs, 3) as u32),
        arch::RECVMSG => flagged(io(call::READ, message(buf)?, 0), count as u32),
        arch::SENDMSG => flagged(io(call::WRITE, message(buf)?, 0), count as u32),
        arch::RECVMMSG => {
            flagged(io(call::READ | call::MESSAGES, iovec, 0), arch::arg(regs, 3) as u32)
        }
        arch::SENDMMSG => {
            flagged(io(call::WRITE | call::MESSAGES, iovec, 0), arch::arg(regs, 3) as u32)
        }
        arch::SENDFILE => io(call::WRITE | call::OPAQUE, Memory::OPAQUE, 0),
        _ => return None,
    };
    if io.flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return None;
    }
    Some(Io { flags: io.flags & (MSG_PEEK | MSG_TRUNC), ..io })
}

/// The iovec of a `msghdr` in user memory.
#[inline(always)]
pub fn message(address: u64) -> Option<Memory> {
    /// Where `struct user_msghdr` has `msg_iov` and `msg_iovlen`.
    const IOV: u64 = 16;
    // SAFETY: the helper fails on an address that cannot be read.
    let [iov, count] = unsafe { bpf_probe_read_user((address + IOV) as *const [u64; 2]) }.ok()?;
    Some(Memory::user_iovec(iov, count as u32))
}
