//! A connection that is read and written by a chosen pair of system calls.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::{ManuallyDrop, zeroed};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::ptr::null_mut;

use rustix::io::{ReadWriteFlags, preadv2, pwritev2, readv, writev};

/// Which calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Calls {
    Read,
    /// `readv`, `writev`.
    Readv,
    /// `recvfrom`, `sendto`.
    Recvfrom,
    /// `recvmsg`, `sendmsg`.
    Recvmsg,
    /// `recvmmsg`, `write`.
    Recvmmsg,
    /// `read`, `sendmmsg`.
    Sendmmsg,
    /// `preadv2`, `pwritev2`, both at the offset -1.
    Preadv2,
    /// `recvfrom` with `MSG_PEEK` before each `read`.
    Peek,
    /// `recvfrom` with `MSG_WAITALL` of a whole request, whose length a `MSG_PEEK` has told.
    Waitall,
    /// The same by `recvmsg` into three buffers; `write`.
    WaitallMsg,
    /// `read`, `write`; closed by `dup2` of another file over the descriptor.
    Dup2,
    /// `read`, `write`; closed by `close_range`.
    CloseRange,
}

/// One descriptor of a connection.
#[derive(Debug)]
pub struct Socket {
    fd: ManuallyDrop<OwnedFd>,
    calls: Calls,
}

impl Socket {
    pub fn new(fd: impl Into<OwnedFd>, calls: Calls) -> Self {
        Self { fd: ManuallyDrop::new(fd.into()), calls }
    }

    /// Another descriptor of the connection.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::new(self.fd.try_clone()?, self.calls))
    }

    fn recv(&self, buf: &mut [u8], flags: i32) -> io::Result<usize> {
        // SAFETY: the buffer is borrowed for the call.
        let n = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                flags,
                null_mut(),
                null_mut(),
            )
        };
        result(n)
    }

    /// What a MSG_PEEK shows of a request says how long it is; then all of it is asked for.
    fn whole_request(&self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.recv(buf, libc::MSG_PEEK)?;
        let len = crate::servers::http::length(&buf[..n]).unwrap_or(n).min(buf.len());
        let buf = &mut buf[..len];
        if self.calls == Calls::Waitall {
            return self.recv(buf, libc::MSG_WAITALL);
        }
        let (head, tail) = buf.split_at_mut(len.saturating_sub(30));
        let (middle, end) = tail.split_at_mut(tail.len().min(20));
        let mut bufs = [head, middle, end]
            .map(|buf| libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() });
        let mut one = message(&mut bufs);
        // SAFETY: the message names the buffers, which are borrowed for the call.
        result(unsafe { libc::recvmsg(self.fd.as_raw_fd(), &mut one.msg_hdr, libc::MSG_WAITALL) })
    }
}

fn result(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn message(bufs: &mut [libc::iovec]) -> libc::mmsghdr {
    // SAFETY: a message of zeros is an empty one.
    let mut message: libc::mmsghdr = unsafe { zeroed() };
    message.msg_hdr.msg_iov = bufs.as_mut_ptr();
    message.msg_hdr.msg_iovlen = bufs.len();
    message
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: nothing uses the field after this.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        match self.calls {
            Calls::Dup2 => {
                if let Ok(null) = std::fs::File::open("/dev/null") {
                    // SAFETY: both are ours; the target is closed below, as the null device.
                    unsafe { libc::dup2(null.as_raw_fd(), fd.as_raw_fd()) };
                }
            }
            Calls::CloseRange => {
                let fd = fd.into_raw_fd().cast_unsigned();
                // SAFETY: the descriptor is ours alone, and not used after this.
                unsafe { libc::syscall(libc::SYS_close_range, fd, fd, 0) };
            }
            _ => {}
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        let (first, second) = (buf.len().min(100), buf.len());
        match self.calls {
            Calls::Readv | Calls::Preadv2 => {
                let (a, b) = buf.split_at_mut(first);
                let mut bufs = [IoSliceMut::new(a), IoSliceMut::new(b)];
                Ok(if self.calls == Calls::Readv {
                    readv(&*self.fd, &mut bufs)?
                } else {
                    preadv2(&*self.fd, &mut bufs, u64::MAX, ReadWriteFlags::empty())?
                })
            }
            Calls::Recvfrom => self.recv(buf, 0),
            Calls::Recvmsg | Calls::Recvmmsg => {
                let mut iov = [libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: second }];
                let mut one = message(&mut iov);
                if self.calls == Calls::Recvmsg {
                    // SAFETY: the message names the buffer, which is borrowed for the call.
                    return result(unsafe { libc::recvmsg(fd, &mut one.msg_hdr, 0) });
                }
                // SAFETY: as above, one message.
                let n = unsafe { libc::recvmmsg(fd, &mut one, 1, 0, null_mut()) };
                result(n as isize).map(|_| one.msg_len as usize)
            }
            Calls::Peek => {
                self.recv(buf, libc::MSG_PEEK)?;
                Ok(rustix::io::read(&*self.fd, buf)?)
            }
            Calls::Waitall | Calls::WaitallMsg => self.whole_request(buf),
            Calls::Read | Calls::Sendmmsg | Calls::Dup2 | Calls::CloseRange => {
                Ok(rustix::io::read(&*self.fd, buf)?)
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        let (a, b) = buf.split_at(buf.len().min(10));
        let mut iov =
            [libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() }];
        match self.calls {
            Calls::Readv => Ok(writev(&*self.fd, &[IoSlice::new(a), IoSlice::new(b)])?),
            Calls::Preadv2 => {
                let bufs = [IoSlice::new(a), IoSlice::new(b)];
                Ok(pwritev2(&*self.fd, &bufs, u64::MAX, ReadWriteFlags::empty())?)
            }
            Calls::Recvfrom | Calls::Peek | Calls::Waitall => {
                // SAFETY: the buffer is borrowed for the call.
                result(unsafe {
                    libc::sendto(
                        fd,
                        buf.as_ptr().cast(),
                        buf.len(),
                        libc::MSG_NOSIGNAL,
                        std::ptr::null(),
                        0,
                    )
                })
            }
            Calls::Recvmsg => {
                let one = message(&mut iov);
                // SAFETY: the message names the buffer, which is borrowed for the call.
                result(unsafe { libc::sendmsg(fd, &one.msg_hdr, libc::MSG_NOSIGNAL) })
            }
            Calls::Sendmmsg => {
                let mut one = message(&mut iov);
                // SAFETY: as above, one message.
                let n = unsafe { libc::sendmmsg(fd, &mut one, 1, libc::MSG_NOSIGNAL) };
                result(n as isize).map(|_| one.msg_len as usize)
            }
            Calls::Read | Calls::Recvmmsg | Calls::WaitallMsg | Calls::Dup2 | Calls::CloseRange => {
                Ok(rustix::io::write(&*self.fd, buf)?)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
