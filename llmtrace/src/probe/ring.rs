//! The consumer of a BPF ring buffer.
//!
//! aya's own hands the consumer position back to the kernel after each record, which moves a
//! cache line between processors once per record and on both sides; this one does so once per
//! batch, and lends records out of the mapping without a copy. The layout is the kernel's ABI:
//! <https://docs.kernel.org/bpf/ringbuf.html>.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: usize = 8;
/// Bytes after which the consumer position is published during a long drain, so that a producer
/// does not find the ring full while it is being emptied.
const PUBLISH: u64 = 128 * 1024;

/// Whether the kernel gives a ring of that many bytes: makes one, and lets it go.
pub fn try_size(bytes: u32) -> io::Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_RINGBUF: u32 = 27;
    /// The first fields of `union bpf_attr` for this command; those that follow are taken for 0.
    #[repr(C)]
    struct Attr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    let attr =
        Attr { map_type: BPF_MAP_TYPE_RINGBUF, key_size: 0, value_size: 0, max_entries: bytes };
    // SAFETY: `attr` is valid for the length given and only read; the result is a descriptor that
    // nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<Attr>());
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        drop(OwnedFd::from_raw_fd(fd as i32));
    }
    Ok(())
}

/// A memory mapping, unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, prot: i32, offset: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping of a descriptor that we hold, at an address the kernel picks.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrowed from it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A ring buffer map, mapped for reading.
pub struct Ring {
    /// Keeps the map alive.
    _fd: OwnedFd,
    epoll: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    page: usize,
    mask: u64,
}

// SAFETY: the mappings are plain memory; a `Ring` has one owner and `drain` takes `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of `size` bytes behind `fd`.
    pub fn new(fd: OwnedFd, size: u32) -> io::Result<Self> {
        // SAFETY: asks for a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let size = size as usize;
        if !size.is_power_of_two() || size < page {
            return Err(io::Error::other("size is not a power of two of pages"));
        }
        let consumer = Mapping::new(fd.as_fd(), page, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        // The data area is mapped twice in a row, so that a record never wraps.
        let producer = Mapping::new(fd.as_fd(), page + 2 * size, libc::PROT_READ, page)?;
        let epoll = epoll_on(fd.as_fd())?;
        Ok(Self { _fd: fd, epoll, consumer, producer, page, mask: size as u64 - 1 })
    }

    fn consumer_pos(&self) -> &AtomicU64 {
        // SAFETY: the first word of the consumer page is the consumer position, page aligned.
        unsafe { self.consumer.base.cast::<AtomicU64>().as_ref() }
    }

    fn producer_pos(&self) -> &AtomicU64 {
        // SAFETY: the first word of the producer page is the producer position, page aligned.
        unsafe { self.producer.base.cast::<AtomicU64>().as_ref() }
    }

    /// Bytes waiting.
    pub fn waiting(&self) -> u64 {
        let produced = self.producer_pos().load(Ordering::Acquire);
        produced.wrapping_sub(self.consumer_pos().load(Ordering::Relaxed))
    }

    /// Hands every finished record to `each`, and returns how many there were. Stops at a record
    /// that a program is still writing.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let mut pos = self.consumer_pos().load(Ordering::Relaxed);
        let mut published = pos;
        let mut count = 0;
        'outer: loop {
            let produced = self.producer_pos().load(Ordering::Acquire);
            if pos == produced {
                break;
            }
            while pos < produced {
                // SAFETY: `pos` is a record boundary below the producer position, masked into the
                // data area, which is mapped twice behind the producer page.
                let header =
                    unsafe { self.producer.base.add(self.page + (pos & self.mask) as usize) };
                // SAFETY: a record header begins with its length word, eight-byte aligned; the
                // kernel writes it atomically.
                let word = unsafe { header.cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
                if word & BUSY != 0 {
                    break 'outer;
                }
                let len = (word & !(BUSY | DISCARD)) as usize;
                if word & DISCARD == 0 {
                    // SAFETY: the kernel wrote `len` bytes after the header and will not touch
                    // them until the consumer position moves past, which is after `each`.
                    let bytes =
                        unsafe { std::slice::from_raw_parts(header.as_ptr().add(HEADER), len) };
                    each(bytes);
                    count += 1;
                }
                pos += ((len + HEADER + 7) & !7) as u64;
                if pos - published >= PUBLISH {
                    self.consumer_pos().store(pos, Ordering::Release);
                    published = pos;
                }
            }
        }
        if pos != published {
            self.consumer_pos().store(pos, Ordering::Release);
        }
        count
    }

    /// Waits until a program wakes us (the ring fills) or `tick` has passed.
    ///
    /// Edge-triggered on purpose: a level-triggered wait returns at once while anything is in the
    /// ring, which would turn the tick into a busy loop.
    pub fn wait(&self, tick: Duration) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let millis = tick.as_millis().clamp(1, 10_000) as i32;
        // SAFETY: room for one event. An interrupted wait is a short wait.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, millis) };
    }
}

fn epoll_on(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: creates a descriptor, which is checked and then owned.
    let epoll = unsafe {
        let raw = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: both descriptors are open and `event` is valid.
    let failed = unsafe {
        libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(epoll) }
}
