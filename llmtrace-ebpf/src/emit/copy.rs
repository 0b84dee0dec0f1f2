//! Copies payload into the ring: one buffer, or an iovec gathered so that a call of many small
//! segments becomes one record.
//!
//! There are two sets of loops: kernels from 5.17 on have `bpf_loop`, whose body the verifier
//! looks at once; older ones get loops that it walks through, which takes longer to load and is
//! why both exist.

use aya_ebpf::helpers::{
    bpf_loop, bpf_probe_read_kernel,
    generated::{bpf_probe_read_user, bpf_ringbuf_output},
};
use llmtrace_common::{
    config::loss,
    limits::{GATHER, MAX_GATHERS, MAX_PIECES, MAX_SEGMENTS, PIECE},
    record::{Header, flag},
};

use super::{lost, wakeup, words};
use crate::{
    maps::{MAX_COPY, RING, SCRATCH, Scratch},
    memory::{Memory, place},
};

const HEADER: usize = size_of::<Header>();

/// How a program repeats a step, and whether what is large is a function that the verifier looks
/// at once.
pub trait Loops {
    /// Messages of one recvmmsg or sendmmsg that are looked at.
    const MESSAGES: u32;

    fn pieces(state: &mut Pieces);
    fn gather(state: &mut Gather);
    fn buffer(header: &mut Header, src: u64, len: u32);
    fn segments(header: &mut Header, memory: &Memory, len: u32);
}

/// From 5.17 on.
pub struct Helper;

/// Before.
pub struct Unrolled;

impl Loops for Helper {
    const MESSAGES: u32 = 16;

    #[inline(always)]
    fn pieces(state: &mut Pieces) {
        // SAFETY: the callback has the signature that the helper wants and `state` outlives the
        // call.
        unsafe {
            bpf_loop(MAX_PIECES, piece_step as *mut _, (&raw mut *state).cast(), 0);
        }
    }

    #[inline(always)]
    fn gather(state: &mut Gather) {
        // SAFETY: as above.
        unsafe {
            let most = MAX_SEGMENTS + MAX_GATHERS;
            bpf_loop(most, segment_step as *mut _, (&raw mut *state).cast(), 0);
        }
    }

    #[inline(always)]
    fn buffer(header: &mut Header, src: u64, len: u32) {
        emit_buffer(header, src, len);
    }

    #[inline(always)]
    fn segments(header: &mut Header, memory: &Memory, len: u32) {
        emit_segments(header, memory, len);
    }
}

impl Loops for Unrolled {
    // One more would be the whole program once more for the verifier.
    const MESSAGES: u32 = 1;

    #[inline(always)]
    fn pieces(state: &mut Pieces) {
        for _ in 0..MAX_PIECES {
            if next_piece(state) {
                break;
            }
        }
    }

    #[inline(always)]
    fn gather(state: &mut Gather) {
        for _ in 0..MAX_SEGMENTS {
            if next_segment(state) {
                break;
            }
        }
    }

    #[inline(always)]
    fn buffer(header: &mut Header, src: u64, len: u32) {
        static_buffer(header, src, len);
    }

    #[inline(always)]
    fn segments(header: &mut Header, memory: &Memory, len: u32) {
        static_segments(header, memory, len);
    }
}

unsafe extern "C" fn piece_step(_: u64, state: *mut Pieces) -> i64 {
    // SAFETY: the helper passes on the pointer that it was given.
    next_piece(unsafe { &mut *state }).into()
}

unsafe extern "C" fn segment_step(_: u64, state: *mut Gather) -> i64 {
    // SAFETY: the helper passes on the pointer that it was given.
    next_segment(unsafe { &mut *state }).into()
}

/// The bytes of a call, wherever they are, in as many records as it takes.
#[inline(always)]
pub fn bytes<L: Loops>(header: &mut Header, memory: &Memory, len: u32) {
    match memory.place {
        place::BUFFER => L::buffer(header, memory.base.wrapping_add(memory.skip), len),
        place::USER_IOVEC | place::KERNEL_IOVEC => {
            if memory.count == 1
                && let Some(one) = segment(memory.base, memory.place)
            {
                return L::buffer(header, one.base.wrapping_add(memory.skip), len);
            }
            L::segments(header, memory, len);
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

/// A global function: the verifier looks at it once, not once for each way to get here, which
/// takes seconds.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_buffer(header: *mut Header, src: u64, len: u32) -> i32 {
    // SAFETY: null is checked here; the verifier proves that all else is a header.
    if let Some(header) = unsafe { header.as_mut() } {
        sized::<Helper>(header, src, len);
    }
    0
}

/// The verifier of old kernels takes no pointers in global functions.
#[inline(never)]
fn static_buffer(header: &mut Header, src: u64, len: u32) {
    sized::<Unrolled>(header, src, len);
}

#[inline(always)]
fn sized<L: Loops>(header: &mut Header, src: u64, len: u32) {
    header.len = len;
    if len > PIECE as u32 {
        return pieces::<L>(header, src, len);
    }
    classes!(header, src, len, [128, 256, 384, 512, 1024, 2048, 4096, 16384]);
}

pub struct Pieces {
    header: Header,
    src: u64,
    left: u32,
    /// Bytes that are copied before what is too much is left out, up to the last piece.
    head: u32,
}

/// Head and tail of a large buffer are kept: a request names its model and a response its usage at
/// the one end or the other. What lies between, past the limit, is a gap of known size.
#[inline(always)]
fn pieces<L: Loops>(header: &Header, src: u64, len: u32) {
    let most = MAX_COPY.load();
    let head = if len > most { most.wrapping_sub(PIECE as u32) } else { len };
    let mut state = Pieces { header: *header, src, left: len, head };
    L::pieces(&mut state);
    if state.left > 0 {
        super::gap(&mut state.header, state.left, loss::LIMIT);
    }
}

/// One record; true if there is nothing left.
#[inline(always)]
fn next_piece(state: &mut Pieces) -> bool {
    let left = state.left;
    if left == 0 {
        return true;
    }
    if state.head == 0 && left > PIECE as u32 {
        let skipped = left - PIECE as u32;
        super::gap(&mut state.header, skipped, loss::LIMIT);
        state.header.flags &= !flag::FAULT;
        state.src += u64::from(skipped);
        state.header.pos += u64::from(skipped);
        state.left = PIECE as u32;
        return false;
    }
    let take = if left > PIECE as u32 { PIECE as u32 } else { left };
    state.head = state.head.saturating_sub(take);
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
    false
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

pub struct Gather {
    header: Header,
    iov: u64,
    place: u32,
    segments: u32,
    index: u32,
    /// Bytes of the current segment that are done.
    inside: u32,
    /// Bytes gathered in the scratch buffer.
    filled: u32,
    /// Bytes of the call not yet gathered.
    left: u32,
    /// A segment could not be read: the rest is a gap.
    fault: bool,
}

/// Global for the same reason as [`emit_buffer`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_segments(header: *const Header, memory: *const Memory, len: u32) -> i32 {
    // SAFETY: null is checked here; the verifier proves the types of all else.
    if let (Some(header), Some(memory)) = unsafe { (header.as_ref(), memory.as_ref()) } {
        gather::<Helper>(header, memory, len);
    }
    0
}

#[inline(never)]
fn static_segments(header: &Header, memory: &Memory, len: u32) {
    gather::<Unrolled>(header, memory, len);
}

#[inline(always)]
fn gather<L: Loops>(header: &Header, memory: &Memory, len: u32) {
    let mut state = Gather {
        header: *header,
        iov: memory.base,
        place: memory.place,
        segments: if memory.count > MAX_SEGMENTS { MAX_SEGMENTS } else { memory.count },
        index: 0,
        inside: memory.skip as u32,
        filled: 0,
        left: len,
        fault: false,
    };
    L::gather(&mut state);
    if state.filled > 0
        && let Some(scratch) = SCRATCH.get_ptr_mut(0)
    {
        state.header.flags &= !flag::MORE;
        flush(&mut state, scratch);
    }
    if state.left > 0 {
        let reason = if state.fault { loss::FAULT } else { loss::LIMIT };
        super::gap(&mut state.header, state.left, reason);
    }
}

/// One segment, or what of it there is room for; true if there is nothing left.
#[inline(always)]
fn next_segment(state: &mut Gather) -> bool {
    if state.left == 0 || state.index >= state.segments {
        return true;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return true };
    let address = state.iov + u64::from(state.index) * size_of::<Segment>() as u64;
    let Some(segment) = segment(address, state.place) else {
        state.fault = true;
        return true;
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
            state.fault = true;
            return true;
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
    false
}

#[inline(always)]
fn flush(state: &mut Gather, scratch: *mut Scratch) {
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
