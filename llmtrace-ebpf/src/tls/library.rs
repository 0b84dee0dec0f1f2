//! Entry points for libraries with C functions: OpenSSL, BoringSSL, GnuTLS.
//!
//! Named after what they do, not after functions: `SSL_read` and `gnutls_record_recv` take and
//! return the same. The agent decides what is attached where.

use aya_ebpf::{
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use llmtrace_common::record::end;

use super::{
    Entered, call, enter, freed, ids, key, leave,
    maps::{TLS_THREADS, Thread},
    say,
};
use crate::target::of_current;

/// Bytes that a call and a return take from the stack.
const RETURN_ADDRESS: u64 = 8;

/// `(object, buffer, length[, count])`.
#[inline(always)]
fn begin(ctx: &ProbeContext, call: u32) -> u32 {
    let (pid, tid) = ids();
    if of_current(pid) == 0 {
        return 0;
    }
    // SAFETY: the context of a uprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    let wide = call & call::COUNT_APART != 0;
    enter(
        key(tid, call & call::WRITE != 0),
        &Entered {
            call,
            object: regs.rdi,
            buf: regs.rsi,
            // An int in SSL_read and SSL_write, whose upper half is anything.
            len: if wide { regs.rdx } else { u64::from(regs.rdx as u32) },
            out: regs.rcx,
            sp: regs.rsp,
        },
    );
    0
}

/// `int SSL_read(SSL *, void *, int)`.
#[uprobe]
pub fn tls_read(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::READ)
}

/// `ssize_t gnutls_record_recv(session, void *, size_t)`, whose 0 is the end and nothing else.
#[uprobe]
pub fn tls_read_to_end(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::READ_TO_END)
}

/// `int SSL_write(SSL *, const void *, int)`, `ssize_t gnutls_record_send(...)`.
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::WRITE)
}

/// `int SSL_read_ex(SSL *, void *, size_t, size_t *)`.
#[uprobe]
pub fn tls_read_ex(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::READ | call::COUNT_APART)
}

/// `int SSL_write_ex(SSL *, const void *, size_t, size_t *)`.
#[uprobe]
pub fn tls_write_ex(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::WRITE | call::COUNT_APART)
}

/// `ossl_ssize_t SSL_sendfile(SSL *, int fd, off_t offset, size_t size, int flags)`: the kernel does
/// the TLS.
#[uprobe]
pub fn tls_sendfile(ctx: ProbeContext) -> u32 {
    let (pid, tid) = ids();
    if of_current(pid) == 0 {
        return 0;
    }
    // SAFETY: the context of a uprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    let call = call::WRITE | call::OPAQUE;
    let (object, len, sp) = (regs.rdi, regs.rcx, regs.rsp);
    enter(key(tid, true), &Entered { call, object, buf: 0, len, out: 0, sp });
    0
}

/// `int SSL_do_handshake(SSL *)`, `int gnutls_handshake(session)`.
#[uprobe]
pub fn tls_handshake(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::HANDSHAKE)
}

/// `int SSL_get_error(const SSL *, int)`: callers ask it after what has failed.
#[uprobe]
pub fn tls_error(ctx: ProbeContext) -> u32 {
    begin(&ctx, call::ERROR)
}

/// The return of any of the above.
#[uretprobe]
pub fn tls_done(ctx: RetProbeContext) -> u32 {
    // SAFETY: the context of a uretprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    done(regs.rsp.wrapping_sub(RETURN_ADDRESS), regs.rax as i32)
}

/// The same, shortly before the return, in a frame that is not deeper than at the entry.
#[uprobe]
pub fn tls_leave(ctx: ProbeContext) -> u32 {
    // SAFETY: the context of a uprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    done(regs.rsp, regs.rax as i32)
}

#[inline(always)]
fn done(sp: u64, ret: i32) -> u32 {
    let ids = ids();
    let entry = call_at(key(ids.1, true), sp).or_else(|| call_at(key(ids.1, false), sp));
    if let Some(thread) = entry {
        // SAFETY: a pointer into the map, checked; only this thread writes to it.
        let thread = unsafe { &mut *thread };
        leave(thread, of_current(ids.0), ids, ret);
        thread.call = 0;
    }
    0
}

/// The call that is over at this stack pointer: a call inside it has a lower one.
#[inline(always)]
fn call_at(key: u64, sp: u64) -> Option<*mut Thread> {
    let thread = TLS_THREADS.get_ptr_mut(key)?;
    // SAFETY: a pointer into the map, checked.
    let (under_way, entered) = unsafe { ((*thread).call, (*thread).sp) };
    (under_way != 0 && under_way & call::RUSTLS == 0 && entered <= sp).then_some(thread)
}

/// `int SSL_shutdown(SSL *)`, `int gnutls_bye(session, how)`: says that nothing more will be sent.
#[uprobe]
pub fn tls_shutdown(ctx: ProbeContext) -> u32 {
    let ids = ids();
    if of_current(ids.0) != 0 {
        // SAFETY: the context of a uprobe is the registers of the process.
        say(ids, unsafe { (*ctx.regs).rdi }, end::LOCAL_FIN);
    }
    0
}

/// `void SSL_free(SSL *)`, `void gnutls_deinit(session)`.
#[uprobe]
pub fn tls_free(ctx: ProbeContext) -> u32 {
    let (pid, tid) = ids();
    if of_current(pid) != 0 {
        // SAFETY: the context of a uprobe is the registers of the process.
        freed(pid, tid, unsafe { (*ctx.regs).rdi });
    }
    0
}
