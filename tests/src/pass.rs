//! Descriptors that are sent to another process, and processes that share a listener.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, bind, connect, listen, recvmsg, sendmsg, socket,
    sockopt,
};

/// Sends a descriptor by `SCM_RIGHTS`.
pub fn send(over: &UnixStream, fd: &OwnedFd) -> io::Result<()> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(over, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives one.
pub fn receive(over: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(over, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty())?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn tcp(addr: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket(family, SocketType::STREAM, None)?)
}

/// A listener with `SO_REUSEPORT`.
pub fn shared_listener(addr: &SocketAddr) -> io::Result<TcpListener> {
    let fd = tcp(addr)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    bind(&fd, addr)?;
    listen(&fd, 64)?;
    Ok(fd.into())
}

/// A connection from a port of the caller's choice.
pub fn connect_from(from: &SocketAddr, to: &SocketAddr) -> io::Result<TcpStream> {
    let fd = tcp(from)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, from)?;
    connect(&fd, to)?;
    Ok(fd.into())
}
