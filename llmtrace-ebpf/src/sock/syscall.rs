//! System calls: raw tracepoints `sys_enter` and `sys_exit`. They need nothing but tracepoints, and
//! cost every call of the machine a little; they do not see io_uring.
//!
//! A write is looked at on entry, where its position in the stream is known, and copied on exit,
//! where its length is. A read is looked at and copied on exit.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use llmtrace_common::{config::loss, limits::MAX_CLOSE_RANGE, record::end};

use super::{
    args::{self, Io, arch},
    call::{self, Caller, ReadEnd},
    common, ktls,
};
use crate::{
    emit,
    held::held,
    kernel::{self, Access, Probed},
    maps::SOCKETS,
    memory::Memory,
    stash::{self, Stash, call as under_way},
    target,
};

/// What a call is to us, by its number.
mod class {
    pub const NONE: u8 = 0;
    pub const READS: u8 = 1;
    pub const WRITES: u8 = 2;
    pub const CLOSES: u8 = 3;
    pub const SPLICES: u8 = 4;
    pub const SHUTS: u8 = 5;
}

const CALLS: usize = 512;

/// The test that nearly every call of the machine ends at: one load.
static CLASS: [u8; CALLS] = {
    let mut table = [class::NONE; CALLS];
    let reads = [
        arch::READ,
        arch::READV,
        arch::RECVFROM,
        arch::RECVMSG,
        arch::PREADV,
        arch::PREADV2,
        arch::RECVMMSG,
    ];
    let writes = [
        arch::WRITE,
        arch::WRITEV,
        arch::SENDTO,
        arch::SENDMSG,
        arch::SENDFILE,
        arch::PWRITEV,
        arch::PWRITEV2,
        arch::SENDMMSG,
    ];
    let closes = [arch::CLOSE, arch::DUP2, arch::DUP3, arch::CLOSE_RANGE];
    let mut i = 0;
    while i < reads.len() {
        table[reads[i] as usize] = class::READS;
        i += 1;
    }
    i = 0;
    while i < writes.len() {
        table[writes[i] as usize] = class::WRITES;
        i += 1;
    }
    i = 0;
    while i < closes.len() {
        table[closes[i] as usize] = class::CLOSES;
        i += 1;
    }
    table[arch::SPLICE as usize] = class::SPLICES;
    table[arch::SHUTDOWN as usize] = class::SHUTS;
    table
};

#[inline(always)]
fn class_of(nr: u64) -> u8 {
    if nr >= CALLS as u64 {
        return class::NONE;
    }
    // SAFETY: inside the table, as just checked. Volatile, or the compiler makes a chain of
    // comparisons of it.
    unsafe { core::ptr::read_volatile((&raw const CLASS).cast::<u8>().add(nr as usize)) }
}

/// A call that begins, of a process that is traced.
struct Begun {
    nr: u64,
    class: u8,
    who: Caller,
    regs: arch::Regs,
}

/// The call, if it is of a kind that is `wanted`.
#[inline(always)]
fn begun(ctx: &RawTracePointContext, wanted: impl Fn(u8) -> bool) -> Option<Begun> {
    let nr: u64 = ctx.arg(1);
    let class = class_of(nr);
    if !wanted(class) {
        return None;
    }
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    let how = target::of_current(pid);
    if how == 0 {
        return None;
    }
    Some(Begun { nr, class, who: Caller { pid, tid, how }, regs: args::registers(ctx.arg(0))? })
}

#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let Some(call) = begun(&ctx, |class| class != class::NONE) else { return 0 };
    let Begun { nr, class, who, regs } = &call;
    held(|| match *class {
        class::CLOSES => closes(*nr, regs, *who),
        class::SHUTS => shuts(regs, *who),
        class::SPLICES => splices(regs, *who),
        _ => {
            if let Some(io) = args::io(*nr, regs) {
                begins(&io, *who);
            }
        }
    });
    0
}

/// The close watch alone, beside back ends that have no hook of their own for unix sockets.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter_close(ctx: RawTracePointContext) -> i32 {
    let wanted = |class| class == class::CLOSES || class == class::SHUTS;
    let Some(call) = begun(&ctx, wanted) else { return 0 };
    if call.class == class::CLOSES {
        closes(call.nr, &call.regs, call.who);
    } else {
        shuts(&call.regs, call.who);
    }
    0
}

#[inline(always)]
fn begins(io: &Io, who: Caller) {
    if io.call & under_way::WRITE != 0 {
        let Some(open) = kernel::socket_of(io.fd) else { return };
        call::write_begins::<Probed>(open.sock, open.inode, who, || Some((io.memory, io.want)));
        if io.call & under_way::MESSAGES != 0
            && let Some(stash) = stash::current(who.tid)
        {
            stash.call = io.call;
        }
        return;
    }
    // SAFETY: a helper without arguments.
    read_begins(io, who, unsafe { bpf_ktime_get_ns() });
}

#[inline(always)]
fn read_begins(io: &Io, who: Caller, enter: u64) -> Option<&'static mut Stash> {
    let stash = stash::begin(who.tid)?;
    stash.enter = enter;
    stash.memory = io.memory;
    stash.want = io.want;
    stash.sock = 0;
    stash.pos = 0;
    stash.generation = who.how;
    stash.flags = io.flags;
    stash.fd = io.fd;
    stash.call = io.call;
    Some(stash)
}

/// `splice(fd_in, off_in, fd_out, off_out, len, flags)`: one of the two is a pipe.
#[inline(always)]
fn splices(regs: &arch::Regs, who: Caller) {
    let io = |call, fd| Io { call, fd, memory: Memory::OPAQUE, want: 0, flags: 0 };
    let out = arch::arg(regs, 2) as u32;
    if kernel::socket_of(out).is_some() {
        begins(&io(under_way::WRITE | under_way::OPAQUE, out), who);
    } else {
        begins(&io(under_way::READ | under_way::OPAQUE, arch::arg(regs, 0) as u32), who);
    }
}

/// Descriptors that this call closes, if they are the last of their socket.
#[inline(always)]
fn closes(nr: u64, regs: &arch::Regs, who: Caller) {
    let ids = (who.pid, who.tid);
    let first = arch::arg(regs, 0) as u32;
    match nr {
        arch::DUP2 | arch::DUP3 => close_one(arch::arg(regs, 1) as u32, ids),
        arch::CLOSE_RANGE => {
            let last = arch::arg(regs, 1) as u32;
            for i in 0..MAX_CLOSE_RANGE {
                let fd = first.wrapping_add(i);
                if fd > last {
                    break;
                }
                close_step(fd, who.pid, who.tid);
            }
        }
        _ => close_one(first, ids),
    }
}

/// A function of its own: the verifier walks the loop around it.
#[inline(never)]
fn close_step(fd: u32, pid: u32, tid: u32) {
    close_one(fd, (pid, tid));
}

#[inline(always)]
fn close_one(fd: u32, ids: (u32, u32)) {
    if let Some(open) = kernel::socket_of(fd) {
        common::closed(&open, ids);
    }
}

/// `shutdown(fd, how)` of a unix socket; the states of a TCP socket tell their own.
#[inline(always)]
fn shuts(regs: &arch::Regs, who: Caller) {
    const SHUT_RD: u64 = 0;
    if arch::arg(regs, 1) == SHUT_RD {
        return;
    }
    let Some(open) = kernel::socket_of(arch::arg(regs, 0) as u32) else { return };
    if let Some(generation) = common::known(open.sock, open.inode)
        && !common::is_sequenced(open.sock)
    {
        common::ended(open.sock, generation, (who.pid, who.tid), end::LOCAL_FIN);
    }
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    exit(&ctx);
    0
}

/// Beside kretprobes, of which the kernel skips those of calls that are one too many to be under way
/// at once: what is still under way when its system call returns was skipped.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit_skipped(ctx: RawTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    if target::of_current(pid) == 0 {
        return 0;
    }
    let Some(stash) = stash::current(tid) else {
        reads_under_way(&ctx);
        return 0;
    };
    // The function's own iovec may have gone with its stack: the call's arguments say where the
    // bytes are.
    let io = io_of(ctx.arg(0)).filter(|io| io.call == stash.call & !under_way::KTLS);
    if let Some(io) = io {
        stash.memory = io.memory;
        if stash.call & under_way::WRITE != 0 {
            write_done(stash, ctx.arg(1), pid, tid);
        } else {
            // In place: its stack has no room for another copy.
            stash.memory.skip += stash.pos;
            skipped_read(stash, ctx.arg(1), pid, tid);
        }
    } else if stash.call & under_way::WRITE != 0 {
        emit::lost(loss::MISSED, 0);
    }
    stash.call = 0;
    stash::take_seen(tid);
    0
}

/// What the system call of these registers moves, if its result is how many bytes that is.
#[inline(always)]
fn io_of(regs: u64) -> Option<Io> {
    let nr = kernel::at::<u64>(regs.wrapping_add(arch::REGS_NR))?;
    args::io(nr, &args::registers(regs)?)
}

/// As `function::receive_ends`; for its stack, a function of its own. The memory is that of what was
/// not passed on before.
#[inline(never)]
fn skipped_read(stash: &Stash, ret: i64, pid: u32, tid: u32) -> i32 {
    let new = if ret > 0 { ret - stash.pos as i64 } else { ret };
    if new == 0 && (ret > 0 || stash.want == 0) {
        return 0;
    }
    let ktls = stash.call & under_way::KTLS != 0;
    if ktls && ktls::is_control(stash.control) {
        return 0;
    }
    let Some(inode) = Probed::inode(stash.sock) else { return 0 };
    let read =
        ReadEnd { sock: stash.sock, inode, enter: stash.enter, ret: new, flags: stash.flags, ktls };
    call::read_ends::<Probed>(&read, Caller { pid, tid, how: stash.generation }, || stash.memory);
    0
}

/// Only reads that were under way when the agent came, beside hooks on functions, which do not see
/// the return of a call whose entry they did not see. Attached until there are none left.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit_reads(ctx: RawTracePointContext) -> i32 {
    reads_under_way(&ctx);
    0
}

#[inline(always)]
fn reads_under_way(ctx: &RawTracePointContext) {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    if target::of_current(pid) == 0 || stash::take_seen(tid) {
        return;
    }
    if let Some(stash) = read_under_way(ctx.arg(0), pid, tid) {
        read_done(stash, ctx.arg(1), pid, tid);
        stash.call = 0;
    }
}

#[inline(always)]
fn exit(ctx: &RawTracePointContext) {
    let id = bpf_get_current_pid_tgid();
    let (pid, tid) = ((id >> 32) as u32, id as u32);
    if !target::may_be(pid) {
        return;
    }
    let stash = match stash::current(tid) {
        Some(stash) => stash,
        None => match read_under_way(ctx.arg(0), pid, tid) {
            Some(stash) => stash,
            None => return,
        },
    };
    let ret: i64 = ctx.arg(1);
    held(|| {
        if stash.call & under_way::MESSAGES != 0 {
            messages(stash, ret, pid, tid);
        } else if stash.call & under_way::WRITE != 0 {
            write_done(stash, ret, pid, tid);
        } else {
            read_done(stash, ret, pid, tid);
        }
    });
    stash.call = 0;
}

/// A read of a target whose entry nobody saw: it was waiting already when the agent came, as the
/// threads of a blocking server do on idle connections. The registers still hold its arguments.
#[inline(never)]
fn read_under_way(regs: u64, pid: u32, tid: u32) -> Option<&'static mut Stash> {
    let nr = kernel::at::<u64>(regs.wrapping_add(arch::REGS_NR))?;
    if class_of(nr) != class::READS {
        return None;
    }
    let how = target::of_current(pid);
    if how == 0 {
        return None;
    }
    let regs = args::registers(regs)?;
    let io = args::io(nr, &regs)?;
    // The time is not known: that of the exit is taken for it.
    read_begins(&io, Caller { pid, tid, how }, 0)
}

// Functions of their own: the verifier adds up the stacks of those that are inside each other, and
// one that had all of it inlined would have too much.

#[inline(never)]
fn write_done(stash: &mut Stash, ret: i64, pid: u32, tid: u32) {
    call::write_ends(stash, ret, (pid, tid));
}

#[inline(never)]
fn read_done(stash: &Stash, ret: i64, pid: u32, tid: u32) {
    // Nothing was asked for: no end of the stream.
    if ret == 0 && stash.want == 0 && stash.memory.count <= 1 {
        return;
    }
    let Some(open) = kernel::socket_of(stash.fd) else { return };
    let read = ReadEnd {
        sock: open.sock,
        inode: open.inode,
        enter: stash.enter,
        ret,
        flags: stash.flags,
        ktls: false,
    };
    call::read_ends::<Probed>(&read, Caller { pid, tid, how: stash.generation }, || stash.memory);
}

/// `struct mmsghdr`: its size, where the iovec and its length are, and where the kernel writes how
/// many bytes it moved.
mod mmsghdr {
    pub const SIZE: u64 = 64;
    pub const IOV: u64 = 16;
    pub const LEN: u64 = 56;
}

/// Messages of one recvmmsg or sendmmsg that are added up.
const MESSAGES: u32 = 16;

/// recvmmsg and sendmmsg, rare on streams: one message is copied, several are a gap. What more
/// there are is seen by the positions of TCP, and a unix socket is announced anew.
#[inline(never)]
fn messages(stash: &mut Stash, ret: i64, pid: u32, tid: u32) {
    let list = stash.memory.base;
    let mut moved = 0;
    stash.memory = Memory::OPAQUE;
    for i in 0..MESSAGES {
        if i64::from(i) >= ret {
            break;
        }
        let address = list + u64::from(i) * mmsghdr::SIZE;
        // SAFETY: the helper fails on an address that cannot be read.
        let len = unsafe { bpf_probe_read_user((address + mmsghdr::LEN) as *const u32) };
        moved += i64::from(len.unwrap_or(0));
    }
    if ret == 1 {
        // SAFETY: as above.
        let iov = unsafe { bpf_probe_read_user((list + mmsghdr::IOV) as *const [u64; 2]) };
        if let Ok([iov, count]) = iov {
            stash.memory = Memory::user_iovec(iov, count as u32);
        }
    }
    if stash.call & under_way::WRITE != 0 {
        write_done(stash, moved, pid, tid);
        if ret > i64::from(MESSAGES) && !common::is_sequenced(stash.sock) {
            let _ = SOCKETS.remove(stash.sock);
        }
    } else if moved > 0 {
        read_done(stash, moved, pid, tid);
    }
}
