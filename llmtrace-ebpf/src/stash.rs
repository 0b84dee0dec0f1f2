//! What a thread has under way between the entry of a call and its return.

use llmtrace_common::{config::loss, limits::STASH_SLOTS};

use crate::{
    emit,
    maps::{STASH, STASH_OVERFLOW},
    memory::Memory,
};

/// What a stashed call is ([`Stash::call`]). 0 means none.
pub mod call {
    pub const READ: u16 = 1;
    pub const WRITE: u16 = 2;
    /// Bytes that are moved without being in user memory (sendfile, splice).
    pub const OPAQUE: u16 = 4;
    /// The message array of recvmmsg or sendmmsg.
    pub const MESSAGES: u16 = 8;
    /// Plaintext of a socket whose TLS the kernel does.
    pub const KTLS: u16 = 16;
}

/// Bit of [`Stash::flags`] above those of a record: the socket was `BLOCKED` at the entry.
pub const WAS_BLOCKED: u32 = 1 << 16;

/// A call under way, by thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stash {
    pub tid: u32,
    /// Bits of [`call`].
    pub call: u16,
    /// Another thread has used this slot at the same time: look in `STASH_OVERFLOW` as well.
    pub contended: u16,
    pub enter: u64,
    /// Where the bytes are.
    pub memory: Memory,
    /// Bytes that the call asks for; 0 if that is not known.
    pub want: u64,
    /// The socket; 0 in a system call that reads, where the descriptor is looked up at its end.
    pub sock: u64,
    /// Writes: position of the first byte. Reads: bytes that have been passed on already.
    pub pos: u64,
    /// Writes: the socket's generation. Reads: how the process is traced.
    pub generation: u32,
    /// Writes: flags of the record, and `WAS_BLOCKED`. Reads: `MSG_*` flags.
    pub flags: u32,
    pub fd: u32,
    /// A hook on a function has seen the thread's last read.
    pub seen: u32,
    /// Reads of `KTLS`: where the kernel says what it has read; 0 if it does not.
    pub control: u64,
}

static EMPTY: Stash = Stash {
    tid: 0,
    call: 0,
    contended: 0,
    enter: 0,
    memory: Memory::OPAQUE,
    want: 0,
    sock: 0,
    pos: 0,
    generation: 0,
    flags: 0,
    fd: 0,
    seen: 0,
    control: 0,
};

#[inline(always)]
fn slot_of(tid: u32) -> u32 {
    tid & (STASH_SLOTS - 1)
}

/// A place for what the current thread begins. What it began before is forgotten.
#[inline(always)]
pub fn begin(tid: u32) -> Option<&'static mut Stash> {
    let slot = STASH.get_ptr_mut(slot_of(tid))?;
    // SAFETY: a pointer into the map, checked. Only threads whose ids share a slot meet here, and
    // a torn slot has a thread id that does not match.
    let slot = unsafe { &mut *slot };
    if slot.call == 0 || slot.tid == tid {
        slot.tid = tid;
        return Some(slot);
    }
    slot.contended = 1;
    if STASH_OVERFLOW.insert(tid, EMPTY, 0).is_err() {
        emit::lost(loss::STASH, 0);
        return None;
    }
    // SAFETY: a pointer into the map, checked.
    let slot = unsafe { &mut *STASH_OVERFLOW.get_ptr_mut(tid)? };
    slot.tid = tid;
    Some(slot)
}

/// What the current thread has under way. It stays until its `call` is set to 0.
#[inline(always)]
pub fn current(tid: u32) -> Option<&'static mut Stash> {
    let slot = STASH.get_ptr_mut(slot_of(tid))?;
    // SAFETY: a pointer into the map, checked.
    let slot = unsafe { &mut *slot };
    if slot.tid == tid && slot.call != 0 {
        return Some(slot);
    }
    if slot.contended != 0 {
        // SAFETY: a pointer into the map, checked.
        let slot = unsafe { &mut *STASH_OVERFLOW.get_ptr_mut(tid)? };
        if slot.call != 0 {
            return Some(slot);
        }
    }
    None
}

/// Whether a hook on a function has seen the thread's last read; asked once for each.
#[inline(always)]
pub fn take_seen(tid: u32) -> bool {
    let Some(slot) = STASH.get_ptr_mut(slot_of(tid)) else { return false };
    // SAFETY: a pointer into the map, checked.
    let slot = unsafe { &mut *slot };
    let seen = slot.tid == tid && slot.seen != 0;
    if seen {
        slot.seen = 0;
    }
    seen
}
