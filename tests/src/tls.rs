//! TLS for the tests: one certificate per test process, and a client that trusts it and nothing else
//! and speaks HTTP/1.1 alone.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore};

use crate::net;

/// A certificate for localhost and its key, made anew for each test process.
struct Identity {
    certificate: String,
    key: String,
    client: Arc<ClientConfig>,
}

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("names are valid");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("our own certificate is one");
    let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.enable_secret_extraction = true;
    Identity {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        client: Arc::new(client),
    }
});

/// Makes a TLS connection of a socket.
pub type Accept = Box<dyn Fn(TcpStream) -> io::Result<net::Stream>>;

/// The next connection whose handshake is done.
pub fn accept(listener: &TcpListener, by: &Accept) -> io::Result<net::Stream> {
    loop {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        // One that only looks whether somebody listens says nothing.
        if let Ok(stream) = by(socket) {
            return Ok(stream);
        }
    }
}

/// Files with the certificate and its key, for a server.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// One after the other, as haproxy wants it.
    pub both: PathBuf,
}

impl Files {
    /// Writes them into `dir`.
    pub fn write(dir: &Path) -> Self {
        let files = Self {
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            both: dir.join("both.pem"),
        };
        let Identity { certificate, key, .. } = &*IDENTITY;
        for (path, text) in [
            (&files.certificate, certificate.clone()),
            (&files.key, key.clone()),
            (&files.both, format!("{certificate}{key}")),
        ] {
            fs::write(path, text).expect("a temporary file");
        }
        files
    }
}

/// Either end of a TLS connection over blocking TCP. A clone is the same connection: for one thread that reads
/// and writes in turn.
#[derive(Clone)]
pub struct TlsStream {
    connection: Arc<Mutex<Connection>>,
    socket: Arc<TcpStream>,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsStream").field(&self.socket).finish()
    }
}

impl TlsStream {
    /// Connects, with the handshake done.
    pub fn client(socket: TcpStream) -> io::Result<Self> {
        let mut connection = client_connection()?;
        while connection.is_handshaking() {
            connection.complete_io(&mut &socket)?;
        }
        Ok(Self::over(connection, socket))
    }

    /// What a handshake has made.
    pub fn over(connection: impl Into<Connection>, socket: TcpStream) -> Self {
        Self { connection: Arc::new(Mutex::new(connection.into())), socket: Arc::new(socket) }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        loop {
            match connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // A FIN without a goodbye before it: what a server that is killed leaves.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            connection.read_tls(&mut &*self.socket)?;
            connection.process_new_packets().map_err(io::Error::other)?;
            send(&mut connection, &self.socket)?;
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        let n = connection.writer().write(buf)?;
        send(&mut connection, &self.socket)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client's end, before the handshake.
pub fn client_connection() -> io::Result<ClientConnection> {
    let name = ServerName::try_from("localhost").expect("a valid name");
    ClientConnection::new(Arc::clone(&IDENTITY.client), name).map_err(io::Error::other)
}

/// Sends what waits to be.
pub fn send(connection: &mut Connection, mut socket: &TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut socket)?;
    }
    Ok(())
}
