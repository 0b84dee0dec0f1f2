//! Entry points for rustls 0.23, whose functions for users are inlined. What never is are the methods
//! of `dyn MessageEncrypter` and `dyn MessageDecrypter`, one call for each record.
//!
//! Such a key is a box of its own: its address stands for one direction of one connection, until the
//! next key. So a connection has its identity from its socket, to which its keys are joined. A record
//! is decrypted by the thread that has just read the socket. An encrypter belongs to the socket that
//! its thread writes next; but the first request of a client is encrypted before anything is written
//! under its key. So an encrypter is seen being made as well, which the thread does after it has read
//! the socket, and is believed to be that socket's if the key before it has been seen to be, and has
//! sent what ends its use. What does not fit is not joined: then bytes are missing, and none are in
//! the wrong place.

use aya_ebpf::{
    helpers::{bpf_probe_read_user, generated::bpf_ktime_get_ns},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use llmtrace_common::{
    config::{KERNEL_ADDRESS, TlsConn, loss, state},
    record::end,
};

use super::{
    By, announce, call, header, identity, ids, joined, key,
    maps::{Key, Keys, RUSTLS_KEYS, RUSTLS_SOCKETS, TLS_CONNS, TLS_THREADS, Thread},
    new_conn, say, thread_of,
};
use crate::{
    emit,
    memory::{Memory, place},
    target::of_current,
};

/// How rustc lays out what is passed. The arguments of both methods are a pointer for the result, the
/// key, a pointer to the message, and its number.
mod layout {
    /// `OutboundPlainMessage`. The first word is 0 for one buffer, whose address and length follow;
    /// else it is the address of as many slices as the second says, of which the bytes from the
    /// third word to the fourth are meant.
    pub type Outbound = [u64; 5];
    /// The word that begins with type and version.
    pub const OUTBOUND_TYPES: usize = 4;

    /// `InboundOpaqueMessage`: address, length, and then what is not needed.
    pub type Inbound = [u64; 2];

    /// `Result<InboundPlainMessage, Error>`: a byte tells which, then address, length, and the word
    /// that begins with type and version.
    pub type Decrypted = [u64; 4];
    /// Errors are numbered from 0. There have been 20 of them in the first 0.23; what the number is
    /// where there is none (the next, or 255) is up to rustc, and the errors of decryption are old.
    pub const LEAST_OK: u64 = 20;

    /// A `ContentType` is two bytes, of which the first numbers its variants.
    pub const CHANGE_CIPHER_SPEC: u64 = 20;
    pub const ALERT: u64 = 1;
    pub const HANDSHAKE: u64 = 2;
    pub const APPLICATION_DATA: u64 = 3;
    pub const TYPES: u64 = 6;

    /// Behind it is a `ProtocolVersion`, two bytes of which number its variants.
    pub const VERSION: u64 = 16;
    pub const TLS_1_3: u64 = 5;
}

/// Bits of `Key::state`.
mod key_state {
    /// It has been seen being made, and not used yet.
    pub const NEW: u32 = 1;
    /// The socket is certain.
    pub const KNOWN: u32 = 2;
    /// Its last record may be followed by those of another key.
    pub const OVER: u32 = 4;
}

/// Bits of `Keys::over`.
mod over {
    pub const DECRYPTER: u64 = 1;
    pub const ENCRYPTER: u64 = 2;
}

/// Longest plaintext of a record.
const MAX_PLAINTEXT: u64 = 1 << 14;
/// Longest nonce in front of the plaintext of a record.
const MAX_NONCE: u64 = 8;
/// First bytes of handshake messages after which a key goes on being used.
const NEW_SESSION_TICKET: u8 = 4;
/// Second byte of an alert: the peer sends no more.
const CLOSE_NOTIFY: u8 = 0;

/// The plaintext of a record.
struct Plain {
    /// One of `layout`.
    content: u64,
    memory: Memory,
    len: u32,
}

/// `fn encrypt(&mut self, msg: OutboundPlainMessage<'_>, seq: u64) -> Result<..>`.
#[uprobe]
pub fn rustls_encrypt(ctx: ProbeContext) -> u32 {
    let (pid, tid) = ids();
    let how = of_current(pid);
    if how == 0 {
        return 0;
    }
    // SAFETY: the context of a uprobe is the registers of the process.
    let (object, message, seq) = unsafe { ((*ctx.regs).rsi, (*ctx.regs).rdx, (*ctx.regs).rcx) };
    let Some(plain) = outbound(message) else {
        emit::lost(loss::FAULT, 0);
        return 0;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let id = identity(pid, object);
    let first = seq == 0;
    let Some(used) = key_of(id, first) else { return 0 };
    // SAFETY: a pointer into the map, checked. Only the thread that uses the connection writes to it.
    let used = unsafe { &mut *used };
    used.state &= !key_state::NEW;
    if used.state & key_state::KNOWN == 0 && plain.content == layout::APPLICATION_DATA {
        follow(id, used);
    }
    note(used, &plain, over::ENCRYPTER);
    if used.state & key_state::KNOWN == 0 {
        if plain.content == layout::APPLICATION_DATA {
            used.missed += u64::from(plain.len);
            emit::lost(loss::OPAQUE, plain.len);
        }
        wants(tid, id, used);
        return 0;
    }
    if let Some(thread) = TLS_THREADS.get_ptr_mut(key(tid, true)) {
        // Its next write is of this key, not of one that was used before.
        // SAFETY: a pointer into the map, checked; only this thread writes to it.
        unsafe { (*thread).encrypter = 0 };
    }
    let by = By { id: identity(pid, used.sock), how, pid, tid };
    pass(used, &plain, &by, now, u32::from(first) << 1);
    0
}

/// `fn decrypt<'a>(&mut self, msg: InboundOpaqueMessage<'a>, seq: u64) -> Result<..>`: what is in the
/// message is decrypted in place.
#[uprobe]
pub fn rustls_decrypt(ctx: ProbeContext) -> u32 {
    let (pid, tid) = ids();
    if of_current(pid) == 0 {
        return 0;
    }
    // SAFETY: the context of a uprobe is the registers of the process.
    let regs = unsafe { &*ctx.regs };
    // SAFETY: the helper fails on an address that cannot be read.
    let message = unsafe { bpf_probe_read_user(regs.rdx as *const layout::Inbound) };
    let (Ok([buf, len]), Some(thread)) = (message, thread_of(key(tid, false))) else { return 0 };
    // SAFETY: a pointer into the map, checked; only this thread writes to it.
    let thread = unsafe { &mut *thread };
    thread.call = call::RUSTLS | if regs.rcx == 0 { call::FIRST } else { 0 };
    thread.object = regs.rsi;
    thread.buf = buf;
    thread.len = len;
    thread.out = regs.rdi;
    // Nothing is inside it.
    thread.sp = 0;
    // SAFETY: a helper without arguments.
    thread.enter = unsafe { bpf_ktime_get_ns() };
    0
}

#[uretprobe]
pub fn rustls_decrypted(_ctx: RetProbeContext) -> u32 {
    let (pid, tid) = ids();
    let Some(thread) = TLS_THREADS.get_ptr_mut(key(tid, false)) else { return 0 };
    // SAFETY: a pointer into the map, checked; only this thread writes to it.
    let thread = unsafe { &mut *thread };
    let call = thread.call;
    if call & call::RUSTLS == 0 {
        return 0;
    }
    thread.call = 0;
    let Some(plain) = decrypted(thread.out, thread.buf, thread.len) else { return 0 };
    let id = identity(pid, thread.object);
    let Some(used) = key_of(id, call & call::FIRST != 0) else { return 0 };
    // SAFETY: a pointer into the map, checked. Only the thread that uses the connection writes to it.
    let used = unsafe { &mut *used };
    if used.state & key_state::KNOWN == 0 {
        let (sock, inode) = (thread.read_sock, thread.read_inode);
        if sock != 0 && takes_decrypter(id, sock, inode) {
            known(used, sock, inode);
        }
    }
    note(used, &plain, over::DECRYPTER);
    if used.state & key_state::KNOWN == 0 {
        if plain.content == layout::APPLICATION_DATA {
            emit::lost(loss::OPAQUE, plain.len);
        }
        return 0;
    }
    let by = By { id: identity(pid, used.sock), how: of_current(pid), pid, tid };
    let first = u32::from(call & call::FIRST != 0) << 1;
    pass(used, &plain, &by, thread.enter, first | 1);
    0
}

/// `fn encrypter(&self, key: AeadKey, ..) -> Box<dyn MessageEncrypter>`, on return: the address is
/// that of a key that is new.
#[uretprobe]
pub fn rustls_encrypter(ctx: RetProbeContext) -> u32 {
    let (pid, tid) = ids();
    if of_current(pid) == 0 {
        return 0;
    }
    // SAFETY: the context of a uretprobe is the registers of the process.
    let id = identity(pid, unsafe { (*ctx.regs).rax });
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut made = Key { made: now, state: key_state::NEW, ..Key::default() };
    if let Some(thread) = TLS_THREADS.get_ptr(key(tid, false)) {
        // SAFETY: a pointer into the map, checked.
        unsafe {
            made.sock = (*thread).read_sock;
            made.inode = (*thread).read_inode;
        }
    }
    let _ = RUSTLS_KEYS.insert(id, made, 0);
    if made.sock != 0
        && let Some(keys) = keys_of(made.sock, made.inode)
    {
        // SAFETY: a pointer into the map, checked.
        let keys = unsafe { &mut *keys };
        // A handshake makes two, of which the last stays. Later there is one at a time: who else
        // makes one here has read another socket before.
        if keys.encrypter == 0 || keys.next == 0 {
            keys.next = id;
        }
    }
    0
}

/// What is to be encrypted, if it looks like that.
#[inline(always)]
fn outbound(message: u64) -> Option<Plain> {
    // SAFETY: the helper fails on an address that cannot be read.
    let words = unsafe { bpf_probe_read_user(message as *const layout::Outbound) }.ok()?;
    let content = words[layout::OUTBOUND_TYPES] & 0xff;
    let (memory, len) = if words[0] == 0 {
        (Memory::buffer(words[1]), words[2])
    } else {
        let mut memory = Memory::user_iovec(words[0], words[1] as u32);
        memory.skip = words[2];
        (memory, words[3].wrapping_sub(words[2]))
    };
    let sound = content < layout::TYPES
        && len <= MAX_PLAINTEXT
        && memory.base & KERNEL_ADDRESS == 0
        && memory.skip <= u64::from(u32::MAX);
    sound.then_some(Plain { content, memory, len: len as u32 })
}

/// What has been decrypted, if it has been, and lies within what came in.
#[inline(always)]
fn decrypted(result: u64, buf: u64, size: u64) -> Option<Plain> {
    // SAFETY: the helper fails on an address that cannot be read.
    let words = unsafe { bpf_probe_read_user(result as *const layout::Decrypted) }.ok()?;
    let [tag, at, len, types] = words;
    if tag & 0xff < layout::LEAST_OK {
        return None;
    }
    let (before, content) = (at.wrapping_sub(buf), types & 0xff);
    let mut sound = before <= MAX_NONCE
        && len <= MAX_PLAINTEXT
        && before + len <= size
        && content < layout::TYPES;
    if sound && types >> layout::VERSION & 0xffff == layout::TLS_1_3 {
        // There it says the type as well, behind the plaintext.
        // SAFETY: the helper fails on an address that cannot be read.
        let inner = unsafe { bpf_probe_read_user((at + len) as *const u8) };
        sound = inner.is_ok_and(|inner| u64::from(inner) == content + layout::CHANGE_CIPHER_SPEC);
    }
    if !sound {
        emit::lost(loss::FAULT, 0);
        return None;
    }
    Some(Plain { content, memory: Memory::buffer(at), len: len as u32 })
}

/// What is known of a key. Memory is used again: the first record is one of a key that is new.
#[inline(always)]
fn key_of(id: u64, first: bool) -> Option<*mut Key> {
    if let Some(key) = RUSTLS_KEYS.get_ptr_mut(id) {
        // SAFETY: a pointer into the map, checked.
        if !first || unsafe { (*key).state } & key_state::NEW != 0 {
            return Some(key);
        }
    }
    new_key(id);
    RUSTLS_KEYS.get_ptr_mut(id)
}

/// Apart, for its stack.
#[inline(never)]
fn new_key(id: u64) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let _ = RUSTLS_KEYS.insert(id, Key { made: now, ..Key::default() }, 0);
}

/// The keys of a socket.
#[inline(always)]
fn keys_of(sock: u64, inode: u64) -> Option<*mut Keys> {
    if let Some(keys) = RUSTLS_SOCKETS.get_ptr_mut(sock) {
        // SAFETY: a pointer into the map, checked.
        if unsafe { (*keys).inode } == inode {
            return Some(keys);
        }
    }
    new_keys(sock, inode);
    RUSTLS_SOCKETS.get_ptr_mut(sock)
}

#[inline(never)]
fn new_keys(sock: u64, inode: u64) {
    let _ = RUSTLS_SOCKETS.insert(sock, Keys { inode, ..Keys::default() }, 0);
}

/// Whether a key may take the place of another, the current one of a socket and direction.
#[inline(always)]
fn may_follow(id: u64, current: u64, over: u64) -> bool {
    current == 0 || current == id || over != 0
}

#[inline(never)]
fn takes_decrypter(id: u64, sock: u64, inode: u64) -> bool {
    let Some(keys) = keys_of(sock, inode) else { return false };
    // SAFETY: a pointer into the map, checked.
    let keys = unsafe { &mut *keys };
    let takes = may_follow(id, keys.decrypter, keys.over & over::DECRYPTER);
    if takes {
        keys.decrypter = id;
        keys.over &= !over::DECRYPTER;
    }
    takes
}

/// Makes an encrypter that is used for the first time that of the socket which it was made for.
#[inline(never)]
fn follow(id: u64, key: &mut Key) {
    let (sock, inode) = (key.sock, key.inode);
    if sock == 0 {
        return;
    }
    let Some(keys) = keys_of(sock, inode) else { return };
    // SAFETY: a pointer into the map, checked.
    let keys = unsafe { &mut *keys };
    if keys.next == id && keys.encrypter != 0 && keys.over & over::ENCRYPTER != 0 {
        keys.encrypter = id;
        keys.over &= !over::ENCRYPTER;
        keys.next = 0;
        key.state |= key_state::KNOWN;
    }
}

#[inline(always)]
fn known(key: &mut Key, sock: u64, inode: u64) {
    key.sock = sock;
    key.inode = inode;
    key.state |= key_state::KNOWN;
}

/// The socket of an encrypter is that which its thread writes next.
#[inline(never)]
fn wants(tid: u32, id: u64, used: &Key) {
    let Some(thread) = thread_of(key(tid, true)) else { return };
    // SAFETY: a pointer into the map, checked; only this thread writes to it.
    let thread = unsafe { &mut *thread };
    thread.encrypter = id;
    thread.encrypter_made = used.made;
    thread.encrypter_over = u64::from(used.state & key_state::OVER);
}

/// A thread whose last encrypter has no socket yet has written to a TLS socket.
#[inline(never)]
pub fn written(thread: &mut Thread, sock: u64, inode: u64) {
    let id = core::mem::take(&mut thread.encrypter);
    let Some(keys) = keys_of(sock, inode) else { return };
    // SAFETY: a pointer into the map, checked.
    let keys = unsafe { &mut *keys };
    if !may_follow(id, keys.encrypter, keys.over & over::ENCRYPTER) {
        return;
    }
    keys.encrypter = id;
    keys.over &= !over::ENCRYPTER;
    if thread.encrypter_over != 0 {
        keys.over |= over::ENCRYPTER;
    }
    if keys.next == id {
        keys.next = 0;
    }
    if let Some(key) = RUSTLS_KEYS.get_ptr_mut(id) {
        // SAFETY: a pointer into the map, checked.
        let key = unsafe { &mut *key };
        // It may have been let go already.
        if key.made == thread.encrypter_made {
            known(key, sock, inode);
        }
    }
}

/// Notes whether another key may follow.
#[inline(always)]
fn note(key: &mut Key, plain: &Plain, bit: u64) {
    let over =
        plain.content == layout::HANDSHAKE && byte(&plain.memory, 0) != Some(NEW_SESSION_TICKET);
    if over != (key.state & key_state::OVER != 0) {
        key.state ^= key_state::OVER;
        if key.state & key_state::KNOWN != 0 {
            turn(key.sock, key.inode, bit, over);
        }
    }
}

#[inline(never)]
fn turn(sock: u64, inode: u64, bit: u64, over: bool) {
    let Some(keys) = keys_of(sock, inode) else { return };
    // SAFETY: a pointer into the map, checked.
    let keys = unsafe { &mut *keys };
    keys.over &= !bit;
    if over {
        keys.over |= bit;
    }
}

/// A byte of what is in one buffer, as handshakes and alerts are.
#[inline(always)]
fn byte(memory: &Memory, at: u64) -> Option<u8> {
    if memory.place != place::BUFFER {
        return None;
    }
    // SAFETY: the helper fails on an address that cannot be read.
    unsafe { bpf_probe_read_user((memory.base + at) as *const u8) }.ok()
}

/// Passes on what is application data, and an end. Bit 0 of `how` is set for a read, bit 1 for the
/// first record under a key.
#[inline(always)]
fn pass(key: &mut Key, plain: &Plain, by: &By, enter: u64, how: u32) {
    let read = how & 1 != 0;
    let Some(conn) = conn_of(key, by, enter, how >> 1) else { return };
    // SAFETY: a pointer into the map, checked. rustls has one user of a connection at a time.
    let conn = unsafe { &mut *conn };
    if plain.content == layout::ALERT && byte(&plain.memory, 1) == Some(CLOSE_NOTIFY) {
        let reason = if read { end::READ_EOF } else { end::LOCAL_FIN };
        return say((by.pid, by.tid), key.sock, reason);
    }
    let idle = plain.content != layout::APPLICATION_DATA || plain.len == 0;
    if idle || conn.state & state::SILENT != 0 {
        return;
    }
    if conn.state & state::OPENED == 0 && !announce(enter, conn, by) {
        return;
    }
    if key.missed != 0 {
        missed(key, conn, by, enter);
    }
    let mut header = header(conn, by, read, enter, u64::from(plain.len));
    emit::copy::bytes(&mut header, &plain.memory, plain.len);
}

/// What had been encrypted before it was known for which socket.
#[inline(never)]
fn missed(key: &mut Key, conn: &mut TlsConn, by: &By, now: u64) {
    let mut header = header(conn, by, false, now, key.missed);
    emit::hole(&mut header, key.missed as u32);
    key.missed = 0;
}

/// The connection of a socket, made if need be.
#[inline(always)]
fn conn_of(key: &Key, by: &By, now: u64, first: u32) -> Option<*mut TlsConn> {
    if let Some(conn) = TLS_CONNS.get_ptr_mut(by.id) {
        // SAFETY: a pointer into the map, checked.
        let (inode, ended) = unsafe { ((*conn).inode, (*conn).ended) };
        if inode == key.inode && (ended == 0 || now <= ended) {
            return Some(conn);
        }
    }
    new_conn(by.id, if first != 0 { call::HANDSHAKE } else { 0 });
    let conn = TLS_CONNS.get_ptr_mut(by.id)?;
    // SAFETY: a pointer into the map, checked.
    joined(unsafe { &mut *conn }, key.sock, key.inode, by);
    Some(conn)
}
