//! The only place that puts records into the ring and counts those that did not fit.

pub mod copy;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use llmtrace_common::{
    config::loss,
    record::{Header, Open, flag, kind},
};

use crate::maps::{LOSSES, RING, WAKE_MARK};

const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAIL_DATA: u64 = 0;
/// Width of the fill-level band above each multiple of `WAKE_MARK` in which a submit wakes the agent.
/// Between them it has been woken already; waking once per record would cost more than everything
/// else together.
const WAKE_BAND: u64 = 32 * 1024;

/// Copies word by word: the compiler would call a `memmove` of its own, byte by byte, which costs
/// more than everything else in here.
///
/// # Safety
/// Both are valid for their type, which is made of whole words.
#[inline(always)]
pub unsafe fn words<T>(to: *mut T, from: *const T) {
    let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: inside both. Volatile, or the loop becomes the call that it stands for.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
}

/// Counts a record of `bytes` payload bytes as lost.
#[inline(always)]
pub fn lost(reason: u32, bytes: u32) {
    if let Some(slot) = LOSSES.get_ptr_mut(reason) {
        // SAFETY: a per-CPU slot; the pointer is checked.
        unsafe {
            (*slot).records += 1;
            (*slot).bytes += u64::from(bytes);
        }
    }
}

/// Wake the agent only when the ring fills faster than its tick empties it: kernel timestamps
/// make lateness harmless, and a wakeup costs more than the record.
///
/// A small record looks at the ring one time in sixteen only, by the low digits of its time.
#[inline(always)]
fn wakeup(header: &Header) -> u64 {
    const SMALL: u32 = 1024;
    if header.cap_len < SMALL && (header.exit_ns >> 3) & 15 != 0 {
        return NO_WAKEUP;
    }
    let mark = WAKE_MARK.load();
    let filled = RING.query(AVAIL_DATA);
    let woken = filled < mark || filled & (mark - 1) >= WAKE_BAND;
    if woken { NO_WAKEUP } else { FORCE_WAKEUP }
}

/// A record without payload.
#[inline(always)]
pub fn bare(header: &Header) {
    put(header, NO_WAKEUP);
}

#[inline(always)]
fn put(header: &Header, wakeup: u64) {
    if RING.output::<Header>(header, wakeup).is_err() {
        lost(loss::RING_FULL, 0);
    }
}

/// A record about a process, stamped now. One that may become a target, or a server, is not left to
/// the tick: the agent has to be there before its first request.
#[inline(always)]
pub fn process(header: &Header) {
    let wakeup = match header.kind {
        kind::EXEC | kind::LISTEN => FORCE_WAKEUP,
        _ => NO_WAKEUP,
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    put(&Header { enter_ns: now, exit_ns: now, ..*header }, wakeup);
}

/// A record that announces a connection. False if it did not fit.
#[repr(C)]
pub struct OpenRecord {
    pub header: Header,
    pub open: Open,
}

#[inline(always)]
pub fn open(header: &Header, fill: impl FnOnce(&mut Open)) -> bool {
    const WORDS: usize = size_of::<Open>() / 8;
    let Some(mut entry) = RING.reserve::<OpenRecord>(0) else {
        lost(loss::RING_FULL, 0);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring gave us this many bytes; all of them are written before they are read.
    unsafe {
        words(&raw mut (*record).header, header);
        let zeroes = (&raw mut (*record).open).cast::<u64>();
        for i in 0..WORDS {
            zeroes.add(i).write_volatile(0);
        }
        fill(&mut (*record).open);
    }
    entry.submit(NO_WAKEUP);
    true
}

/// Bytes that cannot be read: a positioned gap, counted by `reason`.
#[inline(always)]
pub fn gap(header: &mut Header, len: u32, reason: u32) {
    lost(reason, len);
    hole(header, len);
}

/// The same, of bytes that have been counted as lost.
#[inline(always)]
pub fn hole(header: &mut Header, len: u32) {
    header.len = len;
    header.cap_len = 0;
    header.flags &= !flag::MORE;
    header.flags |= flag::FAULT;
    bare(header);
}
