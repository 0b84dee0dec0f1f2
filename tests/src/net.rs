//! TCP and unix stream sockets, and TLS over TCP, behind one type.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::calls;
use crate::ktls;
use crate::servers::openssl;
use crate::tls::TlsStream;
use crate::uring;

/// A TCP port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// TLS over TCP, with the tests' own certificate.
    Tls(SocketAddr),
    /// The same, done by the client's kernel.
    KernelTls(SocketAddr),
    /// One that begins with `@` is abstract.
    Unix(PathBuf),
}

impl Address {
    pub fn loopback(port: u16) -> Self {
        Self::Tcp((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The same server, spoken to by TLS.
    #[must_use]
    pub fn over_tls(&self) -> Self {
        match self {
            Self::Tcp(addr) | Self::Tls(addr) | Self::KernelTls(addr) => Self::Tls(*addr),
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }

    /// The same server, spoken to by TLS that the kernel does.
    #[must_use]
    pub fn over_kernel_tls(&self) -> Self {
        match self {
            Self::Tcp(addr) | Self::Tls(addr) | Self::KernelTls(addr) => Self::KernelTls(*addr),
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }

    pub fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(addr) => Ok(Stream::Tcp(tcp(addr)?)),
            Self::Tls(addr) => TlsStream::client(tcp(addr)?).map(Stream::Tls),
            Self::KernelTls(addr) => ktls::Socket::client(tcp(addr)?).map(Stream::KernelTls),
            Self::Unix(path) => UnixStream::connect_addr(&unix(path)?).map(Stream::Unix),
        }
    }
}

/// A path, or an abstract name as `ss` shows it.
pub fn unix(path: &Path) -> io::Result<UnixAddr> {
    match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => UnixAddr::from_abstract_name(name),
        _ => UnixAddr::from_pathname(path),
    }
}

fn tcp(addr: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(addr, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    /// Either end of TLS, by rustls.
    Tls(TlsStream),
    /// Either end of TLS, by the kernel.
    KernelTls(ktls::Socket),
    /// The serving end of TLS, by OpenSSL.
    OpenSsl(openssl::Shared),
    Unix(UnixStream),
    /// TCP, read and written by io_uring.
    Uring(Box<uring::Socket>),
    /// Read and written by chosen system calls.
    Calls(calls::Socket),
}

impl Stream {
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(s) => s.try_clone().map(Self::Tcp),
            Self::Tls(s) => Ok(Self::Tls(s.clone())),
            Self::KernelTls(s) => s.try_clone().map(Self::KernelTls),
            Self::OpenSsl(s) => Ok(Self::OpenSsl(s.clone())),
            Self::Unix(s) => s.try_clone().map(Self::Unix),
            Self::Uring(s) => s.try_clone().map(Box::new).map(Self::Uring),
            Self::Calls(s) => s.try_clone().map(Self::Calls),
        }
    }

    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(limit),
            Self::Tls(s) => s.socket().set_read_timeout(limit),
            Self::KernelTls(s) => s.socket().set_read_timeout(limit),
            Self::OpenSsl(s) => s.socket().set_read_timeout(limit),
            Self::Unix(s) => s.set_read_timeout(limit),
            Self::Uring(s) => s.stream().set_read_timeout(limit),
            Self::Calls(s) => Ok(set_socket_timeout(s, Timeout::Recv, limit)?),
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.shutdown(how),
            Self::Tls(s) => s.socket().shutdown(how),
            Self::KernelTls(s) => s.socket().shutdown(how),
            Self::OpenSsl(s) => s.socket().shutdown(how),
            Self::Unix(s) => s.shutdown(how),
            Self::Uring(s) => s.stream().shutdown(how),
            Self::Calls(s) => {
                let how = match how {
                    Shutdown::Read => rustix::net::Shutdown::Read,
                    Shutdown::Write => rustix::net::Shutdown::Write,
                    Shutdown::Both => rustix::net::Shutdown::Both,
                };
                Ok(rustix::net::shutdown(s, how)?)
            }
        }
    }

    /// Closes with RST (TCP).
    pub fn reset(self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_linger(&self, Some(Duration::ZERO))?;
        Ok(())
    }

    /// This end as the server sees it, `ip:port`.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(s) => s.local_addr().ok(),
            Self::Tls(s) => s.socket().local_addr().ok(),
            Self::KernelTls(s) => s.socket().local_addr().ok(),
            Self::OpenSsl(s) => s.socket().local_addr().ok(),
            Self::Unix(_) | Self::Calls(_) => None,
            Self::Uring(s) => s.stream().local_addr().ok(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Tls(s) => s.socket().as_fd(),
            Self::KernelTls(s) => s.socket().as_fd(),
            Self::OpenSsl(s) => s.socket().as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::Uring(s) => s.stream().as_fd(),
            Self::Calls(s) => s.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buf),
            Self::Tls(s) => s.read(buf),
            Self::KernelTls(s) => s.read(buf),
            Self::OpenSsl(s) => s.read(buf),
            Self::Unix(s) => s.read(buf),
            Self::Uring(s) => s.read(buf),
            Self::Calls(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(buf),
            Self::Tls(s) => s.write(buf),
            Self::KernelTls(s) => s.write(buf),
            Self::OpenSsl(s) => s.write(buf),
            Self::Unix(s) => s.write(buf),
            Self::Uring(s) => s.write(buf),
            Self::Calls(s) => s.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write_vectored(bufs),
            Self::Tls(s) => s.write_vectored(bufs),
            Self::KernelTls(s) => s.write_vectored(bufs),
            Self::OpenSsl(s) => s.write_vectored(bufs),
            Self::Unix(s) => s.write_vectored(bufs),
            Self::Uring(s) => s.write_vectored(bufs),
            Self::Calls(s) => s.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
