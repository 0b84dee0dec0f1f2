//! A TCP connection that is read and written by io_uring: no system call names its descriptor.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::process::abort;

use io_uring::{IoUring, opcode, squeue, types::Fd};

/// One operation at a time.
const ENTRIES: u32 = 2;

/// A connection and a ring of its own.
pub struct Socket {
    ring: IoUring,
    stream: TcpStream,
}

impl Socket {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        Ok(Self { ring: IoUring::new(ENTRIES)?, stream })
    }

    /// Another descriptor of the connection, with another ring.
    pub fn try_clone(&self) -> io::Result<Self> {
        Self::new(self.stream.try_clone()?)
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn fd(&self) -> Fd {
        Fd(self.stream.as_raw_fd())
    }

    /// Runs one operation to its end; what it points to must live as long as the call.
    fn complete(&mut self, entry: &squeue::Entry) -> io::Result<usize> {
        // SAFETY: this function returns only after the operation has completed, and until then its
        // callers borrow the memory and the descriptor that the entry names.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The kernel may hold the caller's memory: nothing safe is left to do.
                    eprintln!("io_uring_enter: {error}");
                    abort();
                }
            }
            if let Some(done) = self.ring.completion().next() {
                let result = done.result();
                return usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            }
        }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        self.complete(&opcode::Recv::new(self.fd(), buf.as_mut_ptr(), len).build())
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let flags = libc::MSG_NOSIGNAL;
        self.complete(&opcode::Send::new(self.fd(), buf.as_ptr(), len).flags(flags).build())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = u32::try_from(bufs.len()).unwrap_or(u32::MAX);
        // An IoSlice is an iovec: std guarantees it.
        self.complete(&opcode::Writev::new(self.fd(), bufs.as_ptr().cast(), len).build())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_one_end_writes_the_other_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = Socket::new(listener.accept().unwrap().0).unwrap();
        client.write_all(b"request").unwrap();
        let mut buf = [0; 16];
        let n = server.read(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"request");
        server.write_all(b"ans").unwrap();
        let n = server.write_vectored(&[IoSlice::new(b"w"), IoSlice::new(b"er")]).unwrap();
        assert_eq!(n, 3);
        drop(server);
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"answer");
    }

    #[test]
    fn a_client_that_left_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = Socket::new(listener.accept().unwrap().0).unwrap();
        rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        let error = server.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
