//! A read or a write from its entry to its return, whatever hook sees it.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use llmtrace_common::{
    config::{loss, state},
    record::{Header, end, flag, kind},
};

use super::common::{self, Call, Way};
use crate::{
    emit,
    emit::copy,
    kernel::Access,
    maps::{SOCKETS, TCP_WRITE_SEQ},
    memory::{Memory, place},
    stash::{self, Stash, WAS_BLOCKED, call},
};

pub const MSG_OOB: u32 = 1;
pub const MSG_PEEK: u32 = 2;
pub const MSG_TRUNC: u32 = 0x20;
pub const MSG_ERRQUEUE: u32 = 0x2000;
const EAGAIN: i64 = -11;
const EPIPE: i64 = -32;
const ECONNRESET: i64 = -104;

/// The process and thread of a call, and how the process is traced.
#[derive(Clone, Copy)]
pub struct Caller {
    pub pid: u32,
    pub tid: u32,
    pub how: u32,
}

/// A write begins: what the end of it will need is remembered. The position is known now; how much
/// is taken will be known then. `message` is asked only where it matters.
#[inline(always)]
pub fn write_begins<A: Access>(
    sock: u64,
    inode: u64,
    who: Caller,
    message: impl FnOnce() -> Option<(Memory, u64)>,
) {
    write_to::<A>(sock, inode, who, message, false);
}

/// The same, also for plaintext that the kernel encrypts (`ktls`).
#[inline(always)]
pub fn write_to<A: Access>(
    sock: u64,
    inode: u64,
    who: Caller,
    message: impl FnOnce() -> Option<(Memory, u64)>,
    ktls: bool,
) {
    let known = common::find(sock, inode);
    if common::is_silenced(known.as_deref()) {
        return;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some((memory, want)) = message() else { return };
    let call = Call { way: Way::Write, sock, inode, who, now, done: 0, memory, ktls };
    let Some(traced) = common::trace::<A>(&call, known) else { return };
    let Some(stash) = stash::begin(who.tid) else { return };
    stash.enter = now;
    stash.memory = memory;
    stash.want = want;
    stash.sock = sock;
    stash.pos = traced.pos;
    stash.generation = traced.generation;
    stash.flags = u32::from(traced.flags) | if traced.blocked { WAS_BLOCKED } else { 0 };
    stash.call = call::WRITE;
}

/// Whether a hook that runs for each step of a write has run for the same write before: then bytes
/// asked for less what is left are what the stream has grown by.
#[inline(always)]
pub fn is_continued<A: Access>(stash: &Stash, sock: u64, left: u64) -> bool {
    let Stash { sock: of, pos, want, .. } = *stash;
    if of != sock {
        return false;
    }
    let tcp = A::tcp(sock);
    if tcp == 0 {
        return false;
    }
    let Some(now) = A::get::<u32>(tcp, &TCP_WRITE_SEQ) else { return false };
    u64::from(now.wrapping_sub(pos as u32)) == want.wrapping_sub(left)
}

/// A write is over. `ret` is what the kernel returned: bytes taken, or an error.
#[inline(always)]
pub fn write_ends(stash: &mut Stash, ret: i64, who: (u32, u32)) {
    stash.call = 0;
    if ret <= 0 {
        if ret == EPIPE || ret == ECONNRESET {
            common::ended(stash.sock, stash.generation, who, end::WRITE_BROKEN);
        } else if ret == EAGAIN {
            refused(stash, 0, who.0, who.1);
        }
        return;
    }
    let mut header = Header {
        flags: stash.flags as u16,
        sock: stash.sock,
        generation: stash.generation,
        enter_ns: stash.enter,
        // SAFETY: a helper without arguments.
        exit_ns: unsafe { bpf_ktime_get_ns() },
        pid: who.0,
        tid: who.1,
        pos: stash.pos,
        ..Header::default()
    };
    moved(Way::Write, &mut header, &stash.memory, ret as u32);
    if (ret as u64) < stash.want {
        refused(stash, ret as u32, who.0, who.1);
    } else if stash.flags & WAS_BLOCKED != 0
        && let Some(socket) = SOCKETS.get_ptr_mut(stash.sock)
    {
        // SAFETY: a pointer into the map, checked.
        unsafe { (*socket).state &= !state::BLOCKED };
    }
}

/// The send buffer is full. Told once, until a write is taken whole again. Rare: a function of its
/// own, for the sake of its caller's stack.
#[inline(never)]
fn refused(stash: &Stash, taken: u32, pid: u32, tid: u32) {
    let Some(socket) = SOCKETS.get_ptr_mut(stash.sock) else { return };
    // SAFETY: a pointer into the map, checked.
    unsafe {
        if taken == 0 && (*socket).state & state::BLOCKED != 0 {
            return;
        }
        (*socket).state |= state::BLOCKED;
    }
    emit::bare(&Header {
        kind: kind::REFUSED,
        sock: stash.sock,
        generation: stash.generation,
        len: taken,
        enter_ns: stash.enter,
        // SAFETY: a helper without arguments.
        exit_ns: unsafe { bpf_ktime_get_ns() },
        pid,
        tid,
        ..Header::default()
    });
}

/// A read that is over.
pub struct ReadEnd {
    pub sock: u64,
    pub inode: u64,
    /// When it began; 0 if nobody saw that.
    pub enter: u64,
    /// Bytes that it took, or an error; 0 only for the end of what the peer sent.
    pub ret: i64,
    /// `MSG_*` flags.
    pub flags: u32,
    /// What it took is plaintext that the kernel has decrypted.
    pub ktls: bool,
}

/// A read is over. Where its bytes are is asked only if it matters.
#[inline(always)]
pub fn read_ends<A: Access>(read: &ReadEnd, who: Caller, memory: impl FnOnce() -> Memory) {
    let ReadEnd { sock, inode, ret, enter, .. } = *read;
    let ids = (who.pid, who.tid);
    if ret <= 0 {
        let reason = match ret {
            0 => end::READ_EOF,
            ECONNRESET => end::READ_RESET,
            _ => return,
        };
        if let Some(generation) = common::known(sock, inode) {
            common::ended(sock, generation, ids, reason);
        }
        return;
    }
    if read.flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0 {
        return;
    }
    let known = common::find(sock, inode);
    if common::is_silenced(known.as_deref()) {
        return;
    }
    // With MSG_TRUNC the kernel throws the bytes away.
    let memory = if read.flags & MSG_TRUNC != 0 { Memory::OPAQUE } else { memory() };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let done = ret as u32;
    let call = Call { way: Way::Read, sock, inode, who, now, done, memory, ktls: read.ktls };
    let Some(traced) = common::trace::<A>(&call, known) else { return };
    let mut header = Header {
        flags: traced.flags | if enter == 0 { flag::NO_ENTRY } else { 0 },
        sock,
        generation: traced.generation,
        enter_ns: if enter == 0 { now } else { enter },
        exit_ns: now,
        pid: who.pid,
        tid: who.tid,
        pos: traced.pos,
        ..Header::default()
    };
    if traced.arrived != 0 {
        let enter = header.enter_ns;
        header.kind = kind::ARRIVED;
        header.enter_ns = traced.arrived;
        emit::bare(&header);
        header.enter_ns = enter;
    }
    moved(Way::Read, &mut header, &memory, done);
}

/// Bytes moved: copy them, and keep count where the kernel does not.
#[inline(always)]
pub fn moved(way: Way, header: &mut Header, memory: &Memory, len: u32) {
    header.kind = match way {
        Way::Read => kind::READ,
        Way::Write => kind::WRITE,
    };
    if header.flags & flag::SEQ32 == 0
        && let Some(socket) = SOCKETS.get_ptr_mut(header.sock)
    {
        // SAFETY: a pointer into the map, checked. Two threads that write to one socket at once
        // may lose a count; their bytes have no order either.
        unsafe {
            match way {
                Way::Read => (*socket).read += u64::from(len),
                Way::Write => (*socket).written += u64::from(len),
            }
        }
    }
    if memory.place == place::OPAQUE {
        return emit::gap(header, len, loss::OPAQUE);
    }
    copy::bytes(header, memory, len);
}
