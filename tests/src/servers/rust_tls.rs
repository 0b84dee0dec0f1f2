//! The serving end of TLS by rustls, which does it itself or, as `ktls` and others do, shakes hands
//! and gives the kernel the keys.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    Connection, ConnectionTrafficSecrets, ServerConfig, ServerConnection, SupportedCipherSuite,
};

use crate::tls::{self, TlsStream};

/// A server's certificate and key, loaded.
#[derive(Clone, Debug)]
pub struct Context(Arc<ServerConfig>);

impl Context {
    pub fn new(certificate: &Path, key: &Path) -> io::Result<Self> {
        let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).map_err(io::Error::other)?;
        config.enable_secret_extraction = true;
        Ok(Self(Arc::new(config)))
    }

    /// Takes the server's part of a handshake.
    pub fn accept(&self, socket: TcpStream) -> io::Result<TlsStream> {
        let connection = self.shake_hands(&socket)?;
        Ok(TlsStream::over(connection, socket))
    }

    fn shake_hands(&self, socket: &TcpStream) -> io::Result<Connection> {
        let mut tls = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut Records::new(socket))?;
        }
        let mut connection = tls.into();
        tls::send(&mut connection, socket)?;
        Ok(connection)
    }

    /// The same, and the kernel goes on.
    pub fn accept_for_kernel(&self, socket: TcpStream) -> io::Result<TcpStream> {
        let tls = self.shake_hands(&socket)?;
        let suite = tls.negotiated_cipher_suite();
        let suite = suite.ok_or_else(|| io::Error::other("no cipher was agreed on"))?;
        let secrets = tls.dangerous_extract_secrets().map_err(io::Error::other)?;
        set(&socket, libc::SOL_TCP, libc::TCP_ULP, b"tls")?;
        set(&socket, SOL_TLS, TLS_TX, &crypto_info(suite, secrets.tx)?)?;
        set(&socket, SOL_TLS, TLS_RX, &crypto_info(suite, secrets.rx)?)?;
        // Means nothing to the client, and is not part of what the connection carries.
        send_alert(&socket, [ALERT_WARNING, USER_CANCELED])?;
        Ok(socket)
    }
}

/// `include/uapi/linux/tls.h`.
const SOL_TLS: i32 = 282;
const TLS_TX: i32 = 1;
const TLS_RX: i32 = 2;
const TLS_1_3: u16 = 0x0304;
const TLS_SET_RECORD_TYPE: i32 = 1;
/// Records, and what is in those that are alerts.
const ALERT: u8 = 21;
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

/// Sends a record that is no data, as the kernel wants it.
fn send_alert(socket: &TcpStream, alert: [u8; 2]) -> io::Result<()> {
    /// `struct cmsghdr` with one byte, as long as it has to be.
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        record: u64,
    }
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
