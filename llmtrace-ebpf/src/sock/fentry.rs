//! Entries and returns of the socket functions by BPF trampolines (5.5, where allowed): the
//! cheapest hooks that see everything.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use super::{
    common,
    function::{self, Message},
};
use crate::{
    kernel::{Access, Probed, Typed},
    maps::SOCKET_SK,
};

/// `tcp_sendmsg(sk, msg, size)`
#[fentry]
pub fn fentry_tcp_sendmsg(ctx: FEntryContext) -> i32 {
    function::send_begins::<Typed>(ctx.arg(0), ctx.arg(1));
    0
}

/// `tcp_recvmsg(sk, msg, len, flags, [addr_len])` since 5.19
#[fentry]
pub fn fentry_tcp_recvmsg(ctx: FEntryContext) -> i32 {
    let message = Message { msg: ctx.arg(1), len: ctx.arg(2), flags: ctx.arg(3) };
    function::receive_begins::<Typed>(ctx.arg(0), &message);
    0
}

/// `tcp_recvmsg(sk, msg, len, nonblock, flags, addr_len)` before
#[fentry]
pub fn fentry_tcp_recvmsg_nonblock(ctx: FEntryContext) -> i32 {
    let message = Message { msg: ctx.arg(1), len: ctx.arg(2), flags: ctx.arg(4) };
    function::receive_begins::<Typed>(ctx.arg(0), &message);
    0
}

/// `unix_stream_sendmsg(socket, msg, len)`
#[fentry]
pub fn fentry_unix_stream_sendmsg(ctx: FEntryContext) -> i32 {
    if let Some(sock) = sock_of(ctx.arg(0)) {
        function::send_begins::<Typed>(sock, ctx.arg(1));
    }
    0
}

/// `unix_stream_recvmsg(socket, msg, size, flags)`
#[fentry]
pub fn fentry_unix_stream_recvmsg(ctx: FEntryContext) -> i32 {
    let message = Message { msg: ctx.arg(1), len: ctx.arg(2), flags: ctx.arg(3) };
    if let Some(sock) = sock_of(ctx.arg(0)) {
        function::receive_begins::<Typed>(sock, &message);
    }
    0
}

/// `unix_release(socket)`
#[fentry]
pub fn fentry_unix_release(ctx: FEntryContext) -> i32 {
    if let Some(sock) = sock_of(ctx.arg(0)) {
        common::released(sock, ids());
    }
    0
}

#[inline(always)]
fn sock_of(socket: u64) -> Option<u64> {
    let sock: u64 = Typed::get(socket, &SOCKET_SK)?;
    if sock == 0 { None } else { Some(sock) }
}

#[inline(always)]
fn ids() -> (u32, u32) {
    let id = bpf_get_current_pid_tgid();
    ((id >> 32) as u32, id as u32)
}

#[fexit]
pub fn fexit_tcp_sendmsg(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(3);
    function::send_ends(ret.into());
    0
}

// The return value comes after the arguments, of which this function has lost two over time.

/// Since 7.1 or so
#[fexit]
pub fn fexit_tcp_recvmsg_4(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(4);
    function::receive_ends::<Probed>(ret.into());
    0
}

/// Since 5.19
#[fexit]
pub fn fexit_tcp_recvmsg_5(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(5);
    function::receive_ends::<Probed>(ret.into());
    0
}

/// Before.
#[fexit]
pub fn fexit_tcp_recvmsg_6(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(6);
    function::receive_ends::<Probed>(ret.into());
    0
}

#[fexit]
pub fn fexit_unix_stream_sendmsg(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(3);
    function::send_ends(ret.into());
    0
}

#[fexit]
pub fn fexit_unix_stream_recvmsg(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(4);
    function::receive_ends::<Probed>(ret.into());
    0
}
