//! Where the bytes of a call are: in one buffer of user memory, or in many.

use crate::{
    kernel::Access,
    maps::{
        ITER_COUNT, ITER_IOV, ITER_IOVEC, ITER_NR_SEGS, ITER_OFFSET, ITER_TYPE, ITER_TYPE_WIDE,
        ITER_UBUF, ITER_UBUF_KIND,
    },
};

/// What [`Memory::base`] is.
pub mod place {
    /// Nothing that can be read: pages (sendfile, splice), kernel memory.
    pub const OPAQUE: u32 = 0;
    /// The buffer itself, in user memory.
    pub const BUFFER: u32 = 1;
    /// An iovec in user memory.
    pub const USER_IOVEC: u32 = 2;
    /// An iovec that the kernel has copied.
    pub const KERNEL_IOVEC: u32 = 3;
}

/// Where the bytes of a call are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub base: u64,
    /// Bytes of the buffer, or of the first segments, that are not part of the call or were passed
    /// on before.
    pub skip: u64,
    /// Segments of an iovec.
    pub count: u32,
    /// One of [`place`].
    pub place: u32,
}

impl Memory {
    pub const OPAQUE: Self = Self { base: 0, skip: 0, count: 0, place: place::OPAQUE };

    #[inline(always)]
    pub fn buffer(base: u64) -> Self {
        Self { base, skip: 0, count: 1, place: place::BUFFER }
    }

    #[inline(always)]
    pub fn user_iovec(base: u64, count: u32) -> Self {
        Self { base, skip: 0, count, place: place::USER_IOVEC }
    }
}

/// The bytes that a `msghdr` in kernel memory asks to move, and how many.
///
/// Mirrors `struct iov_iter`: `type` with the direction in bit 0 up to 5.13, `iter_type` since;
/// ITER_UBUF since 6.0; `iov` became `__iov` in 6.4.
#[inline(always)]
pub fn of_message<A: Access>(msg: u64) -> Option<(Memory, u64)> {
    let kind = if ITER_TYPE_WIDE.load() != 0 {
        A::get::<u32>(msg, &ITER_TYPE)? & !1
    } else {
        A::get::<u8>(msg, &ITER_TYPE)?.into()
    };
    let want: u64 = A::get(msg, &ITER_COUNT)?;
    let offset: u64 = A::get(msg, &ITER_OFFSET)?;
    let memory = if kind == ITER_IOVEC.load() {
        Memory {
            base: A::get(msg, &ITER_IOV)?,
            skip: offset,
            count: A::get::<u64>(msg, &ITER_NR_SEGS)? as u32,
            place: place::KERNEL_IOVEC,
        }
    } else if kind == ITER_UBUF_KIND.load() {
        // Not added up here: to some verifiers this is a typed pointer as long as it is in a
        // register.
        Memory { base: A::get(msg, &ITER_UBUF)?, skip: offset, count: 1, place: place::BUFFER }
    } else {
        Memory::OPAQUE
    };
    Some((memory, want))
}
