//! Tracepoints on sockets: `tcp_sendmsg_locked` (6.15), `sock_send_length` and `sock_recv_length`
//! (6.3). They run for sockets only, so other system calls cost nothing; and they see what is
//! written by io_uring.
//!
//! A TCP write is looked at in `tcp_sendmsg_locked`, which holds the socket's lock and has the
//! message, and copied in `sock_send_length`, which has the result. Everything else is looked at
//! and copied at its end, where the registers of the system call tell where its bytes are.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_task_pt_regs},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use llmtrace_common::{config::loss, limits::STASH_SLOTS, record::family};

use super::{
    args::{self, arch},
    call::{self, Caller, ReadEnd},
    common,
};
use crate::{
    emit,
    held::held,
    kernel::{Access, Typed, field},
    maps::{HANDOVERS, SOCK_FAMILY, SOCK_SHUTDOWN, UNIX_PEER},
    memory::{self, Memory},
    stash::{self, call as under_way},
    target,
};

const RCV_SHUTDOWN: u8 = 1;

type Context = *mut core::ffi::c_void;

/// Does what is to be done for a target. Everybody's calls come to the tracepoint, so what they run
/// is kept small and in one place: `work` is a function of its own, elsewhere in memory.
#[inline(always)]
fn for_targets(ctx: &BtfTracePointContext, work: fn(Context, u64, u32)) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let how = target::of_current((id >> 32) as u32);
    if how != 0 {
        work(ctx.as_ptr(), id, how);
    }
    0
}

#[inline(always)]
fn caller(id: u64, how: u32) -> Caller {
    Caller { pid: (id >> 32) as u32, tid: id as u32, how }
}

/// `(sk, msg, skb, size_goal)`: runs for each buffer that a write fills; the first one counts.
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked(ctx: BtfTracePointContext) -> i32 {
    for_targets(&ctx, sending)
}

#[inline(never)]
fn sending(ctx: Context, id: u64, how: u32) {
    held(|| begins(&BtfTracePointContext::new(ctx), caller(id, how)));
}

#[inline(always)]
fn begins(ctx: &BtfTracePointContext, who: Caller) -> Option<()> {
    let sock: u64 = ctx.arg(0);
    let inode = Typed::inode(sock)?;
    call::write_begins::<Typed>(sock, inode, who, || {
        let (memory, want) = memory::of_message::<Typed>(ctx.arg(1))?;
        let goes_on = stash::current(who.tid)
            .is_some_and(|stash| call::is_continued::<Typed>(stash, sock, want));
        (!goes_on).then_some((memory, want))
    });
    None
}

/// `(sk, ret, flags)`
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    for_targets(&ctx, sent)
}

#[inline(never)]
fn sent(ctx: Context, id: u64, how: u32) {
    let ctx = BtfTracePointContext::new(ctx);
    let who = caller(id, how);
    let sock: u64 = ctx.arg(0);
    let ret: i32 = ctx.arg(1);
    if let Some(stash) = stash::current(who.tid) {
        if stash.sock == sock {
            held(|| call::write_ends(stash, ret.into(), (who.pid, who.tid)));
            return;
        }
        // A write whose end did not come here: of the kernel's own making.
        stash.call = 0;
        emit::lost(loss::MISSED, 0);
    }
    held(|| sent_at_once(sock, ret.into(), who));
}

/// A unix socket, or a TCP write that was refused at once. One that moved bytes was seen at its
/// entry, or was under way when the agent came: then its position tells of it.
#[inline(always)]
fn sent_at_once(sock: u64, ret: i64, who: Caller) -> Option<()> {
    if ret > 0 && Typed::get::<u16>(sock, &SOCK_FAMILY)? != family::UNIX {
        return None;
    }
    let inode = Typed::inode(sock)?;
    unseen_write(sock, inode, ret, who)
}

/// A write that is seen at its end only. Its entry is, for a unix socket, when the bytes were put
/// before the receiver.
#[inline(always)]
fn unseen_write(sock: u64, inode: u64, ret: i64, who: Caller) -> Option<()> {
    let known = common::find(sock, inode);
    if common::is_silenced(known.as_deref()) {
        return None;
    }
    let (memory, want) = if ret > 0 { of_call() } else { (Memory::OPAQUE, 0) };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let done = if ret > 0 { ret as u32 } else { 0 };
    let call =
        common::Call { way: common::Way::Write, sock, inode, who, now, done, memory, ktls: false };
    let traced = common::trace::<Typed>(&call, known)?;
    let family: u16 = Typed::get(sock, &SOCK_FAMILY)?;
    let enter = if family == family::UNIX {
        handover(who.tid, field(sock, &UNIX_PEER)?).unwrap_or(now)
    } else {
        now
    };
    let stash = stash::begin(who.tid)?;
    stash.enter = enter;
    stash.memory = memory;
    stash.want = want;
    stash.sock = sock;
    stash.pos = traced.pos;
    stash.generation = traced.generation;
    stash.flags = u32::from(traced.flags) | if traced.blocked { stash::WAS_BLOCKED } else { 0 };
    call::write_ends(stash, ret, (who.pid, who.tid));
    None
}

/// When the current thread put bytes before `receiver`, if it was the last thing of that kind.
#[inline(always)]
fn handover(tid: u32, receiver: u64) -> Option<u64> {
    let slot = HANDOVERS.get_ptr(tid & (STASH_SLOTS - 1))?;
    // SAFETY: a pointer into the map, checked.
    let handover = unsafe { *slot };
    (handover.tid == u64::from(tid) && handover.receiver == receiver).then_some(handover.at)
}

/// `(sk, ret, flags)`
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    for_targets(&ctx, receiving)
}

#[inline(never)]
fn receiving(ctx: Context, id: u64, how: u32) {
    held(|| received(&BtfTracePointContext::new(ctx), caller(id, how)));
}

#[inline(always)]
fn received(ctx: &BtfTracePointContext, who: Caller) -> Option<()> {
    let sock: u64 = ctx.arg(0);
    let ret: i32 = ctx.arg(1);
    let flags: u32 = ctx.arg(2);
    if ret == 0 && Typed::get::<u8>(sock, &SOCK_SHUTDOWN)? & RCV_SHUTDOWN == 0 {
        // Nothing was asked for: no end of the stream.
        return None;
    }
    let inode = Typed::inode(sock)?;
    let read = ReadEnd { sock, inode, enter: 0, ret: ret.into(), flags, ktls: false };
    call::read_ends::<Typed>(&read, who, || of_call().0);
    None
}

/// Where the current system call's bytes are, and how many it asks for (0: unknown). Opaque for
/// calls that do not say (io_uring), or of several messages: nothing tells which of them it is.
#[inline(always)]
fn of_call() -> (Memory, u64) {
    // SAFETY: helpers that take a typed task, which the first one returns.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf().cast()) } as u64;
    let nr: Option<u64> = crate::kernel::at(regs.wrapping_add(arch::REGS_NR));
    if let (Some(nr), Some(regs)) = (nr, args::registers(regs))
        && let Some(io) = args::io(nr, &regs)
        && io.call & under_way::OPAQUE == 0
    {
        if io.call & under_way::MESSAGES == 0 {
            return (io.memory, io.want);
        }
        if io.memory.count == 1
            && let Some(memory) = args::message(io.memory.base)
        {
            return (memory, 0);
        }
    }
    (Memory::OPAQUE, 0)
}
