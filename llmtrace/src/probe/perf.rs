//! `perf_event_open`, as far as it is used here: events of mapped files, and whether uprobes are
//! allowed. (aya makes its own to attach programs.)

use std::{
    ffi::CStr,
    io,
    os::fd::{FromRawFd, OwnedFd},
};

const FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// `struct perf_event_attr` in its first version, which every kernel takes.
#[repr(C)]
#[derive(Default)]
pub struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    /// `bp_addr`, or `config1`.
    config1: u64,
    /// `bp_len`, or `config2`, which the kernel takes for 0 if an attribute ends before it.
    config2: u64,
}

impl Attr {
    /// An event of `kind` with the bits of `flags`.
    pub fn new(kind: u32, config: u64, flags: u64) -> Self {
        Self { kind, size: size_of::<Self>() as u32, config, flags, ..Self::default() }
    }

    /// A probe at an offset of a file; `kind` is a number that the kernel gives to these.
    pub fn uprobe(kind: u32, path: &'static CStr, offset: u64) -> Self {
        Self { config1: path.as_ptr() as u64, config2: offset, ..Self::new(kind, 0, 0) }
    }

    /// The event on a processor, of every process.
    pub fn open(&self, cpu: u32) -> io::Result<OwnedFd> {
        // SAFETY: the attribute is valid for its size, what it points to is read by the kernel, which
        // checks that it can be; the result is a descriptor that nobody else owns.
        unsafe {
            let fd = libc::syscall(
                libc::SYS_perf_event_open,
                &raw const *self,
                -1,
                cpu,
                -1,
                FLAG_FD_CLOEXEC,
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(OwnedFd::from_raw_fd(fd as i32))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PERF_ATTR_SIZE_VER1`: the first version and `config2`.
    #[test]
    fn as_large_as_the_kernel_knows() {
        assert_eq!(size_of::<Attr>(), 72);
        assert_eq!(std::mem::offset_of!(Attr, config1), 56);
    }
}
