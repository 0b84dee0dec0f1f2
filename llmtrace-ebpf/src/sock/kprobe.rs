//! Entries and returns of the socket functions by kprobes: where trampolines are not allowed.
//!
//! The kernel skips a kretprobe when too many calls of the function are under way, which blocking
//! readers bring about. So a TCP read is taken from `tcp_cleanup_rbuf`, which runs at its end and
//! has its count; and a write whose return was skipped is noticed by the thread's next call.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use super::{
    common,
    function::{self, Message},
};
use crate::{
    kernel::{self, Probed},
    maps::{RECVMSG_NONBLOCK, SOCKET_SK},
};

#[inline(always)]
fn sock_of(ctx: &ProbeContext) -> Option<u64> {
    let socket: u64 = ctx.arg(0)?;
    let sock: u64 = kernel::field(socket, &SOCKET_SK)?;
    if sock == 0 { None } else { Some(sock) }
}

/// `tcp_sendmsg(sk, msg, size)`
#[kprobe]
pub fn kprobe_tcp_sendmsg(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(msg)) = (ctx.arg(0), ctx.arg(1)) {
        function::send_begins::<Probed>(sock, msg);
    }
    0
}

/// `unix_stream_sendmsg(socket, msg, len)`
#[kprobe]
pub fn kprobe_unix_stream_sendmsg(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(msg)) = (sock_of(&ctx), ctx.arg(1)) {
        function::send_begins::<Probed>(sock, msg);
    }
    0
}

/// `tcp_recvmsg(sk, msg, len, [nonblock,] flags, addr_len)`
#[kprobe]
pub fn kprobe_tcp_recvmsg(ctx: ProbeContext) -> u32 {
    let (third, fourth) = (ctx.arg(3), ctx.arg(4));
    let flags = if RECVMSG_NONBLOCK.load() != 0 { fourth } else { third };
    if let (Some(sock), Some(msg), Some(len), Some(flags)) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), flags)
    {
        function::receive_begins::<Probed>(sock, &Message { msg, len, flags });
    }
    0
}

/// `unix_stream_recvmsg(socket, msg, size, flags)`
#[kprobe]
pub fn kprobe_unix_stream_recvmsg(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(msg), Some(len), Some(flags)) =
        (sock_of(&ctx), ctx.arg(1), ctx.arg(2), ctx.arg(3))
    {
        function::receive_begins::<Probed>(sock, &Message { msg, len, flags });
    }
    0
}

/// `unix_release(socket)`
#[kprobe]
pub fn kprobe_unix_release(ctx: ProbeContext) -> u32 {
    if let Some(sock) = sock_of(&ctx) {
        let id = bpf_get_current_pid_tgid();
        common::released(sock, ((id >> 32) as u32, id as u32));
    }
    0
}

/// `tcp_cleanup_rbuf(sk, copied)`: runs at the end of a read, and before it waits for more.
#[inline(always)]
fn copied(ctx: &ProbeContext) -> Option<()> {
    let sock: u64 = ctx.arg(0)?;
    let copied: i32 = ctx.arg(1)?;
    function::receive_goes_on::<Probed>(sock, copied.into())
}

#[kprobe]
pub fn kprobe_tcp_cleanup_rbuf(ctx: ProbeContext) -> u32 {
    copied(&ctx);
    0
}

// A read that returned: what of it `tcp_cleanup_rbuf` has not taken.

#[kretprobe]
pub fn kretprobe_tcp_recvmsg(ctx: RetProbeContext) -> u32 {
    function::receive_ends::<Probed>(i64::from(ctx.ret::<i32>()));
    0
}

#[kretprobe]
pub fn kretprobe_unix_stream_recvmsg(ctx: RetProbeContext) -> u32 {
    function::receive_ends::<Probed>(i64::from(ctx.ret::<i32>()));
    0
}

#[kretprobe]
pub fn kretprobe_tcp_sendmsg(ctx: RetProbeContext) -> u32 {
    function::send_ends(i64::from(ctx.ret::<i32>()));
    0
}

#[kretprobe]
pub fn kretprobe_unix_stream_sendmsg(ctx: RetProbeContext) -> u32 {
    function::send_ends(i64::from(ctx.ret::<i32>()));
    0
}
