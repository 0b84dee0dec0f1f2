//! The kernel side's filter by process: a byte for each process id, written through a mapping so
//! that a neighbour's byte, which the kernel side may be writing, is not touched.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering},
};

/// One more than the highest process id there can be.
pub fn pid_limit() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse::<u32>().unwrap_or(1 << 22).clamp(1 << 12, 1 << 22)
}

/// The mapped filter.
pub struct Filter {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory that is only used by atomic stores.
unsafe impl Send for Filter {}

impl Filter {
    /// Maps the array of `len` bytes behind `fd`.
    pub fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping of a descriptor that is open, at an address the kernel picks; it
        // keeps the map alive.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, len })
    }

    /// How a process is traced; 0 if it is not.
    pub fn set(&self, pid: u32, how: u32) {
        let at = pid as usize;
        if at < self.len {
            // SAFETY: inside the mapping, as just checked.
            let byte = unsafe { self.base.add(at).cast::<AtomicU8>().as_ref() };
            byte.store(how as u8, Ordering::Relaxed);
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrowed from it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
