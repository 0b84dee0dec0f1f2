//! The maps of the TLS probes.

use aya_ebpf::{
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use llmtrace_common::{config::TlsConn, limits::MAX_TLS};

/// A thread (or goroutine) that calls into a TLS library. Threads have an entry for writes and one
/// for everything else: Node writes from within a read, when that has ended the handshake.
///
/// One entry for as long as the thread lives: writing into it in place costs a lookup, where
/// inserting and deleting for each call would cost three times as much.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Thread {
    /// The library's object of the connection.
    pub object: u64,
    pub enter: u64,
    /// Stack pointer on entry: tells a nested call, which is not to be counted, from a later one.
    pub sp: u64,
    pub buf: u64,
    /// Bytes asked for.
    pub len: u64,
    /// Where the library will put the count of bytes, for calls that return success only.
    pub out: u64,
    /// The socket that was used during the call.
    pub sock: u64,
    pub inode: u64,
    /// The TLS socket that the thread read last, for an object that is fed through memory.
    pub read_sock: u64,
    pub read_inode: u64,
    /// The object that wants to write through memory, and whose socket is to be seen yet.
    pub writer: u64,
    /// The key of rustls that has encrypted last, if its socket is to be seen yet.
    pub encrypter: u64,
    /// When it was made, and whether another may follow it.
    pub encrypter_made: u64,
    pub encrypter_over: u64,
    /// Bits of `super::call`; 0 when no call is under way.
    pub call: u32,
    pub pad: u32,
}

/// By thread id (see `super::key`), or by what `super::go` makes of a goroutine.
#[map]
pub static TLS_THREADS: LruHashMap<u64, Thread> = LruHashMap::with_max_entries(MAX_TLS, 0);

/// TLS connections by their identity. The verdict map as well, as `SOCKETS` is for sockets.
#[map]
pub static TLS_CONNS: LruHashMap<u64, TlsConn> = LruHashMap::with_max_entries(MAX_TLS, 0);

/// What a socket carries.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Carried {
    /// Of the socket.
    pub inode: u64,
    /// Of the TLS connection.
    pub id: u64,
    pub generation: u32,
    pub pad: u32,
}

/// By socket address.
#[map]
pub static TLS_SOCKETS: LruHashMap<u64, Carried> = LruHashMap::with_max_entries(MAX_TLS, 0);

/// Bytes of a TLS socket that a thread has just moved: what `tls_carried` is called for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Moved {
    pub sock: u64,
    pub inode: u64,
    pub tid: u32,
    pub write: u32,
}

#[map]
pub static TLS_MOVED: PerCpuArray<Moved> = PerCpuArray::with_max_entries(1, 0);

/// A key of rustls: each is a box of its own, for one direction, with a sequence of its own.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Key {
    /// The socket, with its inode number; 0 if nothing tells of it. Where it is not `KNOWN`, it is
    /// what the thread had read when the key was made.
    pub sock: u64,
    pub inode: u64,
    /// Bytes that were encrypted before the socket was known.
    pub missed: u64,
    /// When it was first seen: tells it from another at the same address.
    pub made: u64,
    /// Bits of `super::rustls::key_state`.
    pub state: u32,
    pub pad: u32,
}

/// By identity, made of the process and the address of the box.
#[map]
pub static RUSTLS_KEYS: LruHashMap<u64, Key> = LruHashMap::with_max_entries(2 * MAX_TLS, 0);

/// Which keys of rustls are those of a socket.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Keys {
    /// Of the socket.
    pub inode: u64,
    pub decrypter: u64,
    pub encrypter: u64,
    /// The encrypter that was made to follow.
    pub next: u64,
    /// Bits of `super::rustls::over`: whose last record may be followed by those of another key. Kept
    /// here, as the box of such a key is free, and another's soon.
    pub over: u64,
}

/// By socket address.
#[map]
pub static RUSTLS_SOCKETS: LruHashMap<u64, Keys> = LruHashMap::with_max_entries(MAX_TLS, 0);
