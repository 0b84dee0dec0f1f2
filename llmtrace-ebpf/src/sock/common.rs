//! What every back end does with a read or a write once it knows the socket: look up its state,
//! announce it, position the bytes, copy them.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_ns},
};
use llmtrace_common::{
    config::{Socket, state, target},
    limits::UNIX_PATH,
    record::{Header, Open, end, family, flag, kind, sniff},
};

use crate::{
    emit,
    emit::Segment,
    kernel::{self, OpenSocket, at, field},
    maps::{
        NET_INUM, PORTS, SOCK_DADDR, SOCK_DPORT, SOCK_FAMILY, SOCK_NET, SOCK_NUM, SOCK_PROTOCOL,
        SOCK_RCV_SADDR, SOCK_V6_DADDR, SOCK_V6_RCV_SADDR, SOCKET_TYPE, SOCKETS, TASK_COMM,
        TASK_LEADER, TASK_PARENT, TASK_TGID, TCP_BYTES_ACKED, TCP_BYTES_RECEIVED, TCP_COPIED_SEQ,
        TCP_RCV_NXT, TCP_SND_UNA, TCP_WRITE_SEQ, UNIX_ADDR, UNIX_ADDRESS_LEN, UNIX_ADDRESS_NAME,
    },
};

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;

/// Where bytes of a call are in user memory.
#[derive(Clone, Copy)]
pub enum Memory {
    Buffer(u64),
    Segments { iov: u64, count: u32 },
}

/// A traced socket at the moment of a call.
#[derive(Clone, Copy)]
pub struct Traced {
    pub sock: u64,
    pub generation: u32,
    /// `flag` bits for the record.
    pub flags: u16,
    pub pos: u64,
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
    pub open: OpenSocket,
    /// How the process is traced (`config::target`).
    pub how: u32,
    pub pid: u32,
    pub tid: u32,
    pub now: u64,
    /// What a read has already taken from the stream; 0 for a write, which is seen at its entry.
    pub done: u32,
    pub memory: Memory,
}

/// Positions a call on its socket and announces a socket that is new. None if the socket is not
/// traced.
#[inline(always)]
pub fn trace(call: &Call) -> Option<Traced> {
    let Call { way, open, done, .. } = call;
    let (way, done) = (*way, *done);
    let known = SOCKETS.get_ptr_mut(open.sock);
    if let Some(socket) = known {
        // SAFETY: a pointer into the map, checked; fields are plain integers.
        let socket = unsafe { &mut *socket };
        if socket.inode == open.inode {
            if socket.state & state::SILENT != 0 {
                return None;
            }
            let mut flags = 0;
            let pos = if socket.state & state::SEQUENCED != 0 {
                flags |= flag::SEQ32;
                sequence(way, open.sock)?.wrapping_sub(done).into()
            } else {
                match way {
                    Way::Read => socket.read,
                    Way::Write => socket.written,
                }
            };
            return Some(Traced { sock: open.sock, generation: open.inode as u32, flags, pos });
        }
    }
    let mut traced = Traced { sock: open.sock, generation: 0, flags: 0, pos: 0 };
    if first(call, &mut traced) { Some(traced) } else { None }
}

/// The stream position that the kernel keeps: of the next byte to be written or read.
#[inline(always)]
fn sequence(way: Way, sock: u64) -> Option<u32> {
    match way {
        Way::Read => field(sock, &TCP_COPIED_SEQ),
        Way::Write => field(sock, &TCP_WRITE_SEQ),
    }
}

/// A socket that was not known: decide, remember, announce. A function of its own, since it is
/// rare and its stack is large; an out parameter, since BPF functions return one register.
#[inline(never)]
fn first(call: &Call, traced: &mut Traced) -> bool {
    announce(call, traced).is_some()
}

#[inline(always)]
fn announce(call: &Call, traced: &mut Traced) -> Option<()> {
    let sock = call.open.sock;
    let ty: u16 = field(call.open.socket, &SOCKET_TYPE)?;
    let family: u16 = field(sock, &SOCK_FAMILY)?;
    let protocol: u16 = field(sock, &SOCK_PROTOCOL)?;
    let inet = family == family::INET || family == family::INET6;
    if ty != SOCK_STREAM || !(inet || family == family::UNIX) {
        return None;
    }
    let mut entry = Socket { inode: call.open.inode, ..Socket::default() };
    let mut header = Header {
        kind: kind::OPEN,
        sock,
        generation: call.open.inode as u32,
        enter_ns: call.now,
        exit_ns: call.now,
        pid: call.pid,
        tid: call.tid,
        ..Header::default()
    };
    if inet && protocol == IPPROTO_TCP {
        entry.state = state::SEQUENCED;
        header.flags = flag::SEQ32;
        header.pos = sequence(call.way, sock)?.wrapping_sub(call.done).into();
        if is_fresh(sock, call.done)? {
            header.flags |= flag::FRESH;
        }
    } else {
        header.flags = flag::RESET;
    }
    let port: u16 = if inet { field(sock, &SOCK_NUM)? } else { 0 };
    if call.how & target::ALL == 0 && PORTS.get_ptr(u32::from(port)).is_none() {
        entry.state |= state::SILENT;
    } else if header.flags & flag::FRESH != 0 {
        let taken_for = guess(call.memory);
        if taken_for != 0 {
            entry.state |= state::SILENT;
            header.kind = kind::SILENCED;
            header.len = taken_for;
            emit::bare(&header);
        }
    }
    let silent = entry.state & state::SILENT != 0;
    if !silent && !emit::open(&header, |out| describe(sock, family, port, out)) {
        // Not remembered, so that the next call announces it.
        return None;
    }
    // A full map evicts its oldest entry; an error leaves the socket to be announced again.
    let _ = SOCKETS.insert(sock, entry, 0);
    if silent {
        return None;
    }
    *traced = Traced { sock, generation: header.generation, flags: header.flags, pos: header.pos };
    Some(())
}

/// Whether nothing had been read from or written to the socket before this call. It errs towards
/// "no": then the agent decides what the connection is.
#[inline(always)]
fn is_fresh(sock: u64, done: u32) -> Option<bool> {
    let received: u64 = field(sock, &TCP_BYTES_RECEIVED)?;
    let next: u32 = field(sock, &TCP_RCV_NXT)?;
    let copied: u32 = field(sock, &TCP_COPIED_SEQ)?;
    let acked: u64 = field(sock, &TCP_BYTES_ACKED)?;
    let written: u32 = field(sock, &TCP_WRITE_SEQ)?;
    let unacked: u32 = field(sock, &TCP_SND_UNA)?;
    let unread = next.wrapping_sub(copied);
    // The SYN of a connection opened from this side counts as one byte acknowledged.
    Some(received as u32 == unread.wrapping_add(done) && acked <= 1 && written == unacked)
}

/// What the first bytes of a connection are: 0 for HTTP or undecided, else one of `sniff`.
#[inline(always)]
fn guess(memory: Memory) -> u32 {
    let source = match memory {
        Memory::Buffer(source) => source,
        Memory::Segments { iov, .. } => {
            // SAFETY: the helper fails on an address that cannot be read.
            match unsafe { bpf_probe_read_user(iov as *const Segment) } {
                Ok(one) if one.len >= 4 => one.base,
                _ => return 0,
            }
        }
    };
    // SAFETY: as above.
    let Ok(word) = (unsafe { bpf_probe_read_user(source as *const [u8; 4]) }) else { return 0 };
    match &word {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"DELE" | b"OPTI" | b"PATC" | b"CONN" | b"TRAC"
        | b"PRI " | b"HTTP" => 0,
        // An HTTP/2 server may speak first: its settings.
        [0, 0, _, 4] => 0,
        [0x16, 0x03, ..] => sniff::TLS,
        _ => sniff::OTHER,
    }
}

/// Fills in the addresses and the process.
#[inline(always)]
fn describe(sock: u64, family: u16, port: u16, out: &mut Open) {
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
    if let Some(path) = at::<[u8; UNIX_PATH]>(name) {
        out.unix_path = path;
        out.unix_len = if len > UNIX_PATH as u32 { UNIX_PATH as u16 } else { len as u16 };
    }
}

/// Bytes moved: copy them, and keep count where the kernel does not.
#[inline(always)]
pub fn moved(way: Way, header: &mut Header, memory: Memory, len: u32, readable: bool) {
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
    if !readable {
        return emit::unreadable(header, len);
    }
    match memory {
        Memory::Buffer(source) => emit::buffer(header, source, len),
        Memory::Segments { iov, count } => emit::segments(header, iov, count, len),
    }
}

/// A known, traced socket ended in some way.
#[inline(always)]
pub fn ended(sock: u64, generation: u32, ids: (u32, u32), reason: u32) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let header = Header {
        kind: kind::END,
        sock,
        generation,
        len: reason,
        enter_ns: now,
        exit_ns: now,
        pid: ids.0,
        tid: ids.1,
        ..Header::default()
    };
    emit::bare(&header);
}

/// The generation of a socket that is known and traced.
#[inline(always)]
pub fn known(open: &OpenSocket) -> Option<u32> {
    let socket = SOCKETS.get_ptr(open.sock)?;
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    let same = socket.inode == open.inode && socket.state & state::SILENT == 0;
    same.then_some(open.inode as u32)
}

/// The last reference to a socket that has no TCP state to follow is being closed.
#[inline(always)]
pub fn closed(open: &OpenSocket, ids: (u32, u32)) {
    let Some(socket) = SOCKETS.get_ptr(open.sock) else { return };
    // SAFETY: a pointer into the map, checked.
    let socket = unsafe { *socket };
    if socket.inode != open.inode || socket.state & state::SEQUENCED != 0 {
        return;
    }
    let count: Option<u64> = field(open.file, &crate::maps::FILE_COUNT);
    if count != Some(crate::maps::FILE_COUNT_ONE.load()) {
        return;
    }
    let _ = SOCKETS.remove(open.sock);
    if socket.state & state::SILENT == 0 {
        ended(open.sock, open.inode as u32, ids, end::CLOSED);
    }
}
