//! The first call that is seen of a socket: whether it is to be traced, what it carries, who and where
//! its ends are.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task},
};
use llmtrace_common::{
    config::{Socket, state, target},
    limits::UNIX_PATH,
    record::{Header, Open, family, flag, kind, sniff},
};

use super::common::{Way, both, next_read, sequence};
use crate::{
    emit,
    emit::copy::segment,
    kernel::{self, Probed, field},
    maps::{
        ARRIVALS, FIRST, First, ICSK_ULP_OPS, NET_INUM, PORTS, SOCK_DADDR, SOCK_DPORT, SOCK_FAMILY,
        SOCK_NET, SOCK_NUM, SOCK_PROTOCOL, SOCK_RCV_SADDR, SOCK_TYPE, SOCK_V6_DADDR,
        SOCK_V6_RCV_SADDR, SOCKETS, TASK_COMM, TASK_LEADER, TASK_PARENT, TASK_TGID,
        TCP_BYTES_ACKED, TCP_BYTES_RECEIVED, TCP_RCV_NXT, TCP_SND_UNA, TCP_WRITE_SEQ, ULP_NAME,
        UNIX_ADDR, UNIX_ADDRESS_LEN, UNIX_ADDRESS_NAME,
    },
    memory::{Memory, place},
};

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;

/// High byte of the longest length that a TLS record may have (2^14 + 2048).
const MAX_TLS_RECORD_HIGH: u8 = 0x48;

// What `announce_first` returns.
pub const IGNORED: i32 = 0;
pub const ANNOUNCED: i32 = 1;
pub const CARRIES_TLS: i32 = 2;

/// A socket that was not known: decide, remember, announce. A global function without arguments,
/// whose state is in a per-CPU map: it is large, and the verifier looks at such a one once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn announce_first() -> i32 {
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
