//! Tells when a process maps a file for execution: a program that starts, a library that is loaded
//! with it or later. The kernel's own side-band events of perf do, at no cost to any other call.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use super::mappings::FileId;
use crate::probe::perf::Attr;

/// Bytes of events of one processor, a power of two. An event has about 120.
const DATA: usize = 32 * 1024;
/// Offsets into the first page, which is `struct perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_DUMMY: u64 = 9;
/// Bits of `struct perf_event_attr`: `mmap`, and `mmap2` for events with device and inode.
const MMAP: u64 = 1 << 8;
const MMAP2: u64 = 1 << 23;
/// Kinds of events.
const RECORD_LOST: u32 = 2;
const RECORD_MMAP2: u32 = 10;

/// A `PERF_RECORD_MMAP2` up to its file's name.
#[repr(C)]
#[derive(Clone, Copy)]
struct Mmap2 {
    kind: u32,
    misc: u16,
    size: u16,
    pid: u32,
    tid: u32,
    addr: u64,
    len: u64,
    offset: u64,
    major: u32,
    minor: u32,
    inode: u64,
}

/// Events of every processor.
#[derive(Debug)]
pub struct Watch {
    buffers: Vec<Buffer>,
}

impl Watch {
    pub fn new() -> io::Result<Self> {
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
        let buffers = cpus(&online).map(Buffer::new).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { buffers })
    }

    /// Hands on what came. True if some events were lost.
    pub fn drain(&mut self, mut f: impl FnMut(u32, FileId)) -> bool {
        self.buffers.iter_mut().fold(false, |lost, buffer| buffer.drain(&mut f) | lost)
    }
}

/// `0-3,8` as numbers.
fn cpus(list: &str) -> impl Iterator<Item = u32> {
    list.trim().split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => first..last + 1,
            _ => 0..0,
        }
    })
}

/// The buffer of one processor.
#[derive(Debug)]
struct Buffer {
    base: *mut u8,
    page: usize,
    _event: OwnedFd,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Buffer {}

impl Buffer {
    fn new(cpu: u32) -> io::Result<Self> {
        let event = Attr::new(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY, MMAP | MMAP2).open(cpu)?;
        // SAFETY: no argument.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // SAFETY: a new shared mapping of an own descriptor; nothing else is changed.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                page + DATA,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), page, _event: event })
    }

    /// A counter of the first page.
    fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: inside the first page, aligned, and shared with the kernel as a 64-bit counter.
        unsafe { &*self.base.add(offset).cast::<AtomicU64>() }
    }

    /// `N` bytes at a position, which may lie across the end of the buffer.
    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        std::array::from_fn(|i| {
            let offset = (at as usize).wrapping_add(i) & (DATA - 1);
            // SAFETY: below `DATA`, behind the first page. The kernel does not write to what lies
            // between tail and head.
            unsafe { self.base.add(self.page + offset).read() }
        })
    }

    fn drain(&mut self, f: &mut impl FnMut(u32, FileId)) -> bool {
        let head = self.counter(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.counter(DATA_TAIL).load(Ordering::Relaxed);
        let mut lost = false;
        while tail != head {
            // SAFETY: any bits are a valid value of both.
            let (kind, _, size): (u32, u16, u16) = {
                let bytes = self.bytes::<8>(tail);
                let word = u64::from_ne_bytes(bytes);
                (word as u32, 0, (word >> 48) as u16)
            };
            if size < 8 || u64::from(size) > head.wrapping_sub(tail) {
                // Not what the kernel writes: start over with what comes next.
                tail = head;
                lost = true;
                break;
            }
            match kind {
                RECORD_MMAP2 if size as usize >= size_of::<Mmap2>() => {
                    let bytes = self.bytes::<{ size_of::<Mmap2>() }>(tail);
                    // SAFETY: as many bytes as it has, and any are valid.
                    let event: Mmap2 = unsafe { bytes.as_ptr().cast::<Mmap2>().read_unaligned() };
                    if event.inode != 0 {
                        let Mmap2 { pid, major, minor, inode, .. } = event;
                        f(pid, FileId { major, minor, inode });
                    }
                }
                RECORD_LOST => lost = true,
                _ => {}
            }
            tail = tail.wrapping_add(u64::from(size));
        }
        fence(Ordering::Release);
        self.counter(DATA_TAIL).store(tail, Ordering::Release);
        lost
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and not used afterwards.
        unsafe { libc::munmap(self.base.cast(), self.page + DATA) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpus("0-3,8\n").collect::<Vec<_>>(), [0, 1, 2, 3, 8]);
        assert_eq!(cpus("0").collect::<Vec<_>>(), [0]);
        assert_eq!(cpus("").count(), 0);
    }
}
