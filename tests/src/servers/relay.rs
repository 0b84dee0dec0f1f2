//! A relay that ends TLS by tokio-rustls, as servers on axum and hyper do, and passes bytes on to a
//! server behind it, in the clear or by TLS of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bytes that are passed on at once. More than a TLS record holds.
const PIECE: usize = 64 * 1024;

/// What a relay does.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    port: u16,
    /// The port on loopback of the server behind it.
    #[arg(long)]
    upstream: u16,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// Speak TLS to the server behind it, which has the same certificate.
    #[arg(long)]
    upstream_tls: bool,
    /// Allow TLS 1.2 alone.
    #[arg(long)]
    tls12: bool,
    /// Threads that serve all connections.
    #[arg(long)]
    threads: usize,
}

/// Serves connections until there are no more.
pub fn serve(options: &Options) -> io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(options.threads).enable_all().build()?.block_on(accept(options))
}

async fn accept(options: &Options) -> io::Result<()> {
    let chain = chain(&options.certificate)?;
    let versions: &[&SupportedProtocolVersion] =
        if options.tls12 { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    let connector = options.upstream_tls.then(|| connector(&chain, versions)).transpose()?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
    let config = config.with_single_cert(chain, key).map_err(io::Error::other)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, options.upstream));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let (acceptor, connector) = (acceptor.clone(), connector.clone());
        // One that fails concerns only its own client.
        tokio::spawn(async move { connection(socket, &acceptor, connector, upstream).await });
    }
}

fn chain(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_file_iter(path).map_err(io::Error::other)?;
    chain.collect::<Result<_, _>>().map_err(io::Error::other)
}

fn connector(
    chain: &[CertificateDer<'static>],
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in chain {
        roots.add(certificate.clone()).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder_with_protocol_versions(versions);
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn connection(
    socket: TcpStream,
    acceptor: &TlsAcceptor,
    connector: Option<TlsConnector>,
    upstream: SocketAddr,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let client = acceptor.accept(socket).await?;
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    match connector {
        Some(connector) => {
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            both(client, connector.connect(name, server).await?).await
        }
        None => both(client, server).await,
    }
}

/// Passes on in both directions, until one of them ends.
async fn both(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = split(server);
    tokio::select! {
        result = pass(&mut from_client, &mut to_server) => result,
        result = pass(&mut from_server, &mut to_client) => {
            result?;
            to_client.shutdown().await
        }
    }
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&piece[..n]).await?;
        to.flush().await?;
    }
}
