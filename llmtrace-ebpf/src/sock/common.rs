//! What every back end does with a socket: look up its state, announce it, position its bytes, tell
//! how it ends.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_ns},
};
use llmtrace_common::{
    config::{Socket, loss, state, target},
    limits::UNIX_PATH,
    record::{Header, Open, end, family, flag, kind, sniff},
};

use super::call::Caller;
use crate::{
    emit,
    emit::copy::segment,
    kernel::{self, Access, OpenSocket, Probed, field},
    maps::{
        ARRIVALS, FIRST, First, ICSK_ULP_OPS, NET_INUM, PORTS, SOCK_DADDR, SOCK_DPORT, SOCK_FAMILY,
        SOCK_FLAGS, SOCK_NET, SOCK_NUM, SOCK_PROTOCOL, SOCK_RCV_SADDR, SOCK_STATE, SOCK_TYPE,
        SOCK_V6_DADDR, SOCK_V6_RCV_SADDR, SOCKETS, TASK_COMM, TASK_LEADER, TASK_PARENT, TASK_TGID,
        TCP_BYTES_ACKED, TCP_BYTES_RECEIVED, TCP_COPIED_SEQ, TCP_RCV_NXT, TCP_SND_UNA,
        TCP_WRITE_SEQ, ULP_NAME, UNIX_ADDR, UNIX_ADDRESS_LEN, UNIX_ADDRESS_NAME,
    },
    memory::{Memory, place},
    tls,
};

const SOCK_STREAM: u16 = 1;
/// `enum sock_flags`: the peer's FIN has come.
const SOCK_DONE: u64 = 1 << 1;
const IPPROTO_TCP: u16 = 6;
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

/// High byte of the longest length that a TLS record may have (2^14 + 2048).
const MAX_TLS_RECORD_HIGH: u8 = 0x48;

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
    let told = announce_first();
    let traced = Traced {
        generation: inode as u32,
        flags: first.flags,
        blocked: false,
        pos: first.pos,
        arrived: first.arrived,
    };
    first.owner = 0;
    if told == ANNOUNCED {
        return Some(traced);
    }
    if told == CARRIES_TLS {
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

/// Whether the kernel does the TLS of a TCP socket, in one direction at least.
#[inline(always)]
fn has_ktls(sock: u64) -> Option<bool> {
    let ulp: u64 = field(sock, &ICSK_ULP_OPS)?;
    if ulp == 0 {
        return Some(false);
    }
    let name: u32 = field(ulp, &ULP_NAME)?;
    Some(name == u32::from_le_bytes(*b"tls\0"))
}

/// The stream position that the kernel keeps: of the next byte to be written or read.
#[inline(always)]
fn sequence<A: Access>(way: Way, tcp: u64) -> Option<u32> {
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
fn next_read<A: Access>(tcp: u64) -> Option<u32> {
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

// What `announce_first` returns.
const IGNORED: i32 = 0;
const ANNOUNCED: i32 = 1;
const CARRIES_TLS: i32 = 2;

/// A socket that was not known: decide, remember, announce. A global function without arguments,
/// whose state is in a per-CPU map: it is large, and the verifier looks at such a one once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn announce_first() -> i32 {
    let Some(first) = FIRST.get_ptr_mut(0) else { return IGNORED };
    // SAFETY: this CPU's slot, checked.
    announce(unsafe { &mut *first }).unwrap_or(IGNORED)
}

#[inline(always)]
fn announce(call: &mut First) -> Option<i32> {
    let sock = call.sock;
    let way = if call.write != 0 { Way::Write } else { Way::Read };
    let ty: u16 = field(sock, &SOCK_TYPE)?;
    let family: u16 = field(sock, &SOCK_FAMILY)?;
    let protocol: u16 = field(sock, &SOCK_PROTOCOL)?;
    let inet = family == family::INET || family == family::INET6;
    if ty != SOCK_STREAM || !(inet || family == family::UNIX) {
        return None;
    }
    let mut entry = Socket { inode: call.inode, ..Socket::default() };
    let mut header = Header {
        kind: kind::OPEN,
        sock,
        generation: call.inode as u32,
        enter_ns: call.now,
        exit_ns: call.now,
        pid: call.pid,
        tid: call.owner,
        ..Header::default()
    };
    let ktls = call.ktls != 0;
    if ktls {
        entry.state = state::KTLS;
        header.flags = flag::RESET | flag::TLS;
        if handshake_was_seen(sock, call.inode) {
            header.flags |= flag::FRESH;
        }
        call.pos = 0;
    } else if inet && protocol == IPPROTO_TCP {
        entry.state = state::SEQUENCED;
        header.flags = flag::SEQ32;
        call.pos = sequence::<Probed>(way, sock)?.wrapping_sub(call.done).into();
        let read = next_read::<Probed>(sock)?;
        let written: u32 = field(sock, &TCP_WRITE_SEQ)?;
        header.flags |= flag::REACHED;
        header.pos = both(written.into(), read.wrapping_sub(call.done).into());
        if is_fresh(sock, read, call.done)? {
            header.flags |= flag::FRESH;
        }
    } else {
        header.flags = flag::RESET;
        call.pos = 0;
    }
    let port: u16 = if inet { field(sock, &SOCK_NUM)? } else { 0 };
    if call.how & target::ALL == 0 && PORTS.get_ptr(u32::from(port)).is_none() {
        entry.state |= state::SILENT;
    } else {
        let fresh = header.flags & flag::FRESH != 0;
        let mut taken_for = guess(&call.memory, fresh);
        if !ktls && entry.state & state::SEQUENCED != 0 && has_ktls(sock)? {
            // Whatever these bytes are: plaintext that has no such positions, or the ciphertext of
            // the other direction.
            taken_for = sniff::TLS;
        }
        if taken_for == sniff::TLS {
            entry.state |= state::TLS;
            if fresh {
                entry.state |= state::FRESH;
            }
        }
        if taken_for != 0 {
            entry.state |= state::SILENT;
            header.kind = kind::SILENCED;
            header.len = taken_for;
            emit::bare(&header);
        }
    }
    call.arrived = 0;
    if let Some(at) = ARRIVALS.get_ptr(sock) {
        if way == Way::Read {
            // SAFETY: a pointer into the map, checked.
            call.arrived = unsafe { *at };
        }
        let _ = ARRIVALS.remove(sock);
    }
    let silent = entry.state & state::SILENT != 0;
    if !silent && !emit::open(&header, |out| describe(sock, family, port, out)) {
        // Not remembered, so that the next call announces it.
        return None;
    }
    // A full map evicts its oldest entry; an error leaves the socket to be announced again.
    let _ = SOCKETS.insert(sock, entry, 0);
    if silent {
        return Some(if entry.state & state::TLS != 0 { CARRIES_TLS } else { IGNORED });
    }
    call.flags = header.flags & !(flag::REACHED | flag::TLS);
    Some(ANNOUNCED)
}

/// Whether a socket that the kernel does TLS for was known as one that carries TLS from its start.
#[inline(always)]
fn handshake_was_seen(sock: u64, inode: u64) -> bool {
    let Some(before) = SOCKETS.get_ptr(sock) else { return false };
    // SAFETY: a pointer into the map, checked.
    let before = unsafe { *before };
    before.inode == inode && before.state & state::FRESH != 0
}

/// Whether nothing had been read from or written to the socket before this call. It errs towards
/// "no": then the agent decides what the connection is.
#[inline(always)]
fn is_fresh(sock: u64, read: u32, done: u32) -> Option<bool> {
    let received: u64 = field(sock, &TCP_BYTES_RECEIVED)?;
    let next: u32 = field(sock, &TCP_RCV_NXT)?;
    let acked: u64 = field(sock, &TCP_BYTES_ACKED)?;
    let written: u32 = field(sock, &TCP_WRITE_SEQ)?;
    let unacked: u32 = field(sock, &TCP_SND_UNA)?;
    let unread = next.wrapping_sub(read);
    // The SYN of a connection opened from this side counts as one byte acknowledged.
    Some(received as u32 == unread.wrapping_add(done) && acked <= 1 && written == unacked)
}

/// What the first bytes of a connection are: 0 for HTTP or undecided, else one of `sniff`. Of one
/// that is not fresh, only a TLS record is recognised.
#[inline(always)]
fn guess(memory: &Memory, fresh: bool) -> u32 {
    let source = match memory.place {
        place::BUFFER => memory.base.wrapping_add(memory.skip),
        place::USER_IOVEC | place::KERNEL_IOVEC => match segment(memory.base, memory.place) {
            Some(one) if one.len >= memory.skip + 4 => one.base + memory.skip,
            _ => return 0,
        },
        _ => return 0,
    };
    // SAFETY: the helper fails on an address that cannot be read.
    let Ok(word) = (unsafe { bpf_probe_read_user(source as *const u32) }) else { return 0 };
    let [kind, major, minor, length] = word.to_le_bytes();
    if matches!(kind, 0x14..=0x17)
        && major == 3
        && minor <= 4
        && (kind == 0x16 || length <= MAX_TLS_RECORD_HIGH)
    {
        return sniff::TLS;
    }
    if !fresh {
        return 0;
    }
    // Numbers, since arrays would be compared by a function call.
    let is_http = HTTP.contains(&word);
    // An HTTP/2 server may speak first: its settings.
    let is_settings = kind == 0 && major == 0 && length == 4;
    if is_http || is_settings { 0 } else { sniff::OTHER }
}

/// How HTTP begins: a request, an HTTP/2 preface, or a response.
const HTTP: [u32; 11] = {
    let begins = [
        b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ",
        b"HTTP",
    ];
    let mut numbers = [0; 11];
    let mut i = 0;
    while i < numbers.len() {
        numbers[i] = u32::from_le_bytes(*begins[i]);
        i += 1;
    }
    numbers
};

/// Fills in the addresses and the process.
#[inline(always)]
pub fn describe(sock: u64, family: u16, port: u16, out: &mut Open) {
    out.family = family;
    if family == family::UNIX {
        unix_name(sock, out);
    } else {
        out.local_port = port;
        out.remote_port = u16::from_be(field(sock, &SOCK_DPORT).unwrap_or(0));
        if family == family::INET {
            let [remote, local]: [[u8; 4]; 2] = [
                field(sock, &SOCK_DADDR).unwrap_or_default(),
                field(sock, &SOCK_RCV_SADDR).unwrap_or_default(),
            ];
            out.remote_addr[..4].copy_from_slice(&remote);
            out.local_addr[..4].copy_from_slice(&local);
        } else {
            let _ = kernel::bytes(sock, &SOCK_V6_DADDR, &mut out.remote_addr);
            let _ = kernel::bytes(sock, &SOCK_V6_RCV_SADDR, &mut out.local_addr);
        }
    }
    if let Some(net) = field::<u64>(sock, &SOCK_NET) {
        out.netns = field(net, &NET_INUM).unwrap_or(0);
    }
    describe_process(out);
}

/// Fills in the process.
#[inline(always)]
pub fn describe_process(out: &mut Open) {
    // SAFETY: helpers without arguments.
    let task = unsafe {
        out.cgroup = bpf_get_current_cgroup_id();
        bpf_get_current_task()
    };
    if let Some(leader) = field::<u64>(task, &TASK_LEADER) {
        let _ = kernel::bytes(leader, &TASK_COMM, &mut out.comm);
        if let Some(parent) = field::<u64>(leader, &TASK_PARENT) {
            out.ppid = field(parent, &TASK_TGID).unwrap_or(0);
        }
    }
}

/// `sun_path` of a unix socket: its own, which an accepted one shares with its listener.
#[inline(always)]
fn unix_name(sock: u64, out: &mut Open) {
    const FAMILY: u32 = 2;
    let Some(address) = field::<u64>(sock, &UNIX_ADDR) else { return };
    if address == 0 {
        return;
    }
    let len = field::<u32>(address, &UNIX_ADDRESS_LEN).unwrap_or(0).wrapping_sub(FAMILY);
    let name = address + u64::from(UNIX_ADDRESS_NAME.load()) + u64::from(FAMILY);
    if kernel::bytes_at(name, &mut out.unix_path).is_some() {
        out.unix_len = if len > UNIX_PATH as u32 { UNIX_PATH as u16 } else { len as u16 };
    }
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
