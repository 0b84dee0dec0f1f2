//! The system-call back end: raw tracepoints `sys_enter` and `sys_exit`.
//!
//! A write is looked at on entry, where its position in the stream is known, and copied on exit,
//! where its length is. A read is looked at and copied on exit.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use llmtrace_common::{
    config::loss,
    limits::STASH_SLOTS,
    record::{Header, end, flag},
};

use super::common::{self, Call, Memory, Way};
use crate::{
    emit, kernel,
    maps::{STASH, STASH_OVERFLOW, Stash},
    target,
};

/// System call numbers and register offsets of this architecture.
#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;

    /// One bit per call of interest: the test that nearly every call of the machine ends at.
    pub const INTEREST: u64 = 1 << READ
        | 1 << WRITE
        | 1 << CLOSE
        | 1 << READV
        | 1 << WRITEV
        | 1 << SENDTO
        | 1 << RECVFROM
        | 1 << SENDMSG
        | 1 << RECVMSG;

    /// Those among them that read.
    pub const READS: u64 = 1 << READ | 1 << READV | 1 << RECVFROM | 1 << RECVMSG;

    /// `pt_regs::orig_ax`, the call's number.
    pub const REGS_NR: u64 = 120;
    /// `pt_regs` from r10 on: r10 r9 r8 ax cx dx si di.
    pub const REGS: u64 = 56;
    pub type Regs = [u64; 8];
    pub const fn arg(regs: &Regs, n: usize) -> u64 {
        regs[[7, 6, 5, 0][n]]
    }
}

/// What a stashed call is. 0 means none.
mod call {
    pub const READ: u16 = 1;
    pub const WRITE: u16 = 2;
    /// `buf` is an iovec, `count` its length.
    pub const VECTOR: u16 = 4;
    /// `buf` is a `msghdr`.
    pub const MESSAGE: u16 = 8;
}

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_ERRQUEUE: u32 = 0x2000;
const EPIPE: i64 = -32;
const ECONNRESET: i64 = -104;

#[inline(always)]
fn slot_of(tid: u32) -> u32 {
    tid & (STASH_SLOTS - 1)
}

#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let nr: u64 = ctx.arg(1);
    if nr >= 64 || arch::INTEREST & (1 << nr) == 0 {
        return 0;
    }
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let how = target::of_current(pid);
    if how == 0 {
        return 0;
    }
    let regs: u64 = ctx.arg(0);
    let Some(regs) = kernel::at::<arch::Regs>(regs.wrapping_add(arch::REGS)) else { return 0 };
    let fd = arch::arg(&regs, 0) as u32;
    if nr == arch::CLOSE {
        if let Some(open) = kernel::socket_of(fd) {
            common::closed(&open, (pid, tid));
        }
        return 0;
    }
    let (call, flags) = match nr {
        arch::READ => (call::READ, 0),
        arch::WRITE => (call::WRITE, 0),
        arch::READV => (call::READ | call::VECTOR, 0),
        arch::WRITEV => (call::WRITE | call::VECTOR, 0),
        arch::RECVFROM => (call::READ, arch::arg(&regs, 3)),
        arch::SENDTO => (call::WRITE, arch::arg(&regs, 3)),
        arch::RECVMSG => (call::READ | call::MESSAGE, arch::arg(&regs, 2)),
        _ => (call::WRITE | call::MESSAGE, arch::arg(&regs, 2)),
    };
    let flags = flags as u32;
    if flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    let mut stash = Stash {
        tid,
        call,
        contended: 0,
        // SAFETY: a helper without arguments.
        enter: unsafe { bpf_ktime_get_ns() },
        fd,
        flags: flags & (MSG_PEEK | MSG_TRUNC),
        buf: arch::arg(&regs, 1),
        count: arch::arg(&regs, 2),
        sock: 0,
        pos: 0,
        generation: how,
        sock_flags: 0,
    };
    if call & call::WRITE != 0 {
        let Some(open) = kernel::socket_of(fd) else { return 0 };
        let Some(memory) = memory(&stash) else { return 0 };
        let call = Call { way: Way::Write, open, how, pid, tid, now: stash.enter, done: 0, memory };
        let Some(traced) = common::trace(&call) else { return 0 };
        stash.sock = traced.sock;
        stash.pos = traced.pos;
        stash.generation = traced.generation;
        stash.sock_flags = u32::from(traced.flags);
    }
    remember(&stash);
    0
}

#[inline(always)]
fn remember(stash: &Stash) {
    let Some(slot) = STASH.get_ptr_mut(slot_of(stash.tid)) else { return };
    // SAFETY: a pointer into the map, checked. Only threads whose ids share a slot meet here, and
    // a torn slot has a thread id that does not match.
    unsafe {
        if (*slot).call != 0 && (*slot).tid != stash.tid {
            (*slot).contended = 1;
            if STASH_OVERFLOW.insert(stash.tid, stash, 0).is_err() {
                emit::lost(loss::STASH, 0);
            }
            return;
        }
        let contended = (*slot).contended;
        *slot = *stash;
        (*slot).contended = contended;
    }
}

/// What the current thread has under way, which it then no longer has.
#[inline(always)]
fn recall(tid: u32) -> Option<Stash> {
    let slot = STASH.get_ptr_mut(slot_of(tid))?;
    // SAFETY: a pointer into the map, checked.
    unsafe {
        if (*slot).tid == tid && (*slot).call != 0 {
            let stash = *slot;
            (*slot).call = 0;
            return Some(stash);
        }
        if (*slot).contended != 0
            && let Some(stash) = STASH_OVERFLOW.get(tid)
        {
            let stash = *stash;
            let _ = STASH_OVERFLOW.remove(tid);
            return Some(stash);
        }
    }
    None
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let stash = match recall(tid) {
        Some(stash) => stash,
        None => match read_under_way(&ctx, pid, tid) {
            Some(stash) => stash,
            None => return 0,
        },
    };
    let ret: i64 = ctx.arg(1);
    if stash.call & call::WRITE != 0 {
        write_done(&stash, ret, (pid, tid));
    } else {
        read_done(&stash, ret, (pid, tid));
    }
    0
}

/// A read of a target whose entry nobody saw: it was waiting already when the agent came, as the
/// threads of a blocking server do on idle connections. The registers still hold its arguments.
#[inline(always)]
fn read_under_way(ctx: &RawTracePointContext, pid: u32, tid: u32) -> Option<Stash> {
    let regs: u64 = ctx.arg(0);
    let nr = kernel::at::<u64>(regs.wrapping_add(arch::REGS_NR))?;
    if nr >= 64 || arch::READS & (1 << nr) == 0 {
        return None;
    }
    let how = target::of_current(pid);
    if how == 0 {
        return None;
    }
    let regs = kernel::at::<arch::Regs>(regs.wrapping_add(arch::REGS))?;
    let (call, flags) = match nr {
        arch::READ => (call::READ, 0),
        arch::READV => (call::READ | call::VECTOR, 0),
        arch::RECVFROM => (call::READ, arch::arg(&regs, 3)),
        _ => (call::READ | call::MESSAGE, arch::arg(&regs, 2)),
    };
    if flags as u32 & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return None;
    }
    Some(Stash {
        tid,
        call,
        contended: 0,
        // Unknown: `read_done` takes the exit time for it.
        enter: 0,
        fd: arch::arg(&regs, 0) as u32,
        flags: flags as u32 & (MSG_PEEK | MSG_TRUNC),
        buf: arch::arg(&regs, 1),
        count: arch::arg(&regs, 2),
        sock: 0,
        pos: 0,
        generation: how,
        sock_flags: 0,
    })
}

#[inline(always)]
fn write_done(stash: &Stash, ret: i64, ids: (u32, u32)) {
    if ret <= 0 {
        if ret == EPIPE || ret == ECONNRESET {
            common::ended(stash.sock, stash.generation, ids, end::WRITE_BROKEN);
        }
        return;
    }
    let Some(memory) = memory(stash) else { return };
    let mut header = Header {
        flags: stash.sock_flags as u16,
        sock: stash.sock,
        generation: stash.generation,
        enter_ns: stash.enter,
        // SAFETY: a helper without arguments.
        exit_ns: unsafe { bpf_ktime_get_ns() },
        pid: ids.0,
        tid: ids.1,
        pos: stash.pos,
        ..Header::default()
    };
    common::moved(Way::Write, &mut header, memory, ret as u32, true);
}

#[inline(always)]
fn read_done(stash: &Stash, ret: i64, ids: (u32, u32)) {
    if ret < 0 && ret != ECONNRESET || ret == 0 && stash.count == 0 {
        return;
    }
    let Some(open) = kernel::socket_of(stash.fd) else { return };
    if ret <= 0 {
        if let Some(socket) = common::known(&open) {
            let reason = if ret == 0 { end::READ_EOF } else { end::READ_RESET };
            common::ended(open.sock, socket, ids, reason);
        }
        return;
    }
    if stash.flags & MSG_PEEK != 0 {
        return;
    }
    let Some(memory) = memory(stash) else { return };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // Reads keep how the process is traced where writes keep the generation.
    let how = stash.generation;
    let len = ret as u32;
    let call = Call { way: Way::Read, open, how, pid: ids.0, tid: ids.1, now, done: len, memory };
    let Some(traced) = common::trace(&call) else { return };
    let mut header = Header {
        flags: traced.flags | if stash.enter == 0 { flag::NO_ENTRY } else { 0 },
        sock: traced.sock,
        generation: traced.generation,
        enter_ns: if stash.enter == 0 { now } else { stash.enter },
        exit_ns: now,
        pid: ids.0,
        tid: ids.1,
        pos: traced.pos,
        ..Header::default()
    };
    common::moved(Way::Read, &mut header, memory, len, stash.flags & MSG_TRUNC == 0);
}

/// `struct user_msghdr`, as far as it is needed.
#[repr(C)]
#[derive(Clone, Copy)]
struct MsgHdr {
    name: u64,
    name_len: u64,
    iov: u64,
    iov_len: u64,
}

#[inline(always)]
fn memory(stash: &Stash) -> Option<Memory> {
    if stash.call & call::MESSAGE != 0 {
        // SAFETY: the helper fails on an address that cannot be read.
        let msg = unsafe { bpf_probe_read_user(stash.buf as *const MsgHdr) }.ok()?;
        return Some(Memory::Segments { iov: msg.iov, count: msg.iov_len as u32 });
    }
    if stash.call & call::VECTOR != 0 {
        return Some(Memory::Segments { iov: stash.buf, count: stash.count as u32 });
    }
    Some(Memory::Buffer(stash.buf))
}
