//! The end of connections: TCP states and resets. Works in any context, also softirq, where the
//! current process has nothing to do with the socket.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use llmtrace_common::{
    config::{state, target},
    record::{Header, end, kind},
};

use crate::{
    emit,
    held::held,
    kernel,
    maps::{LISTENING, PORTS, SOCK_NUM, SOCKETS, TARGETS, TRACE_LISTENERS, WATCH_PROCESSES},
    sock::common::{self, tcp},
    tls,
};

/// `(sk, oldstate, newstate)`.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let new: i32 = ctx.arg(2);
    if new == tcp::LISTEN {
        listening(sock);
        return 0;
    }
    let reason = match new {
        tcp::CLOSE_WAIT | tcp::CLOSING | tcp::TIME_WAIT => end::PEER_FIN,
        tcp::FIN_WAIT1 | tcp::LAST_ACK => end::LOCAL_FIN,
        tcp::CLOSE => end::CLOSED,
        _ => return 0,
    };
    report(sock, reason);
    if new == tcp::CLOSE {
        let _ = SOCKETS.remove(sock);
    }
    0
}

/// `(sk)`: the peer reset the connection.
#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: RawTracePointContext) -> i32 {
    report(ctx.arg(0), end::PEER_RESET);
    0
}

/// `(sk, ...)`: this side resets the connection; without a socket when none matched a packet.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: RawTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    if sock != 0 {
        report(sock, end::LOCAL_RESET);
    }
    0
}

#[inline(always)]
fn report(sock: u64, reason: u32) {
    tls::socket_ended(sock, reason);
    let Some(socket) = SOCKETS.get_ptr(sock) else { return };
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    if socket.state & state::SILENT == 0 {
        held(|| common::ended(sock, socket.inode as u32, (0, 0), reason));
    }
}

/// `listen` runs in the process that listens.
#[inline(always)]
fn listening(sock: u64) {
    let port: u16 = kernel::field(sock, &SOCK_NUM).unwrap_or(0);
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if WATCH_PROCESSES.load() == 0 {
        if crate::target::of_current(pid) != 0 {
            arrivals_at(port);
        }
        return;
    }
    // Here and not in the agent: the first request may come before the agent reads the record.
    let how = if TRACE_LISTENERS.load() != 0 {
        target::ALL
    } else if PORTS.get_ptr(u32::from(port)).is_some() {
        target::PORTS
    } else {
        0
    };
    if how != 0 && TARGETS.get_ptr(pid).is_none() {
        crate::target::add(pid, how);
    }
    if crate::target::of_current(pid) != 0 {
        arrivals_at(port);
    }
    emit::process(&Header { kind: kind::LISTEN, pid, len: u32::from(port), ..Header::default() });
}

/// From now on it is noted when bytes come for a socket of this port.
#[inline(always)]
fn arrivals_at(port: u16) {
    if let Some(listens) = LISTENING.get_ptr_mut(port.into()) {
        // SAFETY: a pointer into the map, checked.
        unsafe { *listens = 1 };
    }
}
