//! Entry points for Go's `crypto/tls`. Its functions pass arguments in registers of their own
//! (since 1.17), its stacks move, which rules out uretprobes, and its goroutines change threads.
//! So each RET has a probe, and what is under way is kept by goroutine.

use aya_ebpf::{helpers::bpf_probe_read_user, macros::uprobe, programs::ProbeContext};
use llmtrace_common::config::state;

use super::{
    Entered, SPREAD, call, enter, identity, ids, leave,
    maps::{TLS_CONNS, TLS_THREADS, Thread},
};
use crate::{kernel, maps::SOCKETS, target::of_current};

/// `tls.Conn` begins with an interface `conn`, whose second word points to a `net.TCPConn`, which
/// holds a pointer to a `netFD`, which begins with a `poll.FD`: a mutex of 16 bytes, and `Sysfd`.
mod layout {
    pub const INTERFACE_DATA: u64 = 8;
    pub const SYSFD: u64 = 16;
}

/// A goroutine, which no thread id is like.
#[inline(always)]
fn goroutine(pid: u32, g: u64) -> u64 {
    (u64::from(pid) + 1).wrapping_mul(SPREAD) ^ g
}

/// `func (c *Conn) Read(b []byte) (int, error)`, and `Write`: receiver, pointer, length.
#[inline(always)]
fn begin(ctx: &ProbeContext, call: u32) -> u32 {
    let (pid, _) = ids();
    if of_current(pid) == 0 {
        return 0;
    }
    // SAFETY: the context of a uprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    enter(
        goroutine(pid, regs.r14),
        &Entered { call, object: regs.rax, buf: regs.rbx, len: regs.rcx, out: 0, sp: u64::MAX },
    );
    0
}

#[uprobe]
pub fn go_read(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::READ)
}

#[uprobe]
pub fn go_write(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::WRITE)
}

/// `func (c *Conn) serverHandshake(...)`, `clientHandshake`: once, before anything else.
#[uprobe]
pub fn go_handshake(ctx: ProbeContext) -> u32 {
    let (pid, _) = ids();
    if of_current(pid) != 0 {
        // SAFETY: the context of a uprobe is the registers of the process. Whatever had this
        // address before has been collected.
        super::new_conn(identity(pid, unsafe { (*ctx.regs).rax }), call::HANDSHAKE);
    }
    0
}

/// At each RET of both.
#[uprobe]
pub fn go_done(ctx: ProbeContext) -> u32 {
    let ids = ids();
    // SAFETY: the context of a uprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    let Some(thread) = TLS_THREADS.get_ptr_mut(goroutine(ids.0, regs.r14)) else { return 0 };
    // SAFETY: a pointer into the map, checked; only this goroutine writes to it.
    let thread = unsafe { &mut *thread };
    if thread.call == 0 {
        return 0;
    }
    if TLS_CONNS.get_ptr(identity(ids.0, thread.object)).is_none_or(|conn| {
        // SAFETY: a pointer into the map, checked.
        unsafe { (*conn).sock == 0 }
    }) {
        socket(thread);
    }
    leave(thread, of_current(ids.0), ids, regs.rax as i32);
    thread.call = 0;
    0
}

/// Finds the socket by the descriptor that the connection holds.
#[inline(always)]
fn socket(thread: &mut Thread) {
    let Some(data) = user(thread.object.wrapping_add(layout::INTERFACE_DATA)) else { return };
    let Some(net_fd) = user(data) else { return };
    let Some(fd) = user(net_fd.wrapping_add(layout::SYSFD)) else { return };
    let Some(open) = kernel::socket_of(fd as u32) else { return };
    let Some(socket) = SOCKETS.get_ptr(open.sock) else { return };
    // Only what is known to carry TLS: the chain may have led anywhere.
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    if socket.inode == open.inode && socket.state & state::TLS != 0 {
        thread.sock = open.sock;
        thread.inode = open.inode;
    }
}

#[inline(always)]
fn user(address: u64) -> Option<u64> {
    // SAFETY: the helper fails on an address that cannot be read.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}
