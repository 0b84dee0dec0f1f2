//! The only place that puts records into the ring and counts those that did not fit.

use aya_ebpf::helpers::{
    bpf_loop,
    generated::{bpf_ktime_get_ns, bpf_probe_read_user, bpf_ringbuf_output},
};
use llmtrace_common::{
    config::loss,
    limits::{GATHER, MAX_GATHERS, MAX_PIECES, MAX_SEGMENTS, PIECE},
    record::{Header, Open, flag},
};

use crate::maps::{LOSSES, RING, SCRATCH, Scratch, WAKE_MARK};

const HEADER: usize = size_of::<Header>();
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAIL_DATA: u64 = 0;
/// Width of the fill-level band in which a submit wakes the agent. Above it, it has been woken
/// already; waking once per record would cost more than everything else together.
const WAKE_BAND: u64 = 32 * 1024;

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
#[inline(always)]
fn wakeup() -> u64 {
    let mark = WAKE_MARK.load();
    let filled = RING.query(AVAIL_DATA);
    if filled.wrapping_sub(mark) < WAKE_BAND { FORCE_WAKEUP } else { NO_WAKEUP }
}

/// A record without payload.
#[inline(always)]
pub fn bare(header: &Header) {
    if RING.output::<Header>(header, NO_WAKEUP).is_err() {
        lost(loss::RING_FULL, 0);
    }
}

/// A record about a process, stamped now.
#[inline(always)]
pub fn process(header: &Header) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    bare(&Header { enter_ns: now, exit_ns: now, ..*header });
}

/// A record that announces a connection. False if it did not fit.
#[repr(C)]
pub struct OpenRecord {
    pub header: Header,
    pub open: Open,
}

#[inline(always)]
pub fn open(header: &Header, fill: impl FnOnce(&mut Open)) -> bool {
    let Some(mut entry) = RING.reserve::<OpenRecord>(0) else {
        lost(loss::RING_FULL, 0);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring gave us this many bytes; all of them are written before they are read.
    unsafe {
        (*record).header = *header;
        core::ptr::write_bytes(&raw mut (*record).open, 0, 1);
        fill(&mut (*record).open);
    }
    entry.submit(NO_WAKEUP);
    true
}

/// `value`, at most `max`, in a form that the verifier sees. The compiler knows the bound already
/// and would leave the comparison out; the verifier has lost it on the way through a spill.
#[inline(always)]
fn bounded(value: u32, max: u32) -> u32 {
    // SAFETY: a reference is valid for reading.
    let value = unsafe { core::ptr::read_volatile(&raw const value) };
    if value > max { max } else { value }
}

/// Reserves `$class` bytes of payload, copies, submits. The reservation must be a constant for the
/// verifier; classes keep its slack small.
macro_rules! classes {
    ($header:expr, $src:expr, $want:expr, [$($class:literal),*]) => {
        $(if $want <= $class {
            return fill_class::<{ $class + HEADER }>($header, $src, $want, $class);
        })*
    };
}

#[inline(always)]
fn fill_class<const SIZE: usize>(header: &mut Header, src: u64, want: u32, max: u32) {
    let Some(mut entry) = RING.reserve::<[u8; SIZE]>(0) else {
        lost(loss::RING_FULL, header.len);
        return;
    };
    let base = entry.as_mut_ptr().cast::<u8>();
    let want = bounded(want, max);
    // SAFETY: `want` is at most the class, which is what was reserved behind the header; the
    // helper fails on a source that cannot be read.
    unsafe {
        if bpf_probe_read_user(base.add(HEADER).cast(), want, src as *const _) == 0 {
            header.cap_len = want;
        } else {
            header.cap_len = 0;
            header.flags |= flag::FAULT;
            lost(loss::FAULT, want);
        }
        base.cast::<Header>().write(*header);
    }
    entry.submit(wakeup());
}

/// Bytes from one buffer in user memory, in as many records as it takes.
#[inline(always)]
pub fn buffer(header: &mut Header, src: u64, len: u32) {
    emit_buffer(header, src, len);
}

/// A global function: the verifier looks at it once, not once for each way to get here, which
/// takes seconds.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_buffer(header: *mut Header, src: u64, len: u32) -> i32 {
    // SAFETY: null is checked here; the verifier proves that all else is a header.
    if let Some(header) = unsafe { header.as_mut() } {
        sized(header, src, len);
    }
    0
}

#[inline(always)]
fn sized(header: &mut Header, src: u64, len: u32) {
    header.len = len;
    if len > PIECE as u32 {
        return pieces(header, src, len);
    }
    classes!(header, src, len, [128, 256, 384, 512, 1024, 2048, 4096, 16384]);
}

struct Pieces {
    header: Header,
    src: u64,
    left: u32,
}

fn pieces(header: &Header, src: u64, len: u32) {
    let mut state = Pieces { header: *header, src, left: len };
    // SAFETY: the callback has the signature that the helper wants and `state` outlives the call.
    unsafe {
        bpf_loop(MAX_PIECES, next_piece as *mut _, (&raw mut state).cast(), 0);
    }
    if state.left > 0 {
        // Beyond the limit: a record that says how much, so that the gap has its size.
        lost(loss::LIMIT, state.left);
        state.header.len = state.left;
        state.header.cap_len = 0;
        state.header.flags &= !flag::MORE;
        bare(&state.header);
    }
}

unsafe extern "C" fn next_piece(_: u64, state: *mut Pieces) -> i64 {
    // SAFETY: the helper passes on the pointer that `pieces` gave it.
    let state = unsafe { &mut *state };
    let left = state.left;
    if left == 0 {
        return 1;
    }
    let take = if left > PIECE as u32 { PIECE as u32 } else { left };
    state.header.len = take;
    if left > take {
        state.header.flags |= flag::MORE;
    } else {
        state.header.flags &= !flag::MORE;
    }
    fill_class::<{ PIECE + HEADER }>(&mut state.header, state.src, take, PIECE as u32);
    state.src += u64::from(take);
    state.header.pos += u64::from(take);
    state.left = left - take;
    0
}

/// An iovec as user space lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    pub base: u64,
    pub len: u64,
}

struct Gather {
    header: Header,
    iov: u64,
    segments: u32,
    index: u32,
    /// Bytes of the current segment that are done.
    inside: u32,
    /// Bytes gathered in the scratch buffer.
    filled: u32,
    /// Bytes of the call not yet gathered.
    left: u32,
}

/// Bytes from an iovec in user memory, gathered so that a call of many small segments becomes one
/// record.
#[inline(always)]
pub fn segments(header: &mut Header, iov: u64, count: u32, len: u32) {
    if count == 1 {
        // SAFETY: the helper fails on an address that cannot be read.
        if let Ok(one) = unsafe { aya_ebpf::helpers::bpf_probe_read_user(iov as *const Segment) } {
            return buffer(header, one.base, len);
        }
    }
    emit_segments(header, iov, count, len);
}

/// Global for the same reason as [`emit_buffer`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_segments(header: *const Header, iov: u64, count: u32, len: u32) -> i32 {
    // SAFETY: null is checked here; the verifier proves that all else is a header.
    if let Some(header) = unsafe { header.as_ref() } {
        gather(header, iov, count, len);
    }
    0
}

#[inline(always)]
fn gather(header: &Header, iov: u64, count: u32, len: u32) {
    let mut state = Gather {
        header: *header,
        iov,
        segments: if count > MAX_SEGMENTS { MAX_SEGMENTS } else { count },
        index: 0,
        inside: 0,
        filled: 0,
        left: len,
    };
    // SAFETY: the callback has the signature that the helper wants and `state` outlives the call.
    unsafe {
        bpf_loop(MAX_SEGMENTS + MAX_GATHERS, next_segment as *mut _, (&raw mut state).cast(), 0);
    }
    if state.filled > 0
        && let Some(scratch) = SCRATCH.get_ptr_mut(0)
    {
        state.header.flags &= !flag::MORE;
        flush(&mut state, scratch);
    }
    if state.left > 0 {
        lost(loss::LIMIT, state.left);
        state.header.len = state.left;
        state.header.cap_len = 0;
        state.header.flags &= !flag::MORE;
        bare(&state.header);
    }
}

unsafe extern "C" fn next_segment(_: u64, state: *mut Gather) -> i64 {
    // SAFETY: the helper passes on the pointer that `gather` gave it.
    let state = unsafe { &mut *state };
    if state.left == 0 || state.index >= state.segments {
        return 1;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 1 };
    let address = state.iov + u64::from(state.index) * size_of::<Segment>() as u64;
    // SAFETY: the helper fails on an address that cannot be read.
    let Ok(segment) =
        (unsafe { aya_ebpf::helpers::bpf_probe_read_user(address as *const Segment) })
    else {
        lost(loss::FAULT, 0);
        return 1;
    };
    let mut rest = segment.len.wrapping_sub(u64::from(state.inside));
    if rest > u64::from(state.left) {
        rest = u64::from(state.left);
    }
    let filled = bounded(state.filled, GATHER as u32 - 1);
    let room = GATHER as u32 - filled;
    let take = if rest > u64::from(room) { room } else { rest as u32 };
    let take = bounded(take, GATHER as u32);
    if take > 0 {
        let source = segment.base.wrapping_add(u64::from(state.inside));
        // SAFETY: `filled` is below GATHER and `take` at most GATHER, and the buffer holds twice
        // that; the helper fails on a source that cannot be read.
        let failed = unsafe {
            let base = (&raw mut (*scratch).bytes).cast::<u8>();
            bpf_probe_read_user(base.add(filled as usize).cast(), take, source as *const _)
        };
        if failed != 0 {
            lost(loss::FAULT, take);
            return 1;
        }
    }
    state.left -= take;
    state.filled = filled + take;
    if u64::from(take) == rest {
        state.index += 1;
        state.inside = 0;
    } else {
        state.inside += take;
    }
    if state.filled >= GATHER as u32 {
        if state.left > 0 {
            state.header.flags |= flag::MORE;
        } else {
            state.header.flags &= !flag::MORE;
        }
        flush(state, scratch);
    }
    0
}

#[inline(always)]
fn flush(state: &mut Gather, scratch: *mut Scratch) {
    let filled = bounded(state.filled, GATHER as u32);
    state.header.len = filled;
    state.header.cap_len = filled;
    // SAFETY: the scratch slot is this CPU's and holds a header and more than GATHER bytes.
    unsafe {
        (*scratch).header = state.header;
        let size = HEADER as u64 + u64::from(filled);
        if bpf_ringbuf_output((&raw const RING).cast_mut().cast(), scratch.cast(), size, wakeup())
            != 0
        {
            lost(loss::RING_FULL, filled);
        }
    }
    state.header.pos += u64::from(filled);
    state.filled = 0;
}

/// Bytes that cannot be read: a positioned gap.
#[inline(always)]
pub fn unreadable(header: &mut Header, len: u32) {
    header.len = len;
    header.cap_len = 0;
    header.flags |= flag::FAULT;
    bare(header);
}
