//! Copies payload into the ring: one buffer, or an iovec gathered so that a call of many small
//! segments becomes one record.
//!
//! What is repeated is a global function without arguments, whose state is in a per-CPU map: the
//! verifier looks at such a function once, and not once per round. So one set of programs serves
//! kernels with and without `bpf_loop`, and those that take no pointers in global functions.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel,
    generated::{bpf_probe_read_user, bpf_ringbuf_output},
};
use llmtrace_common::{
    config::loss,
    limits::{GATHER, MAX_GATHERS, MAX_PIECES, MAX_SEGMENTS, PIECE},
    record::{Header, flag},
};

use super::{lost, wakeup, words};
use crate::{
    maps::{MAX_COPY, RING, SCRATCH, Scratch, WORK, Work},
    memory::{Memory, place},
};

const HEADER: usize = size_of::<Header>();

/// The bytes of a call, wherever they are, in as many records as it takes.
#[inline(always)]
pub fn bytes(header: &mut Header, memory: &Memory, len: u32) {
    match memory.place {
        place::BUFFER => buffer(header, memory.base.wrapping_add(memory.skip), len),
        place::USER_IOVEC | place::KERNEL_IOVEC => {
            if memory.count == 1
                && let Some(one) = segment(memory.base, memory.place)
            {
                return buffer(header, one.base.wrapping_add(memory.skip), len);
            }
            gather(header, memory, len);
        }
        _ => super::gap(header, len, loss::OPAQUE),
    }
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
        words(base.cast::<Header>(), header);
    }
    entry.submit(wakeup(header));
}

/// Bytes from one buffer in user memory, in as many records as it takes. A function of its own,
/// since it is large.
#[inline(never)]
pub fn buffer(header: &mut Header, src: u64, len: u32) {
    header.len = len;
    if len > PIECE as u32 {
        return pieces(header, src, len);
    }
    classes!(header, src, len, [128, 256, 384, 512, 1024, 2048, 4096, 16384]);
}

/// This CPU's state of a call that takes several rounds; None if a thread that lost its CPU in the
/// middle of one has it.
#[inline(always)]
fn work(header: &Header, len: u32) -> Option<&'static mut Work> {
    // SAFETY: this CPU's slot, checked.
    let work = unsafe { &mut *WORK.get_ptr_mut(0)? };
    if work.owner != 0 {
        return None;
    }
    work.owner = bpf_get_current_pid_tgid() as u32;
    // SAFETY: a reference, and a field of the slot.
    unsafe { words(&raw mut work.header, header) };
    work.left = len;
    Some(work)
}

/// Head and tail of a large buffer are kept: a request names its model and a response its usage at
/// the one end or the other. What lies between, past the limit, is a gap of known size.
#[inline(always)]
fn pieces(header: &mut Header, src: u64, len: u32) {
    let Some(work) = work(header, len) else { return super::gap(header, len, loss::BUSY) };
    let most = MAX_COPY.load();
    work.base = src;
    work.head = if len > most { most.wrapping_sub(PIECE as u32) } else { len };
    for _ in 0..MAX_PIECES + 1 {
        if piece_step() != 0 {
            break;
        }
    }
    if work.left > 0 {
        super::gap(&mut work.header, work.left, loss::LIMIT);
    }
    work.owner = 0;
}

/// One record of a large buffer; not 0 if there is nothing left.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn piece_step() -> i32 {
    let Some(work) = WORK.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's slot, checked.
    let work = unsafe { &mut *work };
    let left = work.left;
    if left == 0 {
        return 1;
    }
    if work.head == 0 && left > PIECE as u32 {
        let skipped = left - PIECE as u32;
        super::gap(&mut work.header, skipped, loss::LIMIT);
        work.header.flags &= !flag::FAULT;
        work.base += u64::from(skipped);
        work.header.pos += u64::from(skipped);
        work.left = PIECE as u32;
        return 0;
    }
    let take = if left > PIECE as u32 { PIECE as u32 } else { left };
    work.head = work.head.saturating_sub(take);
    work.header.len = take;
    if left > take {
        work.header.flags |= flag::MORE;
    } else {
        work.header.flags &= !flag::MORE;
    }
    fill_class::<{ PIECE + HEADER }>(&mut work.header, work.base, take, PIECE as u32);
    work.base += u64::from(take);
    work.header.pos += u64::from(take);
    work.left = left - take;
    0
}

/// An iovec as user space lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    pub base: u64,
    pub len: u64,
}

/// A segment, from wherever the iovec is.
#[inline(always)]
pub fn segment(address: u64, place: u32) -> Option<Segment> {
    // SAFETY: both helpers fail on an address that cannot be read.
    unsafe {
        if place == place::KERNEL_IOVEC {
            bpf_probe_read_kernel(address as *const Segment).ok()
        } else {
            aya_ebpf::helpers::bpf_probe_read_user(address as *const Segment).ok()
        }
    }
}

/// Bytes from an iovec. A function of its own, as [`buffer`] is.
#[inline(never)]
fn gather(header: &mut Header, memory: &Memory, len: u32) {
    let Some(work) = work(header, len) else { return super::gap(header, len, loss::BUSY) };
    work.base = memory.base;
    work.place = memory.place;
    work.segments = if memory.count > MAX_SEGMENTS { MAX_SEGMENTS } else { memory.count };
    work.index = 0;
    work.inside = memory.skip as u32;
    work.filled = 0;
    work.fault = 0;
    for _ in 0..MAX_SEGMENTS + MAX_GATHERS {
        if segment_step() != 0 {
            break;
        }
    }
    if work.filled > 0
        && let Some(scratch) = SCRATCH.get_ptr_mut(0)
    {
        work.header.flags &= !flag::MORE;
        flush(work, scratch);
    }
    if work.left > 0 {
        let reason = if work.fault != 0 { loss::FAULT } else { loss::LIMIT };
        super::gap(&mut work.header, work.left, reason);
    }
    work.owner = 0;
}

/// One segment, or what of it there is room for; not 0 if there is nothing left.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segment_step() -> i32 {
    let (Some(work), Some(scratch)) = (WORK.get_ptr_mut(0), SCRATCH.get_ptr_mut(0)) else {
        return 1;
    };
    // SAFETY: this CPU's slot, checked.
    let work = unsafe { &mut *work };
    if work.left == 0 || work.index >= work.segments {
        return 1;
    }
    let address = work.base + u64::from(work.index) * size_of::<Segment>() as u64;
    let Some(segment) = segment(address, work.place) else {
        work.fault = 1;
        return 1;
    };
    if u64::from(work.inside) > segment.len {
        // What was passed on before reaches past this one.
        work.inside -= segment.len as u32;
        work.index += 1;
        return 0;
    }
    let mut rest = segment.len - u64::from(work.inside);
    if rest > u64::from(work.left) {
        rest = u64::from(work.left);
    }
    let filled = bounded(work.filled, GATHER as u32 - 1);
    let room = GATHER as u32 - filled;
    let take = if rest > u64::from(room) { room } else { rest as u32 };
    let take = bounded(take, GATHER as u32);
    if take > 0 {
        let source = segment.base.wrapping_add(u64::from(work.inside));
        // SAFETY: `filled` is below GATHER and `take` at most GATHER, and the buffer holds twice
        // that; the helper fails on a source that cannot be read.
        let failed = unsafe {
            let base = (&raw mut (*scratch).bytes).cast::<u8>();
            bpf_probe_read_user(base.add(filled as usize).cast(), take, source as *const _)
        };
        if failed != 0 {
            work.fault = 1;
            return 1;
        }
    }
    work.left -= take;
    work.filled = filled + take;
    if u64::from(take) == rest {
        work.index += 1;
        work.inside = 0;
    } else {
        work.inside += take;
    }
    if work.filled >= GATHER as u32 {
        if work.left > 0 {
            work.header.flags |= flag::MORE;
        } else {
            work.header.flags &= !flag::MORE;
        }
        flush(work, scratch);
    }
    0
}

#[inline(always)]
fn flush(state: &mut Work, scratch: *mut Scratch) {
    let filled = bounded(state.filled, GATHER as u32);
    state.header.len = filled;
    state.header.cap_len = filled;
    // SAFETY: the scratch slot is this CPU's and holds a header and more than GATHER bytes.
    unsafe {
        words(&raw mut (*scratch).header, &raw const state.header);
        let size = HEADER as u64 + u64::from(filled);
        let ring = (&raw const RING).cast_mut().cast();
        if bpf_ringbuf_output(ring, scratch.cast(), size, wakeup(&state.header)) != 0 {
            lost(loss::RING_FULL, filled);
        }
    }
    state.header.pos += u64::from(filled);
    state.filled = 0;
}
