//! TLS that the kernel does: rustls shakes hands, the kernel gets the keys, and plaintext goes through
//! the socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use rustix::pipe::{SpliceFlags, pipe, splice};
use rustls::{Connection, ConnectionTrafficSecrets, SupportedCipherSuite};

use crate::tls;

/// Either end of a connection.
#[derive(Debug)]
pub struct Socket {
    socket: TcpStream,
    reads: Reads,
}

/// How it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// By `recvmsg`, which tells records that are no data.
    Recvmsg,
    /// Every other time by `splice` into a pipe, what is between by a short `recvmsg`: the head of a
    /// request is seen, its body is not.
    Splice { next: bool },
}

/// Less than a request, more than what tells whose it is.
const SHORT: usize = 200;

impl Socket {
    /// Takes the client's part of a handshake, and says something that is no data before anything
    /// else.
    pub fn client(socket: TcpStream) -> io::Result<Self> {
        let connection = shake_hands(tls::client_connection()?, &socket)?;
        Self::over(connection, socket, Reads::Recvmsg)
    }

    /// Gives the kernel the keys of a connection that both ends have agreed on.
    pub fn over(tls: Connection, socket: TcpStream, reads: Reads) -> io::Result<Self> {
        let suite = tls.negotiated_cipher_suite();
        let suite = suite.ok_or_else(|| io::Error::other("no cipher was agreed on"))?;
        let secrets = tls.dangerous_extract_secrets().map_err(io::Error::other)?;
        set(&socket, libc::SOL_TCP, libc::TCP_ULP, b"tls")?;
        set(&socket, SOL_TLS, TLS_TX, &crypto_info(suite, secrets.tx)?)?;
        set(&socket, SOL_TLS, TLS_RX, &crypto_info(suite, secrets.rx)?)?;
        // Means nothing to the peer, and is not part of what the connection carries.
        send_alert(&socket, [ALERT_WARNING, USER_CANCELED])?;
        Ok(Self { socket, reads })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, reads: self.reads })
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn splice(&self, buf: &mut [u8]) -> io::Result<usize> {
        let (read, write) = pipe()?;
        // What a pipe takes in one go.
        let most = buf.len().min(4096);
        let n = splice(self.socket.as_fd(), None, &write, None, most, SpliceFlags::empty())?;
        File::from(read).read_exact(&mut buf[..n])?;
        Ok(n)
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = match &mut self.reads {
            Reads::Recvmsg => buf.len(),
            Reads::Splice { next } => {
                *next = !*next;
                if !*next {
                    return self.splice(buf);
                }
                buf.len().min(SHORT)
            }
        };
        loop {
            match receive(&self.socket, &mut buf[..most])? {
                (_, Some(ALERT)) => {}
                (_, Some(other)) => return Err(io::Error::other(format!("record {other}"))),
                (n, None) => return Ok(n),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes part in a handshake, and in nothing that comes after it.
pub fn shake_hands(
    connection: impl Into<Connection>,
    socket: &TcpStream,
) -> io::Result<Connection> {
    let mut connection = connection.into();
    while connection.is_handshaking() {
        connection.complete_io(&mut Records::new(socket))?;
    }
    tls::send(&mut connection, socket)?;
    Ok(connection)
}

/// `include/uapi/linux/tls.h`.
const SOL_TLS: i32 = 282;
const TLS_TX: i32 = 1;
const TLS_RX: i32 = 2;
const TLS_1_3: u16 = 0x0304;
const TLS_SET_RECORD_TYPE: i32 = 1;
const TLS_GET_RECORD_TYPE: i32 = 2;
/// Kinds of records, and what is in those that are alerts.
const ALERT: u8 = 21;
const DATA: u8 = 23;
const ALERT_WARNING: u8 = 1;
const USER_CANCELED: u8 = 90;
const AES_GCM_128: u16 = 51;
const AES_GCM_256: u16 = 52;

/// `struct tls12_crypto_info_aes_gcm_128`, or `_256`.
fn crypto_info(
    suite: SupportedCipherSuite,
    (sequence, secrets): (u64, ConnectionTrafficSecrets),
) -> io::Result<Vec<u8>> {
    let (cipher, key, iv) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (AES_GCM_128, key.as_ref(), iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (AES_GCM_256, key.as_ref(), iv),
        _ => return Err(io::Error::other("a cipher that is not written down here")),
    };
    if suite.tls13().is_none() {
        return Err(io::Error::other("no TLS 1.3"));
    }
    let (salt, iv) = iv.as_ref().split_at(4);
    let mut info = Vec::new();
    for number in [TLS_1_3, cipher] {
        info.extend(number.to_ne_bytes());
    }
    info.extend([iv, key, salt, &sequence.to_be_bytes()].concat());
    Ok(info)
}

fn set(socket: &TcpStream, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: an open descriptor, and a value of the length given.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct cmsghdr` with one byte, as long as it has to be.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    record: u64,
}

/// Receives data, or a record of a kind that is not.
fn receive(socket: &TcpStream, buf: &mut [u8]) -> io::Result<(usize, Option<u8>)> {
    // SAFETY: integers and pointers, for which zero is a value.
    let mut control: Control = unsafe { std::mem::zeroed() };
    let mut bytes = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the same.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut bytes;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: an open descriptor, and a message whose parts live until the call returns.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let told = (control.header.cmsg_level, control.header.cmsg_type);
    let kind = control.record.to_ne_bytes()[0];
    let other = told == (SOL_TLS, TLS_GET_RECORD_TYPE) && kind != DATA;
    Ok((n, other.then_some(kind)))
}

/// Sends a record that is no data, as the kernel wants it.
fn send_alert(socket: &TcpStream, alert: [u8; 2]) -> io::Result<()> {
    // SAFETY: integers and pointers, for which zero is a value.
    let mut control: Control = unsafe { std::mem::zeroed() };
    control.header.cmsg_len = size_of::<libc::cmsghdr>() + 1;
    control.header.cmsg_level = SOL_TLS;
    control.header.cmsg_type = TLS_SET_RECORD_TYPE;
    control.record = u64::from_ne_bytes([ALERT, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes =
        libc::iovec { iov_base: alert.as_ptr().cast_mut().cast(), iov_len: alert.len() };
    // SAFETY: the same.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut bytes;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: an open descriptor, and a message whose parts live until the call returns.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent == alert.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads one TLS record at a time, so that what comes after a handshake stays in the socket.
struct Records<'a> {
    socket: &'a TcpStream,
    left: usize,
    header: Vec<u8>,
}

impl<'a> Records<'a> {
    fn new(socket: &'a TcpStream) -> Self {
        Self { socket, left: 0, header: Vec::new() }
    }
}

impl Read for Records<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.header.is_empty() && self.left == 0 {
            let mut header = [0; 5];
            self.socket.read_exact(&mut header)?;
            self.left = usize::from(u16::from_be_bytes([header[3], header[4]]));
            self.header = header.to_vec();
        }
        if !self.header.is_empty() {
            let n = self.header.len().min(buf.len());
            buf[..n].copy_from_slice(&self.header[..n]);
            self.header.drain(..n);
            return Ok(n);
        }
        let wanted = self.left.min(buf.len());
        let n = self.socket.read(&mut buf[..wanted])?;
        self.left -= n;
        Ok(n)
    }
}

impl Write for Records<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the kernel can be given keys now; loads nothing.
pub fn kernel_has_tls() -> bool {
    Path::new("/sys/module/tls").exists() || File::open("/proc/net/tls_stat").is_ok()
}
