//! What every back end does with a socket: look up its state, position its bytes, tell how it ends.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use llmtrace_common::{
    config::{Socket, loss, state},
    record::{Header, end, flag, kind},
};

use super::{announce, call::Caller};
use crate::{
    emit,
    kernel::{self, Access, OpenSocket, Probed, field},
    maps::{FIRST, SOCK_FLAGS, SOCK_STATE, SOCKETS, TCP_COPIED_SEQ, TCP_RCV_NXT, TCP_WRITE_SEQ},
    memory::Memory,
    tls,
};

/// `enum sock_flags`: the peer's FIN has come.
const SOCK_DONE: u64 = 1 << 1;
/// `include/net/tcp_states.h`.
pub mod tcp {
    pub const FIN_WAIT1: i32 = 4;
    pub const TIME_WAIT: i32 = 6;
    pub const CLOSE: i32 = 7;
    pub const CLOSE_WAIT: i32 = 8;
    pub const LAST_ACK: i32 = 9;
    pub const LISTEN: i32 = 10;
    pub const CLOSING: i32 = 11;
}

/// A traced socket at the moment of a call.
#[derive(Clone, Copy)]
pub struct Traced {
    pub generation: u32,
    /// `flag` bits for the record.
    pub flags: u16,
    /// The socket's `state::BLOCKED`.
    pub blocked: bool,
    pub pos: u64,
    /// Reads: when the first of the bytes came, if it is known.
    pub arrived: u64,
}

/// Which way a call moves bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Read,
    Write,
}

/// A call on a socket, as an entry point sees it.
#[derive(Clone, Copy)]
pub struct Call {
    pub way: Way,
    pub sock: u64,
    /// As [`Access::inode`] says.
    pub inode: u64,
    pub who: Caller,
    pub now: u64,
    /// What the call has already moved: 0 for a write that is seen at its entry.
    pub done: u32,
    pub memory: Memory,
    /// The bytes are plaintext that the kernel encrypts or has decrypted.
    pub ktls: bool,
}

/// The verdict on a socket and where its streams stand, unless it is new.
#[inline(always)]
pub fn find(sock: u64, inode: u64) -> Option<&'static mut Socket> {
    // SAFETY: a pointer into the map, checked; fields are plain integers.
    let socket = unsafe { &mut *SOCKETS.get_ptr_mut(sock)? };
    (socket.inode == inode).then_some(socket)
}

/// Whether nothing at all is to be known of what moves on a socket: bulk traffic ends here, before
/// anything is looked at. (TLS that is not ours still tells which library carries it.)
#[inline(always)]
pub fn is_silenced(socket: Option<&Socket>) -> bool {
    socket.is_some_and(|socket| socket.state & (state::SILENT | state::TLS) == state::SILENT)
}

/// Positions a call on its socket, of which `find` has told what is known, and announces one that is
/// new. None if the socket is not traced.
#[inline(always)]
pub fn trace<A: Access>(call: &Call, socket: Option<&'static mut Socket>) -> Option<Traced> {
    let Call { way, sock, inode, done, .. } = *call;
    if call.ktls && tls::is_of_library(call.who.tid, sock, inode) {
        leave_to_library(sock, inode, (call.who.pid, call.who.tid));
        return None;
    }
    if let Some(socket) = socket {
        if call.ktls && socket.state & (state::SILENT | state::TLS) == CARRIES_RECORDS {
            // The handshake is over and the keys are the kernel's: from here on it is traced.
        } else if socket.state & state::SILENT != 0 {
            if socket.state & state::TLS != 0 {
                tls::carried(call.who.tid, way == Way::Write, sock, inode);
            }
            return None;
        } else {
            return of_known::<A>(call, socket);
        }
    }
    let first = FIRST.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot, checked.
    let first = unsafe { &mut *first };
    if first.owner != 0 {
        // A thread that lost its CPU in the middle has it; the next call announces the socket.
        emit::lost(loss::BUSY, done);
        return None;
    }
    first.owner = call.who.tid;
    first.sock = sock;
    first.inode = inode;
    first.now = call.now;
    first.memory = call.memory;
    first.pid = call.who.pid;
    first.how = call.who.how;
    first.done = done;
    first.write = u32::from(way == Way::Write);
    first.ktls = u16::from(call.ktls);
    let told = announce::announce_first();
    let traced = Traced {
        generation: inode as u32,
        flags: first.flags,
        blocked: false,
        pos: first.pos,
        arrived: first.arrived,
    };
    first.owner = 0;
    if told == announce::ANNOUNCED {
        return Some(traced);
    }
    if told == announce::CARRIES_TLS {
        tls::carried(call.who.tid, way == Way::Write, sock, inode);
    }
    None
}

/// A call on a socket that was traced before.
#[inline(always)]
fn of_known<A: Access>(call: &Call, socket: &mut Socket) -> Option<Traced> {
    let Call { way, sock, inode, done, .. } = *call;
    let mut flags = 0;
    let pos = if socket.state & state::SEQUENCED != 0 {
        if call.ktls {
            // What was traced of it until now was not TLS: no stream goes on there.
            return None;
        }
        flags |= flag::SEQ32;
        sequence::<A>(way, A::tcp(sock))?.wrapping_sub(done).into()
    } else {
        if !call.ktls && socket.state & state::KTLS != 0 {
            // Ciphertext, where the kernel has the keys of one direction only.
            return None;
        }
        match way {
            Way::Read => socket.read,
            Way::Write => socket.written,
        }
    };
    let mut arrived = 0;
    if way == Way::Read && socket.arrived != 0 {
        arrived = socket.arrived;
        socket.arrived = 0;
    }
    let blocked = socket.state & state::BLOCKED != 0;
    Some(Traced { generation: inode as u32, flags, blocked, pos, arrived })
}

/// `Socket::state` of one that is silent because it carries TLS.
const CARRIES_RECORDS: u32 = state::SILENT | state::TLS;

/// The library that makes the calls of a socket has been found, perhaps only now: its plaintext is
/// taken from it alone.
#[inline(never)]
fn leave_to_library(sock: u64, inode: u64, ids: (u32, u32)) {
    let Some(socket) = SOCKETS.get_ptr_mut(sock) else { return };
    // SAFETY: a pointer into the map, checked; fields are plain integers.
    let socket = unsafe { &mut *socket };
    if socket.inode == inode && socket.state & (state::KTLS | state::SILENT) == state::KTLS {
        ended(sock, inode as u32, ids, end::CLOSED);
        socket.state = CARRIES_RECORDS;
    }
}

/// The stream position that the kernel keeps: of the next byte to be written or read.
#[inline(always)]
pub fn sequence<A: Access>(way: Way, tcp: u64) -> Option<u32> {
    if tcp == 0 {
        return None;
    }
    match way {
        Way::Read => next_read::<A>(tcp),
        Way::Write => A::get(tcp, &TCP_WRITE_SEQ),
    }
}

/// Position of the next byte to be read. The kernel counts the peer's FIN as one when a read has
/// come to it, be it a read that took the last bytes as well.
#[inline(always)]
pub fn next_read<A: Access>(tcp: u64) -> Option<u32> {
    let copied: u32 = A::get(tcp, &TCP_COPIED_SEQ)?;
    let next: u32 = A::get(tcp, &TCP_RCV_NXT)?;
    let flags: u64 = A::get(tcp, &SOCK_FLAGS)?;
    let fin = copied == next && flags & SOCK_DONE != 0;
    Some(if fin { copied.wrapping_sub(1) } else { copied })
}

/// Positions of both streams ([`flag::REACHED`]) of a TCP socket. Of one that is closed nothing tells
/// whether the FIN of this side is among what the kernel counts as written; it is taken to be: a byte
/// too few hides nothing but that byte, one too many would be a gap where there is none.
#[inline(always)]
fn reached(sock: u64) -> Option<u64> {
    // This one first: the FIN is counted after the state has changed.
    let written: u32 = field(sock, &TCP_WRITE_SEQ)?;
    let read = next_read::<Probed>(sock)?;
    let state: u8 = field(sock, &SOCK_STATE)?;
    let fin = match i32::from(state) {
        tcp::FIN_WAIT1..=tcp::CLOSE | tcp::LAST_ACK | tcp::CLOSING => 1,
        _ => 0,
    };
    Some(both(written.wrapping_sub(fin).into(), read.into()))
}

/// As [`flag::REACHED`] says.
#[inline(always)]
pub fn both(written: u64, read: u64) -> u64 {
    u64::from(written as u32) | read << 32
}

/// A known, traced socket ended in some way.
#[inline(always)]
pub fn ended(sock: u64, generation: u32, ids: (u32, u32), reason: u32) {
    // A global function takes numbers, and a typed pointer becomes one by being copied.
    let Some(sock) = kernel::at::<u64>((&raw const sock) as u64) else { return };
    end_record(sock, generation, reason, ids.0, ids.1);
}

/// Rare: a function of its own, for the sake of its callers' stacks, and a global one, so that the
/// verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn end_record(sock: u64, generation: u32, reason: u32, pid: u32, tid: u32) -> i32 {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut header = Header {
        kind: kind::END,
        sock,
        generation,
        len: reason,
        enter_ns: now,
        exit_ns: now,
        pid,
        tid,
        ..Header::default()
    };
    // What of a stream's end was missed shows here, since nothing comes after it.
    if let Some(socket) = SOCKETS.get_ptr(sock) {
        // SAFETY: a pointer into the map, checked.
        let socket = unsafe { *socket };
        let reached = if socket.state & state::SEQUENCED != 0 {
            reached(sock)
        } else {
            Some(both(socket.written, socket.read))
        };
        if socket.inode as u32 == generation
            && let Some(pos) = reached
        {
            header.flags = flag::REACHED;
            header.pos = pos;
        }
    }
    emit::bare(&header);
    0
}

/// The generation of a socket that is known and traced.
#[inline(always)]
pub fn known(sock: u64, inode: u64) -> Option<u32> {
    let socket = SOCKETS.get_ptr(sock)?;
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    let same = socket.inode == inode && socket.state & state::SILENT == 0;
    same.then_some(inode as u32)
}

/// Whether the kernel numbers the bytes of a known socket itself.
#[inline(always)]
pub fn is_sequenced(sock: u64) -> bool {
    // SAFETY: a pointer into the map, checked.
    SOCKETS.get_ptr(sock).is_some_and(|socket| unsafe { (*socket).state } & state::SEQUENCED != 0)
}

/// A descriptor is being closed: if it is the last of a unix socket, that is its end. (The states
/// of a TCP socket tell its own.)
#[inline(always)]
pub fn closed(open: &OpenSocket, ids: (u32, u32)) {
    let Some(socket) = SOCKETS.get_ptr(open.sock) else { return };
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    if socket.inode != open.inode || socket.state & state::SEQUENCED != 0 {
        return;
    }
    let count: Option<u64> = field(open.file, &crate::maps::FILE_COUNT);
    if count == Some(crate::maps::FILE_COUNT_ONE.load()) {
        released(open.sock, ids);
    }
}

/// A socket without TCP states is gone.
#[inline(always)]
pub fn released(sock: u64, ids: (u32, u32)) {
    let Some(socket) = SOCKETS.get_ptr(sock) else { return };
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    if socket.state & state::SEQUENCED != 0 {
        return;
    }
    if socket.state & state::SILENT == 0 {
        ended(sock, socket.inode as u32, ids, end::CLOSED);
    }
    let _ = SOCKETS.remove(sock);
}
