//! When bytes come to a socket, before anybody reads them.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::{btf_tracepoint, kprobe},
    programs::{BtfTracePointContext, ProbeContext},
};
use llmtrace_common::{config::state, limits::STASH_SLOTS, record::family};

use crate::{
    kernel::{Access, Probed, Typed},
    maps::{ARRIVALS, HANDOVERS, Handover, LISTENING, SOCK_FAMILY, SOCK_NUM, SOCKETS},
};

/// `(sk)`, since 6.2
#[btf_tracepoint(function = "sk_data_ready")]
pub fn sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    arrived::<Typed>(ctx.arg(0));
    0
}

/// `sock_def_readable(sk)`, what `sk_data_ready` is for nearly every socket.
#[kprobe]
pub fn sock_def_readable(ctx: ProbeContext) -> u32 {
    if let Some(sock) = ctx.arg(0) {
        arrived::<Probed>(sock);
    }
    0
}

#[inline(always)]
fn arrived<A: Access>(sock: u64) -> Option<()> {
    let family: u16 = A::get(sock, &SOCK_FAMILY)?;
    if family == family::UNIX {
        handed_over(sock);
        return None;
    }
    if family != family::INET && family != family::INET6 {
        return None;
    }
    let port: u16 = A::get(sock, &SOCK_NUM)?;
    // SAFETY: four bytes, either the old or the new value.
    if LISTENING.get(port.into()).is_none_or(|listens| *listens == 0) {
        return None;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(socket) = SOCKETS.get_ptr_mut(sock) {
        // SAFETY: a pointer into the map, checked.
        unsafe {
            if (*socket).arrived == 0 && (*socket).state & state::SILENT == 0 {
                (*socket).arrived = now;
            }
        }
    } else if ARRIVALS.get_ptr(sock).is_none() {
        let _ = ARRIVALS.insert(sock, now, 0);
    }
    None
}

/// The sender runs this, before the receiver wakes.
#[inline(always)]
fn handed_over(receiver: u64) {
    let tid = bpf_get_current_pid_tgid() as u32;
    if let Some(slot) = HANDOVERS.get_ptr_mut(tid & (STASH_SLOTS - 1)) {
        // SAFETY: a pointer into the map, checked; the time is read by the same thread.
        unsafe {
            *slot = Handover { receiver, at: bpf_ktime_get_ns(), tid: tid.into() };
        }
    }
}
