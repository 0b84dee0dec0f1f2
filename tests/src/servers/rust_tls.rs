//! The serving end of TLS by rustls, which does it itself or, as `ktls` and others do, shakes hands
//! and gives the kernel the keys.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Connection, ServerConfig, ServerConnection};

use crate::ktls::{self, Reads};
use crate::tls::TlsStream;

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
        // No record that is no data once the kernel has the keys.
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    /// Takes the server's part of a handshake.
    pub fn accept(&self, socket: TcpStream) -> io::Result<TlsStream> {
        let connection = self.shake_hands(&socket)?;
        Ok(TlsStream::over(connection, socket))
    }

    fn shake_hands(&self, socket: &TcpStream) -> io::Result<Connection> {
        let tls = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        ktls::shake_hands(tls, socket)
    }

    /// The same, and the kernel goes on.
    pub fn accept_for_kernel(&self, socket: TcpStream, reads: Reads) -> io::Result<ktls::Socket> {
        ktls::Socket::over(self.shake_hands(&socket)?, socket, reads)
    }
}
