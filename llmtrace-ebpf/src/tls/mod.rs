//! Plaintext of TLS, where a library has it: calls are looked at on entry and copied on return.
//!
//! A TLS connection has an identity of its own, made of the library's object and the process. The
//! socket below is found by what the same thread does with TLS sockets: during the call, or, for
//! an object that is fed through memory (asyncio, Node), right before a read and right after a
//! write. From then on the connection has addresses, and ends as its socket ends.

mod go;
mod library;
mod maps;
mod rustls;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_ktime_get_ns,
};
use llmtrace_common::{
    config::{KERNEL_ADDRESS, TlsConn, loss, state, target},
    record::{Header, Open, end, family, flag, kind},
};

use crate::{
    emit,
    kernel::field,
    maps::{PORTS, SOCK_FAMILY, SOCK_NUM},
    sock::{announce, common},
    target::of_current,
};
use maps::{Carried, Moved, TLS_CONNS, TLS_MOVED, TLS_SOCKETS, TLS_THREADS, Thread};

/// Bits of `Thread::call`.
mod call {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const HANDSHAKE: u32 = 4;
    /// The call returns 1 for success and puts the count of bytes where `Thread::out` points.
    pub const COUNT_APART: u32 = 8;
    /// A read that has found the end if it returns 0.
    pub const READ_TO_END: u32 = 16 | READ;
    /// The call tells what a call before it met: no bytes, but perhaps the end.
    pub const ERROR: u32 = 32;
    /// The bytes are those of a file.
    pub const OPAQUE: u32 = 64;
    /// Decryption by rustls, during which no socket is used.
    pub const RUSTLS: u32 = 128;
    /// Of the first record under a key of rustls.
    pub const FIRST: u32 = 256;
}

/// `SSL_get_error`: the peer has said that it sends no more (close_notify).
const SSL_ERROR_ZERO_RETURN: i32 = 6;

/// Odd, with bits all over: spreads process ids over 64 bits.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What the records of a connection carry in place of a socket's address. User addresses lack the
/// top bit, so nothing is lost by clearing it, and it tells the two apart.
#[inline(always)]
fn identity(pid: u32, object: u64) -> u64 {
    (object ^ (u64::from(pid) + 1).wrapping_mul(SPREAD)) & !KERNEL_ADDRESS
}

/// Process and thread.
#[inline(always)]
fn ids() -> (u32, u32) {
    let id = bpf_get_current_pid_tgid();
    ((id >> 32) as u32, id as u32)
}

/// The key of a thread's entry, for writes or for everything else.
#[inline(always)]
fn key(tid: u32, write: bool) -> u64 {
    u64::from(tid) | u64::from(write) << 32
}

/// The entry of a thread, made if need be.
#[inline(always)]
fn thread_of(key: u64) -> Option<*mut Thread> {
    if let Some(thread) = TLS_THREADS.get_ptr_mut(key) {
        return Some(thread);
    }
    new_thread(key);
    TLS_THREADS.get_ptr_mut(key)
}

/// Apart, for its stack.
#[inline(never)]
fn new_thread(key: u64) {
    let _ = TLS_THREADS.insert(key, Thread::default(), 0);
}

/// Who uses which connection. Passed by reference: BPF functions have five arguments.
struct By {
    /// Identity of the connection.
    id: u64,
    /// How the process is traced (`config::target`).
    how: u32,
    pid: u32,
    tid: u32,
}

/// What a call into the library is about.
struct Entered {
    call: u32,
    object: u64,
    buf: u64,
    len: u64,
    out: u64,
    sp: u64,
}

/// A call into the library begins.
#[inline(always)]
fn enter(key: u64, entered: &Entered) {
    let Some(thread) = thread_of(key) else { return };
    // SAFETY: a pointer into the map, checked; only this thread writes to it.
    let thread = unsafe { &mut *thread };
    // The stack grows downwards. SSL_write_ex of some libraries is made of SSL_write.
    if thread.call != 0 && entered.sp < thread.sp {
        return;
    }
    thread.call = entered.call;
    thread.object = entered.object;
    thread.buf = entered.buf;
    thread.len = entered.len;
    thread.out = entered.out;
    thread.sp = entered.sp;
    thread.sock = 0;
    // SAFETY: a helper without arguments.
    thread.enter = unsafe { bpf_ktime_get_ns() };
}

/// A call into the library is over. `how` is that of [`of_current`]; `ret` what it returned.
#[inline(always)]
fn leave(thread: &mut Thread, how: u32, ids: (u32, u32), ret: i32) {
    let mut moved = if ret > 0 { ret as u64 } else { 0 };
    if thread.call & call::COUNT_APART != 0 && ret > 0 {
        // SAFETY: the helper fails on an address that cannot be read.
        moved = unsafe { bpf_probe_read_user(thread.out as *const u64) }.unwrap_or(0);
    }
    // A library cannot have moved more than it was asked to.
    if moved > thread.len || thread.call & call::HANDSHAKE != 0 {
        moved = 0;
    }
    let over = match thread.call {
        call::ERROR => ret == SSL_ERROR_ZERO_RETURN,
        call::READ_TO_END => ret == 0,
        _ => false,
    };
    if over {
        say(ids, thread.object, end::READ_EOF);
    }
    if over || thread.call == call::ERROR {
        return;
    }
    let by = By { id: identity(ids.0, thread.object), how, pid: ids.0, tid: ids.1 };
    let Some(conn) = conn_of(by.id, thread) else { return };
    // SAFETY: a pointer into the map, checked. Two threads that use one connection at once may
    // lose a count; only Go does that, and for one direction each.
    let conn = unsafe { &mut *conn };
    if conn.sock == 0 || thread.sock != 0 && thread.sock != conn.sock {
        join(thread, conn, &by);
    }
    if thread.read_sock == conn.sock {
        // Used up: what the thread reads for another connection is another read.
        thread.read_sock = 0;
    }
    if moved == 0 || conn.state & state::SILENT != 0 {
        return;
    }
    if conn.state & state::OPENED == 0 && !announce(thread.enter, conn, &by) {
        return;
    }
    let mut header = header(conn, &by, thread.call & call::READ != 0, thread.enter, moved);
    if thread.call & call::OPAQUE != 0 {
        return emit::gap(&mut header, moved as u32, loss::OPAQUE);
    }
    emit::copy::buffer(&mut header, thread.buf, moved as u32);
}

/// The header of plaintext that is passed on, which from then on is counted.
#[inline(always)]
fn header(conn: &mut TlsConn, by: &By, read: bool, enter: u64, moved: u64) -> Header {
    let pos = if read { &mut conn.read } else { &mut conn.written };
    let header = Header {
        kind: if read { kind::READ } else { kind::WRITE },
        flags: flag::TLS,
        sock: by.id,
        generation: conn.generation,
        enter_ns: enter,
        // SAFETY: a helper without arguments.
        exit_ns: unsafe { bpf_ktime_get_ns() },
        pid: by.pid,
        tid: by.tid,
        pos: *pos,
        ..Header::default()
    };
    *pos += moved;
    header
}

/// The state of a connection, made if need be.
#[inline(always)]
fn conn_of(id: u64, thread: &Thread) -> Option<*mut TlsConn> {
    if let Some(conn) = TLS_CONNS.get_ptr_mut(id) {
        // SAFETY: a pointer into the map, checked.
        let ended = unsafe { (*conn).ended };
        // A call that was under way when the socket went belongs to the old connection, a later
        // one to another that has the same object.
        if ended == 0 || thread.enter <= ended {
            return Some(conn);
        }
    }
    new_conn(id, thread.call);
    TLS_CONNS.get_ptr_mut(id)
}

#[inline(never)]
fn new_conn(id: u64, call: u32) {
    let conn = TlsConn {
        // Microseconds: no object is freed and made anew within one, at the same address.
        // SAFETY: a helper without arguments.
        generation: unsafe { bpf_ktime_get_ns() >> 10 } as u32,
        state: if call & call::HANDSHAKE != 0 { state::FRESH } else { 0 },
        ..TlsConn::default()
    };
    let _ = TLS_CONNS.insert(id, conn, 0);
}

/// Finds the socket of a connection, if the thread has shown it.
#[inline(never)]
fn join(thread: &mut Thread, conn: &mut TlsConn, by: &By) {
    if thread.sock != 0 {
        return joined(conn, thread.sock, thread.inode, by);
    }
    let (sock, inode) = (thread.read_sock, thread.read_inode);
    if thread.call & call::WRITE == 0 && sock != 0 && !is_taken(sock, inode) {
        return joined(conn, sock, inode, by);
    }
    thread.writer = thread.object;
}

/// Whether a socket carries a connection that is known.
#[inline(always)]
fn is_taken(sock: u64, inode: u64) -> bool {
    let Some(carried) = TLS_SOCKETS.get_ptr(sock) else { return false };
    // SAFETY: a pointer into the map, checked.
    unsafe { (*carried).inode == inode }
}

#[inline(never)]
fn joined(conn: &mut TlsConn, sock: u64, inode: u64, by: &By) {
    conn.sock = sock;
    conn.inode = inode;
    let carried = Carried { inode, id: by.id, generation: conn.generation, pad: 0 };
    let _ = TLS_SOCKETS.insert(sock, carried, 0);
    if conn.state & state::OPENED != 0 {
        // Once more, with the addresses.
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        open(conn, now, by);
    }
}

/// Announces a connection whose first plaintext has come. False if it is not to be traced.
#[inline(never)]
fn announce(now: u64, conn: &mut TlsConn, by: &By) -> bool {
    if !open(conn, now, by) {
        return false;
    }
    conn.state |= state::OPENED;
    true
}

#[inline(always)]
fn open(conn: &mut TlsConn, now: u64, by: &By) -> bool {
    let sock = conn.sock;
    let port: u16 = if sock == 0 { 0 } else { field(sock, &SOCK_NUM).unwrap_or(0) };
    if by.how & target::ALL == 0 && PORTS.get_ptr(u32::from(port)).is_none() {
        if sock != 0 {
            conn.state |= state::SILENT;
        }
        return false;
    }
    let fresh = if conn.state & state::FRESH != 0 { flag::FRESH } else { 0 };
    let header = Header {
        kind: kind::OPEN,
        flags: flag::TLS | fresh,
        sock: by.id,
        generation: conn.generation,
        enter_ns: now,
        exit_ns: now,
        pid: by.pid,
        tid: by.tid,
        ..Header::default()
    };
    emit::open(&header, |out: &mut Open| {
        if sock == 0 {
            out.family = family::UNKNOWN;
            announce::describe_process(out);
        } else {
            announce::describe(sock, field(sock, &SOCK_FAMILY).unwrap_or(0), port, out);
        }
    })
}

/// A connection ends in one direction, as the library says.
#[inline(always)]
fn say(ids: (u32, u32), object: u64, reason: u32) {
    let id = identity(ids.0, object);
    let Some(conn) = TLS_CONNS.get_ptr(id) else { return };
    // SAFETY: a pointer into the map, checked.
    let conn = unsafe { *conn };
    if conn.state & (state::OPENED | state::SILENT) == state::OPENED {
        ended(id, conn.generation, ids, reason, Some(&conn));
    }
}

/// The library lets go of a connection.
#[inline(always)]
fn freed(pid: u32, tid: u32, object: u64) {
    let id = identity(pid, object);
    let Some(conn) = TLS_CONNS.get_ptr(id) else { return };
    // SAFETY: a pointer into the map, checked.
    let conn = unsafe { *conn };
    let _ = TLS_CONNS.remove(id);
    if conn.sock != 0 && is_taken(conn.sock, conn.inode) {
        let _ = TLS_SOCKETS.remove(conn.sock);
    }
    if conn.state & (state::OPENED | state::SILENT) == state::OPENED {
        ended(id, conn.generation, (pid, tid), end::CLOSED, Some(&conn));
    }
}

#[inline(always)]
fn ended(id: u64, generation: u32, ids: (u32, u32), reason: u32, conn: Option<&TlsConn>) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    emit::bare(&Header {
        kind: kind::END,
        flags: flag::TLS | if conn.is_some() { flag::REACHED } else { 0 },
        sock: id,
        generation,
        len: reason,
        enter_ns: now,
        exit_ns: now,
        pid: ids.0,
        tid: ids.1,
        pos: conn.map_or(0, |conn| common::both(conn.written, conn.read)),
        ..Header::default()
    });
}

/// The hook in the socket calls: the current thread moved bytes of a TLS socket, which itself is
/// silent.
#[inline(always)]
pub fn carried(tid: u32, write: bool, sock: u64, inode: u64) {
    let Some(moved) = TLS_MOVED.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's slot, checked.
    unsafe { moved.write_volatile(Moved { sock, inode, tid, write: write.into() }) };
    tls_carried();
}

/// Whether plaintext that the kernel encrypts or decrypts is that of a library which is probed:
/// one that has given it the keys and goes on being called (OpenSSL). Others only shake hands.
#[inline(always)]
pub fn is_of_library(tid: u32, sock: u64, inode: u64) -> bool {
    within(key(tid, true), sock, inode) || within(key(tid, false), sock, inode) || {
        let Some(carried) = TLS_SOCKETS.get_ptr(sock) else { return false };
        // SAFETY: a pointer into the map, checked.
        let carried = unsafe { *carried };
        let Some(conn) = TLS_CONNS.get_ptr(carried.id) else { return false };
        // SAFETY: a pointer into the map, checked.
        let conn = unsafe { *conn };
        carried.inode == inode
            && conn.generation == carried.generation
            && conn.state & state::OPENED != 0
    }
}

/// A global function without arguments: the verifier looks at it once, not once for each way here.
/// A thread that loses its CPU in between may have its bytes taken for another's: then a
/// connection is joined to its socket by a later call, or has no addresses.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tls_carried() -> i32 {
    let Some(moved) = TLS_MOVED.get_ptr(0) else { return 0 };
    // SAFETY: this CPU's slot, checked.
    let Moved { sock, inode, tid, write } = unsafe { moved.read_volatile() };
    if tid != bpf_get_current_pid_tgid() as u32 {
        return 0;
    }
    let write = write != 0;
    // Inside a call, the innermost first.
    if within(key(tid, true), sock, inode) || within(key(tid, false), sock, inode) {
        return 0;
    }
    if !write {
        let Some(thread) = thread_of(key(tid, false)) else { return 0 };
        // SAFETY: a pointer into the map, checked; only this thread writes to it.
        unsafe {
            (*thread).read_sock = sock;
            (*thread).read_inode = inode;
        }
        return 0;
    }
    written(key(tid, true), tid, sock, inode);
    written(key(tid, false), tid, sock, inode);
    0
}

/// Notes the socket if a call is under way.
#[inline(always)]
fn within(key: u64, sock: u64, inode: u64) -> bool {
    let Some(thread) = TLS_THREADS.get_ptr_mut(key) else { return false };
    // SAFETY: a pointer into the map, checked; only this thread writes to it.
    let thread = unsafe { &mut *thread };
    if thread.call == 0 || thread.call & call::RUSTLS != 0 {
        return false;
    }
    thread.sock = sock;
    thread.inode = inode;
    true
}

/// A write outside a call: of what the last call left in memory, if its connection has no socket.
#[inline(always)]
fn written(key: u64, tid: u32, sock: u64, inode: u64) {
    let Some(thread) = TLS_THREADS.get_ptr_mut(key) else { return };
    // SAFETY: a pointer into the map, checked; only this thread writes to it.
    let thread = unsafe { &mut *thread };
    if thread.encrypter != 0 {
        rustls::written(thread, sock, inode);
    }
    let object = core::mem::take(&mut thread.writer);
    if object == 0 || is_taken(sock, inode) {
        return;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let id = identity(pid, object);
    let Some(conn) = TLS_CONNS.get_ptr_mut(id) else { return };
    // SAFETY: a pointer into the map, checked.
    let conn = unsafe { &mut *conn };
    if conn.sock == 0 {
        joined(conn, sock, inode, &By { id, how: of_current(pid), pid, tid });
    }
}

/// The hook in the end of threads: their ids are used again, and a call that was under way is not.
#[inline(always)]
pub fn thread_ended(tid: u32) {
    let _ = TLS_THREADS.remove(key(tid, false));
    let _ = TLS_THREADS.remove(key(tid, true));
}

/// The hook in the ends of sockets: what a socket carries ends as it does.
#[inline(always)]
pub fn socket_ended(sock: u64, reason: u32) {
    let Some(carried) = TLS_SOCKETS.get_ptr(sock) else { return };
    // SAFETY: a pointer into the map, checked.
    let carried = unsafe { *carried };
    let conn = match TLS_CONNS.get_ptr(carried.id) {
        // SAFETY: a pointer into the map, checked.
        Some(conn) => Some(unsafe { *conn }).filter(|conn| conn.generation == carried.generation),
        None => None,
    };
    ended(carried.id, carried.generation, (0, 0), reason, conn.as_ref());
    if reason == end::CLOSED {
        let _ = TLS_SOCKETS.remove(sock);
        if let Some(conn) = TLS_CONNS.get_ptr_mut(carried.id) {
            // SAFETY: a pointer into the map, checked; a helper without arguments.
            unsafe {
                if (*conn).generation == carried.generation {
                    (*conn).ended = bpf_ktime_get_ns();
                }
            }
        }
    }
}
