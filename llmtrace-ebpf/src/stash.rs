//! What a thread has under way between the entry of a call and its return.

use core::mem::MaybeUninit;

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
    pub pad: u32,
}

#[inline(always)]
fn slot_of(tid: u32) -> u32 {
    tid & (STASH_SLOTS - 1)
}

/// Copies word by word: the compiler would call a `memmove` of its own, byte by byte, which costs
/// more than everything else in here.
///
/// # Safety
/// Both are valid for their type, which is made of whole words.
#[inline(always)]
pub unsafe fn copy<T>(to: *mut T, from: *const T) {
    let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: inside both. Volatile, or the loop becomes the call that it stands for.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
}

/// Remembers what the current thread begins.
#[inline(always)]
pub fn remember(stash: &Stash) {
    let Some(slot) = STASH.get_ptr_mut(slot_of(stash.tid)) else { return };
    // SAFETY: a pointer into the map, checked. Only threads whose ids share a slot meet here, and
    // a torn slot has a thread id that does not match.
    unsafe {
        if (*slot).call != 0 && (*slot).tid != stash.tid {
            (*slot).contended = 1;
            if STASH_OVERFLOW.insert(stash.tid, stash, 0).is_err() {
                emit::lost(loss::STASH, 0);
            }
            return;
        }
        let contended = (*slot).contended;
        copy(slot, stash);
        (*slot).contended = contended;
    }
}

/// What the current thread has under way, left where it is.
#[inline(always)]
pub fn peek(tid: u32) -> Option<*mut Stash> {
    let slot = STASH.get_ptr_mut(slot_of(tid))?;
    // SAFETY: a pointer into the map, checked.
    unsafe {
        if (*slot).tid == tid && (*slot).call != 0 {
            return Some(slot);
        }
        if (*slot).contended != 0 {
            return STASH_OVERFLOW.get_ptr_mut(tid);
        }
    }
    None
}

/// What the current thread has under way, which it then no longer has.
#[inline(always)]
pub fn recall(tid: u32) -> Option<Stash> {
    let slot = STASH.get_ptr_mut(slot_of(tid))?;
    // SAFETY: a pointer into the map, checked.
    unsafe {
        if (*slot).tid == tid && (*slot).call != 0 {
            let mut stash = MaybeUninit::uninit();
            copy(stash.as_mut_ptr(), slot);
            (*slot).call = 0;
            return Some(stash.assume_init());
        }
        if (*slot).contended != 0
            && let Some(stash) = STASH_OVERFLOW.get(tid)
        {
            let stash = *stash;
            let _ = STASH_OVERFLOW.remove(tid);
            return Some(stash);
        }
    }
    None
}
